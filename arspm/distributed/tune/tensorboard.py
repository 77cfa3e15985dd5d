"""Write a trial's learning curves for TensorBoard."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tensorboardX import SummaryWriter

from arspm import storage
from arspm.runs import sweeps


def write_events(folder: str, record: sweeps.Record, metric: str) -> None:
    """Write `tensorboard/<number>/` in the sweep's folder: each figure by step, with the time it was measured."""
    target = storage.join(folder, "tensorboard", f"{record['number']:05d}")
    storage.remove(target)
    with tempfile.TemporaryDirectory() as local:
        with SummaryWriter(local, write_to_disk=True) as writer:
            for epoch in record["epochs"]:
                if epoch.get("step") is None or epoch.get("seconds") is None:
                    continue
                time = record["started"] + epoch["seconds"]
                for name, value in epoch.items():
                    if name not in ("epoch", "step") and isinstance(value, int | float):
                        writer.add_scalar(name, value, epoch["step"], walltime=time)
            sample = ", ".join(f"{name} = {value}" for name, value in record["sample"].items())
            writer.add_text("sample", f"{sample}; {record['state']}; best {metric} {record['best']}")
        for path in sorted(Path(local).iterdir()):
            storage.upload(path, storage.join(target, path.name))

"""A trial's curves as TensorBoard reads them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tensorboardX import SummaryWriter

from arspm import storage
from arspm.runs import sweeps


def write_events(place: str, record: sweeps.Record, metric: str) -> None:
    """Leave `tensorboard/<number>/` in the sweep's folder: each figure by step, at the time it was measured."""
    target = storage.join(place, "tensorboard", f"{record['number']:05d}")
    storage.remove(target)
    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(folder, write_to_disk=True) as writer:
            for epoch in record["epochs"]:
                if epoch.get("step") is None or epoch.get("seconds") is None:
                    continue
                when = record["started"] + epoch["seconds"]
                for name, value in epoch.items():
                    if name not in ("epoch", "step") and isinstance(value, int | float):
                        writer.add_scalar(name, value, epoch["step"], walltime=when)
            sample = ", ".join(f"{name} = {value}" for name, value in record["sample"].items())
            writer.add_text("sample", f"{sample}; {record['state']}; best {metric} {record['best']}")
        for path in sorted(Path(folder).iterdir()):
            storage.upload(path, storage.join(target, path.name))

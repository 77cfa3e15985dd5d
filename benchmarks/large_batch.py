"""Compares training with a batch several times larger: `python -m benchmarks.large_batch encoder --run runs/demo`.

Trains a network of a finished run with its recipe and with that of `presets.large_batch`, for the same epochs, once for
each seed, in this process and without changing the run. Prints the validation figure of the epoch that the stage keeps
(degrees for the encoder, the loss for the decoder) and, over the seeds, both means and the 95 % interval of the paired
difference. At the demo's size the encoder's 30 epochs take 3 to 4 minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from arspm import storage
from arspm.config import Config, override
from arspm.config.presets import large_batch
from arspm.distributed.train.alone import train_alone
from arspm.distributed.train.rows import gather_rows
from arspm.evaluation import comparisons
from arspm.runs import stages
from arspm.training import checkpoint

FIGURES = {"encoder": "val_cos_degrees", "decoder": "val_loss"}


class Trained(NamedTuple):
    """The validation figure of the kept epoch and of the last epoch, and what the training took."""

    kept: float
    last: float
    kept_epoch: int
    steps: int
    cpu_seconds: float


def train(stage: str, config: Config, run: str) -> Trained:
    """Return the figures of one training."""
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        train_alone(stage, config, run, gather_rows(stage, config, run), Path(folder))
        progress = json.loads(Path(folder, checkpoint.PROGRESS).read_text())["progress"]
    values = [epoch[FIGURES[stage]] for epoch in progress["epochs"]]
    best = progress["best_epoch"]
    return Trained(values[best - 1], values[-1], best, progress["step"], time.process_time() - started)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.large_batch", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("stages", nargs="+", choices=list(FIGURES), help="networks to train")
    parser.add_argument("--run", required=True, help="URI of a run whose stages before the network are done")
    parser.add_argument("--rows", type=int, default=128, help="rows of the large batch (default: 128)")
    parser.add_argument("--warmup-epochs", type=float, default=2, help="its epochs of warm-up (default: 2)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0 (default: 3)")
    parser.add_argument("--epochs", type=int, help="epochs of each training (default: the run's)")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error("--seeds: an interval needs at least 2")
    run = storage.absolute(arguments.run)
    print(
        "| network | batch | seed | steps | kept epoch | kept | last | CPU seconds |\n|---|---|---|---|---|---|---|---|"
    )
    summaries = []
    for stage in arguments.stages:
        base = stages.finished_config(run, "features")
        if arguments.epochs:
            base = override(base, {f"training.{stage}.epochs": arguments.epochs})
        large = override(base, large_batch(base, stage, arguments.rows, arguments.warmup_epochs))
        found: list[list[float]] = [[], []]
        for seed in range(arguments.seeds):
            for kept, config in zip(found, (base, large), strict=True):
                each = train(stage, override(config, {"seed": seed}), run)
                kept.append(each.kept)
                batch = getattr(config.training, stage).global_batch_size
                cells = f"{each.steps} | {each.kept_epoch} | {each.kept:.4f} | {each.last:.4f} | {each.cpu_seconds:.0f}"
                print(f"| {stage} | {batch} | {seed} | {cells} |", flush=True)
        difference = comparisons.over_seeds([second - first for first, second in zip(*found, strict=True)])
        means = " and ".join(f"{statistics.mean(each):.4f} (sd {statistics.stdev(each):.4f})" for each in found)
        bounds = f"{difference.mean:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})"
        summaries.append(f"{stage}, {FIGURES[stage]}: {means}; large minus small {bounds}")
    print("\n".join(["", *summaries]))


if __name__ == "__main__":
    main()

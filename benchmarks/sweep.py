"""Measures the overhead of a sweep, and the time that ASHA saves: `python -m benchmarks.sweep --run runs/demo`.

Runs two sweeps over the same 16 random samples of the loss weights of a finished run: one trains every trial to the
end, one uses ASHA. Prints one line per sweep with its time, the part of it outside the training loop, in percent and in
seconds per trial, the number of epochs and the best metric; then the time that ASHA saved. Needs a Ray head
(`arspm up`) and an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from arspm import storage
from arspm.runs import sweeps
from cluster.head import find_head
from jobs.console import watch
from jobs.sweep_jobs import run_sweep as run_job
from jobs.sweep_options import Options
from jobs.sweep_plan import plan

NUM_TRIALS = 16


def run_sweep(run: str, scheduler: str, epochs: int) -> tuple[dict[str, Any], float]:
    """Run a sweep and return its results and its duration in seconds. Earlier results are removed first."""
    options = Options(f"bench-{scheduler}-{epochs}", NUM_TRIALS, "random", scheduler)
    storage.remove(sweeps.folder(run, str(options.name)))
    address = find_head()
    if address is None:
        raise SystemExit("no Ray head: start one with `arspm up`")
    started = time.monotonic()
    folder, planned = plan(run, "loss_weights", options, {"training.encoder.epochs": str(epochs)})
    with watch() as on_event:
        run_job(run, folder, planned, address, on_event)
    return storage.read_json(storage.join(folder, sweeps.RESULTS)), time.monotonic() - started


def training_seconds(epochs: list[dict[str, Any]]) -> float:
    """Return the seconds that trials spent in epochs of the training loop, including validation, summed over trials."""
    return sum(epoch["epoch_seconds"] for epoch in epochs)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sweep", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--run", required=True, help="URI of a finished run")
    parser.add_argument("--epochs", type=int, default=9, help="epochs per trial (default: 9)")
    arguments = parser.parse_args()
    run = storage.absolute(arguments.run)
    seconds = {}
    for scheduler in ("none", "asha"):
        results, wall = run_sweep(run, scheduler, arguments.epochs)
        seconds[scheduler] = wall
        slots, trials = results["sweep"]["max_concurrent"], results["trials"]
        records = sweeps.read_records(sweeps.folder(run, results["sweep"]["name"])).values()
        epochs = [epoch for record in records for epoch in record["epochs"]]
        overhead = wall - training_seconds(epochs) / slots
        best = min(trial["best"] for trial in trials if trial["best"] is not None)
        print(
            f"{scheduler}: {wall:.0f} s for {len(trials)} trials, {slots} at a time; outside the training loop "
            f"{100 * overhead / wall:.1f} %, {overhead / len(trials):.2f} s per trial; "
            f"{len(epochs)} epochs; best {best:.2f} degrees",
            flush=True,
        )
    print(f"ASHA took {100 * (1 - seconds['asha'] / seconds['none']):.0f} % less time")


if __name__ == "__main__":
    main()

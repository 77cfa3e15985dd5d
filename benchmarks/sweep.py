"""What a sweep costs beside its training, and what ASHA saves: `python -m benchmarks.sweep --run runs/demo`.

Two sweeps of the same 16 random samples of the loss weights over a finished run, one to the end and one with ASHA.
Needs a Ray head (`arspm up`) and nothing else on the machine.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from arspm import storage
from arspm.runs import sweeps
from cluster.head import find_head
from jobs import sweep as work
from jobs import sweep_plan
from jobs.console import watch

NUM_TRIALS = 16


def run_sweep(run: str, scheduler: str, epochs: int) -> tuple[dict[str, Any], float]:
    """A sweep's results, and its seconds from the command to its end; what is there already is run anew."""
    options = sweep_plan.Options(f"bench-{scheduler}-{epochs}", NUM_TRIALS, "random", scheduler)
    storage.remove(sweeps.folder(run, str(options.name)))
    address = find_head()
    if address is None:
        raise SystemExit("no Ray head: start one with `arspm up`")
    begun = time.monotonic()
    place, planned = sweep_plan.plan(run, "loss_weights", options, {"training.encoder.epochs": str(epochs)})
    with watch() as on_event:
        work.run_sweep(run, place, planned, address, on_event)
    return storage.read_json(storage.join(place, sweeps.RESULTS)), time.monotonic() - begun


def training_seconds(results: dict[str, Any]) -> float:
    """The time that trials spent in the epochs of the training loop, validation with them, summed over trials."""
    return sum(epoch["epoch_seconds"] for trial in results["trials"] for epoch in trial["epochs"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--epochs", type=int, default=9)
    arguments = parser.parse_args()
    run = storage.absolute(arguments.run)
    seconds = {}
    for scheduler in ("none", "asha"):
        results, wall = run_sweep(run, scheduler, arguments.epochs)
        seconds[scheduler] = wall
        slots, trials = results["sweep"]["max_concurrent"], results["trials"]
        other = wall - training_seconds(results) / slots
        best = min(trial["best"] for trial in trials if trial["best"] is not None)
        print(
            f"{scheduler}: {wall:.0f} s for {len(trials)} trials, {slots} at once; not in the training loop "
            f"{100 * other / wall:.1f} %, {other / len(trials):.2f} s a trial; "
            f"{sum(len(trial['epochs']) for trial in trials)} epochs; best {best:.2f} degrees",
            flush=True,
        )
    print(f"ASHA took {100 * (1 - seconds['asha'] / seconds['none']):.0f} % less time")


if __name__ == "__main__":
    main()

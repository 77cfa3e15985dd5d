"""What a sweep costs beside its training, and what ASHA saves: `python -m benchmarks.sweep --run runs/demo`.

Two sweeps of the same 16 random samples of the loss weights over a finished run, one to the end and one with ASHA.
Needs a Ray head (`arspm up`) and nothing else on the machine.
"""

from __future__ import annotations

import argparse
from typing import Any

from arspm import storage, sweeps
from cluster.head import find_head
from jobs import sweep as work
from jobs import sweep_plan
from jobs.console import watch

NUM_TRIALS = 16


def run_sweep(run: str, scheduler: str, epochs: int) -> dict[str, Any]:
    """A sweep's results; one that is there already is not run again."""
    options = sweep_plan.Options(f"bench-{scheduler}-{epochs}", NUM_TRIALS, "random", scheduler)
    place, planned = sweep_plan.plan(run, "loss_weights", options, {"training.encoder.epochs": str(epochs)})
    address = find_head()
    if address is None:
        raise SystemExit("no Ray head: start one with `arspm up`")
    with watch() as on_event:
        work.run_sweep(run, place, planned, address, on_event)
    return storage.read_json(storage.join(place, sweeps.RESULTS))


def training_seconds(results: dict[str, Any], batch: int) -> float:
    """The time that trials spent in training epochs, validation and all else not counted, summed over trials."""
    steps = results["sweep"]["steps_per_epoch"]
    return sum(steps * batch / epoch["clips_per_second"] for trial in results["trials"] for epoch in trial["epochs"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--epochs", type=int, default=9)
    arguments = parser.parse_args()
    run = storage.absolute(arguments.run)
    found = {}
    for scheduler in ("none", "asha"):
        found[scheduler] = results = run_sweep(run, scheduler, arguments.epochs)
        batch = sweeps.load(sweeps.folder(run, results["sweep"]["name"]))["config"]["training"]["encoder"][
            "global_batch_size"
        ]
        slots = results["sweep"]["max_concurrent"]
        wall, learning = results["spent_seconds"], training_seconds(results, batch)
        idle = wall - learning / slots
        best = min(trial["best"] for trial in results["trials"] if trial["best"] is not None)
        print(
            f"{scheduler}: {wall:.0f} s for {len(results['trials'])} trials, {slots} at once; not in training steps "
            f"{100 * idle / wall:.0f} %, {idle / len(results['trials']):.2f} s a trial; "
            f"{sum(len(trial['epochs']) for trial in results['trials'])} epochs; best {best:.2f} degrees"
        )
    saved = 1 - found["asha"]["spent_seconds"] / found["none"]["spent_seconds"]
    print(f"ASHA took {100 * saved:.0f} % less time")


if __name__ == "__main__":
    main()

"""A sweep's job: Ray Tune over the encoder's settings. `arspm sweep` submits it as `python -m jobs.sweep`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from arspm import config as configuration
from arspm.runs import lease, reused, sweeps
from jobs.console import sentence
from jobs.stage import readable_end
from jobs.submission import check_reused
from jobs.sweep_options import TRACKERS
from tune_spaces import space as spaces
from tune_spaces.space import Space

if TYPE_CHECKING:
    from arspm.distributed.tune.search import Search


def main() -> None:
    """Run the remaining trials of a planned sweep on the cluster that this process runs on."""
    parser = argparse.ArgumentParser(prog="python -m jobs.sweep", description=main.__doc__)
    parser.add_argument("--run", required=True, help="run directory: a local path or s3://bucket/prefix")
    parser.add_argument("--name", required=True, help="name of the sweep")
    parser.add_argument(
        "--max-concurrent", type=int, help="maximum number of concurrent trials (default: all that fit)"
    )
    parser.add_argument("--cluster", type=json.loads, metavar="JSON", help="see the stages' programs")
    parser.add_argument("--log", choices=TRACKERS, action="append", default=[], help="also log to a tracker")
    arguments = parser.parse_args()
    with readable_end("sweep"):
        folder = sweeps.folder(arguments.run, arguments.name)
        holder = lease.this_process() if arguments.cluster is None else lease.Holder(**arguments.cluster)
        with lease.hold(folder, holder, interrupt=True, say=print):
            results = tune(arguments.run, folder, arguments.max_concurrent, arguments.log)
    is_done = sweeps.is_done(results, sweeps.load(folder))
    if results["reason"]:
        print(results["reason"] if is_done else f"error: stopped: {results['reason']}", flush=True)
    sys.exit(0 if is_done else 1)


def tune(run: str, folder: str, max_concurrent: int | None, trackers: Sequence[str]) -> dict[str, Any]:
    """Run the remaining trials of a sweep and return its results.

    The rules that stop it early are in its sweep.json. Raises ValueError, in one line, for a file of the run that is
    not what its manifest lists.
    """
    import ray

    from arspm.distributed.tune import tuning

    sweep = sweeps.load(folder)
    space = spaces.unpack(sweep["dimensions"])
    config = configuration.from_dict(sweep["config"])
    check_reused(run, reused.built_on(["encoder"]), config, lambda event: print(sentence(event), flush=True))
    before = list(sweeps.read_records(sweep["warm_start"]).values()) if sweep["warm_start"] else []
    ray.init(address="auto", log_to_driver=False, ignore_reinit_error=True)
    return tuning.run_sweep(
        folder,
        run,
        config,
        sweep,
        make_search(sweep, space),
        lambda sample: spaces.changes(space, sample),
        is_paper=lambda sample: is_paper(sweep["paper"], sample),
        before=[record for record in before if record["state"] in ("finished", "stopped")],
        log_to=trackers,
        max_concurrent=max_concurrent,
    )


def make_search(sweep: Mapping[str, Any], space: Space) -> Search:
    """Return the source of a sweep's samples.

    Unless it is a grid, the first sample has the paper's values, if they are in the space, as a baseline.
    """
    from arspm.distributed.tune.search import Listed, Optuna

    first = [sweep["paper"]] if sweep["paper"].keys() == sweep["space"].keys() else []
    if sweep["search"] == "optuna":
        return Optuna(sweep["space"], sweep["mode"], sweep["seed"], first)
    if sweep["search"] == "grid":
        return Listed(spaces.grid(space))
    drawn = spaces.random_samples(space, sweep["num_trials"], sweep["seed"])
    return Listed([*first, *drawn[len(first) :]])


def is_paper(paper: Mapping[str, Any], sample: Mapping[str, Any]) -> bool:
    """Return whether a sample has the paper's value in every dimension except the seed."""
    return all(name in paper and sample[name] == paper[name] for name in sample if name != "seed")


if __name__ == "__main__":
    main()

"""A sweep: Ray Tune over an encoder's fields, as one Ray job. `python -m jobs.sweep` is that job.

What the sweep is stands in its folder's sweep.json (`jobs.sweep_plan`), written before the job is submitted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shlex
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from arspm import config as configuration
from arspm import storage
from arspm.config import Config, override
from arspm.runs import stages, sweeps
from cluster import chain, client, cost, events
from cluster.errors import ClusterError
from jobs.chain import PYTHON, asked, prefix, source
from jobs.stage import readable_end
from jobs.sweep_plan import unpack
from tune_spaces import space as spaces
from tune_spaces.space import Space

if TYPE_CHECKING:
    from arspm.distributed.tune.search import Search

TRACKERS = ("mlflow", "wandb")


def run_sweep(
    run: str,
    place: str,
    sweep: Mapping[str, Any],
    address: str,
    on_event: Callable[[events.Event], None],
    extra: Sequence[str] = (),
) -> chain.Outcome:
    """Submit the sweep's job, or join the one that runs, and wait for it. `extra`: words for its command line."""
    jobs_client = client.connect(address)
    stage_name, stem = _job(run, sweep)
    _require_free(run, stage_name, stem, jobs_client)
    save(place, sweep)
    config = configuration.from_dict(sweep["config"])
    trial = config.resources.trial  # without one, the sweep cannot begin
    stage = chain.Stage(stage_name, (), _entrypoint(run, sweep["name"], extra), *asked((trial.num_workers, trial)))
    outcomes = chain.run_chain(
        [stage],
        runner=client.RayJobs(jobs_client, working_dir=source(), metadata={"run": run}),
        is_done=lambda _: done(place, sweep["num_trials"]),
        fingerprint=lambda _: _key(sweep),
        prefix=prefix(run),
        capacity=lambda: client.capacity(jobs_client),
        on_event=on_event,
    )
    return outcomes[stage.name]


def estimate(run: str, sweep: Mapping[str, Any], max_concurrent: int | None) -> str:
    """What a sweep would take, in words: trials, hours by the run's own speed, and prices by node type.

    Raises FileNotFoundError where the run has not trained its encoder: then no step was measured.
    """
    config = configuration.from_dict(sweep["config"])
    workers = stages.finished_config(run, "encoder").resources.encoder.most
    history = stages.history(run, "encoder")
    if history is None:
        raise FileNotFoundError(f"{run}: the encoder has no {stages.HISTORY}, so no step was measured")
    speed = statistics.median(epoch["clips_per_second"] for epoch in history["epochs"]) / workers
    trial, recipe = config.resources.trial, config.training.encoder
    clips = sweep["epochs"] * sweep["steps_per_epoch"] * recipe.global_batch_size
    seconds = clips / (speed * trial.num_workers)
    at_once = max_concurrent or 1
    spent = cost.hours(sweep["num_trials"], seconds, at_once)
    table = cost.cost_table(
        trial_seconds=seconds,
        num_trials=sweep["num_trials"],
        cpus=trial.num_workers * trial.cpus,
        gpus=trial.num_workers * trial.gpus,
    )
    early = ", less what ASHA stops early" if sweep["scheduler"] == "asha" else ""
    return "\n".join(
        [
            f"{sweep['num_trials']} trials of {sweep['epochs']} epochs, {sweep['steps_per_epoch']} steps each{early}",
            f"measured when the run's encoder was trained: {speed:.1f} clips/s a worker, so {seconds:.0f} s a trial",
            f"{spent:.2f} hours with {at_once} at once",
            "",
            cost.text(table),
        ]
    )


def detach(run: str, place: str, sweep: Mapping[str, Any], address: str, extra: Sequence[str] = ()) -> str:
    """Submit the sweep's job and return its id; it needs nobody who waits, and `run_sweep` would join it."""
    jobs_client = client.connect(address)
    stage_name, stem = _job(run, sweep)
    _require_free(run, stage_name, stem, jobs_client)
    save(place, sweep)
    attempt = 1
    while (job := client.info(jobs_client, f"{stem}-{attempt}")) is not None and not job.active:
        attempt += 1
    return client.submit(
        jobs_client,
        submission_id=f"{stem}-{attempt}",
        entrypoint=_entrypoint(run, sweep["name"], extra),
        working_dir=source(),
        metadata={"run": run, "stage": stage_name},
    )


def _job(run: str, sweep: Mapping[str, Any]) -> tuple[str, str]:
    """The stage's name of a sweep's job, of the letters that a job's id may have, and the id but for its attempt."""
    stage_name = "sweep-" + re.sub("[^a-z0-9_-]", "-", sweep["name"].lower())
    return stage_name, f"{prefix(run)}-{stage_name}-{_key(sweep)[:8]}"


def _key(sweep: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([sweep["name"], sweep["created"], sweep["num_trials"]]).encode()).hexdigest()


def _require_free(run: str, stage_name: str, stem: str, jobs_client: Any) -> None:
    """Two drivers would write one folder. Raises ClusterError where the sweep runs with fewer trials than now."""
    for job in client.list_jobs(jobs_client, {"run": run, "stage": stage_name}):
        if job.active and not job.submission_id.startswith(stem):
            raise ClusterError(
                f"{job.submission_id} runs a sweep of this name with another --num-trials: wait for it, or stop it by "
                f"arspm cancel {run}"
            )


def save(place: str, sweep: Mapping[str, Any]) -> None:
    storage.write_json(storage.join(place, sweeps.SWEEP), sweep)


def done(place: str, num_trials: int) -> dict[str, Any] | None:
    """The results of a sweep that has ended with at least so many trials."""
    uri = storage.join(place, sweeps.RESULTS)
    if not storage.exists(uri):
        return None
    found = storage.read_json(uri)
    return found if found["state"] == "finished" and found["counts"]["planned"] >= num_trials else None


def best(place: str) -> tuple[sweeps.Record, Config]:
    """The best trial of a sweep so far, and its complete configuration. Raises ValueError where there is none."""
    sweep = sweeps.load(place)
    found = sweeps.best(sweeps.read_records(place).values(), sweep["mode"])
    if found is None:
        raise ValueError(f"{place}: no trial has a {sweep['metric']} yet")
    return found, override(configuration.from_dict(sweep["config"]), found["changes"])


def _entrypoint(run: str, name: str, extra: Sequence[str]) -> str:
    return shlex.join([*PYTHON, "jobs.sweep", "--run", run, "--name", name, *extra])


def main() -> None:
    """The sweep's job: it runs what is left of the sweep that stands in the run, on the cluster it runs on."""
    parser = argparse.ArgumentParser(prog="python -m jobs.sweep", description=main.__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--max-concurrent", type=int)
    parser.add_argument("--log", choices=TRACKERS, action="append", default=[])
    arguments = parser.parse_args()
    with readable_end("sweep"):
        place = sweeps.folder(arguments.run, arguments.name)
        results = work(arguments.run, place, arguments.max_concurrent, arguments.log)
    sys.exit(0 if results["state"] == "finished" else 1)


def work(run: str, place: str, max_concurrent: int | None, trackers: Sequence[str]) -> dict[str, Any]:
    """Run what is left of a sweep; its results."""
    import ray

    from arspm.distributed.tune import tuning

    sweep = sweeps.load(place)
    space = unpack(sweep["dimensions"])
    before = list(sweeps.read_records(sweep["warm_start"]).values()) if sweep["warm_start"] else []
    ray.init(address="auto", log_to_driver=False, ignore_reinit_error=True)
    return tuning.run_sweep(
        place,
        run,
        configuration.from_dict(sweep["config"]),
        sweep,
        searching(sweep, space),
        lambda sample: spaces.changes(space, sample),
        is_paper=lambda sample: is_paper(sweep["paper"], sample),
        before=[record for record in before if record["state"] in ("finished", "stopped")],
        callbacks=tuning.trackers(trackers, sweep["name"]),
        max_concurrent=max_concurrent,
    )


def searching(sweep: Mapping[str, Any], space: Space) -> Search:
    """Where a sweep's samples come from. A search that is no grid begins with the paper's values, if the space has
    them, so that the best trial has something to be compared with."""
    from arspm.distributed.tune.search import Listed, Optuna

    first = [sweep["paper"]] if sweep["paper"].keys() == sweep["space"].keys() else []
    if sweep["search"] == "optuna":
        return Optuna(sweep["space"], sweep["mode"], sweep["seed"], first)
    if sweep["search"] == "grid":
        return Listed(spaces.grid(space))
    drawn = spaces.random_samples(space, sweep["num_trials"], sweep["seed"])
    return Listed([*first, *drawn[len(first) :]])


def is_paper(paper: Mapping[str, Any], sample: Mapping[str, Any]) -> bool:
    """Whether a sample is the paper's in every dimension but the seed."""
    return all(name in paper and sample[name] == paper[name] for name in sample if name != "seed")


if __name__ == "__main__":
    main()

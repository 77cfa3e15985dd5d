"""A sweep: Ray Tune over an encoder's fields, as one Ray job. `python -m jobs.sweep` is that job.

What the sweep is stands in its folder's sweep.json, written before the job is submitted; the same command goes on
with it, and another that would mix two sweeps is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import re
import shlex
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from arspm import config as configuration
from arspm import corpus, presets, stages, storage, sweeps
from arspm.config import Config, ConfigError, override
from cluster import chain, client, cost, events
from cluster.errors import ClusterError
from cluster.job import EXIT_TEMPORARY
from jobs.chain import PYTHON, prefix, source
from tune_spaces import space as spaces
from tune_spaces.space import Choice, LogUniform, Space, Uniform

if TYPE_CHECKING:
    from arspm.scale.search import Search

SEARCHES = ("grid", "random", "optuna")
SCHEDULERS = ("asha", "none")
NUM_TRIALS = 16  # of a search that is not a grid
METRIC = "val_cos_degrees"
# What the encoder's stage alone reads; another feature_dim or order of rows would want another run.
VARIES = ("speech_encoder", "prior.kind", "loss", "training.encoder")
TRACKERS = ("mlflow", "wandb")
_COPIES = "it copies one trial's weights into another by Tune's checkpoints, which these trials do not make"
_PAUSES = "it pauses trials and resumes them from Tune's checkpoints, which these trials do not make"
_REFUSED = {
    "pbt": _COPIES,
    "pb2": _COPIES,
    "hyperband": _PAUSES,
    "bohb": _PAUSES,
    "median": "it compares trials of different ages by their running means; asha does it by epoch",
}
# What must be the same for two commands to mean the same sweep.
_SAME = ("search", "scheduler", "metric", "mode", "seed", "warm_start")


class Options(NamedTuple):
    """What a command line may say of a sweep; None where it leaves the choice."""

    name: str | None = None
    num_trials: int | None = None
    search: str | None = None
    scheduler: str | None = None
    metric: str = METRIC
    mode: str = "min"
    seed: int = 0
    warm_start: str | None = None


def plan(run: str, space_name: str, options: Options, changes: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The folder of a sweep over a finished run, and what its sweep.json is to hold.

    Raises ConfigError for what cannot be, FileNotFoundError where a stage that the trials rest on is not done.
    """
    default_name, space = spaces.load(space_name)
    base = override(stages.finished_config(run, "decoder"), changes)
    _require_own(changes)
    for need in stages.STAGES["encoder"].needs:
        stages.finished_config(run, need)  # says what to do where it is not done
    spaces.check(space, base, varies=VARIES)
    ranges = [each.name for each in spaces.dimensions(space) if not isinstance(each.domain, Choice)]
    search = options.search or ("optuna" if ranges else "grid")
    scheduler = options.scheduler or ("none" if search == "grid" else "asha")
    _require_known(search, scheduler, options, space)
    _require_measured(run, options.metric)
    grid_size = len(spaces.grid(space)) if search == "grid" else None
    num_trials = options.num_trials or grid_size or NUM_TRIALS
    if grid_size is not None and num_trials > grid_size:
        raise ConfigError(f"num-trials: the grid of {space_name} has {grid_size}, not {num_trials}")
    place = sweeps.folder(run, options.name or default_name)
    split = corpus.open_split(stages.corpus(run), "train", base.ingest.subset)
    sweep = {
        "name": options.name or default_name,
        "run": run.rstrip("/").rsplit("/", 1)[-1],
        "preset": base.preset,
        "space": spaces.describe(space),
        "dimensions": pack(space),
        "search": search,
        "scheduler": scheduler,
        "num_trials": num_trials,
        "metric": options.metric,
        "mode": options.mode,
        "seed": options.seed,
        "epochs": _epochs(space, base),
        "steps_per_epoch": -(-split.num_rows // base.training.encoder.global_batch_size),
        "max_concurrent": 1,
        "created": time.time(),
        "clips": [],
        "paper": spaces.sample_of(space, presets.PAPER),
        "warm_start": _resolve(run, place, options) if options.warm_start else None,
        "upstream": stages.upstream(run, "encoder"),
        "config": base.model_dump(mode="json"),
    }
    if storage.exists(storage.join(place, sweeps.SWEEP)):
        sweep |= _agreed(place, sweeps.load(place), sweep, options.num_trials)
    return place, sweep


def _require_known(search: str, scheduler: str, options: Options, space: Space) -> None:
    problems = []
    if search not in SEARCHES:
        problems.append(f"search: {' or '.join(SEARCHES)}, not {search}")
    if scheduler not in SCHEDULERS:
        why = f": {_REFUSED[scheduler]}" if scheduler in _REFUSED else ""
        problems.append(f"scheduler: {' or '.join(SCHEDULERS)}, not {scheduler}{why}")
    if options.mode not in ("min", "max"):
        problems.append(f"mode: min or max, not {options.mode}")
    if options.num_trials is not None and options.num_trials < 1:
        problems.append(f"num-trials: 1 or more, not {options.num_trials}")
    if not options.metric.startswith(("val_", "train_")):
        problems.append(f"metric: a figure of an epoch, as {METRIC}, val_l2 or train_identity; not {options.metric}")
    weights = [field for each in spaces.dimensions(space) for field in each.fields if field.startswith("loss.")]
    if options.metric == "train_loss" and weights:
        problems.append(f"metric: train_loss contains {', '.join(weights)}, so it cannot say which is better")
    if options.metric == "train_identity" and "loss.identity" in weights:
        problems.append("metric: train_identity is another figure for each loss.identity; take another metric")
    if options.warm_start and search != "optuna":
        problems.append(f"warm-start: a {search} search learns nothing from other trials; use --search optuna")
    if problems:
        raise ConfigError("\n".join(problems))


def _require_own(changes: Mapping[str, Any]) -> None:
    own = ("seed", "ingest", "resources", *VARIES)
    problems = [
        f"{name}: belongs to another stage, whose work a sweep takes from the run as it is; another value needs "
        f"another run. A sweep may set {', '.join(own)}"
        for name in changes
        if not any(f"{name}.".startswith(f"{each}.") for each in own)
    ]
    if problems:
        raise ConfigError("\n".join(problems))


def _require_measured(run: str, metric: str) -> None:
    """Where the run has trained its own encoder, its epochs tell which figures there are."""
    history = storage.join(stages.folder(run, "encoder"), "history.json")
    epochs = storage.read_json(history)["epochs"] if storage.exists(history) else []
    known = sorted({name for epoch in epochs for name in epoch if name.startswith(("val_", "train_"))})
    if known and metric not in known:
        raise ConfigError(f"metric: {metric} is not measured; there are {', '.join(known)}")


def _epochs(space: Space, base: Config) -> int:
    """The most epochs that a trial may have."""
    field = "training.encoder.epochs"
    for key, domain in space.items():
        if field in ((key,) if isinstance(key, str) else key):
            one: Space = {key: domain}
            return max(int(spaces.changes(one, sample)[field]) for sample in spaces.grid(one))
    return base.training.encoder.epochs


def _resolve(run: str, place: str, options: Options) -> str:
    """The folder of an earlier sweep: of this run by its name, or anywhere by its URI."""
    asked = options.warm_start or ""
    found = storage.absolute(asked) if "/" in asked else sweeps.folder(run, asked)
    if found == place:
        raise ConfigError("warm-start: a sweep goes on from its own trials anyway; name another one")
    earlier = sweeps.load(found)
    if (earlier["metric"], earlier["mode"]) != (options.metric, options.mode):
        judged = f"{earlier['metric']} ({earlier['mode']})"
        raise ConfigError(f"warm-start: {found} was judged by {judged}, not by {options.metric} ({options.mode})")
    return found


def _agreed(place: str, before: Mapping[str, Any], now: Mapping[str, Any], asked: int | None) -> dict[str, Any]:
    """What a sweep that stands there keeps. `asked`: the trials that the command names. Raises ConfigError where it
    means another."""
    differ = [f"{name} {before.get(name)}, not {now[name]}" for name in _SAME if now[name] != before.get(name)]
    if now["dimensions"] != before.get("dimensions"):
        differ.append("another space")
    if now["upstream"] != before.get("upstream"):
        differ.append("another decoder, prior or gender network of the run")
    old, new = (_flat({**each["config"], "resources": None}) for each in (before, now))
    differ += [f"{name} {old[name]}, not {new.get(name)}" for name in old if new.get(name) != old[name]]
    if asked is not None and asked < before["num_trials"] and now["search"] != "grid":
        differ.append(f"{before['num_trials']} trials, not {asked}")
    if differ:
        raise ConfigError(f"{place} holds a sweep with {'; '.join(differ)}: go on with it as it was, or give --name")
    return {"created": before["created"], "num_trials": max(now["num_trials"], before["num_trials"])}


def _flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= _flat(value, f"{above}{name}.") if isinstance(value, Mapping) else {f"{above}{name}": value}
    return found


def pack(space: Space) -> list[dict[str, Any]]:
    """A space in JSON, whole: the job that draws from it need not have the user's file."""
    found = []
    for _, fields, domain in spaces.dimensions(space):
        ends = {"values": domain.values} if isinstance(domain, Choice) else {"low": domain.low, "high": domain.high}
        found.append({"fields": list(fields), "domain": type(domain).__name__, **ends})
    return json.loads(json.dumps(found))


def unpack(packed: Sequence[Mapping[str, Any]]) -> Space:
    kinds = {"Choice": Choice, "LogUniform": LogUniform, "Uniform": Uniform}
    space: Space = {}
    for each in packed:
        fields = tuple(each["fields"])
        ends = {name: each[name] for name in ("values", "low", "high") if name in each}
        space[fields if len(fields) > 1 else fields[0]] = kinds[each["domain"]](**ends)
    return space


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
    config = configuration.parse(sweep["config"])
    stage = chain.Stage(stage_name, (), _entrypoint(run, sweep["name"], extra), *_asks(config))
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
    config = configuration.parse(sweep["config"])
    workers = stages.finished_config(run, "encoder").resources.encoder.num_workers
    history = storage.read_json(storage.join(stages.folder(run, "encoder"), "history.json"))
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
    return found, override(configuration.parse(sweep["config"]), found["changes"])


def _entrypoint(run: str, name: str, extra: Sequence[str]) -> str:
    return shlex.join([*PYTHON, "jobs.sweep", "--run", run, "--name", name, *extra])


def _asks(config: Config) -> tuple[float, float]:
    """CPUs and GPUs of one trial, without which the sweep cannot begin."""
    trial = config.resources.trial
    return trial.num_workers * trial.cpus, trial.num_workers * trial.gpus


def main() -> None:
    """The sweep's job: it runs what is left of the sweep that stands in the run, on the cluster it runs on."""
    parser = argparse.ArgumentParser(prog="python -m jobs.sweep", description=main.__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--max-concurrent", type=int)
    parser.add_argument("--log", choices=TRACKERS, action="append", default=[])
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        results = work(
            arguments.run, sweeps.folder(arguments.run, arguments.name), arguments.max_concurrent, arguments.log
        )
    except Exception as error:
        traceback.print_exc()
        line = str(error).strip().splitlines()
        print(f"error: sweep: {line[0] if line else type(error).__name__}", file=sys.stderr, flush=True)
        sys.exit(EXIT_TEMPORARY if getattr(error, "temporary", False) else 1)
    sys.exit(0 if results["state"] == "finished" else 1)


def work(run: str, place: str, max_concurrent: int | None, trackers: Sequence[str]) -> dict[str, Any]:
    """Run what is left of a sweep; its results."""
    import ray

    from arspm.scale import tuning

    sweep = sweeps.load(place)
    space = unpack(sweep["dimensions"])
    before = list(sweeps.read_records(sweep["warm_start"]).values()) if sweep["warm_start"] else []
    ray.init(address="auto", log_to_driver=False, ignore_reinit_error=True)
    return tuning.run_sweep(
        place,
        run,
        configuration.parse(sweep["config"]),
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
    from arspm.scale.search import Listed, Optuna

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

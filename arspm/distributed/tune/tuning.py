"""Run a sweep's trials with Ray Tune.

Tune's own state is never read back, so nothing is unpickled: the records say what is done, and the same command goes
on from them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from arspm import storage
from arspm.config import Config, ConfigError
from arspm.distributed.train.rows import gather_rows, load_guides
from arspm.distributed.tune import in_memory
from arspm.distributed.tune.ledger import Ledger
from arspm.distributed.tune.search import Sample, Search
from arspm.distributed.tune.trial import STAGE, Setup, portrait_clips, run_trial, strip, trial_config
from arspm.runs import sweeps
from arspm.training import artifacts

NUM_CLIPS = 6  # validation speakers whose portraits each trial leaves
STORE_SHARE = 0.6  # of a node's object store, at most, that a corpus may take
GRACE_SHARE = 0.1  # of the epochs, before ASHA stops anything
REDUCTION = 3
_GIB = 1 << 30

_TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the folder has its own records
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # Tune's own state is not wanted
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # or a trial that tells of its failure alone would end the sweep
}


def run_sweep(
    place: str,
    run: str,
    config: Config,
    sweep: Mapping[str, Any],
    search: Search,
    changes: Callable[[Sample], Mapping[str, Any]],
    *,
    is_paper: Callable[[Sample], bool],
    before: Sequence[sweeps.Record] = (),
    callbacks: Sequence[tune.Callback] = (),
    max_concurrent: int | None = None,
) -> dict[str, Any]:
    """Run what is left of a sweep and return its results. Needs a Ray connection.

    place: the sweep's folder. sweep: what its sweep.json holds. `changes` makes a sample into configuration fields.
    before: records of another sweep to learn from. Raises ConfigError where the cluster has no room for a trial.
    """
    setup, held = _setup(place, run, config)
    num_concurrent = concurrency(config, held, ray.nodes(), max_concurrent)
    ledger = Ledger(place, {**sweep, "max_concurrent": num_concurrent, "clips": setup.clips["clip_id"]}, config)
    scheduler = make_scheduler(sweep["scheduler"], sweep["metric"], sweep["mode"], sweep["epochs"])
    ended = [record for record in ledger.records.values() if record["state"] in sweeps.ENDED]
    for record in [*before, *ended]:
        search.hear(record)
    _replay(scheduler, ended)
    todo = _Todo(ledger, search, changes, is_paper)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it misses the logs that it was told not to write
    for name, value in _TUNE_SETTINGS.items():
        os.environ.setdefault(name, value)
    scratch = storage.join(place, "tune")
    storage.remove(scratch)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, setup=setup), _asks(config)),
        tune_config=tune.TuneConfig(
            search_alg=todo,
            scheduler=scheduler,
            num_samples=todo.left,
            max_concurrent_trials=num_concurrent,
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=place,
            verbose=0,
            callbacks=[ledger, *callbacks],
            failure_config=tune.FailureConfig(max_failures=config.resources.max_failures),
        ),
    )
    try:
        if todo.left:
            tuner.fit()
    finally:
        storage.remove(scratch)
        storage.remove(storage.join(place, "train"))
        found = ledger.close()
    return found


def concurrency(config: Config, held: bool, nodes: Sequence[Mapping[str, Any]], limit: int | None) -> int:
    """Trials at once: what the nodes have room for, no more than `limit`.

    A trial needs its workers and, where the corpus is streamed, their read tasks beside them; were the trials to take
    every CPU, their own reading would wait for ever. nodes: as `ray.nodes()` tells. Raises ConfigError where not one
    fits, unless `limit` promises that a cluster will grow.
    """
    trial, read = config.resources.trial, config.resources.read
    cpus = trial.cpus + (0 if held else read.num_tasks * read.cpus)
    asked = {name: amount for name, amount in (trial.bundle | {"CPU": cpus}).items() if amount}
    room = 0
    for node in nodes:
        if node["Alive"]:
            has = {name: node["Resources"].get(name, 0) for name in asked}
            fits = [int(has[name] / amount + 1e-9) for name, amount in asked.items()]
            if 0 < trial.gpus < 1:  # a part of a GPU is a part of one GPU
                fits.append(int(has["GPU"]) * int(1 / trial.gpus + 1e-9))
            room += min(fits, default=1)
    found = room // trial.num_workers
    if not found and limit is None:
        need = f"{trial.num_workers} workers of {cpus:g} CPUs and {trial.gpus:g} GPUs"
        need += f" and {trial.memory_gib:g} GiB" if trial.memory_gib else ""
        need += f" on nodes with {trial.pool}" if trial.pool else ""
        raise ConfigError(
            f"resources.trial: a trial needs {need}, which the cluster has not; ask for less, or say with "
            "--max-concurrent how many the cluster will have room for once it has grown"
        )
    return max(1, found) if limit is None else max(1, min(found or limit, limit))


def make_scheduler(name: str, metric: str, mode: str, epochs: int) -> TrialScheduler:
    """The scheduler of this name. ASHA counts epochs as the trial does, so that one done again is not two."""
    if name == "none":
        return FIFOScheduler()
    return ASHAScheduler(
        time_attr="epoch",
        metric=metric,
        mode=mode,
        max_t=epochs,
        grace_period=max(1, round(epochs * GRACE_SHARE)),
        reduction_factor=REDUCTION,
    )


class _Ended:
    """As much of a Tune trial as a scheduler asks about one that ended in an earlier session."""

    def __init__(self, number: int):
        self.trial_id = f"before-{number}"


def _replay(scheduler: TrialScheduler, records: Sequence[sweeps.Record]) -> None:
    """Let ASHA know how far the trials before came, and with what."""
    if isinstance(scheduler, ASHAScheduler):
        for record in records:
            trial: Any = _Ended(record["number"])
            scheduler.on_trial_add(None, trial)  # type: ignore[arg-type]
            known = [epoch for epoch in record["epochs"] if epoch.get(scheduler.metric) is not None]
            for epoch in known:
                scheduler.on_trial_result(None, trial, epoch)  # type: ignore[arg-type]


def _setup(place: str, run: str, config: Config) -> tuple[Setup, bool]:
    """What the trials share, computed once; and whether the corpus is held in the object store."""
    readings = gather_rows(STAGE, trial_config(config, {"prior.kind": "none"}), run).readings
    size = in_memory.num_bytes(readings)
    store = min((node["Resources"].get("object_store_memory", 0) for node in ray.nodes() if node["Alive"]), default=0)
    alone = config.resources.trial.num_workers == 1
    held = alone and size <= min(config.resources.trial.share_gib * _GIB, STORE_SHARE * store)
    if alone:
        how = "held in the object store" if held else "streamed to each trial (resources.trial.share_gib)"
        print(f"the corpus, {size / _GIB:.2f} GiB, is {how}", flush=True)
    clips, faces = portrait_clips(config, run, NUM_CLIPS)
    storage.write_bytes(storage.join(place, sweeps.CLIPS), strip(faces))
    return Setup(
        run,
        place,
        config,
        load_guides(config, run),
        artifacts.load_face_decoder(run, config),
        clips,
        in_memory.hold(readings) if held else None,
    ), held


def _asks(config: Config) -> tune.PlacementGroupFactory:
    trial = config.resources.trial
    if trial.num_workers > 1:
        # The driver, on the head, which is no spot node; its workers have a placement group of their own.
        return tune.PlacementGroupFactory([{"node:__internal_head__": 0.001}])
    return tune.PlacementGroupFactory([trial.bundle])


def _trial_name(trial: Trial) -> str:
    return f"{trial.config['number']:05d}"


class _Todo(Searcher):
    """Hands Tune the trials that are not done: those cut off in an earlier session first, then new ones."""

    def __init__(
        self,
        ledger: Ledger,
        search: Search,
        changes: Callable[[Sample], Mapping[str, Any]],
        is_paper: Callable[[Sample], bool],
    ):
        super().__init__()
        self._ledger, self._search, self._changes, self._is_paper = ledger, search, changes, is_paper
        again = [number for number, record in ledger.records.items() if record["state"] not in sweeps.ENDED]
        new = [number for number in range(ledger.sweep["num_trials"]) if number not in ledger.records]
        self._numbers = iter([*again, *new])
        self.left = len(again) + len(new)
        self._running: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        number = next(self._numbers, None)
        if number is None:
            return Searcher.FINISHED
        record = self._ledger.records.get(number)
        if record is None:
            sample = self._search.suggest(number)
            record = sweeps.new_record(number, sample, self._changes(sample), self._is_paper(sample))
            self._ledger.records[number] = record
        self._running[trial_id] = number
        return {"number": number, "changes": record["changes"]}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        record = self._ledger.records[self._running.pop(trial_id)]
        failed = error or record["reason"]  # its record says so only later: Tune tells the search first
        self._search.hear(record | {"state": "failed"} if failed else record)

    def save(self, checkpoint_path: str) -> None:
        """The records are all there is to keep."""

    def restore(self, checkpoint_path: str) -> None:
        """Never asked for."""


def trackers(names: Sequence[str], sweep: str) -> list[tune.Callback]:
    """Tune's own callbacks for MLflow and Weights & Biases, which read their usual environment variables.

    Raises ConfigError where the extra is not installed.
    """
    found: list[tune.Callback] = []
    for name in names:
        try:
            if name == "mlflow":
                import mlflow  # noqa: F401
                from ray.air.integrations.mlflow import MLflowLoggerCallback

                found.append(MLflowLoggerCallback(experiment_name=f"arspm-{sweep}"))
            else:
                import wandb  # noqa: F401
                from ray.air.integrations.wandb import WandbLoggerCallback

                found.append(WandbLoggerCallback(project="arspm", group=sweep))
        except ImportError as error:
            raise ConfigError(f"log: {name} is not installed on the cluster ({error}); install arspm[{name}]") from None
    return found

"""Run a sweep's trials with Ray Tune, and keep its folder in the run: records, results and page.

Tune's own state is never read back, so nothing is unpickled: the records say what is done, and the same command goes
on from them.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from arspm import storage, sweeps
from arspm.config import Config, ConfigError, override
from arspm.learning import artifacts
from arspm.learning.importance import importance
from arspm.progress import progress
from arspm.report.sweep import write_sweep
from arspm.scale import in_memory
from arspm.scale.events import write_events
from arspm.scale.search import Sample, Search
from arspm.scale.training import gather_rows, load_guides
from arspm.scale.trial import FAILURE, STAGE, Setup, portrait_clips, run_trial, strip, trial_config

log = logging.getLogger(__name__)

RENEW_SECONDS = 15.0  # between two renewals of the page, at least
RENEW_SHARE = 0.05  # of the time, at most, that renewing it may take
RECORD_SECONDS = 15.0  # between two writes of a running trial's record
NUM_CLIPS = 6  # validation speakers whose portraits each trial leaves
STORE_SHARE = 0.6  # of a node's object store, at most, that a corpus may take
GRACE_SHARE = 0.1  # of the epochs, before ASHA stops anything
REDUCTION = 3
OTHER_FIGURES = ("epoch", "step", "learning_rate", "clips_per_second", "data_wait")
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
    ledger = _Ledger(place, {**sweep, "max_concurrent": num_concurrent, "clips": setup.clips["clip_id"]}, config)
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
    if trial.num_workers > 1:
        cpus += 0.02 / trial.num_workers  # the driver
    room = 0
    for node in nodes:
        if node["Alive"]:
            has = node["Resources"]
            fits = [int(has.get("CPU", 0) / cpus + 1e-9)] if cpus else []
            if 0 < trial.gpus < 1:  # a part of a GPU is a part of one GPU
                fits.append(int(has.get("GPU", 0)) * int(1 / trial.gpus + 1e-9))
            elif trial.gpus:
                fits.append(int(has.get("GPU", 0) / trial.gpus + 1e-9))
            room += min(fits, default=1)
    found = room // trial.num_workers
    if not found and limit is None:
        need = f"{trial.num_workers} workers of {cpus:g} CPUs and {trial.gpus:g} GPUs"
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
        return tune.PlacementGroupFactory([{"CPU": 0.01}])  # the driver; its workers have a group of their own
    return tune.PlacementGroupFactory([{"CPU": trial.cpus} | ({"GPU": trial.gpus} if trial.gpus else {})])


def _trial_name(trial: Trial) -> str:
    return f"{trial.config['number']:05d}"


class _Todo(Searcher):
    """Hands Tune the trials that are not done: those cut off in an earlier session first, then new ones."""

    def __init__(
        self,
        ledger: _Ledger,
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


class _Ledger(tune.Callback):
    """Writes each trial's record as Tune tells of it, and renews the sweep's results and page."""

    def __init__(self, place: str, sweep: Mapping[str, Any], config: Config):
        self.place, self.sweep, self._config = place, sweep, config
        self.records = sweeps.read_records(place)
        for record in self.records.values():
            if record["state"] not in sweeps.ENDED:
                record["state"] = "interrupted"
        earlier = storage.join(place, sweeps.RESULTS)
        self._spent_before = storage.read_json(earlier)["spent_seconds"] if storage.exists(earlier) else 0.0
        self._begun = time.time()
        self._began: dict[int, tuple[float, float]] = {}  # number -> when this attempt began, seconds before it
        self._written: dict[int, float] = {}
        self._renewed, self._took, self._changed = 0.0, 0.0, True
        self._importance: tuple[int, dict[str, Any] | None] = (0, None)
        self._pictures: tuple[int, dict[str, Any]] = (-1, {"real": None, "trials": {}})

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record, now = self._of(trial), time.time()
        workers = self._config.resources.trial
        record |= {
            "state": "running",
            "reason": "",
            "started": record["started"] or now,
            "ended": None,
            "cpus": workers.num_workers * workers.cpus,
            "gpus": workers.num_workers * workers.gpus,
            "attempts": record["attempts"] + 1,
        }
        self._began[record["number"]] = now, record["seconds"]
        self._write(record)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        record = self._of(trial)
        self._clock(record)
        if FAILURE in result:
            record["reason"] = result[FAILURE]
        elif self.sweep["metric"] in result:
            figures = {name: value for name, value in result.items() if _is_figure(name)}
            sweeps.add_epoch(record, figures | {"seconds": record["seconds"]}, self.sweep["metric"], self.sweep["mode"])
        elif "epoch" in result:
            known = ", ".join(name for name in result if _is_figure(name))
            record["reason"] = f"{self.sweep['metric']} was not measured; there are {known}"
        self._changed = True
        if time.time() - self._written.get(record["number"], 0.0) > RECORD_SECONDS:
            self._write(record)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self._of(trial)
        wanted = record["changes"].get("training.encoder.epochs", self.sweep["epochs"])
        whole = bool(record["epochs"]) and record["epochs"][-1]["epoch"] >= wanted
        self._end(record, "failed" if record["reason"] else "finished" if whole else "stopped")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self._of(trial)
        error = trial.get_error()
        lines = [line for line in str(error).splitlines() if line.strip()]
        record["reason"] = lines[-1].strip() if lines else "its process ended without a word"
        self._end(record, "failed")

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self._of(trial)
        self._clock(record)
        self._began.pop(record["number"], None)  # until it begins again it spends nothing
        log.warning("trial %d lost its process; it is tried again", trial.config["number"])

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        since = time.time() - self._renewed
        if self._changed and since > RENEW_SECONDS and self._took < RENEW_SHARE * since:
            self._renew("running")

    def close(self) -> dict[str, Any]:
        """The last results, once no trial runs any more. One that Tune had not begun waits for the next session."""
        for record in self.records.values():
            if record["state"] not in (*sweeps.ENDED, "waiting"):
                if record["state"] == "running":
                    self._clock(record)
                record["state"] = "interrupted"
                self._write(record)
        whole = sum(record["state"] in sweeps.ENDED for record in self.records.values()) >= self.sweep["num_trials"]
        return self._renew("finished" if whole else "interrupted")

    def _of(self, trial: Trial) -> sweeps.Record:
        return self.records[trial.config["number"]]

    def _clock(self, record: sweeps.Record) -> None:
        began, before = self._began.get(record["number"], (time.time(), record["seconds"]))
        record["seconds"] = before + time.time() - began

    def _end(self, record: sweeps.Record, state: str) -> None:
        self._clock(record)
        record |= {"state": state, "ended": time.time()}
        self._write(record)
        write_events(self.place, record, self.sweep["metric"])
        storage.remove(storage.join(self.place, sweeps.stem(record["number"])))  # its checkpoints
        done = sum(each["state"] in sweeps.ENDED for each in self.records.values())
        best = sweeps.best(self.records.values(), self.sweep["mode"])
        told = "" if best is None else f"best {self.sweep['metric']} {best['best']:.4g} in trial {best['number']}"
        progress(done, self.sweep["num_trials"], "trials", told)
        self._changed = True

    def _write(self, record: sweeps.Record) -> None:
        sweeps.write_record(self.place, record)
        self._written[record["number"]] = time.time()

    def _renew(self, state: str) -> dict[str, Any]:
        begun = time.time()
        for record in self.records.values():
            if record["state"] == "running":
                self._clock(record)
        records = [self.records[number] for number in sorted(self.records)]
        ended = sum(record["state"] in sweeps.ENDED for record in records)
        if self._importance[0] != ended:
            self._importance = ended, importance(records, self.sweep["space"], mode=self.sweep["mode"])
        if self._pictures[0] != ended:
            self._pictures = ended, sweeps.read_pictures(self.place, records, self.sweep["mode"])
        best = sweeps.best(records, self.sweep["mode"])
        found = sweeps.results(
            self.sweep,
            records,
            state=state,
            updated=begun,
            spent_seconds=self._spent_before + begun - self._begun,
            importance=self._importance[1],
            pictures=self._pictures[1],
            config_of_best=None if best is None else best_config(self._config, best).model_dump(mode="json"),
        )
        write_sweep(self.place, found)
        self._renewed, self._took, self._changed = time.time(), time.time() - begun, False
        return found


def _is_figure(name: str) -> bool:
    """Whether the training loop measured it: Tune adds a dozen figures of its own."""
    return name.startswith(("val_", "train_")) or name in OTHER_FIGURES


def best_config(config: Config, record: sweeps.Record) -> Config:
    """The complete configuration of a trial, as `arspm submit --config` trains it."""
    return override(config, record["changes"])


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

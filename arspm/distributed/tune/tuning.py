"""Run a sweep's trials with Ray Tune.

Tune's own state is never read back, so nothing is unpickled: a sweep resumes from the records in its folder.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from arspm import storage
from arspm.config import Config, ConfigError, override
from arspm.distributed import ray_private
from arspm.distributed.train import portraits
from arspm.distributed.train.feed import choose_path
from arspm.distributed.train.rows import gather_rows, load_guides
from arspm.distributed.tune.ledger import Ledger
from arspm.distributed.tune.search import Sample, Search
from arspm.distributed.tune.stopping import StopWithLedger
from arspm.distributed.tune.trial import STAGE, Setup, run_trial, trial_config
from arspm.runs import sweeps
from arspm.runs.kept_epoch import MIN_HELD_OUT
from arspm.training import artifacts

NUM_CLIPS = 6  # validation speakers whose portraits each trial draws
GRACE_FRACTION = 0.1  # of the epochs, before ASHA stops a trial
REDUCTION = 3
_NODE_GROUP = "ray.io/node-group"  # label of nodes that Ray's launcher or KubeRay started

TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the sweep's folder has its own records
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # Tune's own state is never read
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # otherwise a trial that reports only its failure would end the sweep
}


def run_sweep(
    folder: str,
    run: str,
    config: Config,
    sweep: Mapping[str, Any],
    search: Search,
    changes: Callable[[Sample], Mapping[str, Any]],
    *,
    is_paper: Callable[[Sample], bool],
    before: Sequence[sweeps.Record] = (),
    log_to: Sequence[str] = (),
    max_concurrent: int | None = None,
) -> dict[str, Any]:
    """Run a sweep's remaining trials and return its results. Needs a Ray connection.

    folder: the sweep's. sweep: the content of its sweep.json. changes: turns a sample into configuration fields.
    is_paper: whether a sample has the paper's values. before: records of another sweep to learn from.
    log_to: trackers, see `require_trackers`. max_concurrent: limit of concurrent trials. Raises ConfigError if no node
    has room for a trial, or a tracker is not installed.
    """
    require_trackers(log_to)
    setup = _setup(folder, run, config)
    streamed = setup.config.ingest.path == "stream"
    num_concurrent = concurrency(config, streamed, ray.nodes(), max_concurrent)
    ledger = Ledger(folder, {**sweep, "max_concurrent": num_concurrent, "clips": setup.clips["clip_id"]}, config)
    scheduler = make_scheduler(sweep["scheduler"], sweep["metric"], sweep["mode"], sweep["epochs"])
    ended = [record for record in ledger.records.values() if record["state"] in sweeps.ENDED]
    for record in [*before, *ended]:
        search.observe(record)
    _replay(scheduler, ended)
    pending = _PendingTrials(ledger, search, changes, is_paper)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it warns of log files that TUNE_SETTINGS turns off
    for name, value in TUNE_SETTINGS.items():
        os.environ.setdefault(name, value)
    scratch = storage.join(folder, "tune")
    storage.remove(scratch)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, setup=setup), _resources(config)),
        tune_config=tune.TuneConfig(
            search_alg=pending,
            scheduler=scheduler,
            num_samples=pending.count,
            max_concurrent_trials=num_concurrent,
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            **storage.ray_storage(folder),
            verbose=0,
            stop=StopWithLedger(ledger),
            callbacks=[ledger, *trackers(log_to, ledger)],  # the trackers need the state that the ledger sets
            failure_config=tune.FailureConfig(max_failures=config.resources.max_failures),
        ),
    )
    try:
        if pending.count and not ledger.reason:
            tuner.fit()
    finally:
        storage.remove(scratch)
        storage.remove(storage.join(folder, "train"))
        results = ledger.close()
    return results


def concurrency(config: Config, streamed: bool, nodes: Sequence[Mapping[str, Any]], limit: int | None) -> int:
    """Return how many trials run concurrently: `limit`, otherwise as many as the nodes have room for.

    A trial needs its workers and, if the corpus is streamed, their read tasks. If trials took every CPU, their own
    reading would wait forever. So a `limit` of streaming trials above the nodes' room counts only where nodes can be
    added: on a cluster whose autoscaler started one of its nodes, or that has no room at all yet. Trials that do not
    stream wait in Ray for room. nodes: of `ray.nodes()`. Raises ConfigError if no trial fits and there is no `limit`.
    """
    trial, read = config.resources.trial, config.resources.read
    cpus = trial.cpus + (read.num_tasks * read.cpus if streamed else 0)
    needed = {name: amount for name, amount in (trial.bundle | {"CPU": cpus}).items() if amount}
    num_workers = 0
    for node in nodes:
        if node["Alive"]:
            has = {name: node["Resources"].get(name, 0) for name in needed}
            fits = [int(has[name] / amount + 1e-9) for name, amount in needed.items()]
            if 0 < trial.gpus < 1:  # a fraction of a GPU must be on one GPU
                fits.append(int(has["GPU"]) * int(1 / trial.gpus + 1e-9))
            num_workers += min(fits, default=1)
    num_trials = num_workers // trial.num_workers
    if not num_trials and limit is None:
        need = f"{trial.num_workers} workers of {cpus:g} CPUs and {trial.gpus:g} GPUs"
        need += f" and {trial.memory_gib:g} GiB" if trial.memory_gib else ""
        need += f" on nodes with {trial.pool}" if trial.pool else ""
        raise ConfigError(
            f"resources.trial: a trial needs {need}, which the cluster does not have; request less, or pass "
            "--max-concurrent with the number of trials that the cluster will have room for once it has grown"
        )
    if limit is None:
        return num_trials
    grows = not num_trials or any(_NODE_GROUP in node.get("Labels", {}) for node in nodes if node["Alive"])
    return limit if grows or not streamed else min(num_trials, limit)


def make_scheduler(name: str, metric: str, mode: str, epochs: int) -> TrialScheduler:
    """Return the scheduler called `name`: "asha" or "none".

    ASHA takes the epoch from the trial's figures, so an epoch that a retry repeats does not count twice.
    """
    if name == "none":
        return FIFOScheduler()
    return ASHAScheduler(
        time_attr="epoch",
        metric=metric,
        mode=mode,
        max_t=epochs,
        grace_period=max(1, round(epochs * GRACE_FRACTION)),
        reduction_factor=REDUCTION,
    )


def _replay(scheduler: TrialScheduler, records: Sequence[sweeps.Record]) -> None:
    """Show ASHA the epochs of trials that ended in earlier sessions, so that it compares new trials with them."""
    if isinstance(scheduler, ASHAScheduler):
        for record in records:
            measured = [epoch for epoch in record["epochs"] if epoch.get(scheduler.metric) is not None]
            ray_private.replay_results(scheduler, f"before-{record['number']}", measured)


# Settings with which an encoder reads every row. The other two need a prior.
_ALL_ROWS = {
    "prior.kind": "none",
    "ingest.sex": "any",
    "speech_encoder.fc2_init": "random",
    "speech_encoder.prior_weight": "one",
}


def _setup(folder: str, run: str, config: Config) -> Setup:
    """Return what the trials share. All of them read the corpus in the way that is possible here."""
    readings = gather_rows(STAGE, trial_config(config, _ALL_ROWS), run).readings
    if (num_held_out := readings[-1].order.groups.num_rows) < MIN_HELD_OUT:
        print(f"trials are compared on {num_held_out} validation clips only, too few to tell them apart", flush=True)
    path = choose_path(config, readings, torch.device("cpu"))
    print(f"trials read the corpus by ingest.path={path}", flush=True)
    config = override(config, {"ingest.path": path})
    clips, faces = portraits.clips(config, run, NUM_CLIPS)
    storage.write_bytes(storage.join(folder, sweeps.CLIPS), portraits.strip(faces))
    return Setup(
        run,
        folder,
        config,
        load_guides(config, run),
        artifacts.load_face_decoder(run, config),
        clips,
    )


def _resources(config: Config) -> tune.PlacementGroupFactory:
    trial = config.resources.trial
    if trial.num_workers > 1:
        # For the trial's driver only, on the head, which is never a spot node. Ray Train places its workers.
        return tune.PlacementGroupFactory([ray_private.head_node()])
    return tune.PlacementGroupFactory([trial.bundle])


def _trial_name(trial: Trial) -> str:
    return f"{trial.config['number']:05d}"


class _PendingTrials(Searcher):
    """Gives Tune the trials that have not ended: first those that an earlier session began, then new ones."""

    def __init__(
        self,
        ledger: Ledger,
        search: Search,
        changes: Callable[[Sample], Mapping[str, Any]],
        is_paper: Callable[[Sample], bool],
    ):
        super().__init__()
        self._ledger, self._search, self._changes, self._is_paper = ledger, search, changes, is_paper
        interrupted = [number for number, record in ledger.records.items() if record["state"] not in sweeps.ENDED]
        new = [number for number in range(ledger.sweep["num_trials"]) if number not in ledger.records]
        self._numbers = iter([*interrupted, *new])
        self.count = len(interrupted) + len(new)
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
        failed = error or record["reason"]  # Tune calls the search before the ledger, so the state is not final yet
        self._search.observe(record | {"state": "failed"} if failed else record)

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the records are the only state."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: Tune's state is never restored."""


def require_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError if the extra of a tracker, "mlflow" or "wandb", is not installed."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(f"log: {name} is not installed on the cluster ({error}); install arspm[{name}]") from None


def trackers(names: Sequence[str], ledger: Ledger) -> list[tune.Callback]:
    """Return Tune's callbacks for MLflow and Weights & Biases, which read their usual environment variables.

    A trial fails there as it does in the ledger, whose callback must come first.
    """

    def is_failed(trial: Trial) -> bool:
        return bool(ledger.records[trial.config["number"]]["state"] == "failed")

    sweep, callbacks = ledger.sweep["name"], []
    if "mlflow" in names:
        callbacks.append(ray_private.mlflow_callback(is_failed, experiment_name=f"arspm-{sweep}"))
    if "wandb" in names:
        callbacks.append(ray_private.wandb_callback(is_failed, project="arspm", group=sweep))
    return callbacks

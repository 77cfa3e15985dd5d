"""Run a training stage on Ray Train and write its network into the run."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from torch import nn

from arspm import config as configuration
from arspm import storage
from arspm.config import Config, Workers
from arspm.corpus import filters
from arspm.distributed import gpus, local, ray_private
from arspm.distributed.train import failures
from arspm.distributed.train.alone import train_alone
from arspm.distributed.train.failures import LostWorkers, TrainingFailed
from arspm.distributed.train.rows import Rows, gather_rows, require_measurable
from arspm.distributed.train.worker import no_watch, train_worker
from arspm.report.training_words import kept_epoch
from arspm.runs import stages
from arspm.training import artifacts, checkpoint
from arspm.training.fit import Report

log = logging.getLogger(__name__)

TRAIN_SETTINGS = {
    # How often the controller polls its workers. A report waits for a poll, so Ray's 2 s would cost 2 s an epoch.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # Otherwise the log has every line that a worker prints twice.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # How often Train looks for nodes that will be preempted. Ray's 5 s are much of the 30 s that Kubernetes leaves.
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "2",
}


def train_stage(stage: str, config: Config, run: str, fingerprint: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train a stage's network, resuming from its last checkpoint if it has one.

    Returns the files written (path relative to the run -> size and hash) and the figures of the best epoch, with its
    number, the figure that it was chosen by and the number of held-out rows. Raises
    NothingToLearn, ValueError for a corpus that cannot end in a report, or TrainingFailed with the cause in one line.
    """
    configuration.require_workers(config, [stage])
    require_measurable(stage, config, run)
    rows = gather_rows(stage, config, run)
    if rows.filtered:
        print(f"{filters.describe(rows.filtered)}", flush=True)
    if local.is_in_process():
        with tempfile.TemporaryDirectory() as folder:
            train_alone(stage, config, run, rows, Path(folder))
            files, figures = _export(stage, run, folder)
            return files, figures | dict(rows.filtered)
    last = fit_on_workers(
        stage,
        config,
        run,
        rows,
        # The name contains the fingerprint: a changed configuration or upstream stage starts a new training.
        name=stages.training_name(run, stage, fingerprint),
        storage_path=storage.join(run, stage),
        live=stages.parent_run(run) == run,  # a variant has no live page
    )
    files, figures = _export(stage, run, last)
    return files, figures | dict(rows.filtered)


def fit_on_workers(
    stage: str,
    config: Config,
    run: str,
    rows: Rows,
    *,
    name: str,
    storage_path: str,
    callbacks: Sequence[Any] = (),
    on_report: Callable[[Config, Report, nn.Module], None] | None = None,
    watch: Callable[[], AbstractContextManager[Callable[[], None]]] = no_watch,
    live: bool = False,
) -> str | None:
    """Train on Ray Train's workers and return the URI of the last checkpoint, None if there is none.

    Checkpoints are in `<storage_path>/<name>`; a training of the same name resumes from the last one. `callbacks`: of
    Ray Train. `on_report`: called by rank 0 with the model when a checkpoint is due. `watch`: rank 0 trains in this
    context, and calls what it yields before each batch. `live`: whether the run's live page shows the training. Raises
    TrainingFailed with the cause in one line, or StopRequested if a watch raised that.
    """
    workers: Workers = getattr(config.resources, stage)
    folder = storage.join(storage_path, name)
    settings: dict[str, Any] = {"stage": stage, "run": run, "config": configuration.dump(config), "rows": rows}
    settings |= {"on_report": on_report, "watch": watch, "live": live}
    for variable, value in TRAIN_SETTINGS.items():
        os.environ.setdefault(variable, value)
    if not ray.is_initialized():
        ray.init()  # at RAY_ADDRESS, as Train itself would
    allowed, num_losses, lost_with_notice = config.resources.max_failures, 0, ray_private.nodes_lost_with_notice()
    while True:
        unlisted = _unlisted_checkpoint(folder)
        trainer = TorchTrainer(
            train_worker,
            train_loop_config=settings | {"folder": folder, "resume_from": unlisted},
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers.num_workers,  # type: ignore[arg-type]  # mypy sees Train V1's
                use_gpu=workers.gpus > 0,
                resources_per_worker=workers.bundle,
            ),
            torch_config=ray_private.torch_config("nccl", gpus.require_gpu) if workers.gpus else TorchConfig("gloo"),
            run_config=ray.train.RunConfig(
                name=name,
                **storage.ray_storage(storage_path),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
                # Failures are counted below. A preemption is no failure: Train may restart as often as needed.
                failure_config=ray.train.FailureConfig(max_failures=0, max_preemption_failures=-1),  # type: ignore[call-arg]
                callbacks=list(callbacks),
            ),
        )
        try:
            last = trainer.fit().checkpoint
            # No report means that nothing was left to train.
            return unlisted if last is None else storage.join(folder, Path(last.path).name)
        except failures.ENDS as error:
            failure, lost = error, failures.lost(error, stage)
        # Train counts preemptions by itself, but it may see the node's end before it sees the notice. Other nodes of
        # the cluster that left with a warning excuse nothing.
        known, lost_with_notice = lost_with_notice, ray_private.nodes_lost_with_notice()
        if failures.names_any(lost.failures, {id: ip for id, ip in lost_with_notice.items() if id not in known}):
            log.warning("a node was preempted: %s resumes from the last checkpoint", stage)
            continue
        num_losses += 1
        if num_losses > allowed:
            kind = TrainingFailed if lost.for_memory else LostWorkers  # another job would need as much memory
            raise kind(f"lost workers {num_losses} times; the last time: {lost.reason}") from failure
        log.warning(
            "lost a worker of %s (%d of at most %d): resuming from the last checkpoint. %s",
            stage,
            num_losses,
            allowed,
            lost.reason,
        )


def _unlisted_checkpoint(folder: str) -> str | None:
    """Return the URI of the latest intact checkpoint that Train's snapshot does not list, or None.

    Train resumes only from the checkpoints in its snapshot. A snapshot that it cannot use, or that lists a missing
    checkpoint, is removed; then the latest intact checkpoint is returned.
    """
    names = {
        name
        for path in storage.files_below(folder)
        for name, _, file in [path.rpartition("/")]
        if file == checkpoint.PROGRESS
    }
    listed = ray_private.listed_checkpoints(folder)
    if listed is not None and listed <= names:
        return None
    steps = {}
    for uri in (storage.join(folder, name) for name in names):
        with contextlib.suppress(ValueError):  # not intact
            steps[uri] = checkpoint.verify(uri).step
    ray_private.remove_checkpoint_list(folder)
    latest = max(steps, key=steps.__getitem__, default=None)
    if latest is not None:
        log.warning("Ray Train lists no checkpoint: resuming from %s", latest)
    return latest


def _export(stage: str, run: str, last: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the best epoch's weights and the history next to the training's folder."""
    if last is None:
        raise TrainingFailed("training ended without a checkpoint")
    progress = checkpoint.verify(last)
    assert progress.best_epoch is not None, "an epoch has ended"
    with storage.local_copy(storage.join(last, checkpoint.BEST)) as best_weights:
        model_uri = storage.join(run, stage, artifacts.MODEL)
        files = {f"{stage}/{artifacts.MODEL}": storage.upload(best_weights, model_uri)}
    history = {"epochs": progress.epochs, "losses": progress.losses, "best_epoch": progress.best_epoch}
    files[f"{stage}/{artifacts.HISTORY}"] = storage.write_json(storage.join(run, stage, artifacts.HISTORY), history)
    chosen = {name: getattr(progress, name) for name in ("best_epoch", "chosen_by", "num_held_out")}
    figures = chosen | progress.epochs[progress.best_epoch - 1]
    print(f"kept {kept_epoch(stage, figures, len(progress.epochs))}", flush=True)
    return files, figures

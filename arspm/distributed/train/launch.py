"""Run a training stage on Ray Train and leave its network in the run."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
import ray.train
from ray.core.generated.common_pb2 import NodeDeathInfo  # type: ignore[attr-defined]
from ray.train.torch import TorchConfig, TorchTrainer
from torch import nn

from arspm import config as configuration
from arspm import storage
from arspm.config import Config, Workers
from arspm.distributed.train.rows import Rows, gather_rows
from arspm.distributed.train.worker import train_worker
from arspm.runs import stages
from arspm.storage.retries import is_passing
from arspm.training import artifacts, checkpoint
from arspm.training.fit import Report

log = logging.getLogger(__name__)

_LIST = "checkpoint_manager_snapshot.json"  # Ray Train's, of the checkpoints that it knows
_TRAIN_SETTINGS = {
    # How often the controller looks at its workers; a report waits for that look, so 2 s would be 2 s an epoch.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # Else every line that a worker prints is in the log twice.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # How often Train looks for nodes that are to be taken away; 5 s are much of the 30 s that Kubernetes leaves.
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "2",
}


class TrainingFailed(RuntimeError):
    """A training worker's own error, in one line."""

    temporary = False


class LostWorkers(TrainingFailed):
    """Workers or their machines were lost more often than the configuration allows: the cluster's fault."""

    temporary = True  # the stage may be run again


def train_stage(stage: str, config: Config, run: str, fingerprint: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train a stage's network, going on from its last checkpoint if there is one.

    Returns the files left in the run (path relative to it -> size and hash) and the figures of the best epoch. Raises
    NothingToLearn, or TrainingFailed with the cause in one line.
    """
    last = fit_on_workers(
        stage,
        config,
        run,
        gather_rows(stage, config, run),
        # The same stage over the same upstream goes on from its last checkpoint, another begins anew.
        name=stages.training_name(run, stage, fingerprint),
        storage_path=storage.join(run, stage),
    )
    return _export(stage, run, last)


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
) -> str | None:
    """Train on Ray Train's workers; the same name at the same place goes on from its last checkpoint. The last one's
    place.

    `callbacks`: Ray Train's. `on_report`: called by rank 0 with the model when a checkpoint is due. Raises
    TrainingFailed with the cause in one line.
    """
    workers: Workers = getattr(config.resources, stage)
    place = storage.join(storage_path, name)
    settings = {"stage": stage, "run": run, "config": configuration.dump(config), "rows": rows, "on_report": on_report}
    for variable, value in _TRAIN_SETTINGS.items():
        os.environ.setdefault(variable, value)
    if not ray.is_initialized():
        ray.init()  # as Train itself would, where RAY_ADDRESS says
    allowed, lost, gone = config.resources.max_failures, 0, _taken_away()
    failed: Exception
    while True:
        before = _unknown_to_train(place)
        trainer = TorchTrainer(
            train_worker,
            train_loop_config=settings | {"place": place, "go_on_from": before},
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers.num_workers,  # type: ignore[arg-type]  # mypy sees Train V1's
                use_gpu=workers.gpus > 0,
                resources_per_worker=workers.bundle,
            ),
            torch_config=TorchConfig(backend="nccl" if workers.gpus else "gloo"),
            run_config=ray.train.RunConfig(
                name=name,
                storage_path=storage_path,
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
                # Failures are told apart below. A node taken away with warning is none, however often: Train goes on.
                failure_config=ray.train.FailureConfig(max_failures=0, max_preemption_failures=-1),  # type: ignore[call-arg]
                callbacks=list(callbacks),
            ),
        )
        try:
            last = trainer.fit().checkpoint
            # Without a report there was nothing left to train.
            return before if last is None else storage.join(place, Path(last.path).name)
        except ray.train.WorkerGroupError as error:
            cause = _own_error(error)
            if cause is not None:
                raise _failed(cause) from error
            failed, said = error, " / ".join({_first_line(each) for each in error.worker_failures.values()})
        except ray.exceptions.RayActorError as error:  # Train's controller: killed, or it did not start
            failed, said = error, _last_line(error)
        except ray.train.PreemptionError as error:  # Train itself gave up
            raise LostWorkers(_first_line(error)) from error
        except ray.train.ControllerError as error:
            raise _failed(error.controller_failure) from error
        # Train sees a warning by itself, but where Ray ends the node at its time, Train may hear of that end first.
        known, gone = gone, _taken_away()
        if gone - known:
            log.warning("a node was taken away: %s goes on from the last checkpoint", stage)
            continue
        lost += 1
        if lost > allowed:
            raise LostWorkers(f"lost workers {lost} times, the last time so: {said}") from failed
        log.warning(
            "lost a worker of %s (%d of at most %d): going on from the last checkpoint. %s", stage, lost, allowed, said
        )


def _taken_away() -> set[str]:
    """The ids of the nodes that have left with warning since the cluster began: stopped by SIGTERM, or drained."""
    reasons = (NodeDeathInfo.EXPECTED_TERMINATION, NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED)
    return {node["NodeID"] for node in ray.nodes() if not node["Alive"] and node["DeathReason"] in reasons}


def _unknown_to_train(place: str) -> str | None:
    """The newest whole checkpoint at a place, if there is one that Train would not go on from; else None.

    Train goes by its own list of checkpoints, which it writes in place: a full disk or a lost machine may leave a part
    of it. That of another version of Ray it refuses, and one that names a checkpoint that is gone. A list that it
    could not use is taken away.
    """
    uri = storage.join(place, _LIST)
    folders = {
        folder
        for path in storage.files_below(place)
        for folder, _, file in [path.rpartition("/")]
        if file == checkpoint.PROGRESS
    }
    try:
        known = storage.read_json(uri)
        named = {each["checkpoint_dir_name"] for each in known["checkpoint_results"]}
        if known["ray_version"] == ray.__version__ and named <= folders:
            return None
    except FileNotFoundError:
        pass
    except (ValueError, TypeError, KeyError):
        log.warning("%s was cut short", uri)
    whole = {}
    for folder in folders:
        with contextlib.suppress(ValueError):
            found = storage.join(place, folder)
            whole[found] = checkpoint.verify(found).step
    storage.remove(uri)
    newest = max(whole, key=whole.__getitem__, default=None)
    if newest is not None:
        log.warning("Ray Train knows of no checkpoint: going on from %s", newest)
    return newest


def _failed(cause: Exception) -> TrainingFailed:
    """In one line, and temporary where the cause is: a worker's storage was away."""
    cause = _unwrapped(cause)
    full = isinstance(cause, OSError) and cause.errno == errno.ENOSPC
    hint = "; make room for the run and for temporary files: the same command goes on from the last checkpoint"
    failed = TrainingFailed(_first_line(cause) + (hint if full else ""))
    # Train itself writes checkpoints and looks for them by pyarrow's client, which gives up sooner than ours.
    failed.temporary = getattr(cause, "temporary", False) or is_passing(cause)
    return failed


def _own_error(error: ray.train.WorkerGroupError) -> Exception | None:
    """The error of our own code among the workers' failures; None when a process or a node was lost.

    When a worker dies, its peers fail too, in a collective operation, and may be heard first; so a loss explains all.
    """
    failures = [_unwrapped(each) for each in error.worker_failures.values()]
    if any(type(each).__module__.startswith("ray.") for each in failures):
        return None
    return next((each for each in failures if not _is_collective(each)), None)


def _is_collective(error: Exception) -> bool:
    text = str(error).lower()
    return any(word in text for word in ("gloo", "nccl", "connection closed by peer", "connection reset"))


def _unwrapped(error: Exception) -> Exception:
    """What failed in a task or an actor, instead of Ray's account of it."""
    return error.cause if isinstance(error, ray.exceptions.RayTaskError) else error


def _first_line(error: Exception) -> str:
    error = _unwrapped(error)
    return next((line for line in str(error).splitlines() if line.strip()), repr(error))


def _last_line(error: ray.exceptions.RayActorError) -> str:
    """What an actor died of; Ray's text is a sentence, and a traceback where the actor did not start."""
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), repr(error))


def _export(stage: str, run: str, last: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Leave the best epoch's weights and the history beside the training directory."""
    if last is None:
        raise TrainingFailed("training ended without a checkpoint")
    progress = checkpoint.verify(last)
    assert progress.best_epoch is not None, "an epoch has ended"
    with storage.local_copy(storage.join(last, checkpoint.BEST)) as best_weights:
        model_uri = storage.join(run, stage, artifacts.MODEL)
        files = {f"{stage}/{artifacts.MODEL}": storage.upload(best_weights, model_uri)}
    history = {"epochs": progress.epochs, "losses": progress.losses, "best_epoch": progress.best_epoch}
    files[f"{stage}/{artifacts.HISTORY}"] = storage.write_json(storage.join(run, stage, artifacts.HISTORY), history)
    best = progress.epochs[progress.best_epoch - 1]
    return files, {"best_epoch": progress.best_epoch, **best}

"""Why a training on Ray Train ended early: processes or nodes were lost, or its own code failed."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import ray.exceptions
import ray.train

from arspm.distributed.memory import killed_for_memory
from arspm.runs.stop_requests import StopRequested
from arspm.storage.retries import is_transient


class TrainingFailed(RuntimeError):
    """An error in a training worker's own code, in one line."""

    temporary = False


class LostWorkers(TrainingFailed):
    """Workers or nodes were lost more often than `resources.max_failures` allows. The cluster is at fault."""

    temporary = True  # the stage may be run again


# How Train's `fit` ends if a process was lost, or the training failed. RayActorError: the controller was killed.
ENDS = (
    ray.train.WorkerGroupError,
    ray.exceptions.RayActorError,
    ray.train.PreemptionError,
    ray.train.ControllerError,
)
_LOSSES = (
    ray.exceptions.RayActorError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.OutOfMemoryError,
)


class Lost(NamedTuple):
    """The loss of processes or nodes: the errors that tell of it, and the reason in one line."""

    failures: list[Exception]
    reason: str
    for_memory: bool


def lost(error: Exception, stage: str) -> Lost:
    """Return what a training lost when it ended with one of ENDS.

    Raises StopRequested if that ended it, and TrainingFailed for any other reason.
    """
    if isinstance(error, ray.train.PreemptionError):  # Train itself gave up
        raise LostWorkers(_first_line(error)) from error
    if isinstance(error, ray.train.WorkerGroupError):
        if (cause := _own_error(error)) is not None:
            raise (cause if isinstance(cause, StopRequested) else training_failed(cause)) from error
        failures = [_unwrapped(each) for each in error.worker_failures.values()]
        reason = " / ".join({_first_line(each) for each in failures})
    else:  # the controller was killed or did not start, or a process was lost while the group of workers started
        cause = error.controller_failure if isinstance(error, ray.train.ControllerError) else error
        failures = [_unwrapped(cause)]
        if not isinstance(failures[0], _LOSSES):
            raise training_failed(failures[0]) from error
        reason = _last_line(failures[0])
    killed = {str(each) for each in (killed_for_memory(failure, stage) for failure in failures) if each}
    return Lost(failures, " / ".join(killed) or reason, bool(killed))


def names_any(failures: Sequence[Exception], nodes: Mapping[str, str]) -> bool:
    """Return whether errors name one of these nodes (id -> IP address) as the place of a process that was lost."""
    return any(
        id in str(failure) or re.search(rf"(?<![\w.:]){re.escape(ip)}(?![\w.:])", str(failure))
        for id, ip in nodes.items()
        for failure in failures
    )


def training_failed(cause: Exception) -> TrainingFailed:
    """Return the cause as one line, marked temporary if it is, such as an outage of a worker's storage."""
    cause = _unwrapped(cause)
    disk_full = isinstance(cause, OSError) and cause.errno == errno.ENOSPC
    hint = "; make room for the run and for temporary files, then run the same command again to resume"
    failed = TrainingFailed(_first_line(cause) + (hint if disk_full else ""))
    # Train itself accesses checkpoints through pyarrow, which retries less than this system's storage does.
    failed.temporary = getattr(cause, "temporary", False) or is_transient(cause)
    return failed


def _own_error(error: ray.train.WorkerGroupError) -> Exception | None:
    """Return the error of our own code among the workers' failures; None if a process or a node was lost.

    When a worker dies, its peers fail in a collective operation, and their failures may arrive first. A lost worker
    therefore explains all of them.
    """
    failures = [_unwrapped(each) for each in error.worker_failures.values()]
    if any(type(each).__module__.startswith("ray.") for each in failures):
        return None
    return next((each for each in failures if not _is_collective(each)), None)


def _is_collective(error: Exception) -> bool:
    text = str(error).lower()
    return any(word in text for word in ("gloo", "nccl", "connection closed by peer", "connection reset"))


def _unwrapped(error: Exception) -> Exception:
    """Return the original exception of a task or an actor instead of Ray's wrapper."""
    return error.cause if isinstance(error, ray.exceptions.RayTaskError) else error


def _first_line(error: Exception) -> str:
    error = _unwrapped(error)
    return next((line for line in str(error).splitlines() if line.strip()), repr(error))


def _last_line(error: Exception) -> str:
    """Return what a process died of: Ray's text is one sentence, or a traceback if an actor did not start."""
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), repr(error))

"""A Ray job as the chain sees it, and the interface that the chain needs to run jobs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from cluster.events import MARKER
from cluster.exit_codes import ExitCode

_KILLED = {-9, 137, -15, 143}  # SIGKILL and SIGTERM, as Popen and as sh report them: not the program's own failure
_INFRASTRUCTURE = {  # ray.job_submission.JobErrorType without JOB_ENTRYPOINT_COMMAND_ERROR, the program's own failure
    "RUNTIME_ENV_SETUP_FAILURE",
    "JOB_SUPERVISOR_ACTOR_START_TIMEOUT",
    "JOB_SUPERVISOR_ACTOR_START_FAILURE",
    "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE",
    "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE",
    "JOB_SUPERVISOR_ACTOR_DIED",
    "JOB_ENTRYPOINT_COMMAND_START_ERROR",
}
_RAY_MESSAGE = re.compile(r"Runtime env is setting up\.$|^Running entrypoint for job ")


@dataclass(frozen=True)
class Resources:
    """The total resources of a cluster.

    grows: an autoscaler adds nodes, so the totals are not the cluster's limit.
    free_drivers: number of further jobs whose drivers the head has memory for; None if that is not known.
    """

    num_cpus: float = 0
    num_gpus: float = 0
    memory_bytes: float = 0
    grows: bool = False
    free_drivers: int | None = None


@dataclass(frozen=True)
class Node:
    """A live node. node_type: the group of the cluster file that an autoscaler started it from, "" without one."""

    node_type: str
    is_head: bool
    num_cpus: float
    num_gpus: float


@dataclass(frozen=True)
class Job:
    """The state of a submitted job, as the cluster reports it."""

    submission_id: str
    status: Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]
    error_type: str | None = None
    message: str = ""
    exit_code: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0  # from its submission until its end, or until now
    ended: float | None = None  # Unix time, by the head's clock; None for a live job
    node_id: str = ""  # where its driver runs or ran; "" before it has started

    @property
    def active(self) -> bool:
        return self.status in ("PENDING", "RUNNING")


class JobRunner(Protocol):
    """Runs jobs for the chain. Every method may raise `Unreachable` (retried) or another `ClusterError` (final)."""

    def submit(self, submission_id: str, *, stage: str, entrypoint: str) -> None:
        """Submit a job. Do nothing if a job with this id exists."""

    def info(self, submission_id: str) -> Job | None:
        """Return the job, or None if the cluster knows no job with this id."""

    def new_lines(self, submission_id: str, *, last: bool = False) -> list[str]:
        """Return the log lines since the last call, without waiting. With `last`, after the job's end: all the rest."""

    def stop(self, submission_id: str) -> None:
        """Ask the job to stop, without waiting for its end."""


def is_infrastructure(job: Job) -> bool:
    """Return whether the job failed because of the cluster and not because of the stage's program."""
    if job.status != "FAILED":
        return False
    return job.error_type in _INFRASTRUCTURE or job.exit_code in _KILLED or job.exit_code == ExitCode.TEMPORARY


def ending(job: Job) -> str:
    """Return how an ended job ended, in one line: `finished`, `stopped`, `died (killed by SIGKILL)`, `failed: ...`."""
    if job.status in ("SUCCEEDED", "STOPPED"):
        return "finished" if job.status == "SUCCEEDED" else "stopped"
    if job.exit_code in _KILLED:
        return f"died (killed by {'SIGKILL' if job.exit_code in (-9, 137) else 'SIGTERM'})"
    what, _, log = job.message.partition(", last available logs")  # Ray adds the last ten lines of the job's log
    _, _, log = log.partition("\n")
    lines = [line for line in log.splitlines() if not is_ray_message(line) and MARKER not in line]
    if job.error_type in _INFRASTRUCTURE:
        return f"died ({error_line([], what)})"
    return f"failed: {error_line(lines, what)}"


def is_ray_message(line: str) -> bool:
    """Return whether Ray, and not the stage's program, wrote this line of the job's log."""
    return _RAY_MESSAGE.search(line) is not None


def error_line(lines: Iterable[str], fallback: str) -> str:
    """Return the last line that starts with `error: `, without that marker.

    If there is none: the last line that is not empty, or the last line of `fallback`.
    """
    lines = [line.strip() for line in lines if line.strip()]
    marked = [line for line in lines if line.startswith("error: ")]
    last_resort = fallback.strip().splitlines()[-1:] or ["no reason was given"]
    return marked[-1].removeprefix("error: ") if marked else (lines or last_resort)[-1]

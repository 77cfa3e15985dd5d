"""A job as the chain sees it, and what it needs of whoever runs jobs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

EXIT_TEMPORARY = 75  # sysexits.h EX_TEMPFAIL: a stage's program blames the cluster and asks to be run again
_KILLED = {-9, 137, -15, 143}  # SIGKILL and SIGTERM, as Popen and as sh report them: not the program's own doing
_INFRASTRUCTURE = {  # ray.job_submission.JobErrorType without JOB_ENTRYPOINT_COMMAND_ERROR, which is the program's
    "RUNTIME_ENV_SETUP_FAILURE",
    "JOB_SUPERVISOR_ACTOR_START_TIMEOUT",
    "JOB_SUPERVISOR_ACTOR_START_FAILURE",
    "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE",
    "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE",
    "JOB_SUPERVISOR_ACTOR_DIED",
    "JOB_ENTRYPOINT_COMMAND_START_ERROR",
}
_CHATTER = re.compile(r"Runtime env is setting up\.$|^Running entrypoint for job ")


@dataclass(frozen=True)
class Resources:
    num_cpus: float = 0
    num_gpus: float = 0
    memory_bytes: float = 0


@dataclass(frozen=True)
class Job:
    """What the cluster says about one submitted job."""

    submission_id: str
    status: Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]
    error_type: str | None = None
    message: str = ""
    exit_code: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0  # since it was submitted, or from then to its end

    @property
    def active(self) -> bool:
        return self.status in ("PENDING", "RUNNING")


class JobRunner(Protocol):
    """Every method may raise `Unreachable` (worth another try) or another `ClusterError` (not)."""

    def submit(self, submission_id: str, *, stage: str, entrypoint: str) -> None:
        """Submit; when a job of that id exists already, do nothing."""

    def info(self, submission_id: str) -> Job | None:
        """The job, or None when the cluster knows none of that id."""

    def new_lines(self, submission_id: str, *, last: bool = False) -> list[str]:
        """Log lines since the last call, without waiting; `last`, when the job has ended: all the rest."""

    def stop(self, submission_id: str) -> None:
        """Ask the job to stop; returns before it has."""


def is_infrastructure(job: Job) -> bool:
    """Whether the cluster, not the stage's program, made the job fail."""
    if job.status != "FAILED":
        return False
    return job.error_type in _INFRASTRUCTURE or job.exit_code in _KILLED or job.exit_code == EXIT_TEMPORARY


def is_chatter(line: str) -> bool:
    """Whether Ray, not the stage's program, wrote this line of the job's log."""
    return _CHATTER.search(line) is not None


def error_line(lines: Iterable[str], otherwise: str) -> str:
    """The last line starting with `error: ` (without that), else the last line that says something."""
    lines = [line.strip() for line in lines if line.strip()]
    marked = [line for line in lines if line.startswith("error: ")]
    last_said = otherwise.strip().splitlines()[-1:] or ["no reason was given"]
    return marked[-1].removeprefix("error: ") if marked else (lines or last_said)[-1]

"""What the status of a run is made from, and how it names the states of jobs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from arspm.report.words import format_duration, format_gpus
from cluster.job import Job, ending
from jobs.run_jobs import name_of, requested_by

RESUME = "run the same command again to resume"


class View(NamedTuple):
    """What a status is made from. session: the cluster's, "" without a cluster. jobs: those of the run, oldest first.

    progress: of running jobs, by id. all_done: whether every stage is.
    """

    run: str
    session: str
    jobs: Sequence[Job]
    progress: dict[str, str]
    all_done: bool

    def latest(self, name: str) -> Job | None:
        """Return the latest job of this name."""
        return next((job for job in reversed(self.jobs) if name_of(job) == name), None)

    def state(self, job: Job) -> str:
        """Return the state of a job, in one line."""
        if job.status == "PENDING":
            return f"pending for {format_duration(job.seconds)}"
        if job.active:
            more, requested = self.progress.get(job.submission_id), requested_by(job)
            on = f" on {format_gpus(requested.gpus)}" if requested and requested.gpus else ""
            return f"running for {format_duration(job.seconds)}{on}" + (f": {more}" if more else "")
        return with_time(ending(job), job.ended)


def with_time(ending: str, ended: float | None) -> str:
    """Return an ending, such as `failed: reason`, with the time since then: `failed 3 min 00 s ago: reason`."""
    when = "" if ended is None else f" {ago(time.time() - ended)}"
    how, colon, reason = ending.partition(": ") if ending.startswith("failed: ") else (ending, "", "")
    return f"{how}{when}{colon}{reason}"


def ago(seconds: float) -> str:
    return f"{format_duration(max(0.0, seconds))} ago"


def row(name: str, text: str) -> str:
    """Return a line of the status."""
    return f"{name:<11} {text}"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines, with columns as wide as their longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in rows]


class Part(NamedTuple):
    """Lines of a status, and the names of the jobs that they tell of."""

    lines: list[str]
    jobs: set[str]

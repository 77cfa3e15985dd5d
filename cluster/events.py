"""The events that a running chain reports to its caller: one record type per kind of event."""

from __future__ import annotations

import json
import math
import re
import time
from dataclasses import dataclass, field
from typing import Any

MARKER = "@progress"
_WORKER_PREFIX = re.compile(r"^(?:\x1b\[[0-9;]*m)*\([^()]*pid=\d+[^()]*\)(?:\x1b\[[0-9;]*m)*\s+")


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to a stage. `time`: Unix time, in seconds."""

    stage: str
    time: float = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class Queued(Event):
    """Everything the stage needs is done; it waits for free resources."""


@dataclass(frozen=True, kw_only=True)
class Started(Event):
    """The stage's job was submitted, or, if `attached`, an already running job was found."""

    submission_id: str
    attached: bool = False


@dataclass(frozen=True, kw_only=True)
class LogLine(Event):
    """A line that the stage's program printed."""

    text: str


@dataclass(frozen=True, kw_only=True)
class StageProgress(Event):
    """A progress record that the stage's program printed: `current` of `total` units are done."""

    current: float
    total: float | None = None
    unit: str = ""
    message: str = ""
    eta_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Reused(Event):
    """The result of an earlier run of the stage is complete and valid; nothing was submitted."""


@dataclass(frozen=True, kw_only=True)
class Finished(Event):
    """The stage is done. `seconds`: since its first job started, retries included."""

    seconds: float
    submission_id: str


@dataclass(frozen=True, kw_only=True)
class Failed(Event):
    """The stage failed and will not be retried."""

    error: str
    seconds: float
    submission_id: str


@dataclass(frozen=True, kw_only=True)
class Skipped(Event):
    """The stage will not run, because a stage it depends on failed or was cancelled."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Retry(Event):
    """The infrastructure failed, not the program. Retry number `retry` of `max_retries` starts in `wait_seconds`."""

    error: str
    retry: int
    max_retries: int
    wait_seconds: float


@dataclass(frozen=True, kw_only=True)
class Cancelled(Event):
    """The stage was stopped, or did not start before the chain was cancelled."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Warned(Event):
    """Something to tell the user that does not stop the stage."""

    text: str


def parse_line(stage: str, text: str) -> LogLine | StageProgress:
    """Return a log line as an event: `@progress {"current": 3, "total": 10, ...}` or plain text.

    The marker may follow the `(Worker pid=12)` that Ray puts before a worker's output. A line with the marker but
    without a valid record is plain text.
    """
    line = _WORKER_PREFIX.sub("", text)
    if not line.startswith(MARKER):
        return LogLine(stage=stage, text=text)
    try:
        record = json.loads(line[len(MARKER) :])
        total, eta = record.get("total"), record.get("eta_seconds", record.get("eta"))
        return StageProgress(
            stage=stage,
            current=_finite(record["current"]),
            total=None if total is None else _finite(total),
            unit=str(record.get("unit", "")),
            message=str(record.get("message", "")),
            eta_seconds=None if eta is None else _finite(eta),
        )
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError):
        return LogLine(stage=stage, text=text)


def _finite(value: Any) -> float:
    """Return the value as a float. Raises ValueError for infinity and NaN."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(number)
    return number

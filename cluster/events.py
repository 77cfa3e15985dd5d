"""What a running chain tells whoever watches it: one typed record per thing that happened."""

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
    stage: str
    time: float = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class Queued(Event):
    """Everything the stage needs is done; it waits for room."""


@dataclass(frozen=True, kw_only=True)
class Started(Event):
    """A job of that id was submitted, or, when `attached`, was found already running."""

    submission_id: str
    attached: bool = False


@dataclass(frozen=True, kw_only=True)
class Line(Event):
    text: str


@dataclass(frozen=True, kw_only=True)
class Progress(Event):
    current: float
    total: float | None = None
    unit: str = ""
    message: str = ""
    eta_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Reused(Event):
    """An earlier run of the stage is complete and still valid; nothing was submitted."""


@dataclass(frozen=True, kw_only=True)
class Finished(Event):
    seconds: float
    submission_id: str


@dataclass(frozen=True, kw_only=True)
class Failed(Event):
    error: str
    seconds: float
    submission_id: str


@dataclass(frozen=True, kw_only=True)
class Skipped(Event):
    reason: str


@dataclass(frozen=True, kw_only=True)
class Retry(Event):
    """The cluster, not the stage, failed; `retry` of `max_retries` follows in `wait_seconds`."""

    error: str
    retry: int
    max_retries: int
    wait_seconds: float


@dataclass(frozen=True, kw_only=True)
class Cancelled(Event):
    reason: str


@dataclass(frozen=True, kw_only=True)
class Warned(Event):
    text: str


def of_line(stage: str, text: str) -> Line | Progress:
    """A log line as an event: `@progress {"current": 3, "total": 10, ...}` or plain text.

    The marker is also found behind the `(Worker pid=12)` that Ray puts before a worker's output. What follows a
    marker but is not such a record stays a plain line.
    """
    bare = _WORKER_PREFIX.sub("", text)
    if not bare.startswith(MARKER):
        return Line(stage=stage, text=text)
    try:
        record = json.loads(bare[len(MARKER) :])
        total, eta = record.get("total"), record.get("eta_seconds", record.get("eta"))
        return Progress(
            stage=stage,
            current=_finite(record["current"]),
            total=None if total is None else _finite(total),
            unit=str(record.get("unit", "")),
            message=str(record.get("message", "")),
            eta_seconds=None if eta is None else _finite(eta),
        )
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError):
        return Line(stage=stage, text=text)


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(number)
    return number

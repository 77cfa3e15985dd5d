"""Progress of a stage, printed as lines that the chain's driver shows as a progress bar with an ETA."""

from __future__ import annotations

import json
import time

MARKER = "@progress "
_started = time.monotonic()
_last = 0.0
_first: tuple[float, float, tuple[float, str]] | None = None  # time and progress of the first call, and what it counts


def print_progress(current: float, total: float, unit: str, message: str = "") -> None:
    """Print a progress line, at most every 0.5 s or every thousandth of the elapsed time; always when finished.

    The line has an ETA, in seconds, computed since the first call: a stage's start takes longer than many steps.
    """
    global _last, _first
    now = time.monotonic()
    if _first is None or _first[2] != (total, unit) or current < _first[1]:
        _first = now, current, (total, unit)
    # The interval grows because Ray does not rotate a job's log.
    if current < total and now - _last < max(0.5, (now - _started) / 1000):
        return
    _last = now
    line: dict[str, float | str] = {"current": current, "total": total, "unit": unit, "message": message}
    since, before, _ = _first
    if before < current < total:
        line["eta"] = round((now - since) * (total - current) / (current - before))
    print(MARKER + json.dumps(line), flush=True)

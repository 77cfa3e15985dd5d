"""Progress of a stage, printed as lines that the chain's driver shows as a progress bar with an ETA."""

from __future__ import annotations

import json
import time

MARKER = "@progress "
_started = time.monotonic()
_last = 0.0


def print_progress(current: float, total: float, unit: str, message: str = "") -> None:
    """Print a progress line, at most every 0.5 s or every thousandth of the elapsed time; always when finished."""
    global _last
    now = time.monotonic()
    # The interval grows because Ray does not rotate a job's log.
    if current < total and now - _last < max(0.5, (now - _started) / 1000):
        return
    _last = now
    line = {"current": current, "total": total, "unit": unit, "message": message}
    print(MARKER + json.dumps(line), flush=True)

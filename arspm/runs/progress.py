"""Progress of a stage, told by lines on standard output that the chain's driver turns into a bar with an ETA."""

from __future__ import annotations

import json
import time

MARKER = "@progress "
_begun = time.monotonic()
_last = 0.0


def progress(current: float, total: float, unit: str, message: str = "") -> None:
    """Say how far the work is: at most twice a second, ever more seldom in a long run, but always at the end."""
    global _last
    now = time.monotonic()
    if current < total and now - _last < max(0.5, (now - _begun) / 1000):  # Ray does not rotate a job's log
        return
    _last = now
    line = {"current": current, "total": total, "unit": unit, "message": message}
    print(MARKER + json.dumps(line), flush=True)

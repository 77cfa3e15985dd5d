"""Learning curves of a sweep's trials, small enough to be written and fetched at every update of its page.

A trial's record has every figure of every epoch; for 1,000 trials of 50 epochs that is 15 MB. The curves have the
sweep's metric at each epoch, and all figures at the best epoch only.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from typing import Any

from arspm.runs.sweeps import Record, is_finite

CURVES = "curves.json.gz"
MAX_POINTS = 50_000  # of all trials together: 1,000 trials of 50 epochs are not thinned
DIGITS = 6  # significant digits of a point; a figure at the best epoch keeps all of them


def curves(records: Sequence[Record], metric: str, updated: float) -> dict[str, Any]:
    """Return, by trial number, the points of each trial's learning curve and the figures of its best epoch.

    updated: time of the results that these curves belong to. If all curves together had more than MAX_POINTS points,
    each keeps an even share of its own; the first, the best and the last epoch are always kept.
    """
    num_points = max(2, MAX_POINTS // max(1, len(records)))
    trials = {str(record["number"]): _curve(record, metric, num_points) for record in records}
    return {"updated": updated, "trials": trials}


def pack(content: Mapping[str, Any]) -> bytes:
    """Return the content of curves.json.gz. Equal curves give equal bytes."""
    return gzip.compress(json.dumps(content, separators=(",", ":"), allow_nan=False).encode(), 6, mtime=0)


def _curve(record: Record, metric: str, num_points: int) -> dict[str, Any]:
    measured = [epoch for epoch in record["epochs"] if is_finite(epoch.get(metric)) and is_finite(epoch.get("epoch"))]
    none: dict[str, Any] = {}
    at_best = next((epoch for epoch in measured if epoch["epoch"] == record["best_epoch"]), none)
    drawn = _thinned(measured, num_points, at_best)
    return {
        "epochs": [epoch["epoch"] for epoch in drawn],
        "values": [float(f"{epoch[metric]:.{DIGITS}g}") for epoch in drawn],
        "at_best": {name: value if is_finite(value) else None for name, value in at_best.items()},
    }


def _thinned(epochs: Sequence[Mapping[str, Any]], num_points: int, best: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if len(epochs) <= num_points:
        return list(epochs)
    last = len(epochs) - 1
    kept = {round(place * last / (num_points - 1)) for place in range(num_points)}
    return [epoch for place, epoch in enumerate(epochs) if place in kept or epoch is best]

"""A sweep and its trials' records, as in a sweep's folder, for tests."""

from __future__ import annotations

from typing import Any

from arspm.config import Config
from arspm.runs import sweeps

METRIC = "val_cos_degrees"
SPACE = {"loss.lambda1": {"kind": "loguniform", "low": 0.1, "high": 10.0, "fields": ["loss.lambda1"]}}


def sweep_of(config: Config, **changed: Any) -> dict[str, Any]:
    return {
        "name": "one",
        "run": "run",
        "preset": "smoke",
        "space": SPACE,
        "search": "random",
        "scheduler": "none",
        "num_trials": 2,
        "metric": METRIC,
        "mode": "min",
        "seed": 0,
        "epochs": config.training.encoder.epochs,
        "steps_per_epoch": 3,
        "max_concurrent": 1,
        "created": 0.0,
        "clips": [],
        "paper": {"loss.lambda1": 1.0},
        "warm_start": None,
        "config": config.model_dump(mode="json"),
    } | changed


def ended(number: int, values: list[float | None], state: str = "finished") -> sweeps.Record:
    record = sweeps.new_record(number, {"loss.lambda1": 1.0 + number}, {"loss.lambda1": 1.0 + number}, False)
    for epoch, value in enumerate(values, 1):
        figures = {"epoch": epoch, "step": 3 * epoch, "seconds": 2.0 * epoch, METRIC: value}
        sweeps.add_epoch(record, figures, METRIC, "min")
    return record | {"state": state, "seconds": 2.0 * len(values), "started": 1.0, "attempts": 1}

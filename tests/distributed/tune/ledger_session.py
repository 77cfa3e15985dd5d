"""A session of a sweep's ledger without Tune: its callbacks are called in Tune's order, with stub trials."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from arspm.config import override
from arspm.config.presets import preset
from arspm.distributed.tune import ledger
from arspm.runs import sweeps
from tests.distributed.tune.sweep_records import METRIC, sweep_of

CONFIG = override(preset("smoke"), {"training.encoder.epochs": 3})
SWEEP = sweep_of(CONFIG, num_trials=3, max_concurrent=2)


class Session:
    """A ledger with Tune's calls to it, for trial 0 by default, and a simulated clock."""

    def __init__(self, folder: str, monkeypatch: pytest.MonkeyPatch, **changed: Any):
        self.folder, self.now = folder, 1000.0
        monkeypatch.setattr(ledger.time, "time", lambda: self.now)
        self.ledger = ledger.Ledger(folder, SWEEP | changed, CONFIG)
        self.error: Exception | None = None

    def add(self, number: int = 0) -> None:
        sample = {"loss.lambda1": 1.0 + number}
        self.ledger.records.setdefault(number, sweeps.new_record(number, sample, sample, number == 0))

    def call(self, name: str, number: int = 0, **info: Any) -> None:
        trial = SimpleNamespace(config={"number": number}, get_error=lambda: self.error)
        getattr(self.ledger, f"on_{name}")(1, [trial], trial, **info)

    def epoch(self, epoch: int, value: Any, number: int = 0, seconds: float = 2.0, **more: Any) -> None:
        self.now += seconds
        figures = {"epoch": epoch, "step": 3 * epoch, METRIC: value, "train_loss": 1.0, **more}
        self.call("trial_result", number, result=figures | {"pid": 7, "time_total_s": 9.0, "done": False})

    def written(self, number: int = 0) -> sweeps.Record:
        return json.loads(Path(self.folder, f"{sweeps.stem(number)}.json").read_bytes(), parse_constant=pytest.fail)

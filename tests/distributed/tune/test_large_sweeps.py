"""How often a large sweep writes its page, its records and its importance, and how its curves are thinned."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from arspm.config import override
from arspm.config.presets import preset
from arspm.distributed.tune import ledger
from arspm.runs import sweep_curves, sweeps
from tests.report import many_trials, swept

CONFIG = override(preset("smoke"), {"training.encoder.epochs": 50})


def test_the_page_is_written_once_a_minute_and_later_when_the_sweep_has_become_a_tenth_older(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, written = 1000.0, []
    monkeypatch.setattr(ledger.time, "time", lambda: now)
    monkeypatch.setattr(ledger, "write_sweep", lambda *_, page: written.append(now - 1000.0) if page else None)
    found = ledger.Ledger(str(tmp_path), many_trials.sweep(4, 3), CONFIG)
    while now < 11_000.0:
        found._update("running")
        now += 15.0
    assert written[:4] == [0.0, 60.0, 120.0, 180.0]
    assert len(written) < 45
    assert all(after - before <= max(60.0, 0.1 * after) + 15.0 for before, after in pairwise(written))
    found._update("finished")
    assert written[-1] == now - 1000.0


def test_many_running_trials_write_their_records_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """60 trials report every second. Together they write about one record a second, each its own every minute."""
    now, written = 1000.0, []
    monkeypatch.setattr(ledger.time, "time", lambda: now)
    monkeypatch.setattr(sweeps, "write_record", lambda folder, record: written.append(record["number"]))
    found = ledger.Ledger(str(tmp_path), many_trials.sweep(60, 1), CONFIG)
    found.records = {number: record | {"state": "running"} for number, record in many_trials.records(60, 1).items()}
    trials: list[Any] = [SimpleNamespace(config={"number": number}) for number in found.records]
    for _ in range(150):
        now += 1.0
        for trial in trials:
            found.on_trial_result(1, [], trial, {"epoch": 1, swept.METRIC: 30.0})
    assert len(written) == 3 * 60
    assert set(written) == set(range(60))


def test_importance_is_computed_again_when_a_tenth_more_trials_have_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []

    def count(records: list[Any], space: Any, mode: str) -> None:
        counted.append(sum(record["state"] == "finished" for record in records))

    monkeypatch.setattr(ledger, "importance", count)
    monkeypatch.setattr(ledger, "write_sweep", lambda *_, page: None)
    found = ledger.Ledger(str(tmp_path), many_trials.sweep(200, 1), CONFIG)
    complete = many_trials.records(200, 1)
    for number, record in complete.items():
        found.records[number] = record
        found._update("running")
    assert counted[:12] == [*range(1, 11), 12, 14]
    assert len(counted) < 50
    found._update("finished")
    assert counted[-1] == 200


@pytest.mark.parametrize(("num_trials", "points"), [(1, 5000), (100, 500), (1000, 50), (10_000, 5)])
def test_longer_curves_and_more_trials_are_thinned(num_trials: int, points: int) -> None:
    epochs = [{"epoch": epoch, "val_x": 1000.0 - epoch if epoch != 1234 else -5.123456789} for epoch in range(1, 5001)]
    record = sweeps.new_record(0, {}, {}, False) | {"epochs": epochs, "best": -5.123456789, "best_epoch": 1234}
    others = [sweeps.new_record(number, {}, {}, False) for number in range(1, num_trials)]
    curve = sweep_curves.curves([record, *others], "val_x", 0.0)["trials"]["0"]
    assert len(curve["epochs"]) in (points, points + 1)
    assert {1, 1234, 5000} <= set(curve["epochs"])
    assert curve["values"][curve["epochs"].index(1234)] == -5.12346
    assert curve["at_best"] == {"epoch": 1234, "val_x": -5.123456789}
    gaps = {after - before for before, after in pairwise(curve["epochs"])}
    assert max(gaps) <= 5000 / (points - 1) + 2

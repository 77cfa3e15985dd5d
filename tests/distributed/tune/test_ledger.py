"""A sweep's ledger: Tune's callbacks, called in Tune's order with stub trials, and the files they write."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arspm.distributed.tune import ledger, tuning
from arspm.distributed.tune.search import Listed, Optuna
from arspm.distributed.tune.trial import FAILURE
from arspm.runs import sweep_curves, sweeps
from tests.distributed.tune.ledger_session import CONFIG, SWEEP, Session
from tests.distributed.tune.sweep_records import METRIC, SPACE, ended


def unpacked(folder: Path) -> Any:
    """Return the content of curves.json.gz."""
    return json.loads(gzip.decompress((folder / sweep_curves.CURVES).read_bytes()), parse_constant=pytest.fail)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Session]:
    """A function that starts a session of the sweep, with changes to sweep.json."""
    return lambda **changed: Session(str(tmp_path), monkeypatch, **changed)


def test_a_trials_record_from_start_to_end(start: Callable[..., Session]) -> None:
    tune = start()
    tune.add()
    tune.call("trial_start")
    assert tune.written()["state"] == "running"
    for epoch, value in enumerate([40.0, 30.0, 35.0], 1):
        tune.epoch(epoch, value)
    tune.now += 1.0
    tune.call("trial_complete")
    record = tune.written()
    assert record == tune.ledger.records[0]
    assert {name: record[name] for name in ("state", "best", "best_epoch", "reason", "attempts", "is_paper")} == {
        "state": "finished",
        "best": 30.0,
        "best_epoch": 2,
        "reason": "",
        "attempts": 1,
        "is_paper": True,
    }
    assert (record["started"], record["ended"], record["seconds"]) == (1000.0, 1007.0, 7.0)
    assert [epoch["seconds"] for epoch in record["epochs"]] == [2.0, 4.0, 6.0]
    assert record["epochs"][0].keys() == {"epoch", "step", "seconds", METRIC, "train_loss"}  # none of Tune's figures
    assert record["cpus"] == CONFIG.resources.trial.cpus
    assert Path(tune.folder, "tensorboard", "00000").is_dir()


def test_a_trial_with_fewer_epochs_than_planned_was_stopped(start: Callable[..., Session]) -> None:
    tune = start()
    for number, changes in enumerate([{}, {"training.encoder.epochs": 2}, {"training.encoder.epochs": 4}]):
        tune.add(number)
        tune.ledger.records[number]["changes"] = changes
        tune.call("trial_start", number)
        for epoch in range(1, 3 if number < 2 else 4):
            tune.epoch(epoch, 30.0, number)
        tune.call("trial_complete", number)
    assert [tune.written(number)["state"] for number in range(3)] == ["stopped", "finished", "stopped"]


def test_a_trial_that_lost_its_process_keeps_its_seconds_and_counts_its_attempts(start: Callable[..., Session]) -> None:
    tune = start()
    tune.add()
    tune.call("trial_start")
    tune.epoch(1, 40.0)
    tune.epoch(2, 20.0)
    tune.now += 5.0  # into the third epoch
    tune.call("trial_recover")
    assert tune.ledger.records[0]["seconds"] == 9.0
    tune.now += 100.0  # waiting for resources does not count
    tune.ledger._update("running")
    assert tune.ledger.records[0]["seconds"] == 9.0
    tune.call("trial_start")
    tune.epoch(2, 25.0)  # resumed from the checkpoint of the first epoch
    tune.epoch(3, 24.0)
    tune.call("trial_complete")
    record = tune.written()
    assert (record["state"], record["attempts"], record["seconds"]) == ("finished", 2, 13.0)
    assert [(each["epoch"], each[METRIC]) for each in record["epochs"]] == [(1, 40.0), (2, 25.0), (3, 24.0)]
    assert (record["best"], record["best_epoch"], record["started"]) == (24.0, 3, 1000.0)


def test_a_trial_that_fails_says_why(start: Callable[..., Session]) -> None:
    tune = start()
    for number in range(3):
        tune.add(number)
        tune.call("trial_start", number)
        tune.epoch(1, 30.0, number)
    tune.call("trial_result", 0, result={FAILURE: "NonFiniteLoss: the loss of step 4 is nan", "pid": 7})
    tune.call("trial_complete", 0)
    tune.error = RuntimeError("\nTraceback\n  File x\nray.exceptions.ActorDiedError: the node was lost\n\n")
    tune.call("trial_error", 1)
    tune.error = None
    tune.call("trial_error", 2)
    found = [tune.written(number) for number in range(3)]
    assert [record["state"] for record in found] == ["failed"] * 3
    assert found[0]["reason"] == "NonFiniteLoss: the loss of step 4 is nan"
    assert found[1]["reason"] == "ray.exceptions.ActorDiedError: the node was lost"
    assert "\n" not in found[2]["reason"]
    assert found[2]["reason"]
    assert len(found[0]["epochs"]) == 1  # the curve up to the failure is kept
    results = tune.ledger.close()
    assert (results["best"], results["counts"]["failed"], results["state"]) == (None, 3, "finished")


def test_a_trial_whose_process_could_not_start_fails_too(start: Callable[..., Session]) -> None:
    tune = start()
    tune.add()
    tune.call("trial_recover")
    tune.error = RuntimeError("no such node")
    tune.call("trial_error")
    record = tune.written()
    assert (record["state"], record["attempts"], record["seconds"], record["started"]) == ("failed", 0, 0.0, None)


def test_an_unmeasured_metric_fails_the_trial(start: Callable[..., Session]) -> None:
    tune = start(metric="val_smile")
    tune.add()
    tune.call("trial_start")
    tune.epoch(1, 30.0)
    tune.call("trial_complete")
    record = tune.written()
    assert record["state"] == "failed"
    assert record["reason"] == f"val_smile was not measured; measured were epoch, step, {METRIC}, train_loss"


def test_non_finite_figures_become_null(start: Callable[..., Session], tmp_path: Path) -> None:
    tune = start()
    tune.add()
    tune.call("trial_start")
    tune.epoch(1, math.nan, val_l2=math.inf)
    tune.epoch(2, 30.0)
    tune.epoch(3, math.nan)
    tune.call("trial_complete")
    record = tune.written()
    assert [each[METRIC] for each in record["epochs"]] == [None, 30.0, None]
    assert (record["state"], record["best"], record["epochs"][0]["val_l2"]) == ("finished", 30.0, None)
    results = tune.ledger.close()
    read = json.loads((tmp_path / "results.json").read_bytes(), parse_constant=pytest.fail)
    assert read["trials"] == results["trials"] == [sweeps.trial_summary(record)]
    assert unpacked(tmp_path)["trials"]["0"] == {
        "epochs": [2],
        "values": [30.0],
        "at_best": {"epoch": 2, "step": 6, METRIC: 30.0, "train_loss": 1.0, "seconds": 4.0},
    }
    assert read["config_of_best"]["loss"]["lambda1"] == 1.0


def test_a_running_record_is_written_periodically(start: Callable[..., Session]) -> None:
    tune = start()
    tune.add()
    tune.call("trial_start")
    tune.epoch(1, 40.0)
    assert tune.written()["epochs"] == []
    tune.epoch(2, 39.0, seconds=ledger.RECORD_SECONDS)
    assert len(tune.written()["epochs"]) == 2


def test_the_page_is_updated_periodically_and_only_after_a_change(
    start: Callable[..., Session], tmp_path: Path
) -> None:
    tune, page = start(), tmp_path / "results.json"
    tune.ledger.on_step_end(1, [])  # the first update is immediate
    assert json.loads(page.read_bytes())["state"] == "running"
    tune.add()
    tune.call("trial_start")
    tune.epoch(1, 40.0)
    tune.ledger.on_step_end(1, [])
    assert json.loads(page.read_bytes())["trials"] == []
    tune.now += ledger.UPDATE_SECONDS
    tune.ledger.on_step_end(1, [])
    [on_page] = json.loads(page.read_bytes())["trials"]
    assert (on_page["best"], on_page["seconds"]) == (40.0, 2.0 + ledger.UPDATE_SECONDS)
    page.unlink()
    tune.now += 10 * ledger.UPDATE_SECONDS
    tune.ledger.on_step_end(1, [])
    assert not page.exists()
    tune.epoch(2, 39.0)
    tune.ledger._update_seconds = 60.0  # an update of a minute may take at most a twentieth of the time
    tune.ledger.on_step_end(1, [])
    assert not page.exists()
    tune.now += 60.0 / ledger.MAX_UPDATE_FRACTION
    tune.ledger.on_step_end(1, [])
    assert page.exists()


def test_an_interrupted_sweep_resumes_from_its_records(start: Callable[..., Session], tmp_path: Path) -> None:
    first = start()
    first.add(0)
    first.call("trial_start", 0)
    for epoch in (1, 2, 3):
        first.epoch(epoch, 30.0)
    first.call("trial_complete", 0)
    first.add(1)
    first.call("trial_start", 1)
    first.epoch(1, 35.0, 1)
    first.ledger._write(first.ledger.records[1])
    first.ledger._update("running")
    first.epoch(2, 34.0, 1)  # not written before the driver was lost
    second = start()
    states = {number: record["state"] for number, record in second.ledger.records.items()}
    assert states == {0: "finished", 1: "interrupted"}
    pending = pending_trials(second)
    assert pending.count == 2
    assert [pending.suggest(str(n))["number"] for n in range(2)] == [1, 2]
    second.call("trial_start", 1)
    second.epoch(2, 34.0, 1)
    second.epoch(3, 33.0, 1)
    second.call("trial_complete", 1)
    record = second.written(1)
    assert (record["state"], record["attempts"], record["seconds"]) == ("finished", 2, 6.0)
    assert [each["epoch"] for each in record["epochs"]] == [1, 2, 3]
    results = second.ledger.close()
    assert results["state"] == "interrupted"  # the third trial has not run
    assert results["counts"]["waiting"] == 1
    assert results["spent_seconds"] == 8.0 + 4.0  # sum of both sessions
    assert json.loads((tmp_path / "results.json").read_bytes())["counts"] == results["counts"]


def test_at_a_sessions_end_running_trials_are_interrupted_and_the_others_wait(start: Callable[..., Session]) -> None:
    tune = start()
    pending = pending_trials(tune)
    for trial_id in ("a", "b"):
        pending.suggest(trial_id)
    tune.call("trial_start", 0)
    tune.epoch(1, 30.0)
    tune.now += 3.0
    results = tune.ledger.close()
    assert {name: count for name, count in results["counts"].items() if count} == {
        "planned": 3,
        "waiting": 2,
        "interrupted": 1,
    }
    assert tune.written(0)["seconds"] == 5.0
    assert list(start().ledger.records) == [0]


def pending_trials(tune: Session, search: Any = None) -> Any:
    samples = [{"loss.lambda1": 1.0 + number} for number in range(SWEEP["num_trials"])]  # type: ignore[call-overload]
    return tuning._PendingTrials(tune.ledger, search or Listed(samples), dict, lambda sample: sample == SWEEP["paper"])


def test_each_trial_is_suggested_once(start: Callable[..., Session]) -> None:
    tune = start()
    pending = pending_trials(tune)
    suggested = [pending.suggest(str(n)) for n in range(3)]
    assert suggested == [{"number": n, "changes": {"loss.lambda1": 1.0 + n}} for n in range(3)]
    assert pending.suggest("more") == "FINISHED"
    assert [record["is_paper"] for record in tune.ledger.records.values()] == [True, False, False]


def test_a_longer_sweep_suggests_the_new_trials(start: Callable[..., Session], tmp_path: Path) -> None:
    for number in (0, 2):
        sweeps.write_record(str(tmp_path), ended(number, [30.0]))
    pending = pending_trials(start(num_trials=5), Listed([{"loss.lambda1": 0.1 * number} for number in range(5)]))
    assert [pending.suggest(str(n))["number"] for n in range(pending.count)] == [1, 3, 4]


class RecordingSearch(Listed):
    """A list that keeps the last record that it observed."""

    def observe(self, record: sweeps.Record) -> None:
        self.last = record


def test_the_search_observes_a_failure_as_failed(start: Callable[..., Session]) -> None:
    """Tune calls the search before the ledger, so the record is still running and has the value of an epoch."""
    tune, search = start(), RecordingSearch([{"loss.lambda1": 1.0}] * 3)
    pending = pending_trials(tune, search)
    for number, trial_id in enumerate("abc"):
        pending.suggest(trial_id)
        tune.call("trial_start", number)
        tune.epoch(1, 30.0, number)
    tune.call("trial_result", 0, result={FAILURE: "it broke"})
    for trial_id, error, failed in (("a", False, True), ("b", True, True), ("c", False, False)):
        pending.on_trial_complete(trial_id, error=error)
        assert (search.last["state"] == "failed") is failed
        assert search.last["best"] == 30.0
    assert tune.ledger.records[1]["state"] == "running"  # only the ledger changes the record itself


def test_optuna_and_the_ledger_agree_on_the_pending_trials(start: Callable[..., Session]) -> None:
    """Over two sessions with Optuna no sample and no number occurs twice."""
    samples: dict[int, Any] = {}
    for _ in range(2):
        tune = start(num_trials=4)
        search = Optuna(SPACE, "min", 0, [{"loss.lambda1": 1.0}])
        for record in tune.ledger.records.values():
            search.observe(record)
        pending = pending_trials(tune, search)
        for _ in range(2):
            number = pending.suggest(trial_id := f"{tune.now}-{len(samples)}")["number"]
            assert number not in samples
            samples[number] = tune.ledger.records[number]["sample"]["loss.lambda1"]
            tune.call("trial_start", number)
            for epoch in (1, 2, 3):
                tune.epoch(epoch, 30.0 + number, number)
            pending.on_trial_complete(trial_id)
            tune.call("trial_complete", number)
    assert list(samples) == [0, 1, 2, 3]
    assert samples[0] == 1.0
    assert len(set(samples.values())) == 4

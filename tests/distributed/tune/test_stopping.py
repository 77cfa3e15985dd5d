"""Sweeps that end before their last trial: at a target, or when trials fail one after another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from arspm import storage
from arspm.distributed.tune.stopping import StopWithLedger
from arspm.distributed.tune.trial import FAILURE
from arspm.runs import sweeps
from tests.distributed.tune.ledger_session import Session

Start = Callable[..., Session]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    return lambda **changed: Session(str(tmp_path), monkeypatch, **{"num_trials": 9, **changed})


def begin(tune: Session, number: int) -> None:
    tune.add(number)
    tune.call("trial_start", number)


def fail(tune: Session, number: int) -> None:
    begin(tune, number)
    tune.call("trial_result", number, result={FAILURE: f"NonFiniteLoss: trial {number}"})
    tune.call("trial_complete", number)


def finish(tune: Session, number: int, value: float = 30.0) -> None:
    begin(tune, number)
    for epoch in (1, 2, 3):
        tune.epoch(epoch, value, number)
    tune.call("trial_complete", number)


def is_stopping(tune: Session) -> bool:
    stopper = StopWithLedger(tune.ledger)
    assert not stopper("any", {"config": {"number": 0}})
    return stopper.stop_all()


# --- failures


def test_trials_that_fail_one_after_another_stop_the_sweep(start: Start, tmp_path: Path) -> None:
    tune = start(max_consecutive_failures=3)
    fail(tune, 0)
    fail(tune, 1)
    finish(tune, 2)  # starts the count again
    begin(tune, 8)
    for number in (3, 4):
        fail(tune, number)
        assert not is_stopping(tune)
    fail(tune, 5)
    assert is_stopping(tune)
    results = tune.ledger.close()
    assert results["state"] == "stopped"
    assert results["reason"] == "3 trials failed one after another; the last: trial 5: NonFiniteLoss: trial 5"
    assert storage.read_json(str(tmp_path / sweeps.RESULTS)) == results
    assert not sweeps.is_done(results, tune.ledger.sweep)
    assert tune.written(8)["state"] == "interrupted"  # resumed by the next session


def test_a_lost_process_counts_as_a_failure_and_a_retry_does_not(start: Start) -> None:
    tune = start(max_consecutive_failures=2)
    for number in (0, 1):
        begin(tune, number)
        tune.call("trial_recover", number)
        tune.call("trial_start", number)
        assert not is_stopping(tune)
        tune.error = RuntimeError("the node was lost")
        tune.call("trial_error", number)
    assert is_stopping(tune)
    assert tune.ledger.reason.endswith("trial 1: the node was lost")


def test_a_single_failure_can_stop_the_sweep_and_without_a_limit_none_does(start: Start) -> None:
    tune = start()
    for number in range(5):
        fail(tune, number)
    assert not is_stopping(tune)
    tune = start(max_consecutive_failures=1)
    fail(tune, 5)
    assert tune.ledger.reason == "1 trial failed: trial 5: NonFiniteLoss: trial 5"


def test_the_next_session_goes_on_after_failures(start: Start) -> None:
    first = start(max_consecutive_failures=2, num_trials=5)
    begin(first, 4)
    for number in (0, 1):
        fail(first, number)
    assert first.ledger.close()["state"] == "stopped"
    second = start(max_consecutive_failures=2, num_trials=5)
    assert not is_stopping(second)
    fail(second, 2)
    assert not is_stopping(second)  # the failures of the first session do not count
    finish(second, 3)
    finish(second, 4)
    assert second.ledger.close()["state"] == "finished"


def test_if_even_the_last_trial_fails_the_sweep_has_stopped(start: Start) -> None:
    tune = start(max_consecutive_failures=2, num_trials=2)
    fail(tune, 0)
    fail(tune, 1)
    results = tune.ledger.close()
    assert (results["state"], results["counts"]["failed"]) == ("stopped", 2)
    assert start(max_consecutive_failures=2, num_trials=2).ledger.close()["state"] == "finished"  # nothing is left


# --- target


@pytest.mark.parametrize(("mode", "short", "enough"), [("min", 21.5, 21.0), ("max", 20.5, 21.0)])
def test_a_target_stops_the_sweep_at_the_epoch_that_reaches_it(
    start: Start, mode: str, short: float, enough: float
) -> None:
    tune = start(target=21.0, mode=mode)
    begin(tune, 0)
    begin(tune, 7)
    tune.epoch(1, short, 0)
    tune.epoch(1, short, 7)
    assert not is_stopping(tune)
    tune.epoch(2, enough, 7)
    assert is_stopping(tune)
    tune.epoch(2, enough, 0)  # another one in the same step of Tune's loop
    results = tune.ledger.close()
    assert (results["state"], results["reason"]) == ("stopped", "reached the target 21.0 with trial 7")
    assert sweeps.is_done(results, tune.ledger.sweep)
    assert [tune.written(number)["state"] for number in (0, 7)] == ["interrupted", "interrupted"]


def test_a_reached_target_ends_the_next_session_at_once_unless_it_has_another(start: Start) -> None:
    tune = start(target=21.0)
    begin(tune, 7)
    tune.epoch(1, 20.5, 7)
    tune.ledger.close()
    assert is_stopping(start(target=21.0))
    assert is_stopping(start(target=20.5))
    assert not is_stopping(start(target=20.0))
    assert not is_stopping(start())


def test_a_failed_trial_does_not_reach_the_target_in_a_later_session(start: Start) -> None:
    tune = start()
    begin(tune, 0)
    tune.epoch(1, 10.0, 0)
    tune.call("trial_result", 0, result={FAILURE: "NonFiniteLoss"})
    tune.call("trial_complete", 0)
    assert not is_stopping(start(target=21.0))


def test_a_target_that_the_last_trial_reaches_finishes_the_sweep(start: Start) -> None:
    tune = start(target=21.0, num_trials=1)
    finish(tune, 0, 20.0)
    results = tune.ledger.close()
    assert (results["state"], results["reason"]) == ("finished", "reached the target 21.0 with trial 0")


def test_after_failures_a_target_is_no_reason_any_more(start: Start) -> None:
    tune = start(max_consecutive_failures=1, target=21.0)
    fail(tune, 0)
    begin(tune, 1)
    tune.epoch(1, 20.0, 1)
    assert tune.ledger.reason.startswith("1 trial failed")

"""Single trials that the user stops: the command, the request in storage, and what the sweep records."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from arspm import storage
from arspm.distributed.tune import ledger
from arspm.distributed.tune.stopping import StopWithLedger
from arspm.distributed.tune.tuning import _PendingTrials
from arspm.runs import stop_requests, sweeps
from jobs.cli import readable
from jobs.commands import running
from tests.distributed.tune.ledger_session import SWEEP, Session

Start = Callable[..., Session]


@pytest.fixture
def run(tmp_path: Path) -> str:
    storage.write_json(str(tmp_path / "sweeps" / "one" / sweeps.SWEEP), SWEEP)
    return str(tmp_path)


@pytest.fixture
def start(run: str, monkeypatch: pytest.MonkeyPatch) -> Start:
    return lambda **changed: Session(sweeps.folder(run, "one"), monkeypatch, **changed)


def begin(tune: Session, *numbers: int) -> None:
    for number in numbers:
        tune.add(number)
        tune.call("trial_start", number)


def look(tune: Session) -> None:
    """Let the ledger look for requests."""
    tune.now += ledger.STOP_SECONDS + 1
    tune.ledger.on_step_end(1, [])


def is_stopped(tune: Session, number: int) -> bool:
    return StopWithLedger(tune.ledger)("any", {"config": {"number": number}})


def cancel(run: str, *trials: int, sweep: str = "one") -> int:
    return readable(lambda: running.cancel(run, sweep=[sweep], trial=list(trials)))


def test_a_trial_that_the_user_stops_is_recorded_as_such(
    start: Start, run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tune = start()
    begin(tune, 0, 1)
    tune.epoch(1, 30.0, 1)
    assert cancel(run, 1) == 0
    assert "trial 1 of one: will be stopped " in capsys.readouterr().out
    assert not is_stopped(tune, 1)  # the ledger has not looked yet
    look(tune)
    assert is_stopped(tune, 1)
    assert not is_stopped(tune, 0)
    tune.epoch(2, 29.0, 1)
    tune.call("trial_complete", 1)
    record = tune.written(1)
    assert (record["state"], record["reason"], record["best"]) == ("stopped", "stopped by the user", 29.0)
    assert stop_requests.requested(tune.folder) == set()  # done
    assert tune.written(0)["state"] == "running"
    results = tune.ledger.close()
    assert results["counts"]["stopped"] == 1
    assert results["trials"][1]["reason"] == "stopped by the user"
    assert cancel(run, 1) == 1
    assert "trial 1 has ended (stopped); nothing to stop" in capsys.readouterr().err


def test_a_trial_that_sees_its_request_first_is_recorded_too(start: Start, run: str) -> None:
    tune = start()
    begin(tune, 0)
    tune.epoch(1, 30.0)
    assert cancel(run, 0) == 0
    tune.call("trial_result", 0, result={"stopped": "stopped by the user", "config": {"number": 0}})
    assert is_stopped(tune, 0)
    tune.call("trial_complete", 0)
    record = tune.written(0)
    assert (record["state"], record["reason"], len(record["epochs"])) == ("stopped", "stopped by the user", 1)
    assert stop_requests.requested(tune.folder) == set()


def test_a_watched_trial_sees_its_own_request_only(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage counts as no request, and ends no trial."""
    monkeypatch.setattr(stop_requests, "LOOK_SECONDS", 0.01)
    folder, looks = sweeps.folder(run, "one"), list[str]()
    exists = storage.exists

    def failing_first(uri: str) -> bool:
        looks.append(uri)
        if looks.count(uri) == 1:
            raise storage.StorageUnavailable("no answer")
        return exists(uri)

    monkeypatch.setattr(storage, "exists", failing_first)
    storage.write_json(f"{folder}/stop/00003.json", {})
    with stop_requests.watched(folder, 4) as other, stop_requests.watched(folder, 3) as check:
        deadline = time.monotonic() + 30
        while looks.count(f"{folder}/stop/00003.json") < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)  # for the answer of the last look
        with pytest.raises(stop_requests.StopRequested, match="trial 3: stopped by the user"):
            check()
        other()


def test_the_search_learns_the_value_of_a_stopped_trial(start: Start, run: str) -> None:
    tune = start()
    begin(tune, 0)
    seen: list[sweeps.Record] = []

    class Search:
        def suggest(self, number: int) -> dict[str, float]:
            return {"loss.lambda1": 1.0}

        def observe(self, record: sweeps.Record) -> None:
            seen.append(dict(record))

    pending = _PendingTrials(tune.ledger, Search(), dict, lambda _: False)
    assert pending.suggest("a")["number"] == 0
    tune.epoch(1, 30.0)
    cancel(run, 0)
    look(tune)
    pending.on_trial_complete("a")  # Tune calls the search before the ledger
    tune.call("trial_complete", 0)
    assert (seen[0]["best"], seen[0]["state"]) == (30.0, "running")


def test_a_trial_that_finishes_or_fails_first_keeps_that_state(start: Start, run: str) -> None:
    tune = start()
    begin(tune, 0, 1)
    cancel(run, 0, 1)
    look(tune)
    for epoch in (1, 2, 3):
        tune.epoch(epoch, 30.0, 0)
    tune.call("trial_complete", 0)
    assert (tune.written(0)["state"], tune.written(0)["reason"]) == ("finished", "")
    tune.call("trial_result", 1, result={"failure": "NonFiniteLoss: step 3"})
    tune.call("trial_complete", 1)
    assert (tune.written(1)["state"], tune.written(1)["reason"]) == ("failed", "NonFiniteLoss: step 3")
    assert stop_requests.requested(tune.folder) == set()


def test_an_interrupted_trial_is_not_resumed_after_it_was_stopped(
    start: Start, run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = start()
    begin(first, 0, 1)
    first.epoch(1, 30.0, 1)
    first.ledger.close()
    cancel(run, 1)
    assert "when the sweep is resumed, for its job does not run" in capsys.readouterr().out
    second = start()
    assert second.written(1)["state"] == "stopped"
    assert second.written(0)["state"] == "interrupted"
    pending = _PendingTrials(second.ledger, None, dict, lambda _: False)  # type: ignore[arg-type]
    assert pending.suggest("a")["number"] == 0
    assert pending.count == 2  # trial 0, and trial 2, which is new


def test_the_command_refuses_what_it_cannot_stop(start: Start, run: str, capsys: pytest.CaptureFixture[str]) -> None:
    begin(start(), 0)
    for words, says in [
        ({"sweep": ["one"], "trial": [2]}, "trial 2 has not started"),
        ({"sweep": ["one"], "trial": [3]}, "trial 3 has not started"),
        ({"sweep": ["two"], "trial": [0]}, "no sweep 'two'; its sweeps: one"),
        ({"sweep": ["one", "two"], "trial": [0]}, "pass one --sweep NAME"),
        ({"trial": [0]}, "pass one --sweep NAME"),
        ({"sweep": ["one"], "stage": ["encoder"], "trial": [0]}, "no --stage"),
    ]:
        assert readable(lambda words=words: running.cancel(run, **words)) == 1  # type: ignore[arg-type, misc]
        said = capsys.readouterr().err
        assert says in said
        assert said.count("\n") == 1
    assert stop_requests.requested(sweeps.folder(run, "one")) == set()


def test_other_files_in_the_folder_are_no_requests(tmp_path: Path) -> None:
    for name in ("00004.json", "x.json", "²³.json", "00005.json.tmp"):
        storage.write_json(str(tmp_path / stop_requests.FOLDER / name), {})
    assert stop_requests.requested(str(tmp_path)) == {4}

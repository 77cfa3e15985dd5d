"""What a sweep's ledger keeps of Tune's calls, in the order that Tune has; plain objects stand for its trials."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from arspm.config import override
from arspm.config.presets import preset
from arspm.distributed.tune import ledger, tuning
from arspm.distributed.tune.search import Listed, Optuna
from arspm.distributed.tune.trial import FAILURE
from arspm.runs import sweeps
from tests.distributed.tune.sweep_records import METRIC, SPACE, ended, sweep_of

CONFIG = override(preset("smoke"), {"training.encoder.epochs": 3})
SWEEP = sweep_of(CONFIG, num_trials=3, max_concurrent=2)


class Told:
    """A ledger, and Tune's calls of it for trial 0, with a clock of its own."""

    def __init__(self, place: str, monkeypatch: pytest.MonkeyPatch, **changed: Any):
        self.place, self.now = place, 1000.0
        monkeypatch.setattr(ledger.time, "time", lambda: self.now)
        self.ledger = ledger.Ledger(place, SWEEP | changed, CONFIG)
        self.error: Exception | None = None

    def begin(self, number: int = 0) -> None:
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
        return json.loads(Path(self.place, f"{sweeps.stem(number)}.json").read_bytes(), parse_constant=pytest.fail)


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Told]:
    """A function that opens the sweep's folder, as a session of the sweep does."""
    return lambda **changed: Told(str(tmp_path), monkeypatch, **changed)


def test_a_trial_s_record_from_its_beginning_to_its_end(told: Callable[..., Told]) -> None:
    tune = told()
    tune.begin()
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
    assert record["epochs"][0].keys() == {"epoch", "step", "seconds", METRIC, "train_loss"}  # none of Tune's own
    assert record["cpus"] == CONFIG.resources.trial.cpus
    assert Path(tune.place, "tensorboard", "00000").is_dir()


def test_a_trial_with_fewer_epochs_than_it_was_to_have_was_stopped(told: Callable[..., Told]) -> None:
    tune = told()
    for number, changes in enumerate([{}, {"training.encoder.epochs": 2}, {"training.encoder.epochs": 4}]):
        tune.begin(number)
        tune.ledger.records[number]["changes"] = changes
        tune.call("trial_start", number)
        for epoch in range(1, 3 if number < 2 else 4):
            tune.epoch(epoch, 30.0, number)
        tune.call("trial_complete", number)
    assert [tune.written(number)["state"] for number in range(3)] == ["stopped", "finished", "stopped"]


def test_a_trial_that_lost_its_process_keeps_its_seconds_and_counts_its_attempts(told: Callable[..., Told]) -> None:
    tune = told()
    tune.begin()
    tune.call("trial_start")
    tune.epoch(1, 40.0)
    tune.epoch(2, 20.0)
    tune.now += 5.0  # into the third epoch
    tune.call("trial_recover")
    assert tune.ledger.records[0]["seconds"] == 9.0
    tune.now += 100.0  # while it waits for a place it costs nothing
    tune.ledger._renew("running")
    assert tune.ledger.records[0]["seconds"] == 9.0
    tune.call("trial_start")
    tune.epoch(2, 25.0)  # from the checkpoint after the first
    tune.epoch(3, 24.0)
    tune.call("trial_complete")
    record = tune.written()
    assert (record["state"], record["attempts"], record["seconds"]) == ("finished", 2, 13.0)
    assert [(each["epoch"], each[METRIC]) for each in record["epochs"]] == [(1, 40.0), (2, 25.0), (3, 24.0)]
    assert (record["best"], record["best_epoch"], record["started"]) == (24.0, 3, 1000.0)


def test_a_trial_that_fails_says_why(told: Callable[..., Told]) -> None:
    tune = told()
    for number in range(3):
        tune.begin(number)
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
    assert len(found[0]["epochs"]) == 1  # its curve up to there is kept
    results = tune.ledger.close()
    assert (results["best"], results["counts"]["failed"], results["state"]) == (None, 3, "finished")


def test_a_trial_whose_process_could_not_begin_fails_too(told: Callable[..., Told]) -> None:
    tune = told()
    tune.begin()
    tune.call("trial_recover")
    tune.error = RuntimeError("no such node")
    tune.call("trial_error")
    record = tune.written()
    assert (record["state"], record["attempts"], record["seconds"], record["started"]) == ("failed", 0, 0.0, None)


def test_a_metric_that_is_never_measured_is_the_reason(told: Callable[..., Told]) -> None:
    tune = told(metric="val_smile")
    tune.begin()
    tune.call("trial_start")
    tune.epoch(1, 30.0)
    tune.call("trial_complete")
    record = tune.written()
    assert record["state"] == "failed"
    assert record["reason"] == f"val_smile was not measured; there are epoch, step, {METRIC}, train_loss"


def test_figures_that_are_no_numbers_leave_json(told: Callable[..., Told], tmp_path: Path) -> None:
    tune = told()
    tune.begin()
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
    assert read["trials"] == results["trials"] == [record]
    assert read["config_of_best"]["loss"]["lambda1"] == 1.0


def test_a_running_record_is_written_now_and_then(told: Callable[..., Told]) -> None:
    tune = told()
    tune.begin()
    tune.call("trial_start")
    tune.epoch(1, 40.0)
    assert tune.written()["epochs"] == []
    tune.epoch(2, 39.0, seconds=ledger.RECORD_SECONDS)
    assert len(tune.written()["epochs"]) == 2


def test_the_page_is_renewed_now_and_then_and_only_for_something_new(told: Callable[..., Told], tmp_path: Path) -> None:
    tune, page = told(), tmp_path / "results.json"
    tune.ledger.on_step_end(1, [])  # at once: the page is there from the beginning
    assert json.loads(page.read_bytes())["state"] == "running"
    tune.begin()
    tune.call("trial_start")
    tune.epoch(1, 40.0)
    tune.ledger.on_step_end(1, [])
    assert json.loads(page.read_bytes())["trials"] == []
    tune.now += ledger.RENEW_SECONDS
    tune.ledger.on_step_end(1, [])
    [shown] = json.loads(page.read_bytes())["trials"]
    assert (shown["best"], shown["seconds"]) == (40.0, 2.0 + ledger.RENEW_SECONDS)
    page.unlink()
    tune.now += 10 * ledger.RENEW_SECONDS
    tune.ledger.on_step_end(1, [])
    assert not page.exists()
    tune.epoch(2, 39.0)
    tune.ledger._took = 60.0  # a page that took a minute may cost a twentieth of the time at most
    tune.ledger.on_step_end(1, [])
    assert not page.exists()
    tune.now += 60.0 / ledger.RENEW_SHARE
    tune.ledger.on_step_end(1, [])
    assert page.exists()


def test_a_sweep_that_was_cut_off_goes_on_from_its_records(told: Callable[..., Told], tmp_path: Path) -> None:
    first = told()
    first.begin(0)
    first.call("trial_start", 0)
    for epoch in (1, 2, 3):
        first.epoch(epoch, 30.0)
    first.call("trial_complete", 0)
    first.begin(1)
    first.call("trial_start", 1)
    first.epoch(1, 35.0, 1)
    first.ledger._write(first.ledger.records[1])
    first.ledger._renew("running")
    first.epoch(2, 34.0, 1)  # what was not written is lost, with the driver
    second = told()
    states = {number: record["state"] for number, record in second.ledger.records.items()}
    assert states == {0: "finished", 1: "interrupted"}
    todo = todo_of(second)
    assert todo.left == 2
    assert [todo.suggest(str(n))["number"] for n in range(2)] == [1, 2]
    second.call("trial_start", 1)
    second.epoch(2, 34.0, 1)
    second.epoch(3, 33.0, 1)
    second.call("trial_complete", 1)
    record = second.written(1)
    assert (record["state"], record["attempts"], record["seconds"]) == ("finished", 2, 6.0)
    assert [each["epoch"] for each in record["epochs"]] == [1, 2, 3]
    results = second.ledger.close()
    assert results["state"] == "interrupted"  # the third trial is not done
    assert results["counts"]["waiting"] == 1
    assert results["spent_seconds"] == 8.0 + 4.0  # of both sessions
    assert json.loads((tmp_path / "results.json").read_bytes())["counts"] == results["counts"]


def test_what_runs_when_a_session_ends_is_interrupted_and_what_never_began_waits(told: Callable[..., Told]) -> None:
    tune = told()
    todo = todo_of(tune)
    for trial_id in ("a", "b"):
        todo.suggest(trial_id)
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
    assert list(told().ledger.records) == [0]


def todo_of(tune: Told, search: Any = None) -> Any:
    samples = [{"loss.lambda1": 1.0 + number} for number in range(SWEEP["num_trials"])]  # type: ignore[call-overload]
    return tuning._Todo(tune.ledger, search or Listed(samples), dict, lambda sample: sample == SWEEP["paper"])


def test_each_number_is_handed_out_once(told: Callable[..., Told]) -> None:
    tune = told()
    todo = todo_of(tune)
    handed = [todo.suggest(str(n)) for n in range(3)]
    assert handed == [{"number": n, "changes": {"loss.lambda1": 1.0 + n}} for n in range(3)]
    assert todo.suggest("more") == "FINISHED"
    assert [record["is_paper"] for record in tune.ledger.records.values()] == [True, False, False]


def test_a_longer_sweep_has_the_new_numbers_to_do(told: Callable[..., Told], tmp_path: Path) -> None:
    for number in (0, 2):
        sweeps.write_record(str(tmp_path), ended(number, [30.0]))
    todo = todo_of(told(num_trials=5), Listed([{"loss.lambda1": 0.1 * number} for number in range(5)]))
    assert [todo.suggest(str(n))["number"] for n in range(todo.left)] == [1, 3, 4]


class Heard(Listed):
    """A list that keeps what it was told."""

    def hear(self, record: sweeps.Record) -> None:
        self.last = record


def test_the_search_hears_of_a_failure_as_one(told: Callable[..., Told]) -> None:
    """Tune tells the search before it tells the ledger, whose record still runs and has the value of an epoch."""
    tune, search = told(), Heard([{"loss.lambda1": 1.0}] * 3)
    todo = todo_of(tune, search)
    for number, trial_id in enumerate("abc"):
        todo.suggest(trial_id)
        tune.call("trial_start", number)
        tune.epoch(1, 30.0, number)
    tune.call("trial_result", 0, result={FAILURE: "it broke"})
    for trial_id, error, failed in (("a", False, True), ("b", True, True), ("c", False, False)):
        todo.on_trial_complete(trial_id, error=error)
        assert (search.last["state"] == "failed") is failed
        assert search.last["best"] == 30.0
    assert tune.ledger.records[1]["state"] == "running"  # the record itself is the ledger's to change


def test_optuna_and_the_ledger_agree_on_what_is_to_do(told: Callable[..., Told]) -> None:
    """A session with Optuna, cut off, and the next: no sample twice, no number twice."""
    samples: dict[int, Any] = {}
    for _ in range(2):
        tune = told(num_trials=4)
        search = Optuna(SPACE, "min", 0, [{"loss.lambda1": 1.0}])
        for record in tune.ledger.records.values():
            search.hear(record)
        todo = todo_of(tune, search)
        for _ in range(2):
            number = todo.suggest(trial_id := f"{tune.now}-{len(samples)}")["number"]
            assert number not in samples
            samples[number] = tune.ledger.records[number]["sample"]["loss.lambda1"]
            tune.call("trial_start", number)
            for epoch in (1, 2, 3):
                tune.epoch(epoch, 30.0 + number, number)
            todo.on_trial_complete(trial_id)
            tune.call("trial_complete", number)
    assert list(samples) == [0, 1, 2, 3]
    assert samples[0] == 1.0
    assert len(set(samples.values())) == 4

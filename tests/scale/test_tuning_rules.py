"""The rules of a sweep's trials, without a cluster: how many at once, which are stopped, what their records keep.

Plain objects stand for Tune's trials; Tune tells the ledger of them in the order that it has on a cluster.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ray.tune.execution.tune_controller import TuneController
from ray.tune.schedulers import TrialScheduler

from arspm import corpus, storage, sweeps
from arspm.config import Config, ConfigError, override
from arspm.learning.checkpoint import Progress
from arspm.learning.fit import Report
from arspm.model import speech_portrait
from arspm.presets import preset
from arspm.scale import trial as trials
from arspm.scale import tuning
from arspm.scale.search import Listed, Optuna
from arspm.scale.training import Guides
from arspm.scale.trial import FAILURE

METRIC = "val_cos_degrees"
CONFIG = override(preset("smoke"), {"training.encoder.epochs": 3})
SPACE = {"loss.lambda1": {"kind": "loguniform", "low": 0.1, "high": 10.0, "fields": ["loss.lambda1"]}}
SWEEP = {
    "name": "one",
    "run": "run",
    "preset": "smoke",
    "space": SPACE,
    "search": "random",
    "scheduler": "none",
    "num_trials": 3,
    "metric": METRIC,
    "mode": "min",
    "seed": 0,
    "epochs": 3,
    "steps_per_epoch": 3,
    "max_concurrent": 2,
    "created": 0.0,
    "clips": [],
    "paper": {"loss.lambda1": 1.0},
    "warm_start": None,
    "config": CONFIG.model_dump(mode="json"),
}


# --- how many at once


def placed(cpus_there: float, gpus_there: int, cpus: float, gpus: float) -> int:
    """Workers put on a node one by one until one has no room, in ten-thousandths as Ray counts."""
    left, devices, held = round(cpus_there * 1e4), [10_000] * gpus_there, 0
    while left >= round(cpus * 1e4):
        wanted = round(gpus * 1e4)
        whole = [i for i, device in enumerate(devices) if device == 10_000][: wanted // 10_000]
        room = [i for i, device in enumerate(devices) if device >= wanted]
        if wanted >= 10_000:
            if len(whole) < wanted // 10_000:
                break
            for i in whole:
                devices[i] = 0
        elif wanted:
            if not room:
                break
            devices[room[0]] -= wanted
        left -= round(cpus * 1e4)
        held += 1
    return held


def nodes(*resources: dict[str, float], alive: bool = True) -> list[dict[str, Any]]:
    return [{"Alive": alive, "Resources": each} for each in resources]


def asking(cpus: float, gpus: float = 0.0, num_workers: int = 1, read: tuple[int, float] = (1, 0.1)) -> Config:
    trial = {"cpus": cpus, "gpus": gpus, "num_workers": num_workers}
    changes: dict[str, Any] = {f"resources.trial.{name}": value for name, value in trial.items()}
    return override(CONFIG, changes | {"resources.read.num_tasks": read[0], "resources.read.cpus": read[1]})


@pytest.mark.parametrize("gpus", [0.0, 0.1, 0.25, 0.3, 0.5, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("cpus", [0.3, 0.9, 1.0, 4.0])
def test_trials_at_once_are_those_that_ray_could_place(cpus: float, gpus: float) -> None:
    machines = [(2.0, 1), (8.0, 4), (16.0, 0), (3.5, 2)]
    there = nodes(*({"CPU": c, "GPU": g} if g else {"CPU": c} for c, g in machines))
    there += nodes({"CPU": 999.0, "GPU": 99.0}, alive=False)
    expected = sum(placed(c, g, cpus, gpus) for c, g in machines)
    assert tuning.concurrency(asking(cpus, gpus), True, there, None) == expected


def test_a_streamed_corpus_leaves_room_for_its_readers() -> None:
    two = nodes({"CPU": 2.0})
    assert tuning.concurrency(asking(1.0), True, two, None) == 2
    assert tuning.concurrency(asking(1.0), False, two, None) == 1
    assert tuning.concurrency(asking(0.9, read=(1, 0.1)), False, two, None) == 2
    assert tuning.concurrency(asking(0.9, read=(2, 0.1)), False, two, None) == 1


def test_workers_of_one_trial_may_lie_on_several_nodes() -> None:
    config = asking(1.0, num_workers=4, read=(1, 0.0))
    assert tuning.concurrency(config, False, nodes(*[{"CPU": 2.1}] * 4), None) == 2
    assert tuning.concurrency(config, False, nodes(*[{"CPU": 2.1}] * 3), None) == 1


def test_a_limit_only_lowers_what_has_room_unless_nothing_has() -> None:
    four = nodes({"CPU": 4.0})
    assert [tuning.concurrency(asking(1.0), True, four, limit) for limit in (1, 3, 4, 9)] == [1, 3, 4, 4]
    assert tuning.concurrency(asking(1.0, 1.0), True, four, 6) == 6  # GPUs that a cluster will have


@pytest.mark.parametrize(
    ("config", "needs"), [(asking(8.0), "8 CPUs and 0 GPUs"), (asking(1.0, 0.5), "1 CPUs and 0.5")]
)
def test_a_trial_that_no_node_can_hold_is_refused(config: Config, needs: str) -> None:
    with pytest.raises(ConfigError, match=f"^resources.trial: a trial needs 1 workers of {needs}.*--max-concurrent"):
        tuning.concurrency(config, True, nodes({"CPU": 4.0}), None)


# --- which are stopped


class HalvedByHand:
    """ASHA as its paper has it (Li et al., 2020, algorithm 2): at a rung a trial goes on if it is among the best third
    of those that came there, itself among them by the interpolated quantile of those before."""

    def __init__(self, grace: int, epochs: int):
        self.rungs: dict[int, list[float]] = {}
        rung = grace
        while rung <= epochs:
            self.rungs[rung] = []
            rung *= 3

    def goes_on(self, epoch: int, value: float) -> bool:
        if epoch not in self.rungs:
            return True
        before = sorted(self.rungs[epoch])
        self.rungs[epoch].append(value)
        if not before:
            return True
        place = (len(before) - 1) / 3  # the best third, of the least values
        low = int(place)
        high = min(low + 1, len(before) - 1)
        return value <= before[low] + (place - low) * (before[high] - before[low])


def learn(scheduler: Any, number: int, values: list[float], sign: float = 1.0) -> int:
    """Let a scheduler see a trial; the epoch after which it stops it, or the last."""
    trial = SimpleNamespace(trial_id=f"now-{number}")
    scheduler.on_trial_add(None, trial)
    for epoch, value in enumerate(values, 1):
        result = {"epoch": epoch, METRIC: sign * value}
        if scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP:
            scheduler.on_trial_complete(None, trial, result)
            return epoch
    return len(values)


@pytest.mark.parametrize(("mode", "sign"), [("min", 1.0), ("max", -1.0)])
@pytest.mark.parametrize(("epochs", "grace"), [(9, 1), (27, 3), (20, 2), (1, 1)])
def test_asha_stops_as_its_paper_says(mode: str, sign: float, epochs: int, grace: int) -> None:
    rng = np.random.default_rng(epochs)
    scheduler, by_hand = tuning.make_scheduler("asha", METRIC, mode, epochs), HalvedByHand(grace, epochs - 1)
    for number in range(40):
        values = (rng.normal(0, 1) + rng.normal(0, 0.3, epochs)).tolist()
        expected = next((n for n, v in enumerate(values, 1) if not by_hand.goes_on(n, v)), epochs)
        assert learn(scheduler, number, values, sign) == expected


def test_without_a_scheduler_nothing_is_stopped() -> None:
    scheduler = tuning.make_scheduler("none", METRIC, "min", 3)
    for number in range(5):
        trial: Any = SimpleNamespace(trial_id=str(number))
        scheduler.on_trial_add(None, trial)  # type: ignore[arg-type]
        decided = scheduler.on_trial_result(None, trial, {"epoch": 3, METRIC: 9.0 * number})  # type: ignore[arg-type]
        assert decided == TrialScheduler.CONTINUE


def ended(number: int, values: list[float | None], state: str = "finished") -> sweeps.Record:
    record = sweeps.new_record(number, {"loss.lambda1": 1.0 + number}, {"loss.lambda1": 1.0 + number}, False)
    for epoch, value in enumerate(values, 1):
        figures = {"epoch": epoch, "step": 3 * epoch, "seconds": 2.0 * epoch, METRIC: value}
        sweeps.add_epoch(record, figures, METRIC, "min")
    return record | {"state": state, "seconds": 2.0 * len(values), "started": 1.0, "attempts": 1}


def test_asha_decides_after_an_interruption_as_it_would_have_without_one() -> None:
    rng = np.random.default_rng(0)
    curves = [(rng.normal(0, 1) + rng.normal(0, 0.3, 20)).tolist() for _ in range(30)]
    unbroken = tuning.make_scheduler("asha", METRIC, "min", 20)
    lengths = [learn(unbroken, number, values) for number, values in enumerate(curves)]
    assert min(lengths) < 20
    resumed = tuning.make_scheduler("asha", METRIC, "min", 20)
    records = [ended(number, list(values[: lengths[number]])) for number, values in enumerate(curves[:12])]
    tuning._replay(resumed, json.loads(json.dumps(records)))
    assert [learn(resumed, number, curves[number]) for number in range(12, 30)] == lengths[12:]


def test_epochs_without_the_metric_and_other_schedulers_are_passed_over() -> None:
    record = ended(0, [None, math.nan, 1.0])
    record["epochs"].append({"epoch": 4})
    tuning._replay(tuning.make_scheduler("none", METRIC, "min", 3), [record])
    scheduler = tuning.make_scheduler("asha", METRIC, "min", 9)
    tuning._replay(scheduler, [record, ended(1, [])])
    assert learn(scheduler, 2, [5.0, 5.0, 5.0]) == 3  # stopped at the rung of epoch 3, where the 1.0 is


def test_a_failure_told_by_a_trial_does_not_end_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune's own check wants the scheduler's metric in every result, and ends the experiment where it is not."""
    asha = tuning.make_scheduler("asha", METRIC, "min", 3)
    controller: Any = SimpleNamespace(_metric=None, _scheduler_alg=asha, _search_alg=SimpleNamespace(metric=None))
    result = {FAILURE: "NonFiniteLoss: the loss of step 3", "training_iteration": 1, "time_total_s": 2.0}
    monkeypatch.delenv("TUNE_DISABLE_STRICT_METRIC_CHECKING", raising=False)
    with pytest.raises(ValueError, match="did not include the specified metric"):
        TuneController._validate_result_metrics(controller, result)
    for name, value in tuning._TUNE_SETTINGS.items():
        monkeypatch.setenv(name, value)
    TuneController._validate_result_metrics(controller, result)


# --- what the records keep


class Told:
    """A ledger, and Tune's calls of it for trial 0, with a clock of its own."""

    def __init__(self, place: str, monkeypatch: pytest.MonkeyPatch, **changed: Any):
        self.place, self.now = place, 1000.0
        monkeypatch.setattr(tuning.time, "time", lambda: self.now)
        self.ledger = tuning._Ledger(place, SWEEP | changed, CONFIG)
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
    tune.epoch(2, 39.0, seconds=tuning.RECORD_SECONDS)
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
    tune.now += tuning.RENEW_SECONDS
    tune.ledger.on_step_end(1, [])
    [shown] = json.loads(page.read_bytes())["trials"]
    assert (shown["best"], shown["seconds"]) == (40.0, 2.0 + tuning.RENEW_SECONDS)
    page.unlink()
    tune.now += 10 * tuning.RENEW_SECONDS
    tune.ledger.on_step_end(1, [])
    assert not page.exists()
    tune.epoch(2, 39.0)
    tune.ledger._took = 60.0  # a page that took a minute may cost a twentieth of the time at most
    tune.ledger.on_step_end(1, [])
    assert not page.exists()
    tune.now += 60.0 / tuning.RENEW_SHARE
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


# --- a trial that goes on from its checkpoint


def test_a_trial_tells_again_what_a_driver_that_was_lost_had_missed(
    write_corpus: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint knows two epochs, the record one. The training loop is real; what Tune is told is listened to."""
    torch.manual_seed(0)
    write_corpus({"train": (9,), "val": (6,)}, feature_dim=64)
    config = override(CONFIG, {"data.storage": "waveform", "training.encoder.augment": False})
    network, decoder = speech_portrait.vggface(config, 5), speech_portrait.face_decoder(config)
    guides = Guides({"neutral": torch.randn(64)}, None, decoder.fc1, network.fc8)
    clips, _ = trials.portrait_clips(config, str(tmp_path), 2)
    rows = trials.gather_rows("encoder", config, str(tmp_path))
    held: Any = []
    for reading in rows.readings:
        found = corpus.read_rows(reading.split, reading.wanted, np.arange(reading.split.num_rows))
        held.append({name: np.asarray(value) for name, value in found.items()})
    monkeypatch.setattr(trials.in_memory.ray, "get", list)  # the object store
    heard: list[dict[str, Any]] = []
    monkeypatch.setattr(trials.tune, "report", lambda figures: heard.append(dict(figures)))

    def go(place: str) -> list[dict[str, Any]]:
        heard.clear()
        trials._alone(config, trials.Setup(str(tmp_path), place, config, guides, decoder, clips, held), 0)
        return [{name: value for name, value in each.items() if name.startswith(("epoch", "val_"))} for each in heard]

    monkeypatch.setattr(trials, "CHECKPOINT_SECONDS", 0.0)
    place = str(tmp_path / "sweep")
    whole = go(place)
    assert [each["epoch"] for each in whole] == [1, 2, 3]
    assert trials.fetch_checkpoint(place, 0, tmp_path / "left") is not None
    assert json.loads((tmp_path / "left" / "progress.json").read_text())["progress"]["epoch"] == 2
    record = sweeps.new_record(0, {}, {}, False)
    sweeps.add_epoch(record, whole[0], METRIC, "min")
    sweeps.write_record(place, record)
    assert go(place) == whole[1:]
    for figures in whole[1:]:
        sweeps.add_epoch(record, figures, METRIC, "min")
    sweeps.write_record(place, record)
    assert go(place) == whole[2:]  # a record that is ahead: what is done again is told again
    storage.remove(f"{place}/trials/00000.json")
    assert go(place) == whole


def test_the_last_checkpoint_is_the_last_whole_one(tmp_path: Path) -> None:
    place = str(tmp_path)
    assert trials.fetch_checkpoint(place, 0, tmp_path / "none") is None

    def report(step: int) -> Report:
        def save(folder: Path) -> None:
            for name in ("model.safetensors", "progress.json"):
                (folder / name).write_text(str(step))

        return Report({}, save, Progress(step=step), False)

    for step in (5, 12):
        trials.save_checkpoint(place, 0, report(step), tmp_path)
    assert set(storage.files_below(f"{place}/trials/00000")) == {
        "step-00000012/model.safetensors",
        "step-00000012/progress.json",
    }
    storage.write_bytes(f"{place}/trials/00000/step-00000020/model.safetensors", b"20")  # cut off before it was whole
    found = trials.fetch_checkpoint(place, 0, tmp_path / "found")
    assert found is not None
    assert {path.name: path.read_text() for path in found.iterdir()} == {
        "model.safetensors": "12",
        "progress.json": "12",
    }


# --- other places to log to


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_tracker_that_is_not_installed_is_told_with_its_extra(name: str) -> None:
    if importlib.util.find_spec(name):
        pytest.skip(f"{name} is installed")
    with pytest.raises(
        ConfigError, match=rf"^log: {name} is not installed on the cluster .*; install arspm\[{name}\]$"
    ):
        tuning.trackers([name], "one")
    assert tuning.trackers([], "one") == []

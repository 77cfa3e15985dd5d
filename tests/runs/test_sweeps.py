"""A sweep's folder: names, records of trials, and the results for the page."""

from __future__ import annotations

import gzip
import heapq
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arspm import storage
from arspm.report.sweep_page import write_sweep
from arspm.runs import sweep_curves, sweeps

METRIC = "val_cos_degrees"


def record_of(number: int, values: list[float | None], state: str = "finished", **changed: Any) -> dict[str, Any]:
    """Return a trial's record with one epoch for each value."""
    record = sweeps.new_record(number, {"loss.lambda1": 1.0 + number}, {"loss.lambda1": 1.0 + number}, False)
    for epoch, value in enumerate(values, 1):
        figures = {"epoch": epoch, "step": 3 * epoch, "seconds": 2.0 * epoch, METRIC: value}
        sweeps.add_epoch(record, figures, METRIC, "min")
    return record | {"state": state, "seconds": 2.0 * len(values), "started": 1.0} | changed


def sweep_of(**changed: Any) -> dict[str, Any]:
    return {"num_trials": 10, "mode": "min", "metric": METRIC, "max_concurrent": 2, "config": {"secret": 1}} | changed


def results_of(records: list[dict[str, Any]], state: str = "running", **changed: Any) -> dict[str, Any]:
    return sweeps.results(
        sweep_of(**changed),
        records,
        state=state,
        updated=5.0,
        spent_seconds=4.0,
        importance=None,
        pictures={"real": None, "trials": {}},
        config_of_best=None,
    )


def strict_json(data: bytes | str) -> Any:
    """Parse JSON as a browser does, which rejects NaN."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(data, parse_constant=refuse)


# --- names


@pytest.mark.parametrize("name", ["../x", "..", ".", "", "a/b", "/a", ".a", "-a", "a b", "a\n", "é", "a" * 101])
def test_an_invalid_sweep_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^sweep name .*set --name$"):
        sweeps.folder("s3://b/run", name)


@pytest.mark.parametrize("name", ["joint", "Mine_2.5-b", "a" * 100])
def test_a_sweeps_folder_is_in_its_run(name: str) -> None:
    assert sweeps.folder("s3://b/run", name) == f"s3://b/run/sweeps/{name}"


def test_the_sweeps_of_a_run_are_those_with_a_sweep_json(tmp_path: Path) -> None:
    for path in ("sweeps/b/sweep.json", "sweeps/a/sweep.json", "sweeps/c/results.json", "sweeps/d/e/sweep.json"):
        storage.write_json(f"{tmp_path}/{path}", {})
    assert sweeps.names(str(tmp_path)) == ["a", "b"]
    assert sweeps.names(f"{tmp_path}/elsewhere") == []


@pytest.mark.parametrize("value", [[], {}, {"name": "x"}, "sweep"])
def test_an_invalid_sweep_file_is_refused(tmp_path: Path, value: Any) -> None:
    storage.write_json(f"{tmp_path}/sweep.json", value)
    with pytest.raises(ValueError, match=f"^{tmp_path}/sweep.json: not a sweep$"):
        sweeps.load(str(tmp_path))


# --- a record


def test_the_best_epoch_is_the_first_with_the_least_or_the_largest_value() -> None:
    record = record_of(0, [30.0, 20.0, 25.0, 20.0])
    assert (record["best"], record["best_epoch"]) == (20.0, 2)
    record = sweeps.new_record(0, {}, {}, False)
    for epoch, value in enumerate([0.1, 0.9, 0.9], 1):
        sweeps.add_epoch(record, {"epoch": epoch, "val_x": value}, "val_x", "max")
    assert (record["best"], record["best_epoch"]) == (0.9, 2)


@pytest.mark.parametrize(("mode", "expected"), [("min", 3), ("max", 4)])
def test_of_epochs_with_the_same_value_the_one_with_the_least_training_loss_is_the_best(
    mode: str, expected: int
) -> None:
    record = sweeps.new_record(0, {}, {}, False)
    values = [(0.1, 3.0), (0.1, math.nan), (0.1, 1.0), (0.9, 1.5), (0.1, 2.0), (0.9, 1.5)]
    for epoch, (value, loss) in enumerate(values, 1):
        sweeps.add_epoch(record, {"epoch": epoch, "val_x": value, "train_loss": loss}, "val_x", mode)
    assert record["best_epoch"] == expected


def test_a_repeated_epoch_replaces_itself_and_all_later_epochs() -> None:
    record = record_of(0, [30.0, 20.0, 10.0, 12.0])
    sweeps.add_epoch(record, {"epoch": 3, METRIC: 22.0}, METRIC, "min")
    assert [(epoch["epoch"], epoch[METRIC]) for epoch in record["epochs"]] == [(1, 30.0), (2, 20.0), (3, 22.0)]
    assert (record["best"], record["best_epoch"]) == (20.0, 2)  # epoch 3 with 10 was replaced
    record = record_of(0, [30.0])
    sweeps.add_epoch(record, {"epoch": 1, "val_l1": 1.0}, METRIC, "min")
    assert (record["best"], record["best_epoch"]) == (None, None)


def test_a_figure_that_is_not_finite_is_null_and_never_the_best(tmp_path: Path) -> None:
    record = record_of(0, [math.nan, 20.0, -math.inf, math.inf])
    assert [epoch[METRIC] for epoch in record["epochs"]] == [None, 20.0, None, None]
    assert (record["best"], record["best_epoch"]) == (20.0, 2)
    sweeps.write_record(str(tmp_path), record)
    assert strict_json((tmp_path / "trials" / "00000.json").read_bytes()) == record
    assert record_of(0, [math.nan])["best"] is None


def test_a_record_that_json_cannot_hold_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        sweeps.write_record(str(tmp_path), record_of(0, [1.0], seconds=math.nan))
    assert not (tmp_path / "trials").exists()


@pytest.mark.parametrize("number", [0, 99_999, 100_000, 1_234_567])
def test_records_are_read_by_number(tmp_path: Path, number: int) -> None:
    records = {each: record_of(each, [1.0]) for each in (7, number)}
    for record in records.values():
        sweeps.write_record(str(tmp_path), record)
    found = sweeps.read_records(str(tmp_path))
    assert found == records
    assert list(found) == sorted(records)


def test_other_files_of_the_folder_are_not_records(tmp_path: Path) -> None:
    sweeps.write_record(str(tmp_path), record_of(3, [1.0]))
    for name in ("00003.jpg", ".partial-x", "00003/step-00000001/progress.json"):
        storage.write_bytes(f"{tmp_path}/trials/{name}", b"{}")
    assert list(sweeps.read_records(str(tmp_path))) == [3]
    assert sweeps.read_records(f"{tmp_path}/elsewhere") == {}


def test_a_record_of_an_earlier_version_gets_missing_fields(tmp_path: Path) -> None:
    old = {"number": 0, "sample": {}, "changes": {}, "state": "finished", "best": None}
    storage.write_bytes(f"{tmp_path}/trials/00000.json", json.dumps(old | {"gpus": math.nan}).encode())
    [record] = sweeps.read_records(str(tmp_path)).values()
    assert record["epochs"] == []
    assert record["attempts"] == 0
    assert record["gpus"] is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "{}",
        '{"number": 1, "sample": {}, "changes": {}, "state": "finished"}',  # another number than the file's
        '{"number": "0", "sample": {}, "changes": {}, "state": "finished"}',
        '{"number": 0, "changes": {}, "state": "finished"}',
        '{"number": 0, "sample": {}, "changes": {}, "state": "exploded"}',
    ],
)
def test_an_invalid_record_is_named(tmp_path: Path, text: str) -> None:
    storage.write_bytes(f"{tmp_path}/trials/00000.json", text.encode())
    with pytest.raises(ValueError, match=f"^{tmp_path}/trials/00000.json: not a trial's record; remove it$"):
        sweeps.read_records(str(tmp_path))


def test_records_on_s3(s3: str) -> None:
    records = {number: record_of(number, [1.0 + number]) for number in range(3)}
    for record in records.values():
        sweeps.write_record(f"{s3}/sweeps-test", record)
    assert sweeps.read_records(f"{s3}/sweeps-test") == records


# --- results


def test_the_best_trial_is_not_a_failed_one() -> None:
    records = [record_of(0, [30.0]), record_of(1, [10.0], "failed"), record_of(2, []), record_of(3, [20.0], "stopped")]
    best = sweeps.best(records, "min")
    assert best is not None
    assert best["number"] == 3
    best = sweeps.best(records, "max")
    assert best is not None
    assert best["number"] == 0
    assert sweeps.best(records[1:3], "min") is None


def test_results_count_records_in_every_state() -> None:
    records = [record_of(number, [30.0 - number], state) for number, state in enumerate(sweeps.STATES)]
    found = results_of(records)
    assert found["counts"] == {
        "planned": 10,
        "waiting": 5,
        "running": 1,
        "interrupted": 1,
        "finished": 1,
        "stopped": 1,
        "failed": 1,
    }
    assert sum(found["counts"].values()) == 2 * found["counts"]["planned"]
    assert [trial["state"] for trial in found["trials"]] == list(sweeps.STATES[1:])  # waiting trials are only counted
    assert found["sweep"].keys() == sweep_of().keys() - {"config"}
    assert found["best"] == sweeps.STATES.index("stopped")


def test_results_of_no_trial_are_json() -> None:
    found = results_of([], "interrupted")
    strict_json(json.dumps(found))
    assert (found["best"], found["eta_seconds"], found["cpu_hours"]) == (None, None, 0)
    assert found["paper"] == {"numbers": [], "mean": None, "sd": None}


def test_the_paper_s_trials_count_when_they_have_finished() -> None:
    values = [31.0, 33.0, 38.0]
    records = [record_of(number, [value], is_paper=True) for number, value in enumerate(values)]
    records += [record_of(3, [1.0]), record_of(4, [2.0], "stopped", is_paper=True)]
    records += [record_of(5, [], "finished", is_paper=True)]
    paper = results_of(records)["paper"]
    assert paper["numbers"] == [0, 1, 2, 5]
    assert paper["mean"] == pytest.approx(np.mean(values))
    assert paper["sd"] == pytest.approx(np.std(values, ddof=1))
    assert results_of(records[:1])["paper"] == {"numbers": [0], "mean": 31.0, "sd": None}


def test_hours_are_seconds_times_a_trials_resources() -> None:
    records = [record_of(0, [], seconds=7200.0, cpus=2.0, gpus=0.5), record_of(1, [], seconds=1800.0, cpus=1.0)]
    found = results_of(records)
    assert found["cpu_hours"] == 4.5
    assert found["gpu_hours"] == 1.0


@pytest.mark.parametrize(
    ("num_trials", "ended", "running", "max_concurrent"),
    [(10, 4, 2, 2), (10, 8, 2, 2), (9, 3, 3, 3), (3, 2, 1, 4), (5, 5, 0, 2)],
)
def test_the_time_left_agrees_with_a_simulation(num_trials: int, ended: int, running: int, max_concurrent: int) -> None:
    """All trials take 60 s and running ones are half done. Each new one starts when another ends."""
    free = [30.0] * running + [0.0] * (max_concurrent - running)
    heapq.heapify(free)
    for _ in range(num_trials - ended - running):
        heapq.heappush(free, heapq.heappop(free) + 60.0)
    records = [record_of(number, [], seconds=60.0) for number in range(ended)]
    records += [record_of(ended + number, [], "running", seconds=30.0) for number in range(running)]
    found = results_of(records, num_trials=num_trials, max_concurrent=max_concurrent)
    assert found["eta_seconds"] == pytest.approx(max(free))
    assert results_of(records, "finished", num_trials=num_trials)["eta_seconds"] is None


def test_the_time_left_is_unknown_before_a_trial_has_finished() -> None:
    records = [record_of(0, [], "failed", seconds=1.0), record_of(1, [], "running", seconds=30.0)]
    assert results_of(records)["eta_seconds"] is None


def test_the_time_left_is_never_negative() -> None:
    records = [record_of(0, [], seconds=10.0), record_of(1, [], "running", seconds=500.0)]
    assert results_of(records, num_trials=2)["eta_seconds"] == 0.0


def test_a_summary_has_no_epochs_and_the_fields_that_a_label_stands_for() -> None:
    record = record_of(0, [30.0, 20.0], reason="x" * 1000)
    found = sweeps.trial_summary(record)
    assert found.keys().isdisjoint({"epochs", "changes"})
    assert (found["num_epochs"], found["best"], found["best_epoch"]) == (2, 20.0, 2)
    assert found["reason"] == "x" * sweeps.MAX_REASON
    labelled = record | {"sample": {"prior": "mean"}, "changes": {"prior.kind": "neutral"}}
    assert sweeps.trial_summary(labelled)["changes"] == {"prior.kind": "neutral"}


@pytest.mark.parametrize(
    ("mode", "best", "target", "reached"),
    [
        ("min", 21.0, 21.0, True),
        ("min", 21.5, 21.0, False),
        ("max", 0.9, 0.9, True),
        ("max", 0.8, 0.9, False),
        ("min", None, 21.0, False),
        ("min", -1.0, None, False),
        ("min", 0.0, 0.0, True),
    ],
)
def test_a_target_is_reached_in_the_direction_of_the_sweep(
    mode: str, best: float | None, target: float | None, reached: bool
) -> None:
    record = record_of(7, [], best=best)
    text = sweeps.target_reached(record, sweep_of(mode=mode, target=target))
    assert text == (f"reached the target {target} with trial 7" if reached else "")
    found = results_of([record], "interrupted", mode=mode)
    assert sweeps.is_done(found, sweep_of(mode=mode, target=target)) is reached
    assert not sweeps.is_done(found, sweep_of(mode=mode))  # the same command without a target goes on


def test_a_sweep_without_a_trial_has_not_reached_its_target() -> None:
    assert sweeps.target_reached(None, sweep_of(target=1.0)) == ""
    assert not sweeps.is_done(results_of([], "interrupted"), sweep_of(target=1.0))


def test_the_page_shows_the_portraits_of_the_best_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [record_of(number, [float(number)]) for number in range(sweeps.MAX_PICTURES + 3)]
    records[0]["state"] = "failed"
    for record in records:
        storage.write_bytes(f"{tmp_path}/{sweeps.stem(record['number'])}.jpg", b"strip %d" % record["number"])
    (tmp_path / "trials" / "00005.jpg").unlink()  # a trial without portraits
    known: set[int] = set()
    found = sweeps.pictures(str(tmp_path), records, "min", known)
    assert found["real"] is None
    assert set(found["trials"]) == {str(number) for number in range(1, sweeps.MAX_PICTURES + 1)} - {"5"}
    assert found["trials"]["2"] == "trials/00002.jpg?epoch=1"
    storage.write_bytes(f"{tmp_path}/clips.jpg", b"faces")
    found = sweeps.pictures(str(tmp_path), records, "max", known)
    assert found["real"] == "clips.jpg"
    assert "1" not in found["trials"]
    assert str(len(records) - 1) in found["trials"]
    looked: list[str] = []
    monkeypatch.setattr(storage, "exists", lambda uri: looked.append(uri) or False)
    assert set(sweeps.pictures(str(tmp_path), records, "max", known)["trials"]) == set(found["trials"])
    assert [Path(uri).name for uri in looked] == ["00005.jpg", "clips.jpg"]  # the others are known


def test_results_are_valid_json_for_any_measured_values(tmp_path: Path) -> None:
    records = [record_of(0, [math.nan, 3.0]), record_of(1, [math.inf], "failed", reason="</script><b>")]
    sweep = {
        "warm_start": None,
        "name": "s",
        "run": "r",
        "preset": "demo",
        "space": {},
        "search": "grid",
        "scheduler": "none",
    }
    curves = sweep_curves.curves(records, METRIC, 5.0)
    write_sweep(str(tmp_path), results_of(records, **sweep, epochs=2, steps_per_epoch=3, seed=0), curves)
    found = strict_json((tmp_path / "results.json").read_bytes())
    assert found["trials"][1]["best"] is None
    found = strict_json(gzip.decompress((tmp_path / "curves.json.gz").read_bytes()))
    assert [found["trials"][each]["values"] for each in "01"] == [[3.0], []]
    assert "</script><b>" not in (tmp_path / "index.html").read_text()


def test_the_summary_of_a_sweep(tmp_path: Path) -> None:
    assert sweeps.read_results(str(tmp_path)) is None
    trials = [{"number": 0, "best": 31.25}, {"number": 1, "best": 29.875}]
    counts = {"planned": 6, "running": 1, "finished": 1, "stopped": 1, "failed": 1, "interrupted": 1}
    content = {"state": "running", "sweep": {"metric": "val_l2"}, "counts": counts, "trials": trials, "best": 1}
    storage.write_json(f"{tmp_path}/results.json", content)
    found = sweeps.read_results(str(tmp_path))
    assert found is not None
    assert sweeps.summary(found, running=True) == (
        "1 finished, 1 stopped early, 1 failed, 1 running, 1 interrupted of 6 trials; best val_l2 29.88 in trial 1"
    )
    assert sweeps.summary(found | {"best": None}, running=False) == (
        "1 finished, 1 stopped early, 1 failed, 2 interrupted of 6 trials"
    )
    none = {**dict.fromkeys(counts, 0), "planned": 6}
    assert sweeps.summary(found | {"best": None, "counts": none}, running=True) == "0 started of 6 trials"

"""Sweeps on a real cluster: the ways a trial can run, the files of a sweep, failures and resuming."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from arspm import storage
from arspm.config import Config, override
from arspm.distributed.train.feed import PATHS
from arspm.distributed.train.launch import train_stage
from arspm.distributed.tune import ledger, search, tuning
from arspm.distributed.tune.trial import trial_config
from arspm.runs import sweeps
from arspm.training import artifacts
from jobs import sweep_trials
from tests.distributed.conftest import busy_workers
from tests.distributed.tune.sweep_records import sweep_of

pytestmark = pytest.mark.ray
EPOCHS = 3


@pytest.fixture
def run(driver: None, decoded_run: tuple[str, Config]) -> tuple[str, Config]:
    return decoded_run


def go(run: str, config: Config, samples: list[dict[str, Any]], **changed: Any) -> dict[str, Any]:
    """Run a sweep of listed samples in `<run>/sweeps/one`."""
    sweep = sweep_of(config, num_trials=len(samples), **changed)
    folder = sweeps.folder(run, sweep["name"])
    storage.write_json(storage.join(folder, sweeps.SWEEP), sweep)
    return tuning.run_sweep(
        folder,
        run,
        config,
        sweep,
        search.Listed(samples),
        lambda sample: sample,
        is_paper=lambda sample: sample == sweep["paper"],
    )


def test_a_sweep_writes_records_a_page_portraits_and_curves(run: tuple[str, Config]) -> None:
    uri, config = run
    samples = [{"loss.lambda1": 1.0}, {"loss.lambda1": 3.0}, {"loss.lambda1": 0.3}]
    results = go(uri, config, samples)
    folder = sweeps.folder(uri, "one")
    assert results["state"] == "finished"
    assert results["counts"]["finished"] == 3
    assert [trial["sample"] for trial in results["trials"]] == samples
    records = sweeps.read_records(folder)
    for trial in results["trials"]:
        epochs = records[trial["number"]]["epochs"]
        assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3]
        assert trial["best"] == min(epoch["val_cos_degrees"] for epoch in epochs)
        assert trial["attempts"] == 1
        assert storage.exists(storage.join(folder, f"tensorboard/{trial['number']:05d}"))
        log = sweep_trials.log(uri, "one", trial["number"])
        assert [f"epoch {epoch}: " in log for epoch in (1, 2, 3)] == [True] * 3
        assert f"loss.lambda1={trial['sample']['loss.lambda1']}" in log
    assert results["paper"] == {"numbers": [0], "mean": results["trials"][0]["best"], "sd": None}
    assert set(results["pictures"]["trials"]) == {"0", "1", "2"}
    assert results["pictures"]["real"] == "clips.jpg"
    assert results["config_of_best"]["loss"]["lambda1"] == samples[results["best"]]["loss.lambda1"]
    assert [sweeps.trial_summary(record) for record in records.values()] == results["trials"]
    assert "<!doctype html>" in Path(folder, "index.html").read_text()[:20].lower()
    left = {path.name for path in Path(folder).iterdir()}
    assert left == {"sweep.json", "results.json", "curves.json.gz", "index.html", "clips.jpg", "trials", "tensorboard"}


@pytest.mark.slow
def test_every_way_of_running_a_trial_gives_the_same_figures(run: tuple[str, Config]) -> None:
    """In Tune's actor by every path of the rows, and on a Ray Train worker: the same figures, bit by bit."""
    uri, config = run
    sample = {"loss.lambda1": 0.7}
    for path in PATHS:
        go(uri, override(config, {"ingest.path": path}), [sample], name=path)
    ways = [sweeps.read_records(sweeps.folder(uri, path))[0] for path in PATHS]
    train_stage("encoder", trial_config(config, sample), uri, "f" * 64)
    history = storage.read_json(storage.join(uri, "encoder", artifacts.HISTORY))["epochs"]
    expected = [measured(epoch) for epoch in history]
    assert len(expected) == EPOCHS
    for record in ways:
        assert [measured(epoch) for epoch in record["epochs"]] == expected


@pytest.mark.slow
def test_a_trial_on_several_workers_is_a_driver_of_ray_train(run: tuple[str, Config]) -> None:
    uri, config = run
    workers = {"resources.trial.num_workers": 2, "resources.trial.cpus": 0.4, "training.encoder.epochs": 2}
    results = go(uri, override(config, workers), [{"loss.lambda1": 1.0}], epochs=2)
    [trial] = results["trials"]
    assert (trial["state"], trial["reason"]) == ("finished", "")
    assert trial["num_epochs"] == 2
    assert trial["cpus"] == 0.8
    assert "0" in results["pictures"]["trials"]
    assert not storage.exists(storage.join(sweeps.folder(uri, "one"), "train"))


@pytest.mark.slow
def test_a_failed_trial_is_recorded_and_the_others_continue(run: tuple[str, Config]) -> None:
    uri, config = run
    samples = [{"loss.lambda1": 1e39}, {"prior.kind": "nobody"}, {"loss.lambda1": 1.0}]
    results = go(uri, config, samples)
    states = [(trial["state"], trial["attempts"]) for trial in results["trials"]]
    assert states == [("failed", 1), ("failed", 1), ("finished", 1)]
    assert results["trials"][0]["reason"].startswith("NonFiniteLoss: the loss of step ")
    assert results["trials"][1]["reason"].startswith("ConfigError: prior.kind: ")
    assert results["best"] == 2
    assert results["state"] == "finished"
    log = sweep_trials.log(uri, "one", 0)
    assert log.index("Traceback (most recent call last)") < log.index("NonFiniteLoss: the loss of step ")


@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=[pytest.mark.slow, pytest.mark.long])])
def test_a_trial_that_the_user_stops_ends_by_itself_and_the_others_continue(
    run: tuple[str, Config], monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    uri, config = run
    monkeypatch.setattr(ledger, "STOP_SECONDS", 1e9)  # the trial alone looks for the request
    monkeypatch.setattr(ledger, "RECORD_SECONDS", 0.0)
    workers = {"resources.trial.num_workers": num_workers, "resources.trial.cpus": 2 if num_workers == 1 else 0.4}
    config = override(config, workers)
    folder = sweeps.folder(uri, "one")

    def stop_after_an_epoch() -> None:
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            record = sweeps.read_record(folder, 0)
            if record is not None and record["epochs"]:
                sweep_trials.stop(uri, ["one"], [], [0])
                return
            time.sleep(0.1)

    user = threading.Thread(target=stop_after_an_epoch)
    user.start()
    samples = [{"training.encoder.epochs": 500}, {"training.encoder.epochs": 2}]
    results = go(uri, config, samples, epochs=500)
    user.join()
    first, second = results["trials"]
    assert (first["state"], first["reason"], first["attempts"]) == ("stopped", "stopped by the user", 1)
    assert 1 <= first["num_epochs"] < 500
    assert first["best"] is not None
    assert (second["state"], second["attempts"]) == ("finished", 1)
    assert results["state"] == "finished"
    assert not storage.exists(storage.join(folder, "stop", "00000.json"))


@pytest.mark.slow
def test_failures_in_a_row_stop_a_sweep_which_the_next_session_continues(run: tuple[str, Config]) -> None:
    uri, config = run
    config = override(config, {"resources.trial.cpus": 2})  # one trial at a time
    samples = [{"prior.kind": "nobody"}, {"prior.kind": "nobody"}, {"loss.lambda1": 1.0}]
    results = go(uri, config, samples, max_consecutive_failures=2)
    assert (results["state"], results["counts"]["waiting"]) == ("stopped", 1)
    assert results["reason"].startswith("2 trials failed one after another; the last: trial 1: ConfigError: prior.kind")
    results = go(uri, config, samples, max_consecutive_failures=2)
    assert [trial["state"] for trial in results["trials"]] == ["failed", "failed", "finished"]
    assert (results["state"], results["reason"]) == ("finished", "")


@pytest.mark.slow
def test_a_reached_target_stops_a_sweep_in_the_middle_of_its_trials(run: tuple[str, Config]) -> None:
    uri, config = run
    config = override(config, {"training.encoder.epochs": 400})
    samples = [{"loss.lambda1": 1.0}, {"loss.lambda1": 3.0}, {"loss.lambda1": 0.3}]
    started = time.monotonic()
    results = go(uri, config, samples, epochs=400, target=170.0)
    print(f"stopped after {time.monotonic() - started:.1f} s")
    assert results["state"] == "stopped"
    assert results["reason"] == f"reached the target 170.0 with trial {results['best']}"
    assert results["counts"]["interrupted"] >= 1
    assert all(trial["num_epochs"] < 400 for trial in results["trials"])
    again = go(uri, config, samples, epochs=400, target=170.0)
    assert again["reason"] == results["reason"]
    assert [trial["attempts"] for trial in again["trials"]] == [trial["attempts"] for trial in results["trials"]]


@pytest.mark.slow
def test_a_killed_trial_is_retried(run: tuple[str, Config], head: Any) -> None:
    uri, config = run
    config = override(config, {"training.encoder.epochs": 40})
    folder, killed = sweeps.folder(uri, "one"), []

    def kill() -> None:
        deadline = time.time() + 120
        while not killed and time.time() < deadline:
            if storage.exists(storage.join(folder, f"{sweeps.stem(0)}.jpg")):  # an epoch has ended
                for process in busy_workers(head, "ImplicitFunc"):
                    process.kill()
                    killed.append(process.pid)
            time.sleep(0.05)

    thread = threading.Thread(target=kill)
    thread.start()
    results = go(uri, config, [{"loss.lambda1": 1.0}], epochs=40)
    thread.join()
    [trial] = results["trials"]
    assert len(killed) == 1
    assert (trial["state"], trial["attempts"]) == ("finished", 2)
    record = sweeps.read_records(folder)[0]
    assert [epoch["epoch"] for epoch in record["epochs"]] == list(range(1, 41))


@pytest.mark.slow
@pytest.mark.parametrize(("before", "state", "epochs"), [(-50.0, "stopped", 1), (50.0, "finished", 4)])
def test_asha_compares_with_trials_of_earlier_sessions(
    run: tuple[str, Config], before: float, state: str, epochs: int
) -> None:
    """Three trials have ended. The fourth is stopped at the first rung if they were far better there."""
    uri, config = run
    config = override(config, {"training.encoder.epochs": 4})
    first = [{"loss.lambda1": 1.0}] * 3
    folder = sweeps.folder(uri, "one")
    for number, sample in enumerate(first):
        record = sweeps.new_record(number, sample, sample, paper=True)
        for epoch in range(1, 5):
            figures = {"epoch": epoch, "step": 3 * epoch, "seconds": 0.1, "val_cos_degrees": 90 + before}
            sweeps.add_epoch(record, figures, "val_cos_degrees", "min")
        sweeps.write_record(folder, record | {"state": "finished", "started": 0.0, "ended": 1.0, "attempts": 1})
    results = go(uri, config, [*first, {"loss.lambda1": 2.0}], epochs=4, scheduler="asha")
    assert [trial["attempts"] for trial in results["trials"]] == [1, 1, 1, 1]
    last = results["trials"][-1]
    assert (last["state"], last["reason"], last["num_epochs"]) == (state, "", epochs)


@pytest.mark.slow
def test_eight_streamed_trials_on_two_cpus_finish(run: tuple[str, Config]) -> None:
    uri, config = run
    config = override(config, {"ingest.path": "stream", "training.encoder.epochs": 1})
    results = go(uri, config, [{"loss.lambda1": 0.5 + number} for number in range(8)], epochs=1)
    assert results["sweep"]["max_concurrent"] == 2
    assert results["counts"]["finished"] == 8


def measured(epoch: dict[str, Any]) -> dict[str, Any]:
    """Return an epoch's figures without the timings."""
    return {name: value for name, value in epoch.items() if name.startswith(("val_", "train_")) or name == "step"}

"""A trial's log in storage: what it contains, over several attempts, and how it ends."""

from __future__ import annotations

import logging
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from arspm import storage
from arspm.config import ConfigError
from arspm.config.presets import preset
from arspm.distributed.tune import trial, trial_log
from jobs import sweep_trials


@pytest.fixture
def folder(tmp_path: Path) -> str:
    storage.write_json(str(tmp_path / "sweeps" / "one" / "sweep.json"), {})
    return str(tmp_path / "sweeps" / "one")


def written(folder: str) -> str:
    return Path(folder, "trials", "00003.log").read_text()


def test_a_log_has_lines_warnings_and_the_attempts_in_order(folder: str, tmp_path: Path) -> None:
    with trial_log.logged(folder, 3):
        trial_log.log.info("epoch 1: val_cos_degrees 31.5")
        logging.getLogger("another.library").warning("slow disk")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("a number is odd", stacklevel=1)
    trial_log.log.info("not of this trial")
    with trial_log.logged(folder, 3):
        trial_log.log.info("epoch 2")
    text = written(folder)
    order = ["trial 3 starts on ", "epoch 1: val_cos_degrees 31.5", "WARNING slow disk", "a number is odd", "epoch 2"]
    assert [text.index(each) for each in order] == sorted(text.index(each) for each in order)
    assert "not of this trial" not in text
    assert text.splitlines()[0][:2] == "20"
    assert text.splitlines()[0][19:28] == " UTC INFO"
    assert sweep_trials.log(str(tmp_path), "one", 3) == text
    with pytest.raises(FileNotFoundError, match="trial 4 has no log"):
        sweep_trials.log(str(tmp_path), "one", 4)


def test_the_traceback_of_an_error_is_in_the_log(folder: str) -> None:
    def fail() -> None:
        with trial_log.logged(folder, 3):
            trial._train({"number": 3, "changes": {"loss.lambda1": "many"}}, SimpleNamespace(config=preset("smoke")))  # type: ignore[arg-type]

    with pytest.raises(ConfigError):
        fail()
    assert "Traceback (most recent call last)" in written(folder)
    assert "settings: loss.lambda1=many" in written(folder)
    assert "ConfigError: loss.lambda1" in written(folder)


def test_a_stopped_trial_does_not_wait_for_storage(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune ends it with SystemExit, and gives its actor up if it is not gone within 2 s."""
    go, done = threading.Event(), threading.Event()
    write = storage.write_bytes

    def slow(uri: str, data: bytes) -> None:
        assert go.wait(20)
        write(uri, data)
        done.set()

    monkeypatch.setattr(trial_log.storage, "write_bytes", slow)
    with pytest.raises(SystemExit), trial_log.logged(folder, 3):
        raise SystemExit(0)
    assert not done.is_set()  # the write has not ended, yet we are here
    go.set()
    assert done.wait(20)
    assert "trial 3 was stopped" in written(folder)


def test_a_growing_log_is_written_while_the_trial_runs_and_keeps_its_end(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_log, "WRITE_SECONDS", 0.01)
    monkeypatch.setattr(trial_log, "MAX_CHARACTERS", 500)
    failures = iter([OSError("storage is away")])
    write = storage.write_bytes
    reached = threading.Event()

    def flaky(uri: str, data: bytes) -> None:
        for error in failures:
            raise error
        write(uri, data)
        if b"line 99" in data:
            reached.set()

    monkeypatch.setattr(trial_log.storage, "write_bytes", flaky)
    with trial_log.logged(folder, 3):
        for number in range(100):
            trial_log.log.info("line %d", number)
        assert reached.wait(20)
    assert len(written(folder)) == 500
    assert "has ended" in written(folder)

"""A stage's program: what it needs, when it has nothing to do, and how it says what went wrong."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arspm import config as configuration
from arspm import storage
from arspm.config import Config, override
from arspm.config.presets import preset
from arspm.runs import stages
from jobs.stage import main

REPO = Path(__file__).parents[2]
FINGERPRINT = "f" * 64


def commit(run: Path, stage: str, config: Config) -> None:
    stages.commit(str(run), stage, fingerprint=FINGERPRINT, config=config, files={}, seconds=0.0, figures={})


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A function that runs a stage's program in this process, around a work of the test's own."""
    (tmp_path / "config.json").write_text(configuration.dump(preset("smoke")))

    def run(stage: str, work: Any = None, **changed: str) -> None:
        usual = {"run": str(tmp_path), "config": str(tmp_path / "config.json"), "fingerprint": FINGERPRINT}
        words = [word for name, value in (usual | changed).items() for word in (f"--{name}", value)]
        monkeypatch.setattr(sys, "argv", [f"jobs.{stage}", *words])
        main(stage, work or pytest.fail)

    return run


def test_a_stage_refuses_to_run_before_those_it_needs(
    start: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(tmp_path, "preprocess", preset("smoke"))
    with pytest.raises(SystemExit) as ended:
        start("features")
    assert ended.value.code == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("Traceback")
    assert said[-1] == f"error: features: {tmp_path}/vggface has no _SUCCESS.json: run stage vggface first"


def test_a_stage_that_is_done_does_nothing(
    start: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(tmp_path, "preprocess", preset("smoke"))
    before = (tmp_path / "preprocess" / stages.SUCCESS).stat().st_mtime_ns
    start("preprocess")
    assert capsys.readouterr().out == "preprocess is done already\n"
    assert (tmp_path / "preprocess" / stages.SUCCESS).stat().st_mtime_ns == before


def test_another_fingerprint_is_done_anew_and_leaves_nothing_old(start: Callable[..., Any], tmp_path: Path) -> None:
    commit(tmp_path, "preprocess", preset("smoke"))
    (tmp_path / "preprocess" / "old").touch()

    def work(config: Config, run: str, fingerprint: str) -> tuple[dict[str, Any], dict[str, Any]]:
        assert not (tmp_path / "preprocess" / stages.SUCCESS).exists()  # while the work is being done
        return {"a": storage.write_bytes(storage.join(run, "a"), b"1")}, {"n": 1}

    start("preprocess", work, fingerprint="e" * 64)
    done = stages.done(str(tmp_path), "preprocess", "e" * 64)
    assert done is not None
    assert done.files == {"a": storage.describe_bytes(b"1")}
    assert not (tmp_path / "preprocess" / "old").exists()


def test_a_configuration_that_is_not_there_is_named(
    start: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        start("preprocess", config="/nowhere.json")
    assert capsys.readouterr().err.splitlines()[-1] == "error: preprocess: /nowhere.json: no such file"


@pytest.mark.ray
def test_a_loss_that_is_not_finite_stops_the_stage_with_the_step_and_the_clips(
    head: Any, write_corpus: Callable[..., tuple[str, Any]], tmp_path: Path
) -> None:
    """At once: what our own code raises is not tried again, as a lost worker is."""
    _, told = write_corpus({"train": (9, 8), "val": (4,)})
    config = override(preset("smoke"), {"data.storage": "waveform", "training.gender.learning_rate": "1e38"})
    (tmp_path / "config.json").write_text(configuration.dump(config))
    commit(tmp_path, "preprocess", config)
    command = [sys.executable, "-m", "jobs.gender", "--run", str(tmp_path), "--config", str(tmp_path / "config.json")]
    ended = subprocess.run(
        [*command, "--fingerprint", FINGERPRINT],
        env={**os.environ, "RAY_ADDRESS": head.gcs_address, "PYTHONPATH": str(REPO)},
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 1
    lines = ended.stderr.strip().splitlines()
    [error] = [line for line in lines if line.startswith("error: ")]
    assert any(line.startswith("Traceback") for line in lines[: lines.index(error)])
    # Ray may still hand on what a worker wrote.
    assert all(line.startswith("\x1b[36m(") for line in lines[lines.index(error) + 1 :])
    wanted = r"error: gender: the loss of step [1-9]\d* is (nan|-?inf); the batch's clips: (.*)\. Look at"
    found = re.match(wanted, error)
    assert found, error
    clips = found[2].split(", ")
    assert len(clips) == 8
    assert set(clips) <= set(told["train"]["clip_id"])
    assert "lost a worker" not in ended.stderr
    assert not (tmp_path / "gender" / stages.SUCCESS).exists()

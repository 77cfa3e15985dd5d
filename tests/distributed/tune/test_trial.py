"""A trial in Tune's actor, without a cluster: what it reports, and the checkpoint that it resumes from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from arspm import storage
from arspm.config import override
from arspm.config.presets import preset
from arspm.distributed.train import portraits
from arspm.distributed.train.rows import Guides
from arspm.distributed.tune import trial as trials
from arspm.model import speech_portrait
from arspm.runs import stop_requests, sweeps
from arspm.training.checkpoint import TrainingState
from arspm.training.fit import Report
from tests.distributed.tune.sweep_records import METRIC

CONFIG = override(preset("smoke"), {"training.encoder.epochs": 3})


def new_setup(write_corpus: Callable[..., Any], tmp_path: Path, **changes: Any) -> trials.Setup:
    """A sweep over a random corpus, with untrained guides."""
    torch.manual_seed(0)
    write_corpus({"train": (9,), "val": (6,)}, feature_dim=64)
    config = override(CONFIG, {"data.storage": "waveform", "training.encoder.augment": False, **changes})
    network, decoder = speech_portrait.vggface(config, 5), speech_portrait.face_decoder(config)
    guides = Guides({"neutral": torch.randn(64)}, None, decoder.fc1, network.fc8)
    clips, _ = portraits.clips(config, str(tmp_path), 2)
    config = override(config, {"ingest.path": "resident"})
    return trials.Setup(str(tmp_path), str(tmp_path / "sweep"), config, guides, decoder, clips)


def test_a_trial_that_the_user_stops_ends_before_its_next_batch(
    write_corpus: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request comes in the middle of the second epoch, which is not finished."""
    setup = new_setup(write_corpus, tmp_path, **{"training.encoder.epochs": 500})
    reported: list[dict[str, Any]] = []
    monkeypatch.setattr(trials.tune, "report", lambda figures: reported.append(dict(figures)))
    monkeypatch.setattr(stop_requests, "LOOK_SECONDS", 0.01)
    steps = list[int]()

    class Meter(trials.Meter):
        def step(self, progress: TrainingState) -> None:
            super().step(progress)
            steps.append(progress.step)
            if progress.epoch == 1 and progress.step_in_epoch == 1:
                storage.write_json(f"{setup.folder}/stop/00007.json", {})
                time.sleep(0.5)  # time to look

    monkeypatch.setattr(trials, "Meter", Meter)
    trials.run_trial({"number": 7, "changes": {}}, setup)
    first, last = reported
    assert first["epoch"] == 1
    assert last == {"stopped": "stopped by the user"}
    assert steps[-1] == first["step"] + 1
    log = (tmp_path / "sweep" / "trials" / "00007.log").read_text()
    assert "trial 7: stopped by the user" in log
    assert "Traceback" not in log


def test_a_trial_reports_again_what_a_lost_driver_missed(
    write_corpus: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint has two epochs, the record one. The training loop is real; reports to Tune are recorded."""
    setup = new_setup(write_corpus, tmp_path)
    reported: list[dict[str, Any]] = []
    monkeypatch.setattr(trials.tune, "report", lambda figures: reported.append(dict(figures)))

    def go(folder: str) -> list[dict[str, Any]]:
        reported.clear()
        trials._in_this_actor(setup.config, setup._replace(folder=folder), 0)
        return [{name: each[name] for name in each if name == "epoch" or name.startswith("val_")} for each in reported]

    monkeypatch.setattr(trials, "CHECKPOINT_SECONDS", 0.0)
    folder = str(tmp_path / "sweep")
    complete = go(folder)
    assert [each["epoch"] for each in complete] == [1, 2, 3]
    assert trials.fetch_checkpoint(folder, 0, tmp_path / "left") is not None
    assert json.loads((tmp_path / "left" / "progress.json").read_text())["progress"]["epoch"] == 2
    record = sweeps.new_record(0, {}, {}, False)
    sweeps.add_epoch(record, complete[0], METRIC, "min")
    sweeps.write_record(folder, record)
    assert go(folder) == complete[1:]
    for figures in complete[1:]:
        sweeps.add_epoch(record, figures, METRIC, "min")
    sweeps.write_record(folder, record)
    assert go(folder) == complete[2:]  # the record is ahead: repeated epochs are reported again
    storage.remove(f"{folder}/trials/00000.json")
    assert go(folder) == complete


def test_the_last_complete_checkpoint_is_fetched(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert trials.fetch_checkpoint(folder, 0, tmp_path / "none") is None

    def report(step: int) -> Report:
        def save(folder: Path) -> None:
            for name in ("model.safetensors", "progress.json"):
                (folder / name).write_text(str(step))

        return Report({}, save, TrainingState(step=step), False)

    for step in (5, 12):
        trials.save_checkpoint(folder, 0, report(step), tmp_path)
    assert set(storage.files_below(f"{folder}/trials/00000")) == {
        "step-00000012/model.safetensors",
        "step-00000012/progress.json",
    }
    storage.write_bytes(f"{folder}/trials/00000/step-00000020/model.safetensors", b"20")  # an incomplete upload
    found = trials.fetch_checkpoint(folder, 0, tmp_path / "found")
    assert found is not None
    assert {path.name: path.read_text() for path in found.iterdir()} == {
        "model.safetensors": "12",
        "progress.json": "12",
    }

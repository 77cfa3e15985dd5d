"""What a training writes for the run's live page: in this process, interrupted, without storage, and on Ray."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from arspm import storage
from arspm.config import Config, override
from arspm.corpus import tables
from arspm.distributed.train import live as recording
from arspm.distributed.train.feed import open_feed
from arspm.distributed.train.launch import train_stage
from arspm.distributed.train.live import Recorder
from arspm.distributed.train.rows import gather_rows, make_task, train
from arspm.runs import live, stages
from arspm.training.checkpoint import TrainingState
from arspm.training.fit import WorkerContext

Run = tuple[str, Config]


def run_training(stage: str, run: str, config: Config, *, until: int, resume: Path | None = None) -> TrainingState:
    """Train a stage in this process, recorded, up to the end of an epoch, whose checkpoint is saved beside the run."""
    context, rows = WorkerContext(), gather_rows(stage, config, run)
    config = override(config, {"ingest.path": "resident"})
    feed = open_feed(stage, config, rows, context, share=None)
    task = make_task(stage, config, run, context.device, rows)
    with Recorder(stage, config, run, rows) as recorder:
        for report in train(stage, config, rows, task, context, feed=feed, resume=resume, on_step=recorder.step):
            recorder.report(report, task.model)
            if report.progress.epoch == until:
                report.save(Path(run, f"saved-{stage}-{until}"))
                break
    return report.progress


def written(run: str, stage: str) -> live.Training:
    found = live.read_training(run, stage)
    assert found is not None
    return found


@pytest.mark.parametrize("stage", ["encoder", "decoder"])
def test_the_history_and_the_portraits_of_each_epoch_are_written(decoded_run: Run, stage: str) -> None:
    run, config = decoded_run
    config = override(config, {f"training.{stage}.epochs": 3})
    progress = run_training(stage, run, config, until=3)
    found = written(run, stage)
    assert [epoch.model_dump() for epoch in found.epochs] == progress.epochs
    assert [list(pair) for pair in found.losses] == progress.losses
    assert (found.step, found.num_epochs) == (progress.step, 3)
    assert found.step == 3 * found.num_steps
    assert found.pictures == [1, 2, 3]
    assert 1 < len(found.clips) <= recording.NUM_CLIPS
    strips = [cv2.imread(f"{run}/{stage}/{name}") for name in (live.REAL, *map(live.picture, found.pictures))]
    real, first, _, last = strips
    size = config.image_size
    assert real.shape == (size, len(found.clips) * size, 3)
    assert first.shape == last.shape
    assert not np.array_equal(first, last), "the network has learnt"
    held_out = tables.read_columns(tables.open_split(f"{run}/corpus", "val"), "faces", ("clip_id",))
    assert set(found.clips) <= set(held_out["clip_id"].to_pylist())


def test_a_resumed_training_continues_the_files(decoded_run: Run) -> None:
    """Also after the stage's folder was cleared for it, and with the picture of an epoch that is done again."""
    run, config = decoded_run
    checkpoint = run_training("encoder", run, config, until=1)
    storage.write_bytes(f"{run}/encoder/{stages.training_name(run, 'encoder', 'f')}/state", b"")
    storage.write_bytes(f"{run}/encoder/{live.picture(2)}", b"of a checkpoint that was lost")
    stages.begin(run, "encoder", "f")
    assert written(run, "encoder").pictures == [1]
    resume = Path(run, "saved-encoder-1")
    assert checkpoint.epoch == 1
    run_training("encoder", run, config, until=3, resume=resume)
    found = written(run, "encoder")
    assert [epoch.epoch for epoch in found.epochs] == [1, 2, 3]
    assert found.pictures == [1, 2, 3]
    assert cv2.imread(f"{run}/encoder/{live.picture(2)}") is not None


def test_storage_that_fails_ends_no_training_and_is_logged_once(
    decoded_run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, config = decoded_run
    monkeypatch.setattr(recording, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(recording, "WRITE_SECONDS", 0.0)
    Path(run, "encoder").write_text("a file where a folder is needed")
    with caplog.at_level(logging.WARNING, recording.__name__):
        assert run_training("encoder", run, config, until=3).epoch == 3
    [record] = [record for record in caplog.records if record.name == recording.__name__]
    assert "encoder: the run's live page is not up to date: " in record.getMessage()


def test_a_training_does_not_wait_for_storage(decoded_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run, config = decoded_run
    slow, write = threading.Event(), storage.write_bytes
    monkeypatch.setattr(recording, "WRITE_SECONDS", 0.0)
    monkeypatch.setattr(storage, "write_bytes", lambda uri, data: (slow.wait(60), write(uri, data))[1])
    rows = gather_rows("encoder", config, run)
    recorder = Recorder("encoder", config, run, rows)
    begun = time.monotonic()
    for step in range(1, 100):
        recorder.step(TrainingState(step=step))
    assert time.monotonic() - begun < 5
    slow.set()
    with recorder:  # whose end waits for the thread
        pass
    assert 1 <= written(run, "encoder").step < 100, "a write that is not done is not queued again"


def test_long_trainings_have_bounded_files() -> None:
    points = list(range(10_000))
    thinned = recording._thinned(points, 2000)
    assert (len(thinned), thinned[0], thinned[-1]) == (2000, 0, 9999)
    assert thinned == sorted(set(thinned))
    assert recording._thinned(points[:2000], 2000) == points[:2000]


def test_no_random_number_is_drawn(decoded_run: Run) -> None:
    """The weights are those of a training that nobody watches."""
    run, config = decoded_run
    run_training("encoder", run, config, until=2)
    watched = Path(run, "saved-encoder-2", "model.safetensors").read_bytes()
    context, rows = WorkerContext(), gather_rows("encoder", config, run)
    config = override(config, {"ingest.path": "resident"})
    feed = open_feed("encoder", config, rows, context, share=None)
    task = make_task("encoder", config, run, context.device, rows)
    for report in train("encoder", config, rows, task, context, feed=feed, resume=None):
        if report.progress.epoch == 2:
            report.save(Path(run, "alone"))
            break
    assert Path(run, "alone", "model.safetensors").read_bytes() == watched


@pytest.mark.slow
@pytest.mark.ray
def test_a_decoder_on_ray_is_seen_while_it_trains(driver: None, decoded_run: Run) -> None:
    """Also `make test` has a chain, whose live files `tests/jobs/test_cli.py` looks at when it has ended."""
    run, config = decoded_run
    config = override(config, {"training.decoder.epochs": 6, "resources.decoder.num_workers": 1})
    seen: list[dict[str, Any]] = []
    ended = threading.Event()

    def look() -> None:
        path = Path(run, "decoder", live.FILE)
        while not ended.wait(0.05):
            if path.exists():
                seen.append(json.loads(path.read_text()))

    looker = threading.Thread(target=look)
    looker.start()
    try:
        files, _ = train_stage("decoder", config, run, "f" * 64)
    finally:
        ended.set()
        looker.join()
    epochs = [len(each["epochs"]) for each in seen]
    assert epochs == sorted(epochs)
    assert len(set(epochs)) >= 3, "it grew"
    found = written(run, "decoder")
    assert [epoch.epoch for epoch in found.epochs] == found.pictures == [1, 2, 3, 4, 5, 6]
    assert set(files) == {"decoder/model.safetensors", "decoder/history.json"}, "no manifest lists the live files"
    for epoch in found.pictures:
        assert cv2.imread(f"{run}/decoder/{live.picture(epoch)}") is not None

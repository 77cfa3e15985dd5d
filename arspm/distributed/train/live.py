"""Write how a training is going for the run's live page: its history so far, and portraits after each epoch.

Best effort: files are written in a thread, so training never waits for storage, and a failure is logged once and ends
nothing. `runs.live` says which files.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from torch import nn

from arspm import storage
from arspm.config import Config
from arspm.corpus import schema
from arspm.distributed.train import portraits
from arspm.distributed.train.rows import Rows
from arspm.runs import live, stages
from arspm.storage.retries import first_line
from arspm.training import artifacts
from arspm.training.checkpoint import TrainingState
from arspm.training.fit import Report

WRITE_SECONDS = 10.0  # between two writes within an epoch
PAUSE_SECONDS = 60.0  # after a write that failed, in which nothing is written
MAX_POINTS = 2000  # of the loss curve in the file; more are thinned
MAX_EPOCHS = 500  # in the file, likewise
MAX_PICTURES = 100  # of a training: of more epochs, evenly chosen ones are drawn
NUM_CLIPS = 6  # validation speakers whose portraits are drawn

T = TypeVar("T")
log = logging.getLogger(__name__)


class Recorder:
    """Writes a training's live files. Only rank 0 has one. Use it as a context manager, which ends its thread."""

    def __init__(self, stage: str, config: Config, run: str, rows: Rows) -> None:
        self._stage, self._config, self._run, self._rows = stage, config, run, rows
        self._folder = stages.folder(run, stage)
        self._num_epochs = getattr(config.training, stage).epochs
        self._every = math.ceil(self._num_epochs / MAX_PICTURES)
        self._draw: Callable[[nn.Module], np.ndarray] | None = None  # made at the first epoch's end
        self._clips: list[str] = []
        self._pictured: set[int] | None = None if stage in live.DRAWN_STAGES else set()
        self._next, self._pause_until, self._is_broken = 0.0, 0.0, False
        self._thread = ThreadPoolExecutor(1, "live")
        self._last: Future[None] | None = None

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown(wait=error is None, cancel_futures=error is not None)  # an error is not held up

    def step(self, progress: TrainingState) -> None:
        """Write the history so far if that is due. Call it after each step."""
        if time.monotonic() >= self._next:
            self._submit_history(progress)

    def report(self, report: Report, model: nn.Module) -> None:
        """Write the history and the portraits after an epoch. Does nothing for a report within an epoch."""
        progress = report.progress
        if progress.step_in_epoch:
            return
        is_drawn = progress.epoch in (1, self._num_epochs) or progress.epoch % self._every == 0
        if self._stage in live.DRAWN_STAGES and is_drawn:
            try:
                picture = self._drawn(model)
            except Exception as error:  # of a corpus, or of the device's memory: no training fails for its portraits
                self._warn(error)
            else:
                self._thread.submit(self._write_picture, progress.epoch, picture)
        self._submit_history(progress, is_last=report.finished)

    def _drawn(self, model: nn.Module) -> np.ndarray:
        if self._draw is None:
            self._draw = self._make_draw()
        return self._draw(model)

    def _make_draw(self) -> Callable[[nn.Module], np.ndarray]:
        """Return the function that draws with the model, after reading the clips and the real faces."""
        config, run, val = self._config, self._run, self._rows.val
        assert val is not None  # of the stages that are drawn
        family: Any = "features" if self._stage == "decoder" else "speech"
        columns, faces = portraits.clips(config, run, NUM_CLIPS, family=family, rows=val.order.groups.rows)
        self._clips = list(columns[schema.CLIP_ID])
        self._thread.submit(self._put, live.REAL, lambda: portraits.strip(faces))
        if self._stage == "decoder":
            return lambda model: portraits.from_features(model, columns)
        prior, decoder = artifacts.load_face_prior(run, config), artifacts.load_face_decoder(run, config)
        return lambda model: portraits.from_speech(model, prior, decoder, columns)

    def _submit_history(self, progress: TrainingState, *, is_last: bool = False) -> None:
        """Let the thread write the history, unless it still writes an earlier one."""
        self._next = time.monotonic() + WRITE_SECONDS
        if self._last is None or self._last.done() or is_last:
            content = {
                "epochs": _thinned(progress.epochs, MAX_EPOCHS),
                "losses": _thinned(progress.losses, MAX_POINTS),
                "best_epoch": progress.best_epoch,
                "step": progress.step,
                "num_epochs": self._num_epochs,
                "num_steps": self._rows.train.order.num_steps,
                "clips": self._clips,
                "updated": time.time(),
            }
            self._last = self._thread.submit(self._write_history, content, progress.epoch)

    # In the thread:

    def _write_history(self, content: dict[str, Any], epoch: int) -> None:
        if self._pictured is None:
            try:
                self._pictured = set(live.pictured_epochs(self._run, self._stage))  # before an interruption
            except Exception as error:
                self._warn(error)
        content["pictures"] = sorted(each for each in self._pictured or () if each <= epoch)
        self._put(live.FILE, lambda: live.Training.model_validate(content).model_dump_json().encode())

    def _write_picture(self, epoch: int, picture: np.ndarray) -> None:
        if self._put(live.picture(epoch), lambda: portraits.strip(picture)) and self._pictured is not None:
            self._pictured.add(epoch)

    def _put(self, name: str, encode: Callable[[], bytes]) -> bool:
        """Write a file and return whether that succeeded."""
        if time.monotonic() < self._pause_until:
            return False
        try:
            storage.write_bytes(storage.join(self._folder, name), encode())
        except Exception as error:  # of storage, after its own retries
            self._pause_until = time.monotonic() + PAUSE_SECONDS
            self._warn(error)
            return False
        return True

    def _warn(self, error: Exception) -> None:
        if not self._is_broken:
            log.warning("%s: the run's live page is not up to date: %s", self._stage, first_line(error))
        self._is_broken = True


def _thinned(points: Sequence[T], limit: int) -> list[T]:
    """Return all points, or `limit` evenly chosen ones with the first and the last."""
    if len(points) <= limit:
        return list(points)
    return [points[round(place * (len(points) - 1) / (limit - 1))] for place in range(limit)]

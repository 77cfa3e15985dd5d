"""What training tells Prometheus through Ray's own metrics; `cluster/grafana/arspm.json` draws it.

Ray puts `ray_` before each name and `_total` behind a counter's. Throughput and the share of time spent waiting for
data are rates of counters, which sum over workers and go on when a worker is replaced.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TypeVar

from ray.util.metrics import Counter, Gauge

from arspm import storage
from arspm.config import Recipe
from arspm.training.checkpoint import TrainingState
from arspm.training.fit import WorkerContext
from arspm.training.train_step import learning_rate

TAGS = ("stage", "run", "training", "rank")
CLIPS, DATA_WAIT = "arspm_train_clips", "arspm_data_wait_seconds"
COUNTERS = {
    CLIPS: "Clips that this worker has learnt from",
    DATA_WAIT: "Seconds that this worker has waited for batches, of validation too",
}
EPOCH, STEP, RATE, LOSS = "arspm_train_epoch", "arspm_train_step", "arspm_learning_rate", "arspm_train_loss"
GAUGES = {
    EPOCH: "The epoch under way, from 1",
    STEP: "Steps taken",
    RATE: "The learning rate of the last step",
    LOSS: "The mean loss of this worker's batches between two points of the history, of which an epoch has about 20",
}

T = TypeVar("T")


class Meter:
    """Tells how one worker's training goes.

    `training`: what sets it apart from others of its stage and run, as Ray Train's name of it or the number of a trial.
    """

    def __init__(
        self, stage: str, recipe: Recipe, run: str, place: WorkerContext, *, training: str, num_steps: int
    ) -> None:
        name = storage.absolute(run).rsplit("/", 1)[-1]
        tags = dict(zip(TAGS, (stage, name, training, str(place.rank)), strict=True))
        self._counters = {name: Counter(name, text, TAGS).set_default_tags(tags) for name, text in COUNTERS.items()}
        self._gauges = {name: Gauge(name, text, TAGS).set_default_tags(tags) for name, text in GAUGES.items()}
        self._recipe, self._num_steps = recipe, num_steps
        self._clips_per_step = recipe.global_batch_size * place.share / place.world_size

    def watch(self, batches: Iterator[T]) -> Iterator[T]:
        """The same batches; the time until each is there counts as waiting."""
        asked = time.monotonic()
        for batch in batches:
            self._counters[DATA_WAIT].inc(max(time.monotonic() - asked, 1e-9))  # Ray refuses a zero
            yield batch
            asked = time.monotonic()

    def step(self, progress: TrainingState) -> None:
        """Tell after a step. At every one, for Ray forgets a gauge seconds after it was set; it costs microseconds."""
        self._counters[CLIPS].inc(self._clips_per_step)
        for name, value in gauges(progress, self._recipe, self._num_steps).items():
            self._gauges[name].set(value)


def gauges(progress: TrainingState, recipe: Recipe, num_steps: int) -> dict[str, float]:
    """The gauges after a step, `num_steps` to an epoch; no loss before the history's first point."""
    told = {
        EPOCH: progress.epoch + 1,
        STEP: progress.step,
        RATE: learning_rate(recipe, progress.step - 1, num_steps),
    }
    return told | ({LOSS: progress.losses[-1][1]} if progress.losses else {})

"""The training metrics that Prometheus scrapes, exported through Ray; `cluster/grafana/arspm.json` plots them.

Ray prefixes each name with `ray_` and appends `_total` to a counter's. Throughput and the fraction of time spent
waiting for data are rates of counters: those sum over workers and stay valid when a worker is replaced.
"""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge

from arspm import storage
from arspm.config import Recipe
from arspm.training.checkpoint import TrainingState
from arspm.training.fit import WorkerContext
from arspm.training.train_step import learning_rate

TAGS = ("stage", "run", "training", "rank")
CLIPS, DATA_WAIT = "arspm_train_clips", "arspm_data_wait_seconds"
COUNTERS = {
    CLIPS: "Clips that this worker has trained on",
    DATA_WAIT: "Seconds that this worker has waited for batches, including validation",
}
EPOCH, STEP, RATE, LOSS = "arspm_train_epoch", "arspm_train_step", "arspm_learning_rate", "arspm_train_loss"
GAUGES = {
    EPOCH: "Current epoch, counted from 1",
    STEP: "Steps taken",
    RATE: "Learning rate of the last step",
    LOSS: "Mean loss of this worker's batches since the previous point of the history, which has about 20 an epoch",
}


class Meter:
    """Exports one worker's training metrics.

    `training`: a name that is unique within the stage and run, such as Ray Train's run name or a trial's number.
    """

    def __init__(
        self, stage: str, recipe: Recipe, run: str, worker: WorkerContext, *, training: str, num_steps: int
    ) -> None:
        name = storage.absolute(run).rsplit("/", 1)[-1]
        tags = dict(zip(TAGS, (stage, name, training, str(worker.rank)), strict=True))
        self._counters = {name: Counter(name, text, TAGS).set_default_tags(tags) for name, text in COUNTERS.items()}
        self._gauges = {name: Gauge(name, text, TAGS).set_default_tags(tags) for name, text in GAUGES.items()}
        self._recipe, self._num_steps = recipe, num_steps
        self._clips_per_step = recipe.global_batch_size * worker.loss_weight / worker.world_size

    def wait(self, seconds: float) -> None:
        """Count the time that the training loop has waited for a batch."""
        self._counters[DATA_WAIT].inc(max(seconds, 1e-9))  # Ray rejects 0

    def step(self, progress: TrainingState) -> None:
        """Export the metrics after a step. Call it at every step: Ray drops a gauge that was not set for seconds."""
        self._counters[CLIPS].inc(self._clips_per_step)
        for name, value in gauges(progress, self._recipe, self._num_steps).items():
            self._gauges[name].set(value)


def gauges(progress: TrainingState, recipe: Recipe, num_steps: int) -> dict[str, float]:
    """Return the gauges after a step, by name. `num_steps`: per epoch. No loss before the history's first point."""
    values = {
        EPOCH: progress.epoch + 1,
        STEP: progress.step,
        RATE: learning_rate(recipe, progress.step - 1, num_steps),
    }
    return values | ({LOSS: progress.losses[-1][1]} if progress.losses else {})

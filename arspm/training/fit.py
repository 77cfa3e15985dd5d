"""The training loop that every network and every way of running shares. It knows no Ray."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed
from torch import Tensor, nn

from arspm.config import Recipe
from arspm.training import checkpoint
from arspm.training.batch import to_batch
from arspm.training.checkpoint import TrainingState
from arspm.training.train_step import (
    Task,
    learning_rate,
    make_optimizer,
    require_finite,
    score_batch,
    seed_step,
    train_step,
)

HISTORY_POINTS_PER_EPOCH = 20


class WorkerContext(NamedTuple):
    """Where a worker runs.

    `share`: its rows of a global batch to those of an even split. Workers' gradients are averaged, so that with it
    every row counts the same, whoever has it.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")
    share: float = 1.0


class Report(NamedTuple):
    """What `fit` tells after an epoch, and between epochs where the recipe or `save_now` asks for more checkpoints.

    `figures`: plain numbers. `save`: writes a checkpoint into a folder; only rank 0 needs to call it.
    """

    figures: dict[str, Any]
    save: Callable[[Path], None]
    progress: TrainingState
    finished: bool


def fit(
    task: Task,
    recipe: Recipe,
    *,
    seed: int,
    num_steps: int,
    num_score_steps: int,
    batches: Callable[[TrainingState], Iterator[Mapping[str, Any]]],
    place: WorkerContext,
    config: Mapping[str, Any],
    resume: Path | None = None,
    on_step: Callable[[TrainingState], None] | None = None,
    save_now: Callable[[TrainingState], bool] | None = None,
) -> Iterator[Report]:
    """Train to the recipe's last epoch, yielding a Report where a checkpoint is due.

    `batches(progress)` gives this worker's rows from there on, each epoch `num_steps` batches to learn from and then
    `num_score_steps` to validate on. `resume`: a checkpoint's folder. `on_step` is told after each step, and `save_now`
    asked whether a checkpoint is wanted at once; it must say the same to all ranks, for all yield at the same steps.
    Raises NonFiniteLoss.
    """
    model = task.model.to(place.device)
    if recipe.channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, recipe)
    progress, best = TrainingState(), None
    if resume is not None:
        progress, best = checkpoint.load(resume, model, optimizer)
    if progress.epoch >= recipe.epochs:
        return
    wrapped: nn.Module = model
    if place.world_size > 1:
        if place.device.type == "cuda":  # statistics over the global batch, as one worker has; CPUs have no such layer
            nn.SyncBatchNorm.convert_sync_batchnorm(model)
        wrapped = nn.parallel.DistributedDataParallel(
            model, device_ids=[place.device] if place.device.type == "cuda" else None
        )
    if recipe.compile:
        wrapped = torch.compile(wrapped)  # type: ignore[assignment]

    source = batches(progress)
    point_steps = max(1, num_steps // HISTORY_POINTS_PER_EPOCH)

    def report(figures: dict[str, Any]) -> Report:
        def save(folder: Path) -> None:
            checkpoint.save(folder, model, optimizer, progress, best, config)

        return Report(figures, save, progress, progress.epoch >= recipe.epochs)

    while progress.epoch < recipe.epochs:
        begun, waited, sums = time.monotonic(), 0.0, _Sums(place, progress.sums)
        first_step = progress.step_in_epoch
        wrapped.train()
        while progress.step_in_epoch < num_steps:
            before = time.monotonic()
            columns = next(source)
            waited += time.monotonic() - before
            seed_step(seed, progress.step, place.rank)
            batch = to_batch(columns, place.device, channels_last=recipe.channels_last)
            rate = learning_rate(recipe, progress.step, num_steps)
            terms = train_step(
                task, wrapped, optimizer, batch, rate=rate, precision=recipe.precision, share=place.share
            )
            require_finite(terms["loss"], progress.step, batch.clip_ids)
            rows = len(batch.clip_ids)
            sums.add({f"train_{name}": rows * _pair(value) for name, value in terms.items()})
            progress.step += 1
            progress.step_in_epoch += 1
            _note_loss(progress, float(terms["loss"]), point_steps)
            if on_step is not None:
                on_step(progress)
            due = recipe.checkpoint_steps is not None and progress.step % recipe.checkpoint_steps == 0
            wanted = save_now is not None and save_now(progress)
            if (due or wanted) and progress.step_in_epoch < num_steps:
                progress.sums = sums.totals()
                yield report({"epoch": progress.epoch, "step": progress.step})
        learnt = time.monotonic()

        model.eval()
        if place.world_size > 1:
            for buffer in model.buffers():  # BatchNorm's are each worker's own: what is validated is what rank 0 saves
                torch.distributed.broadcast(buffer, 0)
        for _ in range(num_score_steps):
            batch = to_batch(next(source), place.device, channels_last=recipe.channels_last)
            sums.add(
                {
                    f"val_{name}": value
                    for name, value in score_batch(task, model, batch, precision=recipe.precision).items()
                }
            )
        figures: dict[str, Any] = sums.means()
        seconds = learnt - begun
        figures |= {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "learning_rate": learning_rate(recipe, progress.step - 1, num_steps),
            "clips_per_second": (progress.step_in_epoch - first_step) * recipe.global_batch_size / max(seconds, 1e-9),
            "data_wait": waited / max(seconds, 1e-9),
            "epoch_seconds": time.monotonic() - begun,  # with validation
        }
        value = figures.get(task.objective)
        if value is None:
            raise ValueError(f"{task.objective} was not measured; there are {', '.join(sorted(figures))}")
        if progress.best is None or (value > progress.best if task.maximise else value < progress.best):
            progress.best, progress.best_epoch = value, progress.epoch + 1
            best = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        progress.epochs.append(figures)
        progress.epoch += 1
        progress.step_in_epoch = 0
        progress.sums = {}
        yield report(figures)


def _pair(value: Tensor) -> Tensor:
    """A figure as a sum over one: (2,) float64."""
    return torch.stack([value.double(), torch.ones_like(value, dtype=torch.float64)])


class _Sums:
    """Sums and counts of named figures over batches and, at the end, over workers.

    `before`: totals from which a resumed epoch goes on; one worker takes them.
    """

    def __init__(self, place: WorkerContext, before: Mapping[str, list[float]]):
        self._place = place
        self._values = {
            name: torch.tensor(pair if place.rank == 0 else [0.0, 0.0], dtype=torch.float64, device=place.device)
            for name, pair in before.items()
        }

    def add(self, pairs: Mapping[str, Tensor]) -> None:
        for name, pair in pairs.items():
            self._values[name] = self._values[name] + pair if name in self._values else pair

    def totals(self) -> dict[str, list[float]]:
        """Each figure's sum and count over all workers, which must all ask at the same step."""
        names = sorted(self._values)
        if not names:
            return {}
        table = torch.stack([self._values[name] for name in names])
        if self._place.world_size > 1:
            torch.distributed.all_reduce(table)
        return dict(zip(names, table.tolist(), strict=True))

    def means(self) -> dict[str, float]:
        """Each figure's mean over all workers; figures that nothing had are left out."""
        totals = self.totals().items()
        return {name: total / count for name, (total, count) in totals if count and math.isfinite(total)}


def _note_loss(progress: TrainingState, loss: float, point_steps: int) -> None:
    progress.pending = [progress.pending[0] + loss, progress.pending[1] + 1]
    if progress.pending[1] >= point_steps:
        progress.losses.append([progress.step, progress.pending[0] / progress.pending[1]])
        progress.pending = [0.0, 0.0]

"""The training loop of every stage, for one worker of a DDP group or a single process. Does not import Ray."""

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
from arspm.runs import kept_epoch
from arspm.training import checkpoint
from arspm.training.batch import to_batch
from arspm.training.batch_norm import convert_batch_norm
from arspm.training.checkpoint import TrainingState
from arspm.training.train_step import (
    BrokenFigure,
    NonFiniteLoss,
    Task,
    is_finite,
    learning_rate,
    make_optimizer,
    non_finite_error,
    score_batch,
    seed_step,
    train_step,
)

HISTORY_POINTS_PER_EPOCH = 20


class WorkerContext(NamedTuple):
    """A worker's rank, world size, device and loss weight.

    `loss_weight`: this worker's rows x workers / global batch; 1 if the rows divide evenly. DDP averages gradients over
    the workers, so with this factor every row has the same weight even if workers have different numbers of rows.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")
    loss_weight: float = 1.0


class Report(NamedTuple):
    """What `fit` yields when a checkpoint is due: after each epoch, and within an epoch on request.

    `figures`: an epoch's metrics, or only "epoch" and "step" within an epoch. `save(folder)`: writes a checkpoint; only
    rank 0 needs to call it. `progress`: the live state of the training. `finished`: whether the last epoch is done.
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
    worker: WorkerContext,
    config: Mapping[str, Any],
    resume: Path | None = None,
    on_step: Callable[[TrainingState], None] | None = None,
    save_now: Callable[[TrainingState], bool] | None = None,
) -> Iterator[Report]:
    """Train to the recipe's last epoch. Yields a Report when a checkpoint is due, at the same steps on all ranks.

    Args:
        task: the network with its loss and validation figures.
        recipe: optimiser and schedule; `checkpoint_steps` requests checkpoints within an epoch.
        seed: with step and rank, determines each step's random numbers.
        num_steps, num_score_steps: training and validation steps per epoch.
        batches: `batches(progress)` returns this worker's batches from that state on, as columns for `to_batch`. Each
            epoch has `num_steps` training batches, then `num_score_steps` validation batches.
        worker: rank, world size, device. With several workers, the process group must be initialised.
        config: stored in checkpoints.
        resume: folder of the checkpoint to resume from. Yields nothing if that training is finished.
        on_step: called after each training step.
        save_now: called after each training step; True requests a checkpoint. It must return the same value on every
            rank.

    Raises:
        NonFiniteLoss: the loss or a gradient of a step is NaN or infinite. All ranks raise it at the same step.
        BrokenFigure: a validation figure of some clips is NaN or infinite. All ranks raise it after the same epoch.
        ValueError: the checkpoint cannot be restored, or `task.objective` is not among an epoch's figures.
    """
    model = task.model.to(worker.device)
    if recipe.channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, recipe)
    progress, best = TrainingState(), None
    if resume is not None:
        progress, best = checkpoint.load(resume, model, optimizer)
    if progress.epoch >= recipe.epochs:
        return
    wrapped: nn.Module = model
    if worker.world_size > 1:
        convert_batch_norm(model, worker.device)  # statistics over the global batch, as with one worker
        wrapped = nn.parallel.DistributedDataParallel(
            model, device_ids=[worker.device] if worker.device.type == "cuda" else None
        )
    if recipe.compile:
        wrapped = torch.compile(wrapped)  # type: ignore[assignment]

    source = batches(progress)
    point_steps = max(1, num_steps // HISTORY_POINTS_PER_EPOCH)

    def make_report(figures: dict[str, Any]) -> Report:
        def save(folder: Path) -> None:
            checkpoint.save(folder, model, optimizer, progress, best, config)

        return Report(figures, save, progress, progress.epoch >= recipe.epochs)

    while progress.epoch < recipe.epochs:
        started, wait_seconds, sums = time.monotonic(), 0.0, _Sums(worker, progress.sums)
        first_step = progress.step_in_epoch
        wrapped.train()
        while progress.step_in_epoch < num_steps:
            before = time.monotonic()
            columns = next(source)
            wait_seconds += time.monotonic() - before
            seed_step(seed, progress.step, worker.rank)
            batch = to_batch(columns, worker.device, channels_last=recipe.channels_last)
            rate = learning_rate(recipe, progress.step, num_steps)
            terms = train_step(
                task, wrapped, optimizer, batch, rate=rate, precision=recipe.precision, loss_weight=worker.loss_weight
            )
            if not _agreed(is_finite(terms["loss"], model), worker):
                raise _step_error(float(terms["loss"]), progress.step, batch.clip_ids, worker)
            rows = len(batch.clip_ids)
            sums.add({f"train_{name}": rows * _sum_and_count(value) for name, value in terms.items()})
            progress.step += 1
            progress.step_in_epoch += 1
            _record_loss(progress, float(terms["loss"]), point_steps)
            if on_step is not None:
                on_step(progress)
            due = recipe.checkpoint_steps is not None and progress.step % recipe.checkpoint_steps == 0
            requested = save_now is not None and save_now(progress)  # called at every step, on every rank
            if (due or requested) and progress.step_in_epoch < num_steps:
                progress.sums = sums.totals()
                yield make_report({"epoch": progress.epoch, "step": progress.step})
        train_seconds = time.monotonic() - started

        model.eval()
        if worker.world_size > 1:
            # Validate with the BatchNorm statistics of rank 0, which saves the checkpoint.
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, 0)
        broken: BrokenFigure | None = None
        for _ in range(num_score_steps):
            batch = to_batch(next(source), worker.device, channels_last=recipe.channels_last)
            try:
                scores = score_batch(task, model, batch, precision=recipe.precision)
            except BrokenFigure as error:  # raised below, so that the other workers do not wait for this one
                broken = broken or error.in_epoch(progress.epoch + 1)
                continue
            sums.add({f"val_{name}": value for name, value in scores.items()})
        if num_score_steps and not _agreed(torch.tensor(broken is None, device=worker.device), worker):
            raise next(each for each in _gathered(broken, worker) if each is not None)
        figures, counts = sums.means()
        num_clips = (progress.step_in_epoch - first_step) * recipe.global_batch_size
        figures |= {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "learning_rate": learning_rate(recipe, progress.step - 1, num_steps),
            "clips_per_second": num_clips / max(train_seconds, 1e-9),
            "data_wait": wait_seconds / max(train_seconds, 1e-9),  # fraction of the training time
            "epoch_seconds": time.monotonic() - started,  # training and validation
        }
        if task.objective not in figures:
            raise ValueError(
                f"the objective {task.objective} was not measured in epoch {progress.epoch + 1}; "
                f"the measured figures are {', '.join(sorted(figures))}"
            )
        progress.num_held_out = 0 if task.objective == kept_epoch.TRAIN_LOSS else counts[task.objective]
        by = kept_epoch.chosen_by(task.objective, progress.num_held_out)
        kept = None if progress.best_epoch is None else progress.epochs[progress.best_epoch - 1]
        if kept is None or kept_epoch.is_better(figures, kept, by, maximise=task.maximise):
            progress.best, progress.best_epoch, progress.chosen_by = figures[by], progress.epoch + 1, by
            best = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        progress.epochs.append(figures)
        progress.epoch += 1
        progress.step_in_epoch = 0
        progress.sums = {}
        yield make_report(figures)


def _agreed(condition: Tensor, worker: WorkerContext) -> bool:
    """Return whether a condition, a boolean scalar, is true on all workers. A collective call."""
    if worker.world_size > 1:
        condition = condition.int()
        torch.distributed.all_reduce(condition, op=torch.distributed.ReduceOp.MIN)
    return bool(condition)


def _gathered(value: Any, worker: WorkerContext) -> list[Any]:
    """Return every worker's value, by rank. A collective call."""
    if worker.world_size == 1:
        return [value]
    values: list[Any] = [None] * worker.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def _step_error(loss: float, step: int, clip_ids: list[str], worker: WorkerContext) -> NonFiniteLoss:
    """Return the error of a step that is not finite, the same on all workers. A collective call.

    It names the clips of the workers whose loss is not finite. If all losses are finite, it names the clips of all
    workers, because the gradient is that of all.
    """
    workers = _gathered((loss, clip_ids), worker)
    broken = [each for each in workers if not math.isfinite(each[0])] or workers
    return non_finite_error(broken[0][0], step, [clip for _, clips in broken for clip in clips])


def _sum_and_count(value: Tensor) -> Tensor:
    """Return a scalar as a sum over one value: (2,) float64, the value and 1."""
    return torch.stack([value.double(), torch.ones_like(value, dtype=torch.float64)])


class _Sums:
    """Running sums and counts of named figures, over batches and, at the end, over workers.

    `initial`: totals over all workers with which a resumed epoch starts. Only rank 0 adds them, so they count once.
    """

    def __init__(self, worker: WorkerContext, initial: Mapping[str, list[float]]):
        self._worker = worker
        self._values = {
            name: torch.tensor(pair if worker.rank == 0 else [0.0, 0.0], dtype=torch.float64, device=worker.device)
            for name, pair in initial.items()
        }

    def add(self, pairs: Mapping[str, Tensor]) -> None:
        for name, pair in pairs.items():
            self._values[name] = self._values[name] + pair if name in self._values else pair

    def totals(self) -> dict[str, list[float]]:
        """Return each figure's sum and count over all workers. A collective call: every rank must make it."""
        names = sorted(self._values)
        if not names:
            return {}
        table = torch.stack([self._values[name] for name in names])
        if self._worker.world_size > 1:
            torch.distributed.all_reduce(table)
        return dict(zip(names, table.tolist(), strict=True))

    def means(self) -> tuple[dict[str, Any], dict[str, int]]:
        """Return each figure's mean over all workers, and the number of its values. Without figures without values."""
        totals = {name: pair for name, pair in self.totals().items() if pair[1]}
        return (
            {name: total / count for name, (total, count) in totals.items()},
            {name: int(count) for name, (_, count) in totals.items()},
        )


def _record_loss(progress: TrainingState, loss: float, point_steps: int) -> None:
    """Add a step's loss to the history, which has one point, the mean loss, per `point_steps` steps."""
    progress.pending = [progress.pending[0] + loss, progress.pending[1] + 1]
    if progress.pending[1] >= point_steps:
        progress.losses.append([progress.step, progress.pending[0] / progress.pending[1]])
        progress.pending = [0.0, 0.0]

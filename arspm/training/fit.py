"""The training loop of every stage, for one worker of a DDP group or a single process. Does not import Ray."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed
from torch import Tensor, nn

from arspm.config import Recipe
from arspm.runs import kept_epoch
from arspm.training import checkpoint
from arspm.training.batch import Batch, to_batch
from arspm.training.batch_norm import convert_batch_norm
from arspm.training.checkpoint import TrainingState
from arspm.training.late_check import LateCheck, gathered
from arspm.training.staging import Stager
from arspm.training.step_graph import StepGraph
from arspm.training.train_step import (
    Task,
    broken_figure,
    is_finite,
    learning_rate,
    make_optimizer,
    score_batch,
    seed_step,
    step_gradients,
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
    cuda_graph: bool = False,
    resume: Path | None = None,
    on_step: Callable[[TrainingState], None] | None = None,
    save_now: Callable[[TrainingState], bool] | None = None,
    on_wait: Callable[[float], None] | None = None,
) -> Iterator[Report]:
    """Train to the recipe's last epoch. Yields a Report when a checkpoint is due, at the same steps on all ranks.

    Between two reports the host never waits for the device. Batches are read and copied to it in advance (`staging`),
    and a step is checked while the next one runs (`late_check`). No report has a step that is not checked.

    Args:
        task: the network with its loss and validation figures.
        recipe: optimiser and schedule; `checkpoint_steps` requests checkpoints within an epoch.
        seed: with step and rank, determines each step's random numbers.
        num_steps, num_score_steps: training and validation steps per epoch.
        batches: `batches(progress)` returns this worker's batches from that state on, as columns for `to_batch`. Each
            epoch has `num_steps` training batches, then `num_score_steps` validation batches. It is iterated over in
            another thread, a few batches ahead.
        worker: rank, world size, device. With several workers, the process group must be initialised.
        config: stored in checkpoints.
        cuda_graph: replay a step's forward and backward pass as a CUDA graph (`StepGraph`). Only done for one worker on
            a GPU, without `torch.compile`.
        resume: folder of the checkpoint to resume from. Yields nothing if that training is finished.
        on_step: called after each training step. The history may lack that step's point until the next.
        save_now: called after each training step; True requests a checkpoint. It must return the same value on every
            rank.
        on_wait: called for each batch, including validation, with the seconds that the loop waited for it.

    Raises:
        NonFiniteLoss: the loss or a gradient of a step is NaN or infinite. All ranks raise it after the same step, the
            next one or the epoch's last.
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
        wrapped = _distributed(model, recipe, worker.device)
    if recipe.compile:
        wrapped = torch.compile(wrapped)  # type: ignore[assignment]

    gradients: Callable[[Batch], dict[str, Tensor]] = partial(
        step_gradients, task, wrapped, precision=recipe.precision, loss_weight=worker.loss_weight
    )
    if cuda_graph and worker.device.type == "cuda" and worker.world_size == 1 and not recipe.compile:
        gradients = StepGraph(gradients, model)

    point_steps = max(1, num_steps // HISTORY_POINTS_PER_EPOCH)
    check = LateCheck(worker.device, worker.world_size, progress, point_steps)
    staged = Stager(batches(progress), worker.device)
    wait_seconds = 0.0

    def next_batch() -> Batch:
        nonlocal wait_seconds
        before = time.monotonic()
        columns = next(staged)
        seconds = time.monotonic() - before
        wait_seconds += seconds
        if on_wait is not None:
            on_wait(seconds)
        return to_batch(columns, worker.device, channels_last=recipe.channels_last)

    def make_report(figures: dict[str, Any]) -> Report:
        def save(folder: Path) -> None:
            checkpoint.save(folder, model, optimizer, progress, best, config)

        return Report(figures, save, progress, progress.epoch >= recipe.epochs)

    try:
        while progress.epoch < recipe.epochs:
            started, wait_seconds, sums = time.monotonic(), 0.0, _Sums(worker, progress.sums)
            first_step = progress.step_in_epoch
            wrapped.train()
            while progress.step_in_epoch < num_steps:
                batch = next_batch()
                seed_step(seed, progress.step, worker.rank)
                rate = learning_rate(recipe, progress.step, num_steps)
                terms = train_step(gradients, optimizer, batch, rate=rate)
                check.add(progress.step, batch.clip_ids, terms["loss"], is_finite(terms["loss"], model))
                sums.add([f"train_{name}" for name in terms], _sums_and_counts(terms.values(), len(batch.clip_ids)))
                progress.step += 1
                progress.step_in_epoch += 1
                if on_step is not None:
                    on_step(progress)
                due = recipe.checkpoint_steps is not None and progress.step % recipe.checkpoint_steps == 0
                requested = save_now is not None and save_now(progress)  # called at every step, on every rank
                if (due or requested) and progress.step_in_epoch < num_steps:
                    check.finish()
                    progress.sums = sums.totals()
                    yield make_report({"epoch": progress.epoch, "step": progress.step})
            check.finish()
            train_seconds, train_wait = time.monotonic() - started, wait_seconds

            model.eval()
            scores = []
            for _ in range(num_score_steps):
                scores.append(score_batch(task, model, next_batch(), precision=recipe.precision))
                sums.add([f"val_{name}" for name in scores[-1].names], scores[-1].totals)
            # All workers compare notes, so that none waits for another that has raised an error.
            for broken in gathered(broken_figure(scores), worker.world_size) if scores else []:
                if broken is not None:
                    raise broken.in_epoch(progress.epoch + 1)
            figures, counts = sums.means()
            num_clips = (progress.step_in_epoch - first_step) * recipe.global_batch_size
            figures |= {
                "epoch": progress.epoch + 1,
                "step": progress.step,
                "learning_rate": learning_rate(recipe, progress.step - 1, num_steps),
                "clips_per_second": num_clips / max(train_seconds, 1e-9),
                "data_wait": train_wait / max(train_seconds, 1e-9),  # fraction of the training time
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
    finally:
        staged.close()


def _distributed(model: nn.Module, recipe: Recipe, device: torch.device) -> nn.Module:
    """Return a model that averages its gradients over the workers. Its buffers are not sent from rank 0 at every step.

    They are BatchNorm's statistics, and all workers compute the same ones, from the global batch.
    """
    ddp: Any = nn.parallel.DistributedDataParallel
    renamed = "forward_sync_buffers" in inspect.signature(ddp).parameters  # newer versions warn about the old name
    return ddp(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        static_graph=not recipe.compile,  # every step uses every parameter; torch.compile has a graph of its own
        **{"forward_sync_buffers" if renamed else "broadcast_buffers": False},
    )


def _sums_and_counts(means: Iterable[Tensor], rows: int) -> Tensor:
    """Return means over a batch as sums over its rows, with the number of rows: (figures, 2) float64."""
    sums = rows * torch.stack([value.double() for value in means])
    return torch.stack([sums, torch.full_like(sums, rows)], dim=1)


class _Sums:
    """Running sums and counts of named figures, over batches and, at the end, over workers.

    `initial`: totals over all workers with which a resumed epoch starts. Only rank 0 adds them, so they count once.
    """

    def __init__(self, worker: WorkerContext, initial: Mapping[str, list[float]]):
        self._worker = worker
        self._initial = {name: pair if worker.rank == 0 else [0.0, 0.0] for name, pair in initial.items()}
        self._tables: dict[tuple[str, ...], Tensor] = {}

    def add(self, names: Sequence[str], pairs: Tensor) -> None:
        """Add figures' sums and counts, (figures, 2). The training figures come together, and those of validation."""
        key = tuple(names)
        if key not in self._tables:
            initial = [self._initial.pop(name, [0.0, 0.0]) for name in names]
            self._tables[key] = torch.tensor(initial, dtype=torch.float64, device=self._worker.device)
        self._tables[key] = self._tables[key] + pairs

    def totals(self) -> dict[str, list[float]]:
        """Return each figure's sum and count over all workers. A collective call: every rank must make it."""
        if not self._tables:
            return {}
        names = [name for key in self._tables for name in key]
        table = torch.cat(list(self._tables.values()))
        if self._worker.world_size > 1:
            torch.distributed.all_reduce(table)
        return dict(sorted(zip(names, table.tolist(), strict=True)))

    def means(self) -> tuple[dict[str, Any], dict[str, int]]:
        """Return each figure's mean over all workers, and the number of its values. Without figures without values."""
        totals = {name: pair for name, pair in self.totals().items() if pair[1]}
        return (
            {name: total / count for name, (total, count) in totals.items()},
            {name: int(count) for name, (_, count) in totals.items()},
        )

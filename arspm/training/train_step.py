"""One optimisation step and one validation step as functions, and the learning rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from arspm.config import Recipe
from arspm.training.batch import Batch

_ADVICE = "Look at these clips, or lower the learning rate"
_MAX_NAMED = 20  # clips in an error about validation


class Task(NamedTuple):
    """What a stage trains: a network, its loss, its validation figures and the objective that selects the best epoch.

    `model`: the network to train. `loss(model, batch)`: "loss" and its terms, each a scalar, the mean over the batch.
    `score(model, batch)`: validation figures, each (batch,) and finite. `objective`: name of the figure that selects
    the best epoch, such as "val_l1" or "train_loss" (see `runs.kept_epoch`). `maximise`: whether larger is better.
    """

    model: nn.Module
    loss: Callable[[nn.Module, Batch], dict[str, Tensor]]
    score: Callable[[nn.Module, Batch], dict[str, Tensor]]
    objective: str
    maximise: bool


class NonFiniteLoss(RuntimeError):
    """Raised if the loss or a gradient of a step is NaN or infinite."""


class BrokenFigure(ValueError):
    """Raised if a validation figure is NaN or infinite for rows that should have it."""

    def in_epoch(self, epoch: int) -> BrokenFigure:
        """Return the error with the epoch, counted from 1."""
        return BrokenFigure(f"validation of epoch {epoch}: {self}")


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Return a step's learning rate: times `decay` after every `decay_epochs` epochs (section 4.1, reading M).

    In the first `warmup_epochs` it is multiplied by a factor that rises linearly from step to step and ends at 1
    (gradual warm-up, section 2.2 of Goyal et al. 2017). The paper has no warm-up.
    """
    epoch = step // steps_per_epoch
    rate = recipe.learning_rate * recipe.decay ** (epoch // recipe.decay_epochs)
    warmup_steps = recipe.warmup_epochs * steps_per_epoch
    return rate * (step + 1) / warmup_steps if step + 1 < warmup_steps else rate


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Adam:
    """Return Adam over the trainable parameters, with the recipe's betas and eps (section 4.1, reading M)."""
    return torch.optim.Adam(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=recipe.learning_rate,
        betas=(recipe.beta1, recipe.beta2),
        eps=recipe.eps,
        fused=recipe.fused,
    )


def step_gradients(
    task: Task, model: nn.Module, batch: Batch, *, precision: str, loss_weight: float = 1.0
) -> dict[str, Tensor]:
    """Set the gradients of one step. Returns the loss and its terms, detached, on the device and without `loss_weight`.

    `precision`: "fp32" or "bf16". `loss_weight`: factor on the loss; see WorkerContext.
    """
    model.zero_grad(set_to_none=True)
    with autocast(batch.weight.device, precision):
        terms = task.loss(model, batch)
    (loss_weight * terms["loss"]).backward()
    return {name: value.detach() for name, value in terms.items()}


def train_step(
    gradients: Callable[[Batch], dict[str, Tensor]], optimizer: torch.optim.Optimizer, batch: Batch, *, rate: float
) -> dict[str, Tensor]:
    """Take one optimisation step. Returns what `gradients` returns.

    `gradients`: sets the gradients, as `step_gradients` does for a task and a network. `rate`: the learning rate.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    terms = gradients(batch)
    optimizer.step()
    return terms


class Scores(NamedTuple):
    """The figures of a validation batch, on the device. Rows of weight 0, which only fill the last step, do not count.

    `totals`: each figure's sum and count over the rows that count, (figures, 2) float64. `values`: (figures, batch)
    float64. `broken`: whether a figure of a row that counts is NaN or infinite, (figures, batch).
    """

    names: list[str]
    clip_ids: list[str]
    totals: Tensor
    values: Tensor
    broken: Tensor


@torch.no_grad()
def score_batch(task: Task, model: nn.Module, batch: Batch, *, precision: str) -> Scores:
    """Return the figures of a batch's rows. Does not wait for the device, so `broken_figure` checks them afterwards."""
    with autocast(batch.weight.device, precision):
        figures = task.score(model, batch)
    values = torch.stack([each.double() for each in figures.values()])
    counted = (batch.weight > 0).expand_as(values)
    sums = values.where(counted, 0.0).sum(dim=1)  # not a product with the weights: 0 * NaN is NaN
    totals = torch.stack([sums, counted.sum(dim=1).double()], dim=1)
    return Scores(list(figures), batch.clip_ids, totals, values, counted & ~values.isfinite())


def broken_figure(scores: Sequence[Scores]) -> BrokenFigure | None:
    """Return the error of the first batch that has a NaN or infinite figure, with its clips, or None if none has one.

    Waits for the device.
    """
    if not scores or not any(found := torch.stack([each.broken.any() for each in scores]).tolist()):
        return None
    first = scores[found.index(True)]
    for name, values, broken in zip(first.names, first.values.tolist(), first.broken.tolist(), strict=True):
        rows = [row for row, bad in enumerate(broken) if bad]
        if rows:
            ids = _named([first.clip_ids[row] for row in rows])
            return BrokenFigure(f"val_{name} is {values[rows[0]]} for {ids}. {_ADVICE}")
    return None


def is_finite(loss: Tensor, model: nn.Module) -> Tensor:
    """Return whether the loss and the gradients of a step are finite, a boolean scalar on the device.

    With DDP the gradients are those of all workers. The optimiser has then used them already, so a training that is not
    finite must end before its next checkpoint: see `late_check`.
    """
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if loss.device.type == "cuda":
        total = torch.nn.utils.get_total_norm(gradients, torch.inf)
    else:  # a tenth of the time on a CPU: 0.7 ms instead of 7.6 for the demo's decoder. 0 times NaN or infinity is NaN
        total = torch.stack([(0 * gradient).sum() for gradient in gradients]).sum()
    return loss.isfinite() & total.isfinite()


def non_finite_error(loss: float, step: int, clip_ids: Sequence[str]) -> NonFiniteLoss:
    """Return the error of a step whose loss or gradient is not finite, with the step and the batch's clips."""
    finite = math.isfinite(loss)
    what = f"a gradient of step {step} is NaN or infinite" if finite else f"the loss of step {step} is {loss:g}"
    return NonFiniteLoss(f"{what}; the batch's clips: {', '.join(clip_ids)}. {_ADVICE}")


def _named(clip_ids: Sequence[str]) -> str:
    more = f" and {len(clip_ids) - _MAX_NAMED} more" if len(clip_ids) > _MAX_NAMED else ""
    return ", ".join(clip_ids[:_MAX_NAMED]) + more


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch for one step by (seed, step, rank), so that checkpoints need no state of the random generator.

    A CUDA generator's seed is kept on the host and passed to each kernel, so this does not wait for the device.
    """
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1))


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return bf16 autocast on the device for "bf16", a disabled one for "fp32"."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")

"""One optimisation step and one validation batch, as functions. No Ray, no loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from arspm.config import Recipe
from arspm.training.batch import Batch


class Task(NamedTuple):
    """What one stage learns.

    `model`: the network in training. `loss(model, batch)`: "loss" and its terms, each the batch's mean.
    `score(model, batch)`: validation figures, each (batch,); a NaN says that the row has no such figure.
    `objective`: the figure whose best epoch is kept; `maximise`: whether more is better.
    """

    model: nn.Module
    loss: Callable[[nn.Module, Batch], dict[str, Tensor]]
    score: Callable[[nn.Module, Batch], dict[str, Tensor]]
    objective: str
    maximise: bool


class NonFiniteLoss(RuntimeError):
    """The loss of a step is NaN or infinite."""


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The paper's exponential decay: `decay` for every `decay_epochs` whole epochs (section 4.1, reading M)."""
    epoch = step // steps_per_epoch
    return recipe.learning_rate * recipe.decay ** (epoch // recipe.decay_epochs)


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Adam:
    """Adam with the paper's numbers (section 4.1, reading M)."""
    return torch.optim.Adam(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=recipe.learning_rate,
        betas=(recipe.beta1, recipe.beta2),
        eps=recipe.eps,
        fused=recipe.fused,
    )


def train_step(
    task: Task,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    rate: float,
    precision: str,
    share: float = 1.0,
) -> dict[str, Tensor]:
    """Take one step; the loss and its terms, detached and still on the device. `share`: what gradients are times."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    with autocast(batch.weight.device, precision):
        terms = task.loss(model, batch)
    (share * terms["loss"]).backward()
    optimizer.step()
    return {name: value.detach() for name, value in terms.items()}


@torch.no_grad()
def score_batch(task: Task, model: nn.Module, batch: Batch, *, precision: str) -> dict[str, Tensor]:
    """Each figure's sum and count over the batch's rows, as (2,) float64; rows of weight 0 do not count."""
    with autocast(batch.weight.device, precision):
        figures = task.score(model, batch)
    found = {}
    for name, values in figures.items():
        counts = (batch.weight > 0) & ~values.isnan()
        found[name] = torch.stack([values.double()[counts].sum(), counts.sum().double()])
    return found


def require_finite(loss: Tensor, step: int, clip_ids: Sequence[str]) -> None:
    """Raises NonFiniteLoss with the step and the clips of the batch."""
    if not torch.isfinite(loss):
        raise NonFiniteLoss(
            f"the loss of step {step} is {loss.item()}; the batch's clips: {', '.join(clip_ids)}. "
            "Look at these clips, or lower the learning rate"
        )


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make a step's random numbers a function of (seed, step, rank): nothing to save, nothing to restore."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1))


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bf16 autocast on whatever device, or nothing for fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")

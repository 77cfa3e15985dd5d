"""The learning rate as a function of the step."""

from __future__ import annotations

from arspm.config import Recipe


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The paper's exponential decay: `decay` for every `decay_epochs` whole epochs (section 4.1, reading M)."""
    epoch = step // steps_per_epoch
    return recipe.learning_rate * recipe.decay ** (epoch // recipe.decay_epochs)

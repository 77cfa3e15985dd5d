"""Steps that are checked while the next one runs: which error is raised, when, and with what history."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from arspm.config import Recipe
from arspm.corpus.schema import CLIP_ID
from arspm.training.batch import Batch
from arspm.training.columns import WEIGHT
from arspm.training.fit import HISTORY_POINTS_PER_EPOCH
from arspm.training.train_step import NonFiniteLoss, Task
from tests.training.random_data import NUM_STEPS, train

VALUES = np.random.default_rng(0).normal(0, 1e3, 100).astype(np.float32)


def scripted(values: np.ndarray, validated: list[int]) -> Task:
    """A task whose steps have the given losses."""
    losses = iter(values)

    def score(model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        validated.append(1)
        return {"x": batch.weight}

    return Task(
        nn.Linear(1, 1),
        lambda model, batch: {"loss": 0 * model(batch.weight[:, None]).mean() + float(next(losses))},
        score,
        "val_x",
        True,
    )


def batches(count: int) -> list[dict]:
    return [{CLIP_ID: [f"clip {step}"], WEIGHT: np.ones(1, np.float32)} for step in range(count)]


@pytest.mark.parametrize("step", range(2 * NUM_STEPS))
@pytest.mark.parametrize("checkpoint_steps", [None, 1, 3])
def test_no_report_has_a_step_that_is_not_finite(step, checkpoint_steps):
    """The error names the step and its own clips, and comes before the next checkpoint and before validation."""
    losses = VALUES[: 2 * NUM_STEPS].copy()
    losses[step] = np.nan
    validated: list[int] = []
    recipe = Recipe(epochs=2, channels_last=False, checkpoint_steps=checkpoint_steps)
    # without validation batches in between, so that a step's clip has the step's number
    task = scripted(losses, validated)._replace(objective="train_loss", maximise=False)
    reports = train(task, recipe, "gender", num_score_steps=0, batches=lambda _: iter(batches(2 * NUM_STEPS)))
    seen: list[int] = []
    with pytest.raises(NonFiniteLoss, match=rf"^the loss of step {step} is nan; the batch's clips: clip {step}\. Look"):
        seen.extend(report.progress.step for report in reports)
    assert all(reported <= step for reported in seen)


def test_validation_does_not_start_with_a_step_that_is_not_finite():
    validated: list[int] = []
    losses = np.float32([1, 1, 1, np.inf])
    recipe = Recipe(epochs=1, channels_last=False)
    with pytest.raises(NonFiniteLoss, match="the loss of step 3 is inf; the batch's clips: clip 3"):
        list(train(scripted(losses, validated), recipe, "gender", batches=lambda _: iter(batches(6))))
    assert validated == []


@pytest.mark.parametrize("num_steps", [7, 50])
def test_the_history_is_the_mean_of_the_losses_in_float64(num_steps):
    """At a checkpoint within an epoch as well, where some losses are pending."""
    recipe = Recipe(epochs=2, channels_last=False, checkpoint_steps=num_steps // 2)
    task = scripted(VALUES[: 2 * num_steps], [])
    point_steps = max(1, num_steps // HISTORY_POINTS_PER_EPOCH)
    assert num_steps < 50 or point_steps > 1
    many = batches(2 * (num_steps + 2))
    for report in train(task, recipe, "gender", num_steps=num_steps, batches=lambda _: iter(many)):
        expected, total, count = [], 0.0, 0.0
        for step, loss in enumerate(VALUES[: report.progress.step], start=1):
            total, count = total + float(loss), count + 1
            if count == point_steps:
                expected.append([step, total / count])
                total, count = 0.0, 0.0
        assert report.progress.losses == expected
        assert report.progress.pending == [total, count]
    assert report.progress.step == 2 * num_steps


def test_on_step_sees_each_point_of_the_history_at_the_next_step():
    seen = []
    recipe = Recipe(epochs=1, channels_last=False)
    task = scripted(VALUES, [])
    list(
        train(
            task,
            recipe,
            "gender",
            batches=lambda _: iter(batches(6)),
            on_step=lambda progress: seen.append([step for step, _ in progress.losses]),
        )
    )
    assert seen == [[], [1], [1, 2], [1, 2, 3]]

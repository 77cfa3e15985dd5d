"""One training step, its optimiser and learning rate, and one validation step."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from arspm.config import Recipe
from arspm.corpus.schema import CLIP_ID, GENDER
from arspm.training.batch import to_batch
from arspm.training.columns import WEIGHT
from arspm.training.train_step import (
    BrokenFigure,
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
from tests.training.random_data import STAGES, columns, make_task, plain_batches, smoke


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        # five steps per epoch; multiplied by 0.9 at the start of epochs 2, 4, 6 and 48 (counted from 0)
        (0, 1e-3),
        (4, 1e-3),
        (5, 1e-3),
        (9, 1e-3),
        (10, 0.9e-3),
        (19, 0.9e-3),
        (20, 0.81e-3),
        (29, 0.81e-3),
        (30, 0.729e-3),
        (240, 7.9766e-5),  # 0.9 ** 24
        (249, 7.9766e-5),
    ],
)
def test_the_papers_rates(step, expected):
    assert learning_rate(Recipe(), step, 5) == pytest.approx(expected, rel=1e-4)


def test_another_recipe():
    recipe = Recipe(learning_rate=0.5, decay=0.1, decay_epochs=3)
    assert [learning_rate(recipe, step, 1) for step in range(7)] == pytest.approx([0.5] * 3 + [0.05] * 3 + [0.005])


def test_the_rate_rises_from_step_to_step_in_the_warm_up():
    """Four steps per epoch, so a warm-up of 1.5 epochs has six. The decay is that of a recipe without a warm-up."""
    recipe = Recipe(learning_rate=0.6, decay=0.5, decay_epochs=2, warmup_epochs=1.5)
    expected = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6, 0.6, 0.3]
    assert [learning_rate(recipe, step, 4) for step in range(9)] == pytest.approx(expected)
    longer = recipe.model_copy(update={"warmup_epochs": 3.0})
    plain = recipe.model_copy(update={"warmup_epochs": 0.0})
    for step in range(16):
        factor = min(1, (step + 1) / 12)
        assert learning_rate(longer, step, 4) == pytest.approx(factor * learning_rate(plain, step, 4))
    assert learning_rate(longer, 11, 4) == learning_rate(plain, 11, 4)


def test_the_optimizer_steps_at_the_scheduled_rate():
    """Adam's first step is lr * g / (|g| + eps), so with g = 1 the change of the weight is the learning rate."""
    moves = []
    for rate in (1e-3, 5e-4):
        model = nn.Linear(1, 1, bias=False)
        task = Task(model, lambda m, batch: {"loss": m(batch.weight[:, None]).mean()}, lambda *_: {}, "", True)
        optimizer = make_optimizer(model, Recipe(learning_rate=1.0))
        before = model.weight.item()
        batch = to_batch(plain_batches(1)[0], torch.device("cpu"))
        train_step(partial(step_gradients, task, model, precision="fp32"), optimizer, batch, rate=rate)
        moves.append(before - model.weight.item())
    assert moves == pytest.approx([1e-3, 5e-4], rel=1e-3)


def test_the_optimizer_is_adam_with_the_papers_numbers():
    """Against Kingma and Ba's algorithm 1 in float64, with beta1 0.5, beta2 0.999 and gradients down to eps."""
    model = nn.Linear(3, 1, bias=False)
    optimizer = make_optimizer(model, Recipe())
    weight = model.weight.detach().double().numpy().copy()
    m, v = np.zeros_like(weight), np.zeros_like(weight)
    gradients = np.random.default_rng(0).normal(0, [1, 1e-3, 1e-5], (6, 1, 3))
    for t, g in enumerate(gradients, start=1):
        m, v = 0.5 * m + 0.5 * g, 0.999 * v + 0.001 * g**2
        weight -= 1e-3 * (m / (1 - 0.5**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-4)
        model.weight.grad = torch.from_numpy(g).float()
        optimizer.step()
        np.testing.assert_allclose(model.weight.detach().numpy(), weight, atol=2e-7)


def test_random_numbers_follow_from_seed_step_and_rank():
    def draw(*key: int) -> float:
        seed_step(*key)
        return torch.rand(()).item()

    assert draw(0, 1, 2) == draw(0, 1, 2)
    assert len({draw(*key) for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1))}) == 5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("where", ["loss", "first", "last"])
def test_one_value_of_the_loss_or_of_a_gradient_that_is_not_finite_is_found(bad, where):
    """And many large ones are not taken for one: their sum would be infinite."""
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 3e38)
    loss = torch.tensor(2.0)
    assert is_finite(loss, model)
    if where == "loss":
        loss.fill_(bad)
    else:
        [*model.parameters()][0 if where == "first" else -1].grad.view(-1)[-1] = bad
    assert bool(is_finite(loss, model)) == np.isfinite(bad)


@pytest.mark.parametrize("stage", STAGES)
def test_the_loss_falls_on_one_repeated_batch(stage):
    config = smoke()
    task = make_task(stage, config)
    optimizer = make_optimizer(task.model, getattr(config.training, stage))
    batch = to_batch(columns(stage, 0), torch.device("cpu"))
    losses = []
    for _ in range(40):
        rate = 3e-3 if stage == "gender" else 1e-3
        terms = train_step(
            partial(step_gradients, task, task.model.train(), precision="fp32"), optimizer, batch, rate=rate
        )
        losses.append(float(terms["loss"]))
    assert losses[-1] < (0.9 if stage == "decoder" else 0.7) * losses[0], (
        losses
    )  # the decoder must draw noise, which is hard
    assert all(not value.requires_grad for value in terms.values())


def test_rows_that_only_fill_the_last_step_are_not_validated_on():
    task = Task(nn.Linear(1, 1), lambda *_: {}, lambda _, batch: {"x": batch.gender.float()}, "val_x", True)
    batch = to_batch(
        {CLIP_ID: list("abcd"), WEIGHT: np.float32([1, 1, 0, 1]), GENDER: np.array([1, 3, 50, 5])}, torch.device("cpu")
    )
    scores = score_batch(task, task.model, batch, precision="fp32")
    assert (scores.names, scores.totals.tolist()) == (["x"], [[9, 3]])


def test_a_figure_that_is_not_finite_is_an_error_that_names_the_clips():
    """Not a smaller number of clips: of 20, NaN, 22 and NaN degrees the mean would be 21."""
    batch = to_batch({CLIP_ID: list("abcde"), WEIGHT: np.float32([1, 1, 1, 1, 0])}, torch.device("cpu"))
    degrees = torch.tensor([20, torch.nan, 22, torch.inf, torch.nan])
    figures = {"whole": torch.ones(5), "x": degrees}
    task = Task(nn.Linear(1, 1), lambda *_: {}, lambda *_: figures, "val_x", True)
    broken = score_batch(task, task.model, batch, precision="fp32")
    degrees[1], degrees[3] = 21, 23
    whole = score_batch(task, task.model, batch, precision="fp32")
    assert whole.totals.tolist() == [[4, 4], [86, 4]]  # e only fills the step
    assert broken_figure([whole, whole]) is None
    assert broken_figure([]) is None
    error = broken_figure([whole, broken])
    assert isinstance(error, BrokenFigure)
    assert str(error).startswith("val_x is nan for b, d. Look at these clips")

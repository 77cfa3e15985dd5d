"""The training loop: figures, the best epoch, callbacks and errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from arspm.config import Recipe
from arspm.corpus.schema import FACE_FEATURE
from arspm.training.batch import Batch, to_batch
from arspm.training.checkpoint import TrainingState
from arspm.training.train_step import BrokenFigure, NonFiniteLoss, Task
from tests.training.conftest import TIMINGS
from tests.training.random_data import NUM_STEPS, ROWS, STAGES, columns, make_task, plain_batches, smoke, stream, train


@pytest.mark.parametrize("stage", STAGES)
def test_the_figures_of_an_epoch(stage):
    config = smoke()
    recipe = getattr(config.training, stage)
    task = make_task(stage, config)
    report = next(train(task, recipe, stage))
    assert {"train_loss", task.objective, "epoch", "step", "learning_rate", *TIMINGS} <= set(report.figures)
    assert (report.figures["epoch"], report.figures["step"]) == (1, NUM_STEPS)
    assert [step for step, _ in report.progress.losses] == [1, 2, 3, 4]
    assert report.figures["train_loss"] == pytest.approx(np.mean([loss for _, loss in report.progress.losses]))
    batches = [to_batch(columns(stage, 1000, step), torch.device("cpu")) for step in (4, 5)]
    with torch.no_grad():
        score = [task.score(task.model.eval(), batch) for batch in batches]
    name = task.objective.removeprefix("val_")
    values = torch.cat([figures[name] for figures in score]).double()
    assert report.figures[task.objective] == pytest.approx(float(values.nanmean()), rel=1e-5)


def scripted(scores, losses, maximise=False) -> Task:
    """A task whose epochs of four steps and some validation steps have the given scores and training losses."""
    model = nn.Linear(1, 1)
    score, loss = (iter([value for value in values for _ in range(count)]) for values, count in (scores, losses))
    return Task(
        model,
        lambda model, batch: {"loss": 0 * model(batch.weight[:, None]).mean() + next(loss)},
        lambda _, batch: {"x": torch.full_like(batch.weight, next(score))},
        "val_x",
        maximise,
    )


# Of four rows each, so three batches are enough rows to choose by and two are not.
ENOUGH, FEW = 3, 2


@pytest.mark.parametrize(
    ("scores", "losses", "maximise", "num_score_steps", "best", "by"),
    [
        ([0.5, 0.9, 0.1, 0.8], [4, 3, 2, 1], True, ENOUGH, 2, "val_x"),
        ([0.5, 0.9, 0.1, 0.8], [4, 3, 2, 1], False, ENOUGH, 3, "val_x"),
        ([0.5, 0.9, 0.9, 0.9], [4, 3, 1, 2], True, ENOUGH, 3, "val_x"),  # of equal scores, the smallest loss
        ([0.5, 0.1, 0.1, 0.1], [4, 3, 1, 1], False, ENOUGH, 3, "val_x"),  # and of equal losses the first
        ([1.0, 1.0, 1.0, 1.0], [4, 3, 2, 1], True, ENOUGH, 4, "val_x"),
        ([1.0, 0.9, 0.8, 0.7], [4, 3, 1, 2], True, FEW, 3, "train_loss"),
        ([1.0, 0.9, 0.8, 0.7], [4, 3, 1, 2], False, FEW, 3, "train_loss"),
    ],
)
def test_the_best_epoch_is_kept(scores, losses, maximise, num_score_steps, best, by, tmp_path):
    task = scripted((scores, num_score_steps), (losses, 4), maximise)
    recipe = Recipe(epochs=4, channels_last=False, learning_rate=0.1)
    kept = None
    batches = plain_batches(4 * (4 + num_score_steps))
    for report in train(task, recipe, "gender", num_score_steps=num_score_steps, batches=lambda _: iter(batches)):
        with torch.no_grad():  # the gradient is zero, so this is what tells the epochs' weights apart
            task.model.weight.fill_(report.progress.epoch + 1)
        report.save(tmp_path / str(report.progress.epoch))
        kept = safetensors.torch.load_file(tmp_path / str(report.progress.epoch) / "best.safetensors")
    assert kept is not None
    if best > 1:  # an epoch's weights are what the previous epoch's report left
        assert kept["weight"].item() == best
    progress = report.progress
    assert (progress.best_epoch, progress.chosen_by, progress.num_held_out) == (best, by, 4 * num_score_steps)
    assert progress.best == pytest.approx((scores if by == "val_x" else losses)[best - 1])


def test_an_epoch_is_compared_with_the_kept_one_after_a_resume(tmp_path):
    """By the same rule: the kept epoch's loss is in the history."""
    recipe = Recipe(epochs=4, channels_last=False)
    scores, losses = [0.9, 0.9, 0.9, 0.9], [3, 2, 4, 1]
    task = scripted((scores, ENOUGH), (losses, 4), True)
    batches = plain_batches(4 * (4 + ENOUGH))
    for report in train(task, recipe, "gender", num_score_steps=ENOUGH, batches=lambda _: iter(batches)):
        report.save(tmp_path / str(report.progress.epoch))
    assert report.progress.best_epoch == 4
    task = scripted((scores[2:], ENOUGH), (losses[2:], 4), True)
    resumed = train(task, recipe, "gender", tmp_path / "2", num_score_steps=ENOUGH, batches=lambda _: iter(batches))
    assert [report.progress.best_epoch for report in resumed] == [2, 4]


def test_a_validation_figure_that_is_nan_is_an_error_that_names_epoch_and_clips():
    task = make_task("encoder", smoke())
    calls = []

    def score(model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        calls.append(1)
        figures = {"cos_degrees": torch.tensor([20.0, torch.nan, 22.0, torch.nan])}
        return figures if len(calls) > 2 else {"cos_degrees": torch.ones(4)}  # two validation steps per epoch

    reports = train(task._replace(score=score), smoke().training.encoder, "encoder")
    assert next(reports).figures["val_cos_degrees"] == 1
    with pytest.raises(
        BrokenFigure,
        match=r"^validation of epoch 2: val_cos_degrees is nan for clip \(1000, 4\) 1, clip \(1000, 4\) 3\. Look",
    ):
        next(reports)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gradient_that_is_not_finite_stops_one_step_later(precision):
    """Although the loss is finite: the derivative of the square root at 0 is infinite. The error names its own step."""
    model = nn.Linear(1, 1, bias=False)
    steps = []

    def loss(model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        steps.append(1)
        value = model(batch.weight[:, None]).float().mean()
        return {"loss": (value - value.detach()).abs().sqrt() if len(steps) == 3 else value}

    task = Task(model, loss, lambda _, batch: {"x": batch.weight}, "val_x", True)
    recipe = Recipe(epochs=5, channels_last=False, precision=precision)
    with pytest.raises(NonFiniteLoss, match=r"a gradient of step 2 is NaN or infinite; the batch's clips: a, b, c, d"):
        list(train(task, recipe, "gender", batches=lambda _: iter(plain_batches(30))))
    assert len(steps) == 4


def test_an_objective_that_was_not_measured_is_named():
    task = make_task("gender", smoke())._replace(objective="val_f1")
    with pytest.raises(
        ValueError, match=r"val_f1 was not measured in epoch 1; the measured figures are .*val_accuracy"
    ):
        next(train(task, smoke().training.gender, "gender"))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_clips(bad):
    def corrupted(progress: TrainingState) -> Iterator[dict[str, Any]]:
        for number, batch in enumerate(stream("encoder", 2, progress)):
            if number == 2:
                batch[FACE_FEATURE][1, 3] = bad
            yield batch

    config = smoke()
    with pytest.raises(NonFiniteLoss, match=r"the loss of step 2 is (nan|inf)") as caught:
        list(train(make_task("encoder", config), config.training.encoder, "encoder", batches=corrupted))
    for row in range(ROWS):
        assert f"clip (0, 2) {row}" in str(caught.value)


def test_an_epochs_figures_contain_its_learning_rate():
    config = smoke(training__gender__epochs=5, training__gender__decay=0.5)
    reports = train(make_task("gender", config), config.training.gender, "gender")
    assert [report.figures["learning_rate"] for report in reports] == pytest.approx([1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4])


def test_on_step_is_called_after_each_step(tmp_path):
    seen = []
    config = smoke()
    list(
        train(
            make_task("gender", config),
            config.training.gender,
            "gender",
            on_step=lambda progress: seen.append((progress.epoch, progress.step_in_epoch, progress.step)),
        )
    )
    assert seen == [(epoch, step, 4 * epoch + step) for epoch in (0, 1) for step in (1, 2, 3, 4)]

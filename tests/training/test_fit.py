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
from arspm.training.batch import to_batch
from arspm.training.checkpoint import TrainingState
from arspm.training.train_step import NonFiniteLoss, Task
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


@pytest.mark.parametrize(("maximise", "best"), [(True, 2), (False, 3)])
def test_the_best_epoch_by_the_objective_is_kept(maximise, best, tmp_path):
    scores = iter([0.5, 0.9, 0.1, 0.9, 0.1])  # of equal values, the first epoch is kept
    model = nn.Linear(1, 1)
    task = Task(
        model,
        lambda model, batch: {"loss": model(batch.weight[:, None]).mean()},
        lambda _, batch: {"x": torch.full_like(batch.weight, next(scores))},
        "val_x",
        maximise,
    )
    recipe = Recipe(epochs=5, channels_last=False)
    weights = []
    for report in train(task, recipe, "gender", num_score_steps=1, batches=lambda _: iter(plain_batches(25))):
        weights.append(model.weight.item())
        report.save(tmp_path / str(report.progress.epoch))
    assert len(set(weights)) == 5
    assert (report.progress.best_epoch, report.progress.best) == (best, pytest.approx(0.9 if maximise else 0.1))
    for epoch in range(best, 6):
        kept = safetensors.torch.load_file(tmp_path / str(epoch) / "best.safetensors")
        assert kept["weight"].item() == weights[best - 1]


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

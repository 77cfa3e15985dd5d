from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from arspm.config import Config, Recipe, override
from arspm.config.presets import preset
from arspm.corpus.schema import CLIP_ID, FACE_FEATURE, GENDER, IDENTITY, SPECTROGRAM
from arspm.model import speech_portrait
from arspm.model.speech_portrait import FacePrior
from arspm.training import tasks
from arspm.training.batch import FACE, UNKNOWN, WEIGHT, to_batch
from arspm.training.checkpoint import TrainingState
from arspm.training.fit import Report, WorkerContext, fit
from arspm.training.train_step import NonFiniteLoss, Task, make_optimizer, score_batch, seed_step, train_step
from tests.training.conftest import TIMINGS, progress_of

STAGES = ("vggface", "gender", "decoder", "encoder")
ROWS = 4
NUM_STEPS, NUM_SCORE_STEPS = 4, 2


def smoke(**changes: Any) -> Config:
    return override(preset("smoke"), {name.replace("__", "."): value for name, value in changes.items()})


def make_task(stage: str, config: Config, device: str = "cpu") -> Task:
    if stage == "vggface":
        return tasks.vggface_task(config, num_identities=3, held_out=True)
    if stage == "gender":
        return tasks.gender_task(config)
    state = torch.get_rng_state()
    torch.manual_seed(99)  # the networks that earlier stages left
    network = speech_portrait.vggface(config, 3)
    hidden, means = speech_portrait.face_decoder(config).fc1, {"neutral": torch.randn(config.feature_dim)}
    torch.set_rng_state(state)
    if stage == "decoder":
        return tasks.decoder_task(config, network.to(device))
    prior = FacePrior("neutral", means).to(device)
    return tasks.encoder_task(config, prior, hidden.to(device), network.fc8.to(device))


def columns(stage: str, *key: int) -> dict[str, Any]:
    """A batch of made-up rows: a function of `key`."""
    rng = np.random.default_rng(key)
    found: dict[str, Any] = {
        CLIP_ID: [f"clip {key} {row}" for row in range(ROWS)],
        WEIGHT: np.ones(ROWS, np.float32),
    }
    if stage in ("vggface", "decoder"):
        found[FACE] = rng.integers(0, 256, (ROWS, 64, 64, 3), dtype=np.uint8)
    if stage in ("gender", "encoder"):
        size = (2, 97, 130) if stage == "encoder" else (2, 20, 40)  # half of it is enough
        found[SPECTROGRAM] = rng.standard_normal((ROWS, *size)).astype(np.float16)
    if stage in ("decoder", "encoder"):
        found[FACE_FEATURE] = rng.standard_normal((ROWS, 64)).astype(np.float32)
    if stage == "vggface":
        found[IDENTITY] = rng.integers(0, 3, ROWS)
    if stage == "gender":
        found[GENDER] = np.array([0, 1, UNKNOWN, rng.integers(0, 2)])
    return found


def stream(stage: str, epochs: int, progress: TrainingState) -> Iterator[dict[str, Any]]:
    """What `fit` asks for: from `progress` on, each epoch's training batches and then the same validation batches."""
    first = progress.epoch, progress.step_in_epoch
    return (
        columns(stage, epoch, step) if step < NUM_STEPS else columns(stage, 1000, step)
        for epoch in range(epochs)
        for step in range(NUM_STEPS + NUM_SCORE_STEPS)
        if (epoch, step) >= first
    )


def train(task: Task, recipe: Recipe, stage: str, resume: Path | None = None, **changes: Any) -> Iterator[Report]:
    settings: dict[str, Any] = {
        "seed": 3,
        "num_steps": NUM_STEPS,
        "num_score_steps": NUM_SCORE_STEPS,
        "batches": lambda progress: stream(stage, recipe.epochs, progress),
        "place": WorkerContext(),
        "config": {"preset": "smoke"},
    }
    return fit(task, recipe, resume=resume, **settings | changes)


# --- learning


@pytest.mark.parametrize("stage", STAGES)
def test_the_loss_falls_on_one_repeated_batch(stage):
    config = smoke()
    task = make_task(stage, config)
    optimizer = make_optimizer(task.model, getattr(config.training, stage))
    batch = to_batch(columns(stage, 0), torch.device("cpu"))
    losses = []
    for _ in range(40):
        rate = 3e-3 if stage == "gender" else 1e-3
        terms = train_step(task, task.model.train(), optimizer, batch, rate=rate, precision="fp32")
        losses.append(float(terms["loss"]))
    assert losses[-1] < (0.9 if stage == "decoder" else 0.7) * losses[0], losses  # noise is hard to draw
    assert all(not value.requires_grad for value in terms.values())


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


def test_rows_that_only_fill_the_last_step_are_not_validated_on():
    task = Task(nn.Linear(1, 1), lambda *_: {}, lambda _, batch: {"x": batch.gender.float()}, "val_x", True)
    batch = to_batch(
        {CLIP_ID: list("abcd"), WEIGHT: np.float32([1, 1, 0, 1]), GENDER: np.array([1, 3, 50, 5])}, torch.device("cpu")
    )
    assert score_batch(task, task.model, batch, precision="fp32")["x"].tolist() == [9, 3]
    masked = task._replace(score=lambda _, batch: {"x": batch.gender.float().masked_fill(batch.gender == 3, torch.nan)})
    assert score_batch(masked, task.model, batch, precision="fp32")["x"].tolist() == [6, 2]


# --- going on


@pytest.mark.parametrize("stage", STAGES)
def test_killed_and_resumed_equals_unbroken_to_the_bit(stage, tmp_path):
    """At the end of an epoch and amid one: weights, best weights, optimizer and history."""
    changes = {f"training.{stage}.checkpoint_steps": 3, f"training.{stage}.epochs": 3}
    augment = {f"training.{name}.augment": True for name in STAGES}
    config = smoke(**changes, **augment, vggface__dropout=0.5)
    recipe = getattr(config.training, stage)

    def run(folder: str, resume: Path | None = None) -> list[Path]:
        places = []
        for number, report in enumerate(train(make_task(stage, config), recipe, stage, resume)):
            report.save(tmp_path / folder / str(number))
            places.append(tmp_path / folder / str(number))
            # what the caller does between two steps must not matter
            torch.rand(number + 1)
        return places

    torch.manual_seed(1)
    unbroken = run("unbroken")
    steps = [progress_of(place)["step"] for place in unbroken]
    assert steps == [3, 4, 6, 8, 9, 12]
    for start in (0, 1, 4):  # amid the first epoch, at its end, amid the last one
        torch.manual_seed(2 + start)  # another process's luck, and other weights to begin with
        resumed = run(f"from {start}", unbroken[start])
        assert len(resumed) == len(unbroken) - start - 1
        for expected, found in zip(unbroken[start + 1 :], resumed, strict=True):
            assert progress_of(found) == progress_of(expected)
            for file in ("model.safetensors", "optimizer.safetensors", "best.safetensors"):
                assert (found / file).exists() == (expected / file).exists()
                if (found / file).exists():
                    assert (found / file).read_bytes() == (expected / file).read_bytes(), file


def test_a_checkpoint_that_is_wanted_at_once_is_one_to_go_on_from(tmp_path):
    config = smoke()
    recipe = config.training.gender
    asked = []

    def save_now(progress: TrainingState) -> bool:
        asked.append(progress.step)
        return progress.step in (2, 4)  # amid the first epoch, and at its end, where there is one anyway

    for number, report in enumerate(train(make_task("gender", config), recipe, "gender", save_now=save_now)):
        report.save(tmp_path / str(number))
    assert asked == list(range(1, 9))
    assert [progress_of(tmp_path / name)["step"] for name in "012"] == [2, 4, 8]
    *_, last = train(make_task("gender", config), recipe, "gender", tmp_path / "0")
    last.save(tmp_path / "resumed")
    assert progress_of(tmp_path / "resumed") == progress_of(tmp_path / "2")
    assert (tmp_path / "resumed/model.safetensors").read_bytes() == (tmp_path / "2/model.safetensors").read_bytes()


def test_finished_training_does_nothing_more(tmp_path):
    config = smoke()
    *_, last = train(make_task("gender", config), config.training.gender, "gender")
    assert last.finished
    last.save(tmp_path)
    task = make_task("gender", config)
    assert list(train(task, config.training.gender, "gender", tmp_path)) == []


def test_batch_norm_statistics_are_restored(tmp_path):
    config = smoke()
    trained = make_task("gender", config)
    next(train(trained, config.training.gender, "gender")).save(tmp_path)
    fresh = make_task("gender", config)
    one_more = config.training.gender.model_copy(update={"epochs": 2})
    next(train(fresh, one_more, "gender", tmp_path, num_steps=1))  # takes up the statistics
    names = [name for name, _ in fresh.model.named_buffers()]
    assert any(name.endswith("running_var") for name in names)
    stored = safetensors.torch.load_file(tmp_path / "model.safetensors")
    for name, buffer in trained.model.named_buffers():
        assert torch.equal(stored[name], buffer)
    assert int(stored["convs.0.1.num_batches_tracked"]) == NUM_STEPS
    assert int(dict(fresh.model.named_buffers())["convs.0.1.num_batches_tracked"]) == NUM_STEPS + 1


# --- the loop's promises


@pytest.mark.parametrize(("maximise", "best"), [(True, 2), (False, 3)])
def test_the_best_epoch_by_the_objective_is_kept(maximise, best, tmp_path):
    scores = iter([0.5, 0.9, 0.1, 0.9, 0.1])  # the first of equals stays
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


def plain_batches(count: int) -> list[dict[str, Any]]:
    return [{CLIP_ID: list("abcd"), WEIGHT: np.ones(4, np.float32)}] * count


def test_an_objective_that_was_not_measured_is_named():
    task = make_task("gender", smoke())._replace(objective="val_f1")
    with pytest.raises(ValueError, match=r"val_f1 was not measured; there are .*val_accuracy"):
        next(train(task, smoke().training.gender, "gender"))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_clips(bad):
    def spoilt(progress: TrainingState) -> Iterator[dict[str, Any]]:
        for number, batch in enumerate(stream("encoder", 2, progress)):
            if number == 2:
                batch[FACE_FEATURE][1, 3] = bad
            yield batch

    config = smoke()
    with pytest.raises(NonFiniteLoss, match=r"the loss of step 2 is (nan|inf)") as caught:
        list(train(make_task("encoder", config), config.training.encoder, "encoder", batches=spoilt))
    for row in range(ROWS):
        assert f"clip (0, 2) {row}" in str(caught.value)


def test_the_optimizer_steps_at_the_scheduled_rate():
    """With eps far above the gradient Adam's first step is lr * g / (|g| + eps), so a weight tells the rate."""
    moves = []
    for rate in (1e-3, 5e-4):
        model = nn.Linear(1, 1, bias=False)
        task = Task(model, lambda m, batch: {"loss": m(batch.weight[:, None]).mean()}, lambda *_: {}, "", True)
        optimizer = make_optimizer(model, Recipe(learning_rate=1.0))
        before = model.weight.item()
        train_step(
            task, model, optimizer, to_batch(plain_batches(1)[0], torch.device("cpu")), rate=rate, precision="fp32"
        )
        moves.append(before - model.weight.item())
    assert moves == pytest.approx([1e-3, 5e-4], rel=1e-3)


def test_the_optimizer_is_adam_with_the_papers_numbers():
    """Kingma and Ba's algorithm 1 in float64, with beta1 0.5, beta2 0.999 and an eps that the gradients feel."""
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


def test_the_rates_of_the_epochs_are_noted():
    config = smoke(training__gender__epochs=5, training__gender__decay=0.5)
    reports = train(make_task("gender", config), config.training.gender, "gender")
    assert [report.figures["learning_rate"] for report in reports] == pytest.approx([1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4])


def test_each_step_is_told(tmp_path):
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


def test_random_numbers_follow_from_seed_step_and_rank():
    def draw(*key: int) -> float:
        seed_step(*key)
        return torch.rand(()).item()

    assert draw(0, 1, 2) == draw(0, 1, 2)
    assert len({draw(*key) for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1))}) == 5

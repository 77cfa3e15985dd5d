"""The training loop, resumed from its checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from arspm.training.checkpoint import TrainingState
from tests.training.conftest import progress_of
from tests.training.random_data import NUM_STEPS, STAGES, make_task, smoke, train


@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(stage, tmp_path):
    """Weights, best weights, optimizer and history, after resuming within an epoch and at the end of one.

    The warm-up takes six steps, so the first two resumed trainings begin within it.
    """
    changes = {f"training.{stage}.checkpoint_steps": 3, f"training.{stage}.epochs": 3}
    changes |= {f"training.{stage}.warmup_epochs": 1.5}
    augment = {f"training.{name}.augment": True for name in STAGES}
    config = smoke(**changes, **augment, vggface__dropout=0.5)
    recipe = getattr(config.training, stage)

    def run(folder: str, resume: Path | None = None) -> list[Path]:
        folders = []
        for number, report in enumerate(train(make_task(stage, config), recipe, stage, resume)):
            report.save(tmp_path / folder / str(number))
            folders.append(tmp_path / folder / str(number))
            # random numbers that the caller draws between two steps must not matter
            torch.rand(number + 1)
        return folders

    torch.manual_seed(1)
    uninterrupted = run("uninterrupted")
    steps = [progress_of(folder)["step"] for folder in uninterrupted]
    assert steps == [3, 4, 6, 8, 9, 12]
    for start in (0, 1, 4):  # within the first epoch, at its end, within the last epoch
        torch.manual_seed(2 + start)  # another random state and other initial weights, as in a new process
        resumed = run(f"from {start}", uninterrupted[start])
        assert len(resumed) == len(uninterrupted) - start - 1
        for expected, found in zip(uninterrupted[start + 1 :], resumed, strict=True):
            assert progress_of(found) == progress_of(expected)
            for file in ("model.safetensors", "optimizer.safetensors", "best.safetensors"):
                assert (found / file).exists() == (expected / file).exists()
                if (found / file).exists():
                    assert (found / file).read_bytes() == (expected / file).read_bytes(), file


def test_save_now_gives_a_checkpoint_to_resume_from(tmp_path):
    config = smoke()
    recipe = config.training.gender
    calls = []

    def save_now(progress: TrainingState) -> bool:
        calls.append(progress.step)
        return progress.step in (2, 4)  # within the first epoch, and at its end, where a checkpoint is due anyway

    for number, report in enumerate(train(make_task("gender", config), recipe, "gender", save_now=save_now)):
        report.save(tmp_path / str(number))
    assert calls == list(range(1, 9))
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
    next(train(fresh, one_more, "gender", tmp_path, num_steps=1))  # continues from the restored statistics
    names = [name for name, _ in fresh.model.named_buffers()]
    assert any(name.endswith("running_var") for name in names)
    stored = safetensors.torch.load_file(tmp_path / "model.safetensors")
    for name, buffer in trained.model.named_buffers():
        assert torch.equal(stored[name], buffer)
    assert int(stored["convs.0.1.num_batches_tracked"]) == NUM_STEPS
    assert int(dict(fresh.model.named_buffers())["convs.0.1.num_batches_tracked"]) == NUM_STEPS + 1

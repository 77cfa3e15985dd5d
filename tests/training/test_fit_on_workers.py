"""The training loop on two worker processes over gloo gives the same weights as on one worker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from arspm.training.batch import to_batch
from tests.training.conftest import progress_of
from tests.training.random_data import STAGES

WORKER = """
import gc
import sys
from pathlib import Path
import numpy as np
import torch
from arspm.config import override
from arspm.training import tasks
from arspm.training.batch import FACE, WEIGHT
from arspm.training.fit import WorkerContext, fit
from arspm.training.train_step import BrokenFigure, NonFiniteLoss, Task
from arspm.config.presets import preset
from arspm.corpus.schema import CLIP_ID, GENDER, IDENTITY, SPECTROGRAM
from tests.training.random_data import STAGES, make_task, smoke, train

CONFIG = override(preset("smoke"), {
    "training.vggface.checkpoint_steps": 2, "training.vggface.augment": False, "vggface.dropout": 0.0,
    "training.vggface.learning_rate": 1e-2,
})

def work(rank, world_size, folder, resume=None, ends=None):
    first, end = (ends or range(0, 9, 8 // world_size))[rank : rank + 2]  # this worker's rows of each global batch
    own = slice(first, end)

    def batches(progress):
        begin = progress.epoch, progress.step_in_epoch
        for epoch in range(2):
            for step in range(5):  # 3 training steps, 2 validation steps
                rng = np.random.default_rng((epoch, step))
                faces, people = rng.integers(0, 256, (8, 64, 64, 3), dtype=np.uint8), rng.integers(0, 3, 8)
                weight = np.float32([1, 1, 1, 1, 1, 1, 0, 0] if step == 4 else [1] * 8)
                ids = [""] * (end - first)
                if (epoch, step) >= begin:
                    yield {FACE: faces[own], IDENTITY: people[own], WEIGHT: weight[own], CLIP_ID: ids}

    torch.manual_seed(7)
    task = tasks.vggface_task(CONFIG, 3, True)
    # Not in float32: convolutions of 3 and of 8 rows may use different algorithms, which differ by more than rounding.
    task.model.double().register_forward_pre_hook(lambda _, inputs: tuple(tensor.double() for tensor in inputs))
    worker = WorkerContext(rank, world_size, loss_weight=(end - first) * world_size / 8)
    reports = fit(
        task, CONFIG.training.vggface, seed=0, num_steps=3, num_score_steps=2,
        batches=batches, worker=worker, config={}, resume=resume,
    )
    for number, report in enumerate(reports):
        if rank == 0:
            report.save(folder / str(number))

def gender_task():
    # a network with BatchNorm, scored by a figure that depends on every weight: the first logit
    return tasks.gender_task(CONFIG)._replace(score=lambda model, batch: {"accuracy": model(batch.spectrogram)[:, 0]})

def gender_rows(step):
    rng = np.random.default_rng(step)
    sound, sexes = rng.standard_normal((8, 2, 40, 40)).astype(np.float32), rng.integers(0, 2, 8)
    return {SPECTROGRAM: (1 + step) * sound, GENDER: sexes, CLIP_ID: [""] * 8}

def work_on_gender(rank, world_size, folder):
    own = slice(rank * 8 // world_size, (rank + 1) * 8 // world_size)
    batches = [{name: values[own] for name, values in gender_rows(step).items()} for step in range(4)]
    report = next(fit(
        gender_task(), CONFIG.training.gender, seed=0, num_steps=3, num_score_steps=1,
        batches=lambda _: iter(batches), worker=WorkerContext(rank, world_size), config={},
    ))
    report.save(Path(f"{folder}-gender-of-{rank}"))

def work_on_broken(rank, world_size, folder):
    # breaks a loss, a gradient and a validation figure of the second worker, and writes what each worker raises
    for broken in ("loss", "gradient", "figure"):
        steps = []

        def loss(model, batch):
            value = model(batch.weight[:, None]).mean()
            steps.append(1)
            if rank == 1 and len(steps) == 2:
                value = value * torch.nan if broken == "loss" else value
                value = (value - value.detach()).abs().sqrt() if broken == "gradient" else value
            return {"loss": value}

        def score(model, batch):
            return {"x": batch.weight.where(torch.tensor(broken != "figure" or rank == 0), torch.nan)}

        task = Task(torch.nn.Linear(1, 1), loss, score, "val_x", True)
        ids = [f"clip {row} of {rank}" for row in range(2)]
        batches = [{CLIP_ID: ids, WEIGHT: np.ones(2, np.float32)}] * 9
        try:
            list(fit(
                task, CONFIG.training.gender, seed=0, num_steps=3, num_score_steps=1,
                batches=lambda _: iter(batches), worker=WorkerContext(rank, world_size), config={},
            ))
        except (NonFiniteLoss, BrokenFigure) as error:
            Path(f"{folder}-{broken}-{rank}").write_text(str(error))

def work_on_stages(rank, world_size, folder):
    # both workers have the same rows, so that without dropout they learn what one worker learns from them
    for stage in STAGES:
        torch.manual_seed(0)
        recipe = getattr(smoke().training, stage)
        *_, last = train(make_task(stage, smoke()), recipe, stage, worker=WorkerContext(rank, world_size))
        last.save(Path(f"{folder}-stage-{stage}-of-{rank}"))

if __name__ == "__main__":
    torch.set_num_threads(1)
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}.meeting", rank=rank, world_size=2)
    work_on_broken(rank, 2, folder)
    work_on_gender(rank, 2, folder)
    work_on_stages(rank, 2, folder)
    work(rank, 2, folder)
    work(rank, 2, Path(f"{folder}-resumed"), Path(sys.argv[3]))
    work(rank, 2, Path(f"{folder}-uneven"), ends=(0, 3, 8))
    gc.collect()  # a live DDP network would keep gloo's threads running at interpreter exit, which aborts
    torch.distributed.destroy_process_group()
"""


PROGRAM: dict[str, Any] = {"__name__": "worker"}
exec(WORKER, PROGRAM)


def work_alone(folder: Path, resume: Path | None = None) -> None:
    PROGRAM["work"](0, 1, folder, resume)


@pytest.fixture(scope="module")
def one_and_two_workers(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("workers")
    one, two = folder / "one", folder / "two"
    work_alone(one)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "GLOO_SOCKET_IFNAME": "lo"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(two), str(one / "2")],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=240)
        assert worker.returncode == 0, errors
    return one, two


def check_same_training(expected: Path, found: Path) -> None:
    for file in ("model.safetensors", "best.safetensors"):
        weights, others = (safetensors.torch.load_file(folder / file) for folder in (expected, found))
        for name, tensor in weights.items():
            torch.testing.assert_close(others[name], tensor, rtol=1e-9, atol=1e-12)
    for one, two in zip(progress_of(expected)["epochs"], progress_of(found)["epochs"], strict=True):
        assert two == pytest.approx(one, rel=1e-6)


def test_two_workers_learn_what_one_learns_from_the_same_global_batches(one_and_two_workers):
    one, two = one_and_two_workers
    assert sorted(path.name for path in one.iterdir()) == list("0123")  # steps 2, 3, 4 and 6
    for number in "13":
        check_same_training(one / number, two / number)
    begin, end = (safetensors.torch.load_file(one / number / "model.safetensors") for number in "03")
    for name in ("conv1_1.weight", "fc8.weight"):
        assert (begin[name] - end[name]).abs().max() > 3e-3  # far more than may differ


def test_workers_with_different_numbers_of_rows_learn_what_one_learns(one_and_two_workers):
    one, two = one_and_two_workers
    for number in "13":
        check_same_training(one / number, two.with_name("two-uneven") / number)


@pytest.mark.parametrize("from_two", [True, False])
def test_a_training_resumes_within_an_epoch_on_another_number_of_workers(one_and_two_workers, from_two):
    """The figures of the interrupted epoch include the rows of all workers, each row once."""
    one, two = one_and_two_workers
    resumed = two.with_name("two-resumed")
    if from_two:
        resumed = two.with_name("one-resumed")
        work_alone(resumed, two / "2")
    check_same_training(one / "3", resumed / "0")


def test_all_workers_validate_the_network_that_is_saved(one_and_two_workers):
    _, two = one_and_two_workers
    folders = [two.with_name(f"two-gender-of-{rank}") for rank in (0, 1)]
    assert len({(folder / "model.safetensors").read_bytes() for folder in folders}) == 1
    task = PROGRAM["gender_task"]()
    task.model.load_state_dict(safetensors.torch.load_file(folders[0] / "model.safetensors"))
    with torch.no_grad():
        score = task.score(task.model.eval(), to_batch(PROGRAM["gender_rows"](3), torch.device("cpu")))
    assert progress_of(folders[0])["epochs"][0]["val_accuracy"] == pytest.approx(
        float(score["accuracy"].mean()), rel=1e-5
    )


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_uses_all_parameters_in_every_step(one_and_two_workers, stage):
    """DDP relies on it. BatchNorm's statistics, which DDP does not broadcast, are equal on all workers."""
    one, two = one_and_two_workers
    PROGRAM["work_on_stages"](0, 1, one)
    folders = [two.with_name(f"two-stage-{stage}-of-{rank}") for rank in (0, 1)]
    assert len({(folder / "model.safetensors").read_bytes() for folder in folders}) == 1
    if stage in ("decoder", "encoder"):  # the others have dropout or augmentation, which depend on the rank
        alone, together = (
            progress_of(folder)["epochs"] for folder in (one.with_name(f"one-stage-{stage}-of-0"), folders[0])
        )
        for epoch, other in zip(alone, together, strict=True):
            assert other["train_loss"] == pytest.approx(epoch["train_loss"], rel=0.01)


def test_what_is_not_finite_on_one_worker_is_the_same_error_on_all(one_and_two_workers):
    """At its own step, with the clips of that worker; a gradient is that of all workers. Nobody waits for others."""
    _, two = one_and_two_workers
    clips = "clip 0 of 1, clip 1 of 1"
    every = f"clip 0 of 0, clip 1 of 0, {clips}"
    expected = {
        "loss": f"the loss of step 1 is nan; the batch's clips: {clips}. Look at",
        "gradient": f"a gradient of step 1 is NaN or infinite; the batch's clips: {every}. Look at",
        "figure": f"validation of epoch 1: val_x is nan for {clips}. Look at",
    }
    for broken, message in expected.items():
        first, second = (two.with_name(f"two-{broken}-{rank}").read_text() for rank in (0, 1))
        assert first == second
        assert first.startswith(message)

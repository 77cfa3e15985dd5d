"""Training steps on a GPU: `pytest -m gpu`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from arspm.config import Config, Recipe, override
from arspm.config.presets import preset
from arspm.corpus.schema import WAVEFORM
from arspm.training.batch import Batch, to_batch
from arspm.training.columns import WEIGHT, Picked
from arspm.training.fit import WorkerContext
from arspm.training.staging import Stager
from arspm.training.train_step import autocast
from benchmarks.paper_size import NETWORKS, make_batch, measure
from tests.training.conftest import progress_of
from tests.training.random_data import STAGES, make_task, train

pytestmark = pytest.mark.gpu
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ROWS = 8


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    yield
    for backend, value in zip(backends, before, strict=True):
        backend.allow_tf32 = value


def moved(batch: Batch, device: torch.device) -> Batch:
    tensors = {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
    return dataclasses.replace(batch, **{name: value.to(device) for name, value in tensors.items()})


def step(stage: str, config: Config, device: torch.device, precision: str = "fp32") -> tuple[dict[str, float], Tensor]:
    """Return a step's loss and its terms, and all gradients in one vector."""
    torch.manual_seed(0)
    task = make_task(stage, config, device.type)
    torch.manual_seed(1)
    batch = make_batch(config, ROWS, CPU)
    batch = moved(dataclasses.replace(batch, identity=batch.identity % 3), device)
    model = task.model.to(device, memory_format=torch.channels_last).train()
    with autocast(device, precision):
        terms = task.loss(model, batch)
    terms["loss"].backward()
    gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    return {name: float(value.detach()) for name, value in terms.items()}, torch.cat(gradients).double().cpu()


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_on_the_gpu_matches_the_cpu(stage: str) -> None:
    """In float32 without TF32. In bfloat16, which has three digits, the loss is within 5 %."""
    config = override(preset("smoke"), {f"training.{name}.augment": False for name in STAGES})
    on_cpu, cpu_gradient = step(stage, config, CPU)
    on_cuda, cuda_gradient = step(stage, config, CUDA)
    assert on_cuda == pytest.approx(on_cpu, rel=1e-4, abs=1e-6)
    assert (cuda_gradient - cpu_gradient).norm() < 5e-3 * cpu_gradient.norm()
    in_bf16, _ = step(stage, config, CUDA, "bf16")
    assert in_bf16["loss"] == pytest.approx(on_cpu["loss"], rel=0.05)


def test_a_stored_waveform_becomes_the_same_spectrogram() -> None:
    """Compared before the power of 0.3, which amplifies the STFT's rounding near zero."""
    waveform = torch.randint(-3000, 3000, (4, 96_000), generator=torch.Generator().manual_seed(0)).short().numpy()
    rows = {"clip_id": list("abcd"), "waveform": waveform}
    on_cuda, on_cpu = (to_batch(rows, device, channels_last=True).spectrogram for device in (CUDA, CPU))
    assert on_cuda.device.type == "cuda"
    found, expected = (each.double().cpu().abs() ** (1 / 0.3) * each.cpu().sign() for each in (on_cuda, on_cpu))
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_at_the_papers_size(name: str) -> None:
    found = measure(name, ROWS, 2, Recipe(precision="bf16"), CUDA)
    assert found["finite"]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("stage", STAGES)
def test_training_resumes_from_a_checkpoint_on_the_gpu(stage: str, compiled: bool, tmp_path: Path) -> None:
    """The losses equal an uninterrupted run's up to the GPU's rounding, and the weights have the same names."""
    changes: dict[str, Any] = {f"training.{stage}.epochs": 2, f"training.{stage}.compile": compiled}
    config = override(preset("smoke"), changes)
    recipe = getattr(config.training, stage)

    def run(folder: str, resume: Path | None = None) -> list[dict[str, Any]]:
        torch.manual_seed(0)
        found, task = [], make_task(stage, config, "cuda")
        for number, report in enumerate(train(task, recipe, stage, resume, worker=WorkerContext(device=CUDA))):
            report.save(tmp_path / folder / str(number))
            found.append(progress_of(tmp_path / folder / str(number)))
        return found

    uninterrupted = run("uninterrupted")
    [resumed] = run("resumed", tmp_path / "uninterrupted/0")
    assert [loss for _, loss in resumed["losses"]] == pytest.approx(
        [loss for _, loss in uninterrupted[-1]["losses"]], rel=0.02
    )
    stored = safetensors.torch.load_file(tmp_path / "resumed/0/model.safetensors")
    assert set(stored) == set(make_task(stage, config).model.state_dict())


def test_picked_rows_are_staged_through_the_same_pinned_buffers_as_arrays() -> None:
    values = np.arange(60, dtype=np.int16).reshape(20, 3)
    indices = [np.random.default_rng(number).integers(0, 20, 4) for number in range(6)]
    batches = [
        {"clip_id": list("abcd"), WAVEFORM: Picked(np.split(values, [7]), index), WEIGHT: np.ones(4, np.float32)}
        for index in indices
    ]
    staged = Stager(iter(batches), CUDA)
    for index, found in zip(indices, staged, strict=True):
        assert found[WAVEFORM].device.type == "cuda"
        assert np.array_equal(found[WAVEFORM].cpu().numpy(), values[index])
    staged.close()

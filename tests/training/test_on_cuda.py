"""Training steps on a GPU: `pytest -m gpu`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from functools import partial
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
from arspm.training.checkpoint import TrainingState
from arspm.training.columns import WEIGHT, Picked
from arspm.training.fit import WorkerContext
from arspm.training.staging import Stager
from arspm.training.step_graph import StepGraph
from arspm.training.train_step import NonFiniteLoss, autocast, step_gradients
from benchmarks.paper_size import NETWORKS, make_batch, measure
from tests.training.conftest import progress_of
from tests.training.random_data import NUM_STEPS, STAGES, columns, make_task, train

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


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_at_the_papers_size(name: str, graph: bool) -> None:
    found = measure(name, ROWS, 2, Recipe(precision="bf16"), CUDA, graph=graph)
    assert found["finite"]


WAYS: dict[str, dict[str, Any]] = {"eager": {}, "compiled": {"compile": True}, "graph": {}}


def train_on_cuda(
    stage: str, config: Config, way: str, folder: Path, resume: Path | None = None
) -> list[dict[str, Any]]:
    """Train, and return the state after each epoch."""
    recipe = getattr(config.training, stage).model_copy(update=WAYS[way])
    torch.manual_seed(0)
    task, found = make_task(stage, config, "cuda"), []
    worker = WorkerContext(device=CUDA)
    for number, report in enumerate(train(task, recipe, stage, resume, worker=worker, cuda_graph=way == "graph")):
        report.save(folder / str(number))
        found.append(progress_of(folder / str(number)))
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stage", STAGES)
def test_training_resumes_from_a_checkpoint_on_the_gpu(stage: str, way: str, tmp_path: Path) -> None:
    """The losses equal an uninterrupted run's up to the GPU's rounding, and the weights have the same names."""
    config = override(preset("smoke"), {f"training.{stage}.epochs": 2})
    uninterrupted = train_on_cuda(stage, config, way, tmp_path / "uninterrupted")
    [resumed] = train_on_cuda(stage, config, way, tmp_path / "resumed", tmp_path / "uninterrupted/0")
    assert [loss for _, loss in resumed["losses"]] == pytest.approx(
        [loss for _, loss in uninterrupted[-1]["losses"]], rel=0.02
    )
    stored = safetensors.torch.load_file(tmp_path / "resumed/0/model.safetensors")
    assert set(stored) == set(make_task(stage, config).model.state_dict())


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_graph_trains_to_the_bit_as_single_launches_do(
    stage: str, precision: str, augment: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, BatchNorm's statistics, Adam's moments, losses and validation figures; random excerpts and faces too."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    changes = {"epochs": 2, "precision": precision, "augment": augment}
    config = override(preset("smoke"), {f"training.{stage}.{name}": value for name, value in changes.items()})
    eager, graph = (train_on_cuda(stage, config, way, tmp_path / way) for way in ("eager", "graph"))
    assert [each["losses"] for each in eager] == [each["losses"] for each in graph]
    assert [each["epochs"] for each in eager] == [each["epochs"] for each in graph]
    for file in sorted((tmp_path / "eager/1").glob("*.safetensors")):
        first, second = (safetensors.torch.load_file(tmp_path / way / "1" / file.name) for way in ("eager", "graph"))
        assert first.keys() == second.keys()
        assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_a_graph_refuses_a_batch_of_another_size() -> None:
    config = preset("smoke")
    task = make_task("encoder", config, "cuda")
    model = task.model.to(CUDA).train()
    graph = StepGraph(partial(step_gradients, task, model, precision="fp32"), model)
    graph(make_batch(config, 4, CUDA))
    with pytest.raises(ValueError, match="are not those of the first batch"):
        graph(make_batch(config, 3, CUDA))


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("stage", STAGES)
def test_the_host_never_waits_for_the_gpu_between_two_reports(stage: str, graph: bool) -> None:
    """torch raises an error at each operation that waits, from the second step to the end of the epoch's training."""
    config = override(preset("smoke"), {f"training.{stage}.epochs": 1, f"training.{stage}.augment": True})
    steps = []

    def on_step(progress: TrainingState) -> None:
        steps.append(progress.step_in_epoch)
        torch.cuda.set_sync_debug_mode("error" if progress.step_in_epoch < NUM_STEPS else "default")

    task = make_task(stage, config, "cuda")
    recipe = getattr(config.training, stage)
    try:
        list(train(task, recipe, stage, worker=WorkerContext(device=CUDA), cuda_graph=graph, on_step=on_step))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert steps == [1, 2, 3, 4]


def test_a_graph_names_the_clips_of_a_loss_that_is_not_finite() -> None:
    config = override(preset("smoke"), {"training.encoder.epochs": 1})

    def batches(_: TrainingState) -> Iterator[dict[str, Any]]:
        for number in range(NUM_STEPS):
            rows = columns("encoder", 0, number)
            if number == 2:
                rows["face_feature"][1] = np.nan
            yield rows

    task = make_task("encoder", config, "cuda")
    recipe, worker = config.training.encoder, WorkerContext(device=CUDA)
    with pytest.raises(NonFiniteLoss, match=re.escape("step 2 is nan; the batch's clips: clip (0, 2) 0, ")):
        list(train(task, recipe, "encoder", worker=worker, cuda_graph=True, batches=batches))


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

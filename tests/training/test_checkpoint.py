from __future__ import annotations

import ast
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

import arspm.training
from arspm import storage
from arspm.config import Recipe
from arspm.training import checkpoint
from arspm.training.checkpoint import TrainingState
from arspm.training.train_step import make_optimizer

FILES = ["best.safetensors", "model.safetensors", "optimizer.safetensors", "progress.json"]


def network(width: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, width, 3, bias=False), nn.BatchNorm2d(width), nn.Conv2d(width, 1, 3))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    images = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    model(images).square().mean().backward()
    optimizer.step()


PROGRESS = TrainingState(
    epoch=2,
    step_in_epoch=1,
    step=9,
    best=0.1 + 0.2,
    best_epoch=1,
    epochs=[{"train_loss": 1 / 3}, {"train_loss": 0.1}],
    losses=[[4, 2 / 3]],
    pending=[1 / 7, 1.0],
    sums={"train_loss": [1 / 9, 4.0]},
)


@pytest.fixture
def saved(tmp_path) -> Path:
    model = network()
    optimizer = make_optimizer(model, Recipe())
    for seed in range(2):
        step(model, optimizer, seed)
    best = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    checkpoint.save(tmp_path / "saved", model, optimizer, PROGRESS, best, {"preset": "smoke"})
    return tmp_path / "saved"


def load(folder: Path, model: nn.Module | None = None) -> tuple[TrainingState, dict[str, torch.Tensor] | None]:
    model = network() if model is None else model
    return checkpoint.load(folder, model, make_optimizer(model, Recipe()))


def test_a_checkpoint_survives_upload_and_download(saved, s3, tmp_path):
    uri = f"{s3}/training/checkpoint_1"
    checkpoint.upload(saved, uri)
    assert asdict(checkpoint.verify(uri)) == asdict(PROGRESS)
    storage.write_bytes(f"{uri}/other", b"")  # not a file of the checkpoint, so not downloaded
    found = checkpoint.download(uri, tmp_path / "found")
    assert sorted(path.name for path in found.iterdir()) == FILES
    assert {path.name: path.read_bytes() for path in found.iterdir()} == {
        path.name: path.read_bytes() for path in saved.iterdir()
    }


def test_a_partial_upload_is_not_a_checkpoint(saved, tmp_path):
    (tmp_path / "uploaded/optimizer.safetensors").mkdir(parents=True)  # a folder where the file should be written
    with pytest.raises(OSError, match="optimizer"):
        checkpoint.upload(saved, str(tmp_path / "uploaded"))
    with pytest.raises(ValueError, match="not a checkpoint"):
        checkpoint.verify(str(tmp_path / "uploaded"))


def test_load_restores_what_save_wrote(saved):
    model = network()
    progress, best = load(saved, model)
    assert asdict(progress) == asdict(PROGRESS)
    stored = safetensors.torch.load_file(saved / "model.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, stored[name])
        assert torch.equal(best[name], stored[name] + 1)


def test_a_checkpoint_describes_itself(saved):
    assert sorted(path.name for path in saved.iterdir()) == FILES
    value = json.loads((saved / "progress.json").read_text())
    assert value["config"] == {"preset": "smoke"}
    assert {"python", "torch"} <= set(value["versions"])
    assert sorted(value["files"]) == FILES[:3]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_a_restored_optimizer_takes_the_same_steps(channels_last, fused, tmp_path):
    """The state must have its parameter's memory format, because fused Adam matches elements by memory address."""
    recipe = Recipe(fused=fused)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    first, second = network().to(memory_format=layout), network().to(memory_format=layout)
    optimizers = [make_optimizer(model, recipe) for model in (first, second)]
    for seed in range(3):
        step(first, optimizers[0], seed)
    checkpoint.save(tmp_path, first, optimizers[0], TrainingState(), None, {})
    assert checkpoint.load(tmp_path, second, optimizers[1]) == (TrainingState(), None)
    for seed in range(3, 6):
        step(first, optimizers[0], seed)
        step(second, optimizers[1], seed)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["cut", "flipped", "missing"])
def test_a_torn_checkpoint_is_refused_with_the_file_named(saved, file, damage):
    path = saved / file
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2 if file != "progress.json" else 0] ^= 0xFF
        path.write_bytes(data)
    with pytest.raises(ValueError, match=file.replace(".", r"\.")):
        load(saved)


def test_a_checkpoint_of_another_network_is_refused_with_the_tensor_names(saved):
    with pytest.raises(ValueError, match=r"model\.safetensors: 0\.weight is \(3, 2, 3, 3\) instead of \(5, 2, 3, 3\)"):
        load(saved, network(5))
    with pytest.raises(ValueError, match=r"0\.weight is not of this network.*; bias is missing; weight is missing"):
        checkpoint.restore(nn.Linear(2, 2), {"0.weight": torch.zeros(1)}, "x")


def test_refused_weights_do_not_change_the_network(saved):
    model = network(5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match="model"):
        load(saved, model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_optimizer_state_of_another_network_is_refused(saved):
    value = json.loads((saved / "progress.json").read_text())
    checkpoint.write_weights(saved / "optimizer.safetensors", {"other.weight/exp_avg": torch.zeros(1)})
    with (saved / "optimizer.safetensors").open("rb") as file:
        value["files"]["optimizer.safetensors"] = checkpoint.storage.describe_stream(file)
    (saved / "progress.json").write_text(json.dumps(value))
    with pytest.raises(ValueError, match=r"optimizer\.safetensors: other\.weight is not a parameter of this network"):
        load(saved)


def test_read_weights_can_read_some_tensors_only(saved):
    assert list(checkpoint.read_weights(saved / "model.safetensors", ["2.bias"])) == ["2.bias"]
    for names in (["none"], None):
        path = saved / ("model.safetensors" if names else "progress.json")
        with pytest.raises(ValueError, match=f"{path.name}: not readable as safetensors"):
            checkpoint.read_weights(path, names)


def test_nothing_in_a_checkpoint_is_a_pickle(saved):
    for path in saved.iterdir():
        start = path.read_bytes()[:2]
        assert start not in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), path.name
        if path.suffix == ".safetensors":
            safetensors.torch.load_file(path)
        else:
            json.loads(path.read_text())


def test_no_training_module_uses_pickle():
    for path in Path(arspm.training.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not {alias.name for alias in node.names} & {"pickle", "cloudpickle", "joblib", "dill"}, path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in {("torch", "save"), ("torch", "load")}, path

"""Untrusted files of weights and models: nothing in them may run."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from arspm.config import override
from arspm.config.presets import preset
from arspm.config.recognizer import read_recognizer_input
from arspm.evaluation.judges import OnnxJudge, Pictures
from arspm.media.clip_rows import ClipRow
from arspm.media.detectors import make_detector
from arspm.media.jpeg import encode_jpeg
from arspm.media.preparer import Preparer
from arspm.model.vggface import VGGFace
from arspm.model.vggface_weights import read_published
from arspm.training import artifacts, checkpoint
from arspm.training.checkpoint import TrainingState
from tests.fuzz.entry_points import Mutated, num_inputs, try_inputs
from tests.fuzz.mutations import BYTES, JSON, SAFETENSORS
from tests.model.published_files import WRITERS

pytestmark = pytest.mark.slow  # thousands of inputs, each in a child process

NETWORK = {"width": 1 / 64, "image_size": 32, "feature_dim": 4, "num_identities": 3}
CRASHING = 39  # index of a mutated judge on which OpenCV 5.0 crashes
CHECKPOINT_FILES = ("progress.json", "model.safetensors", "optimizer.safetensors", "best.safetensors")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small VGGFace in every supported file format."""
    folder, state = tmp_path_factory.mktemp("published"), VGGFace(**NETWORK).state_dict()
    for name, write in WRITERS.items():
        write(state, folder / name)
    return {name: (folder / name).read_bytes() for name in WRITERS}


def vggface(path: Path) -> None:
    found = read_published(path)
    assert found.channel_order in ("rgb", "bgr")
    for name, tensor in found.state_dict.items():
        assert tensor.dtype == torch.float32, name
        assert tensor.numel() * 4 <= 2 * path.stat().st_size, name  # the file is at least half precision
    assert len(found.state_dict) == 32


@pytest.mark.parametrize("name", WRITERS)
def test_published_weights(name: str, published: dict[str, bytes]) -> None:
    mutations = SAFETENSORS if name == "arspm" else BYTES
    others = tuple(data for other, data in published.items() if other != name)
    seeds = (published[name],) * 6 + others[:2]
    tally = try_inputs(vggface, Mutated(seeds, mutations, num_inputs(75)), name="weights")
    assert tally["refused"] > tally.total() // 10


class Trap:
    """An object that writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def traps(marker: Path) -> list[bytes]:
    """Return pickles that run a program, in every file format that pickles weights."""
    found = [pickle.dumps(Trap(marker), protocol) for protocol in range(2, 6)]
    for old in (True, False):
        sink = io.BytesIO()
        torch.save({"state_dict": Trap(marker)}, sink, _use_new_zipfile_serialization=not old)
        found.append(sink.getvalue())
    sink = io.BytesIO()
    np.save(sink, np.array([Trap(marker)], object), allow_pickle=True)
    found.append(sink.getvalue())
    return found


def test_a_pickle_is_refused_and_not_run(tmp_path: Path, trained: Path) -> None:
    marker = tmp_path / "marker"
    pickle.loads(traps(marker)[0])
    assert marker.exists()  # the trap works
    marker.unlink()
    inputs = traps(marker)
    assert try_inputs(vggface, inputs, name="weights")["refused"] == len(inputs)
    assert try_inputs(weights, inputs, name="model.safetensors")["refused"] == len(inputs)
    assert try_inputs(onnx_judge, inputs, name="judge.onnx")["refused"] == len(inputs)
    assert try_inputs(detector, inputs, name="yunet.onnx")["refused"] == len(inputs)
    for part in CHECKPOINT_FILES:
        arguments = {"folder": trained, "part": part, "valid_hash": True}
        assert try_inputs(saved, inputs, name=part, **arguments)["refused"] == len(inputs)
    assert not marker.exists()
    (tmp_path / "weights").write_bytes(inputs[0])
    with pytest.raises(ValueError, match="a pickle of more than tensors, which is never opened"):
        read_published(tmp_path / "weights")
    (tmp_path / "weights").write_bytes(inputs[5])
    with pytest.raises(ValueError, match="a pickle of more than tensors, which is never opened"):
        read_published(tmp_path / "weights")


def recognizer(path: Path) -> None:
    found = read_recognizer_input(str(path).removesuffix(".json"))
    assert 1 <= found.size <= 1024
    assert all(std > 0 for std in found.std)


def test_the_declared_input_of_a_recognizer() -> None:
    numbers = {"mean": [127.5, 127.5, 127.5], "std": [128.0, 128.0, 128.0]}
    declared = {"size": 112, "channels": "rgb", "alignment": "arcface", **numbers}
    cropped = {**declared, "alignment": "crop", "box": [0.1, 0.1, 0.9, 0.9], "layout": "nhwc", "logits": "scores"}
    seeds = (json.dumps(declared).encode(), json.dumps(cropped).encode())
    tally = try_inputs(recognizer, Mutated(seeds, JSON, num_inputs(300)), name="face.onnx.json")
    assert tally["refused"] > tally.total() // 4
    assert tally["accepted"]


# --- bombs


def packed(archive: bytes) -> bytes:
    """Return the same archive with its tensors replaced by 1.2 GB of zeros, compressed."""
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            if "/data/" not in entry.filename:
                new.writestr(entry.filename, old.read(entry))
            elif entry.filename.endswith("/data/0"):
                with new.open(entry.filename, "w", force_zip64=True) as file:
                    for _ in range(300):
                        file.write(bytes(4 << 20))
    return sink.getvalue()


def huge_hdf5(folder: Path) -> bytes:
    """Return a Keras file whose first kernel is declared with 2^40 numbers, none of them written."""
    with h5py.File(folder / "huge.h5", "w") as file:
        file.attrs["layer_names"] = np.array([b"conv1_1"])
        file.create_group("conv1_1").create_dataset("kernel:0", (2**20, 2**20), "f4", chunks=(1024, 1024))
        file["conv1_1"].create_dataset("bias:0", (2**20,), "f4", chunks=(1024,), compression="gzip")
    return (folder / "huge.h5").read_bytes()


def safetensors_file(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def test_weights_that_claim_to_be_huge_are_refused(published: dict[str, bytes], tmp_path: Path) -> None:
    lie = {"conv1_1.weight": {"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, 2**42]}}
    empty = {"conv1_1.weight": {"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]}}
    bombs = [
        packed(published["caffe"]),
        huge_hdf5(tmp_path),
        safetensors_file(b"{}", length=10 * 2**30),
        safetensors_file(b"{" + b" " * 100, length=2**64 - 1),
        safetensors_file(json.dumps(lie).encode(), bytes(64)),
        safetensors_file(json.dumps(empty).encode()),
        safetensors_file(b'{"a":' * 100_000),
        struct.pack("<ii", 4, 1) + struct.pack("<i", 2**31 - 1) + b"V 1",
    ]
    assert max(map(len, bombs)) < 10_000_000
    assert try_inputs(vggface, bombs, name="weights")["refused"] == len(bombs)
    # One has a tensor without elements, which is harmless until a network loads it.
    assert try_inputs(weights, bombs, name="model.safetensors")["refused"] == len(bombs) - 1


# --- our own files


def network() -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))


def optimizer_of(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in the middle of training."""
    folder, model = tmp_path_factory.mktemp("checkpoint"), network()
    optimizer = optimizer_of(model)
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    progress = TrainingState(
        epoch=2,
        step_in_epoch=1,
        step=9,
        best_epoch=1,
        chosen_by="val_loss",
        best=0.5,
        num_held_out=20,
        epochs=[{"val_loss": 0.5}],
        losses=[[4, 0.6]],
        pending=[0.7, 1.0],
        sums={"loss": [0.5, 2.0]},
    )
    checkpoint.save(folder, model, optimizer, progress, model.state_dict(), {"seed": 0})
    return folder


def weights(path: Path) -> None:
    for name, tensor in checkpoint.read_weights(path).items():
        assert isinstance(name, str)
        assert tensor.numel() * tensor.element_size() <= path.stat().st_size


def saved(path: Path, folder: Path, part: str, valid_hash: bool) -> None:
    """Load a checkpoint in which one file is mutated. `valid_hash`: progress.json has the mutated file's hash."""
    for name in CHECKPOINT_FILES:
        if name != part:
            (path.parent / name).write_bytes((folder / name).read_bytes())
    if valid_hash and part != checkpoint.PROGRESS:
        saved_progress = json.loads((folder / checkpoint.PROGRESS).read_text())
        saved_progress["files"][part] = checkpoint.storage.describe_bytes(path.read_bytes())
        (path.parent / checkpoint.PROGRESS).write_text(json.dumps(saved_progress))
    model = network()
    optimizer = optimizer_of(model)
    progress, best = checkpoint.load(path.parent, model, optimizer)
    assert min(progress.epoch, progress.step_in_epoch, progress.step) >= 0
    assert all(isinstance(epoch, dict) for epoch in progress.epochs)
    assert len(progress.pending) == 2
    assert sum(progress.pending) is not None
    assert isinstance(progress.best, float | None)
    assert all(len(each) == 2 for each in (*progress.losses, *progress.sums.values()))
    if best is not None:
        checkpoint.restore(network(), best, part)
    # Training continues from there.
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("part", CHECKPOINT_FILES)
def test_checkpoints(part: str, trained: Path) -> None:
    mutations = JSON if part.endswith(".json") else SAFETENSORS
    seeds = ((trained / part).read_bytes(),)
    inputs = Mutated(seeds, mutations, num_inputs(75))
    tally = try_inputs(saved, inputs, name=part, folder=trained, part=part, valid_hash=True)
    assert tally["refused"] > tally.total() // 10
    tally = try_inputs(saved, Mutated(seeds, mutations, 50), name=part, folder=trained, part=part, valid_hash=False)
    assert tally["refused"] > tally.total() // 10 or part == checkpoint.PROGRESS


def test_our_weights(trained: Path) -> None:
    seeds = tuple((trained / part).read_bytes() for part in CHECKPOINT_FILES[1:])
    tally = try_inputs(weights, Mutated(seeds, SAFETENSORS, num_inputs(150)), name="model.safetensors")
    assert tally["refused"] > tally.total() // 10


def test_priors(tmp_path: Path) -> None:
    tensors = {f"{name}/{count}": torch.randn(4) for name in ("neutral", "male") for count in (1, 10)}
    checkpoint.write_weights(tmp_path / "priors", tensors)
    seeds = ((tmp_path / "priors").read_bytes(),)
    tally = try_inputs(priors, Mutated(seeds, SAFETENSORS, num_inputs(100)), name=artifacts.PRIORS_BY_COUNT)
    assert tally["refused"] > tally.total() // 10


def priors(path: Path) -> None:
    folder = path.parent / "prior"
    folder.mkdir(exist_ok=True)
    (folder / path.name).write_bytes(path.read_bytes())
    for counts in artifacts.load_priors_by_count(str(path.parent)).values():
        assert list(counts) == sorted(counts)
        assert min(counts) > 0


# --- a user's models


@pytest.fixture(scope="module")
def judge_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A judge of gender and age: the mean of each channel, times a matrix."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ("batch", 3, 32, 32))
    nodes = [helper.make_node("ReduceMean", ["image"], ["means"], axes=[2, 3], keepdims=0)]
    constants, outputs = [], []
    for name, width in (("gender", 2), ("age", 1)):
        matrix = np.ones((3, width), np.float32)
        constants.append(onnx.numpy_helper.from_array(matrix, f"{name} weights"))
        nodes.append(helper.make_node("MatMul", ["means", f"{name} weights"], [name]))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ("batch", width)))
    graph = helper.make_graph(nodes, "judge", [image], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return model.SerializeToString()


def onnx_judge(path: Path) -> None:
    face = encode_jpeg(np.full((224, 224, 3), 90, np.uint8))
    judged = OnnxJudge(path)(Pictures("real", ["a", "b"], np.zeros((2, 4), np.float32), [face, face]))
    assert judged.gender.shape == judged.age_bin.shape == (2,)
    assert set(judged.gender.tolist()) <= {-1, 0, 1}
    assert set(judged.age_bin.tolist()) <= {-1, 0, 1, 2}


def detector(path: Path) -> None:
    """Load a model as a YuNet. None of the inputs is one."""
    make_detector(str(path))


def test_judges(judge_file: bytes) -> None:
    tally = try_inputs(onnx_judge, Mutated((judge_file,), BYTES, num_inputs(100)), name="judge.onnx")
    assert tally["refused"] > tally.total() // 10
    assert tally["accepted"] > 0


def test_a_detector_that_crashes_opencv_is_refused(judge_file: bytes, tmp_path: Path) -> None:
    """OpenCV 5.0 crashes on the first, a damaged model, and refuses the second, an intact model of another network."""
    row = ClipRow(1, "a_1_2", "a", 1.0, 2.0, None, None, str(tmp_path / "clip.mp4"))
    for data in (Mutated((judge_file,), BYTES, 100)[CRASHING], judge_file):
        (tmp_path / "yunet.onnx").write_bytes(data)
        prepared = Preparer(override(preset("smoke"), {"face.detector": str(tmp_path / "yunet.onnx")}))
        with pytest.raises(ValueError, match=r"yunet\.onnx"):
            prepared(row)
        prepared.close()

"""Malicious, damaged and unrelated files in place of VGGFace weights."""

from __future__ import annotations

import os
import pickle
import random
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from arspm.model.vggface_weights import read_published
from tests.model import published_files
from tests.model.published_files import WRITERS, State


class Malice:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("write", ["archive", "before 1.6", "bare pickle"])
def test_code_in_a_pickle_is_refused_and_does_not_run(network, tmp_path, write):
    path, mark = tmp_path / "weights.pth", tmp_path / "ran"
    content = network.state_dict() | {"fc8.bias": Malice(f"touch {mark}")}
    if write == "bare pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=write == "archive")
    with pytest.raises(ValueError, match="a pickle of more than tensors, which is never opened") as caught:
        read_published(path)
    assert "\n" not in str(caught.value)
    assert not mark.exists()
    torch.load(path, weights_only=False) if write != "bare pickle" else pickle.loads(path.read_bytes())
    assert mark.exists()  # shows that the file is malicious


def test_an_archive_that_unpacks_to_more_is_refused(network, tmp_path):
    torch.save({key: torch.zeros_like(value) for key, value in network.state_dict().items()}, tmp_path / "plain")
    with zipfile.ZipFile(tmp_path / "plain") as plain:
        with zipfile.ZipFile(tmp_path / "packed", "w", zipfile.ZIP_DEFLATED) as packed:
            for entry in plain.infolist():
                packed.writestr(entry.filename, plain.read(entry))
    with pytest.raises(ValueError, match="unpacks to more than its size"):
        read_published(tmp_path / "packed")


@pytest.mark.parametrize("how", ["soft", "external", "outside", "virtual", "huge", "integers", "no names"])
def test_keras_data_that_are_not_in_the_file_are_refused(network, tmp_path, how):
    other, path = tmp_path / "other.h5", tmp_path / "weights.h5"
    published_files.rcmalli(network.state_dict(), other)
    published_files.rcmalli(network.state_dict(), path)
    with h5py.File(path, "r+") as file:
        group = file["fc8/fc8"]
        if how == "no names":
            del file.attrs["layer_names"]
        else:
            del group["bias:0"]
        if how == "soft":
            group["bias:0"] = h5py.SoftLink("/fc7/fc7/bias:0")
        elif how == "external":
            group["bias:0"] = h5py.ExternalLink("other.h5", "/fc8/fc8/bias:0")
        elif how == "outside":
            group.create_dataset("bias:0", (10,), "f4", external=[(str(other), 0, 40)])
        elif how == "virtual":
            layout = h5py.VirtualLayout((10,), "f4")
            layout[:] = h5py.VirtualSource(str(other), "/fc8/fc8/bias:0", (10,))
            group.create_virtual_dataset("bias:0", layout)
        elif how == "huge":
            group.create_dataset("bias:0", (1 << 40,), "f4", chunks=(1 << 10,))
        elif how == "integers":
            group.create_dataset("bias:0", data=np.arange(10))
    messages = {"soft": "soft or external link", "external": "soft or external link", "outside": "another file"}
    messages |= {"virtual": "another file", "huge": "more than this file", "integers": "bias:0 .* is int64"}
    with pytest.raises(ValueError, match=messages.get(how, "no attribute layer_names")):
        read_published(path)


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"GIF89a" + bytes(100), b"\x04\0\0\0", bytes(64), b"\x89HDF\r\n\x1a\n"]
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(ValueError, match="not VGGFace weights"):
        read_published(tmp_path / "weights.pth")


def outcome(path: Path) -> tuple[str, State | None]:
    """Return the error message or "", and the weights or None."""
    try:
        return "", read_published(path).state_dict
    except ValueError as error:
        return str(error), None


@pytest.mark.parametrize("name", WRITERS)
def test_damaged_files_are_refused_or_give_a_network(network, tmp_path, name):
    """Seeded mutations: bytes of headers and of numbers changed, pieces removed or doubled, files truncated."""
    path, rng = tmp_path / "weights", random.Random(f"{name} 1")
    WRITERS[name](network.state_dict(), path)
    intact = path.read_bytes()
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    zeros = set(np.flatnonzero(np.frombuffer(intact, np.uint8) == 0)[::7].tolist())
    # Offsets that are mostly structure: zero bytes, the start and the end of the file.
    structure = list(zeros) + list(range(min(4096, len(intact)))) + list(range(len(intact) - 4096, len(intact)))
    num_refused = 0
    for trial in range(80):
        data = bytearray(intact)
        offset = rng.choice(structure) if trial % 2 else rng.randrange(len(data))
        match trial % 5:
            case 0:
                del data[offset:]
            case 1 | 2:
                for _ in range(rng.randrange(1, 9)):
                    data[rng.choice(structure)] = rng.randrange(256)
            case 3:
                data[offset : offset + 8] = rng.choice([b"\xff" * 8, b"\x7f" * 8, bytes(8), rng.randbytes(8)])
            case 4:
                end = offset + rng.randrange(1, 400)
                data[offset:end] = data[offset:end] * rng.choice([0, 2])
        path.write_bytes(data)
        message, weights = outcome(path)
        if weights is None:
            num_refused += 1
            assert message.startswith(f"{path}: ")
            assert "\n" not in message
        else:
            assert {key: value.shape for key, value in weights.items()} == shapes
            assert all(value.dtype == torch.float32 for value in weights.values())
    assert num_refused >= 16  # the truncated files

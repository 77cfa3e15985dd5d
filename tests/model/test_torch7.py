"""Torch7 files, written byte by byte as torch7's File.lua and generic/Tensor.c describe them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from arspm.model.torch7 import Torch7Object, read_layers, read_torch7


def i(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


def q(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}q", *values)


def number(value: float) -> bytes:
    return i(1) + struct.pack("<d", value)


def text(value: str) -> bytes:
    return i(2, len(value)) + value.encode()


def table(index: int, *entries: bytes) -> bytes:
    return i(3, index, len(entries) // 2) + b"".join(entries)


def head(index: int, name: str) -> bytes:
    return i(4, index, 3) + b"V 1" + i(len(name)) + name.encode()


def floats(index: int, *values: float) -> bytes:
    return head(index, "torch.FloatStorage") + q(len(values)) + struct.pack(f"<{len(values)}f", *values)


def tensor(index: int, sizes: tuple[int, ...], strides: tuple[int, ...], offset: int, storage: bytes) -> bytes:
    return head(index, "torch.FloatTensor") + i(len(sizes)) + q(*sizes, *strides, offset) + storage


def layer(index: int, name: str, weight: bytes, bias: bytes) -> bytes:
    return head(index, name) + table(index + 1, text("weight"), weight, text("bias"), bias)


@pytest.fixture
def read(tmp_path: Path):
    def reading(data: bytes):
        (tmp_path / "file.t7").write_bytes(data)
        return read_torch7(tmp_path / "file.t7")

    return reading


def test_every_simple_type(read):
    entries = (number(1), i(0), text("a"), number(-0.5), text("yes"), i(5, 1), i(5, 0), text("no"))
    assert read(table(1, *entries)) == {1: None, "a": -0.5, "yes": True, False: "no"}


def test_every_number_type_of_a_tensor(read):
    types = (("Byte", "B", 255), ("Char", "b", -128), ("Short", "h", -300), ("Int", "i", 1 << 20))
    types += (("Long", "q", 1 << 40), ("Float", "f", 0.5), ("Double", "d", 1e300), ("Cuda", "f", 0.25))
    for name, code, value in types:
        storage = head(2, f"torch.{name}Storage") + q(2) + struct.pack(f"<2{code}", 0, value)
        found = read(head(1, f"torch.{name}Tensor") + i(1) + q(2, 1, 1) + storage)
        assert found.tolist() == [0, value], name


def test_a_tensor_follows_its_strides(read):
    values = [float(v) for v in range(24)]
    for sizes, strides, offset in (
        ((2, 3), (3, 1), 1),
        ((3, 2), (1, 3), 5),
        ((2, 2, 2), (12, 1, 4), 4),
        ((4,), (0,), 7),
    ):
        found = read(tensor(1, sizes, strides, offset, floats(2, *values)))
        assert found.shape == sizes
        for index in np.ndindex(*sizes):
            assert found[index] == values[offset - 1 + sum(n * s for n, s in zip(index, strides, strict=True))]


def test_repeated_indices_are_one_object(read):
    shared = floats(3, 1, 2, 3, 4)
    first, second = tensor(2, (2,), (1,), 1, shared), tensor(4, (2,), (1,), 3, i(4, 3))
    found = read(table(1, text("a"), first, text("b"), second, text("self"), i(3, 1), text("c"), i(4, 2)))
    assert found["a"].tolist() == [1, 2]
    assert found["b"].tolist() == [3, 4]
    assert found["self"] is found
    assert found["c"] is found["a"]


def test_an_object_has_its_class_name_and_fields(read):
    found = read(head(1, "nn.ReLU") + table(2, text("inplace"), i(5, 1)))
    assert found == Torch7Object("nn.ReLU", {"inplace": True})
    unversioned = i(4, 1, 7) + b"nn.ReLU" + table(2, text("inplace"), i(5, 1))  # as in the oldest files
    assert read(unversioned) == found


def test_empty_tensors(read):
    assert read(head(1, "torch.FloatTensor") + i(0) + q(1) + i(0)).shape == (0,)
    assert read(tensor(1, (0, 5), (5, 1), 1, floats(2))).shape == (0,)


def test_functions_are_skipped(read):
    code = i(4) + b"\x1bLua" + table(9, number(1), text("upvalue"))
    entries = [text("a"), i(6) + code, text("b"), i(8, 5) + code.replace(i(3, 9), i(3, 10)), text("c"), i(8, 5)]
    assert read(table(1, *entries, text("d"), number(2))) == {"a": None, "b": None, "c": None, "d": 2}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "damaged or cut off"),
        (i(9), "unknown type tag 9"),
        (i(-1), "unknown type tag -1"),
        (i(2, -1), "damaged or cut off"),
        (i(2, 1 << 30) + b"a", "damaged or cut off"),
        (i(3, 1, 1 << 30), "damaged or cut off"),
        (i(3, 1, -1), "damaged or cut off"),
        (table(1, i(0), i(0)), "key"),
        (table(1, table(2), i(0)), "key"),
        (head(1, "torch.FloatStorage") + q(1 << 62), "damaged or cut off"),
        (head(1, "torch.FloatStorage") + q(-1), "damaged or cut off"),
        (head(1, "torch.FloatTensor") + i(1 << 20), "dimensions"),
        (head(1, "torch.FloatTensor") + i(-1), "dimensions"),
        (tensor(1, (5,), (1,), 1, floats(2, 1, 2, 3, 4)), "beyond"),
        (tensor(1, (2,), (1,), 4, floats(2, 1, 2, 3, 4)), "beyond"),
        (tensor(1, (2,), (1,), 0, floats(2, 1, 2, 3, 4)), "beyond"),
        (tensor(1, (2,), (-1,), 4, floats(2, 1, 2, 3, 4)), "beyond"),
        (tensor(1, (-2, -2), (1, 1), 1, floats(2, 1, 2, 3, 4)), "beyond"),
        (tensor(1, (1 << 40,), (0,), 1, floats(2, 1)), "beyond"),
        (tensor(1, (1 << 62, 1 << 62), (1 << 62, 1 << 62), 1, floats(2, 1)), "beyond"),
        (tensor(1, (1,), (1,), 1, i(0)), "without a storage"),
        (tensor(1, (1,), (1,), 1, head(2, "torch.LongStorage") + q(1, 7)), "without a storage"),
        (head(1, "torch.Timer") + number(1), "not a table"),
        (i(6, 1 << 28) + b"x", "damaged or cut off"),
        (b"".join(i(3, n, 1) + number(1) for n in range(1, 200)) + i(0), "too deep"),
        (table(1, *[i(0) if n % 2 else number(n) for n in range(200_002)]), "too many"),
    ],
)
def test_invalid_data_is_refused_with_its_offset(read, data, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(data)
    assert "at byte" in str(caught.value)


def test_a_file_cut_anywhere_is_refused(read):
    whole = table(1, text("a"), tensor(2, (2,), (1,), 1, floats(3, 1, 2)), text("b"), number(1))
    assert set(read(whole)) == {"a", "b"}
    for length in range(len(whole)):
        with pytest.raises(ValueError, match=r"at byte \d+"):
            read(whole[:length])


def test_the_layers_of_nested_modules_in_order(tmp_path):
    def one(index: int, value: float) -> bytes:
        return tensor(index, (1, 1), (1, 1), 1, floats(index + 1, value))

    def sequential(index: int, *modules: bytes) -> bytes:
        listed = [part for n, module in enumerate(modules, 1) for part in (number(n), module)]
        return head(index, "nn.Sequential") + table(index + 1, text("modules"), table(index + 2, *listed))

    inner = sequential(
        30, layer(40, "nn.SpatialConvolutionMM", one(42, 3), one(44, 4)), head(50, "nn.ReLU") + table(51)
    )
    first, last = (
        layer(10, "nn.SpatialConvolution", one(12, 1), one(14, 2)),
        layer(60, "nn.Linear", one(62, 5), one(64, 6)),
    )
    path = tmp_path / "net.t7"
    path.write_bytes(sequential(1, first, inner, last))
    assert [(float(w[0, 0]), float(b[0, 0])) for w, b in read_layers(path)] == [(1, 2), (3, 4), (5, 6)]

    for module, message in (
        (i(4, 1), "nn.Sequential occurs twice"),  # itself
        (
            layer(70, "nn.SpatialFullConvolution", one(72, 5), one(74, 6)),
            "layer 2 has the unknown class 'nn.SpatialFullConvolution'",
        ),
        (layer(70, "nn.Linear", one(72, 5), i(0)), r"layer 2 \(nn.Linear\) has no weight or no bias"),
        (number(1), "expected a module of a network, found a float"),
    ):
        path.write_bytes(sequential(1, first, module))
        with pytest.raises(ValueError, match=message):
            read_layers(path)
    path.write_bytes(head(1, "nn.Sequential") + table(2, text("modules"), table(3, number(2), first)))
    with pytest.raises(ValueError, match="list of modules"):
        read_layers(path)

"""Networks in Torch7's binary files (what `torch.save` of Lua Torch writes), read as plain data.

A file is one object: a type tag (int32), then what the type says. Tables and Torch objects have an index, by which
later places name them again. A Torch object has a version ("V 1"), a class name and, unless it is a tensor or a
storage, the table of its fields. All numbers are little-endian, sizes and strides int64 (torch7's File.lua and
generic/Tensor.c). No class is looked up and no function of the file is run.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_NIL, _NUMBER, _STRING, _TABLE, _TORCH, _BOOLEAN = range(6)
_FUNCTION, _OLD_RECURSIVE_FUNCTION, _RECURSIVE_FUNCTION = 6, 7, 8
_DTYPES = {
    "Byte": "u1",
    "Char": "i1",
    "Short": "<i2",
    "Int": "<i4",
    "Long": "<i8",
    "Float": "<f4",
    "Double": "<f8",
    "Cuda": "<f4",
}
_STORAGES = {f"torch.{name}Storage": np.dtype(dtype) for name, dtype in _DTYPES.items()}
_TENSORS = {f"torch.{name}Tensor": np.dtype(dtype) for name, dtype in _DTYPES.items()}

_MAX_DEPTH = 64  # a network's weights are about eight deep
_MAX_OBJECTS = 100_000  # a network of 40 modules has about two thousand
_MAX_DIMENSIONS = 8
_MAX_TEXT = 1 << 20  # bytes of a string or of a function's bytecode

_LAYERS = ("nn.SpatialConvolution", "nn.SpatialConvolutionMM", "cudnn.SpatialConvolution", "nn.Linear")


@dataclass
class Torch7Object:
    """An object of a Lua class: the class's name and the object's fields."""

    class_name: str
    fields: dict[Any, Any] = field(default_factory=dict)


def read_torch7(path: str | Path) -> Any:
    """The object of a file: tables are dicts, tensors and storages arrays, numbers floats, functions None.

    Raises ValueError, with the byte, for what is cut off, too deep, too large, or of an unknown type.
    """
    with open(path, "rb") as file:
        return _Reader(file).object()


def read_layers(path: str | Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weight and bias of each convolution and linear layer of an nn.Sequential, in order.

    Weights are as stored: (out, in, 3, 3), or (out, in * 9) by the older SpatialConvolutionMM, or (out, in).

    Raises:
        ValueError: as `read_torch7`, or an object that is no such network.
    """
    layers: list[tuple[np.ndarray, np.ndarray]] = []
    _collect(read_torch7(path), layers, set())
    return layers


def _collect(module: Any, layers: list[tuple[np.ndarray, np.ndarray]], seen: set[int]) -> None:
    if not isinstance(module, Torch7Object):
        raise ValueError(f"a {type(module).__name__} where a network's module should be")
    if id(module) in seen:
        raise ValueError(f"a {module.class_name} that occurs twice")
    seen.add(id(module))
    if module.class_name == "nn.Sequential":
        modules = module.fields.get("modules")
        if not isinstance(modules, dict) or set(modules) != set(range(1, len(modules) + 1)):
            raise ValueError("an nn.Sequential without a list of modules")
        for index in range(1, len(modules) + 1):
            _collect(modules[index], layers, seen)
        return
    weight, bias = module.fields.get("weight"), module.fields.get("bias")
    if module.class_name in _LAYERS:
        if not isinstance(weight, np.ndarray) or not isinstance(bias, np.ndarray):
            raise ValueError(f"an {module.class_name} without weight and bias")
        layers.append((weight, bias))
    elif isinstance(weight, np.ndarray):
        raise ValueError(f"a layer of the unknown class {module.class_name!r}")


class _Reader:
    def __init__(self, file: BinaryIO) -> None:
        self.file, self.left = file, os.fstat(file.fileno()).st_size
        self.known: dict[int, Any] = {}
        self.num_objects = 0

    def refuse(self, what: str) -> ValueError:
        return ValueError(f"{what} at byte {self.file.tell()}")

    def take(self, num_bytes: int, limit: int = _MAX_TEXT) -> bytes:
        self.expect(num_bytes)
        if num_bytes > limit:
            raise self.refuse(f"a text of {num_bytes} bytes")
        self.left -= num_bytes
        return self.file.read(num_bytes)

    def expect(self, num_bytes: int) -> None:
        if not 0 <= num_bytes <= self.left:
            raise self.refuse(f"damaged or cut off: {num_bytes} bytes said to follow, {self.left} left")

    def int32(self) -> int:
        return int(struct.unpack("<i", self.take(4))[0])

    def longs(self, count: int) -> list[int]:
        return list(struct.unpack(f"<{count}q", self.take(8 * count)))

    def string(self) -> str:
        return self.take(self.int32()).decode("latin-1")

    def object(self, depth: int = 0) -> Any:
        self.num_objects += 1
        if depth > _MAX_DEPTH or self.num_objects > _MAX_OBJECTS:
            raise self.refuse("too many objects or too deep in each other")
        tag = self.int32()
        if tag == _NIL:
            return None
        if tag == _NUMBER:
            return float(struct.unpack("<d", self.take(8))[0])
        if tag == _STRING:
            return self.string()
        if tag == _BOOLEAN:
            return self.int32() != 0
        if not _TABLE <= tag <= _RECURSIVE_FUNCTION:
            raise self.refuse(f"the unknown type {tag}")
        if tag == _FUNCTION:
            return self.function(depth)
        index = self.int32()
        if index in self.known:
            return self.known[index]
        if tag in (_OLD_RECURSIVE_FUNCTION, _RECURSIVE_FUNCTION):
            self.known[index] = None
            return self.function(depth)
        if tag == _TABLE:
            return self.table(self.known.setdefault(index, {}), depth)
        version = self.string()
        name = self.string() if version.startswith("V ") else version  # the oldest files have no version
        if name in _STORAGES:
            self.known[index] = self.storage(_STORAGES[name])
        elif name in _TENSORS:
            self.known[index] = self.tensor(_TENSORS[name], depth)
        else:
            self.known[index] = made = Torch7Object(name)
            fields = self.object(depth + 1)
            if not isinstance(fields, dict):
                raise self.refuse(f"an object of class {name!r} whose fields are no table")
            made.fields = fields
        return self.known[index]

    def function(self, depth: int) -> None:
        """Bytecode and the variables that it holds: passed over."""
        self.take(self.int32())
        self.object(depth + 1)

    def table(self, table: dict[Any, Any], depth: int) -> dict[Any, Any]:
        count = self.int32()
        self.expect(8 * count)  # a key and a value have a tag each
        for _ in range(count):
            key = self.object(depth + 1)
            if not isinstance(key, str | float | bool):
                raise self.refuse("a table's key that is no string, number or boolean")
            table[key] = self.object(depth + 1)
        return table

    def storage(self, dtype: np.dtype) -> np.ndarray:
        (count,) = self.longs(1)
        self.expect(count * dtype.itemsize)
        array = np.empty(count, dtype)
        if self.file.readinto(array.view(np.uint8)) != array.nbytes:  # type: ignore[attr-defined]
            raise self.refuse("cut off while it was read")
        self.left -= array.nbytes
        return array

    def tensor(self, dtype: np.dtype, depth: int) -> np.ndarray:
        """A view of its storage, after every element was found to lie inside."""
        num_dimensions = self.int32()
        if not 0 <= num_dimensions <= _MAX_DIMENSIONS:
            raise self.refuse(f"a tensor of {num_dimensions} dimensions")
        sizes, strides = self.longs(num_dimensions), self.longs(num_dimensions)
        offset = self.longs(1)[0] - 1
        storage = self.object(depth + 1)
        if num_dimensions == 0 or 0 in sizes:
            return np.empty(0, dtype)
        if not isinstance(storage, np.ndarray) or storage.ndim != 1 or storage.dtype != dtype:
            raise self.refuse("a tensor without a storage of its type")
        last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        if min(sizes) < 0 or min(strides) < 0 or offset < 0 or max(last + 1, math.prod(sizes)) > len(storage):
            raise self.refuse(f"a tensor of sizes {sizes} that reaches beyond its storage of {len(storage)}")
        steps = [stride * dtype.itemsize if size > 1 else 0 for size, stride in zip(sizes, strides, strict=True)]
        return np.lib.stride_tricks.as_strided(storage[offset:], sizes, steps)

"""Read networks from Torch7's binary files (written by Lua Torch's `torch.save`) as plain data.

A file holds one object: a type tag (int32), then content that depends on the type. Tables and Torch objects have an
index; later references use the index instead of repeating the content. A Torch object has a version ("V 1"), a class
name and, unless it is a tensor or a storage, a table of its fields. All numbers are little-endian; sizes and strides
are int64 (torch7's File.lua and generic/Tensor.c). No class is instantiated and no function of the file is run.
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

_MAX_DEPTH = 64  # a network's weights are nested about eight deep
_MAX_OBJECTS = 100_000  # a network of 40 modules has about two thousand
_MAX_DIMENSIONS = 8
_MAX_STRING = 1 << 20  # bytes of a string or of a function's bytecode

_LAYERS = ("nn.SpatialConvolution", "nn.SpatialConvolutionMM", "cudnn.SpatialConvolution", "nn.Linear")


@dataclass
class Torch7Object:
    """An object of a Lua class: the class name and the object's fields."""

    class_name: str
    fields: dict[Any, Any] = field(default_factory=dict)


def read_torch7(path: str | Path) -> Any:
    """Return the object in a file. Tables become dicts, tensors and storages arrays, numbers floats, functions None.

    Raises ValueError with the byte offset if the file is cut off, nested too deep, too large or has an unknown type.
    """
    with open(path, "rb") as file:
        return _Reader(file).object()


def read_layers(path: str | Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return weight and bias of each convolution and linear layer of an nn.Sequential, in order.

    Weights have their stored shapes: (out, in, 3, 3), (out, in * 9) in the older SpatialConvolutionMM, or (out, in) in
    a linear layer.

    Raises:
        ValueError: as `read_torch7`, or the object is not an nn.Sequential of known layers.
    """
    layers: list[tuple[np.ndarray, np.ndarray]] = []
    _collect(read_torch7(path), layers, set())
    return layers


def _collect(module: Any, layers: list[tuple[np.ndarray, np.ndarray]], seen: set[int]) -> None:
    if not isinstance(module, Torch7Object):
        raise ValueError(f"expected a module of a network, found a {type(module).__name__}")
    if id(module) in seen:
        raise ValueError(f"a module of class {module.class_name} occurs twice")
    seen.add(id(module))
    if module.class_name == "nn.Sequential":
        modules = module.fields.get("modules")
        if not isinstance(modules, dict) or set(modules) != set(range(1, len(modules) + 1)):
            raise ValueError("an nn.Sequential has no list of modules")
        for index in range(1, len(modules) + 1):
            _collect(modules[index], layers, seen)
        return
    weight, bias = module.fields.get("weight"), module.fields.get("bias")
    if module.class_name in _LAYERS:
        if not isinstance(weight, np.ndarray) or not isinstance(bias, np.ndarray):
            raise ValueError(f"layer {len(layers) + 1} ({module.class_name}) has no weight or no bias")
        layers.append((weight, bias))
    elif isinstance(weight, np.ndarray):
        raise ValueError(f"layer {len(layers) + 1} has the unknown class {module.class_name!r}")


class _Reader:
    def __init__(self, file: BinaryIO) -> None:
        self.file, self.left = file, os.fstat(file.fileno()).st_size  # `left`: bytes that remain
        self.by_index: dict[int, Any] = {}
        self.num_objects = 0

    def error(self, problem: str) -> ValueError:
        return ValueError(f"{problem} at byte {self.file.tell()}")

    def take(self, num_bytes: int) -> bytes:
        self.require(num_bytes)
        if num_bytes > _MAX_STRING:
            raise self.error(f"a string of {num_bytes} bytes, over the limit of {_MAX_STRING},")
        self.left -= num_bytes
        return self.file.read(num_bytes)

    def require(self, num_bytes: int) -> None:
        if not 0 <= num_bytes <= self.left:
            raise self.error(f"damaged or cut off: {num_bytes} bytes expected, {self.left} left")

    def int32(self) -> int:
        return int(struct.unpack("<i", self.take(4))[0])

    def longs(self, count: int) -> list[int]:
        return list(struct.unpack(f"<{count}q", self.take(8 * count)))

    def string(self) -> str:
        return self.take(self.int32()).decode("latin-1")

    def object(self, depth: int = 0) -> Any:
        self.num_objects += 1
        if depth > _MAX_DEPTH or self.num_objects > _MAX_OBJECTS:
            raise self.error(f"too many objects or nested too deep (the limits are {_MAX_OBJECTS} and {_MAX_DEPTH})")
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
            raise self.error(f"unknown type tag {tag}")
        if tag == _FUNCTION:
            return self.function(depth)
        index = self.int32()
        if index in self.by_index:
            return self.by_index[index]
        if tag in (_OLD_RECURSIVE_FUNCTION, _RECURSIVE_FUNCTION):
            self.by_index[index] = None
            return self.function(depth)
        if tag == _TABLE:
            return self.table(self.by_index.setdefault(index, {}), depth)
        version = self.string()
        name = self.string() if version.startswith("V ") else version  # the oldest files have no version
        if name in _STORAGES:
            self.by_index[index] = self.storage(_STORAGES[name])
        elif name in _TENSORS:
            self.by_index[index] = self.tensor(_TENSORS[name], depth)
        else:
            self.by_index[index] = torch_object = Torch7Object(name)  # before its fields, which may refer to it
            fields = self.object(depth + 1)
            if not isinstance(fields, dict):
                raise self.error(f"an object of class {name!r} whose fields are not a table")
            torch_object.fields = fields
        return self.by_index[index]

    def function(self, depth: int) -> None:
        """Skip a function: its bytecode and its upvalues."""
        self.take(self.int32())
        self.object(depth + 1)

    def table(self, table: dict[Any, Any], depth: int) -> dict[Any, Any]:
        count = self.int32()
        self.require(8 * count)  # each entry has at least two type tags, of key and value
        for _ in range(count):
            key = self.object(depth + 1)
            if not isinstance(key, str | float | bool):
                raise self.error("a table key that is not a string, number or boolean")
            table[key] = self.object(depth + 1)
        return table

    def storage(self, dtype: np.dtype) -> np.ndarray:
        (count,) = self.longs(1)
        self.require(count * dtype.itemsize)
        array = np.empty(count, dtype)
        if self.file.readinto(array.view(np.uint8)) != array.nbytes:  # type: ignore[attr-defined]
            raise self.error("cut off while it was read")
        self.left -= array.nbytes
        return array

    def tensor(self, dtype: np.dtype, depth: int) -> np.ndarray:
        """Return a tensor as a view of its storage, after checking that every element is inside the storage."""
        num_dimensions = self.int32()
        if not 0 <= num_dimensions <= _MAX_DIMENSIONS:
            raise self.error(f"a tensor of {num_dimensions} dimensions")
        sizes, strides = self.longs(num_dimensions), self.longs(num_dimensions)
        offset = self.longs(1)[0] - 1
        storage = self.object(depth + 1)
        if num_dimensions == 0 or 0 in sizes:
            return np.empty(0, dtype)
        if not isinstance(storage, np.ndarray) or storage.ndim != 1 or storage.dtype != dtype:
            raise self.error("a tensor without a storage of its type")
        last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        if min(sizes) < 0 or min(strides) < 0 or offset < 0 or max(last + 1, math.prod(sizes)) > len(storage):
            raise self.error(f"a tensor of sizes {sizes} that reaches beyond its storage of {len(storage)}")
        steps = [stride * dtype.itemsize if size > 1 else 0 for size, stride in zip(sizes, strides, strict=True)]
        return np.lib.stride_tricks.as_strided(storage[offset:], sizes, steps)

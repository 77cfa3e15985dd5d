"""Layers of a network in a weights file of Keras (HDF5), in the order of the network.

The root lists the layers' names in the attribute `layer_names`; each layer is a group, with its arrays somewhere
below. What those are called differs: conv1_1/conv1_1_W_1:0 by Keras 1, conv1_1/conv1_1/kernel:0 by Keras 2.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

_MAX_LAYERS = 1000
_MAX_DEPTH = 4
_MAX_DATASETS = 16  # of a layer


class KerasLayer(NamedTuple):
    """A layer with weights, float32. `kernel`: (height, width, in, out), or (in, out) of a dense layer."""

    name: str
    kernel: np.ndarray
    bias: np.ndarray


def read_layers(path: str | Path) -> list[KerasLayer]:
    """The layers that have a kernel and a bias. Layers without weights are left out.

    Raises:
        ValueError: not a weights file of Keras, a layer that is something else, or data that are not in the file
            itself (links, external and virtual data sets), not floating-point, or far larger than the file.
    """
    layers, left = [], 2 * os.path.getsize(path)  # compressed weights are nearly as large as the weights
    with h5py.File(path, "r") as file:
        root = _child(file, "model_weights") if "model_weights" in file else file
        if "layer_names" not in root.attrs:
            raise ValueError("no attribute layer_names: not a weights file of Keras 1 or 2")
        names = np.asarray(root.attrs["layer_names"]).ravel()
        if len(names) > _MAX_LAYERS:
            raise ValueError(f"{len(names)} layers")
        for name in (each.decode() if isinstance(each, bytes) else str(each) for each in names):
            arrays = []
            for dataset in _datasets(_child(root, name)):
                _check(dataset, name, left)
                left -= dataset.nbytes
                arrays.append(dataset)
            if not arrays:
                continue
            kernels, biases = [a for a in arrays if a.ndim in (2, 4)], [a for a in arrays if a.ndim == 1]
            if len(arrays) != 2 or len(kernels) != 1 or len(biases) != 1:
                raise ValueError(f"layer {name!r} has arrays {[a.shape for a in arrays]}, not a kernel and a bias")
            layers.append(KerasLayer(name, *(np.asarray(each[0], np.float32) for each in (kernels, biases))))
    return layers


def _child(group: h5py.Group, path: str) -> Any:
    """What lies at a path, each step of which must be in this very file."""
    found: Any = group
    for name in path.split("/"):
        link = found.get(name, getlink=True) if isinstance(found, h5py.Group) else None
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"{path!r} is {'a link to elsewhere' if link else 'missing'}")
        found = found[name]
    return found


def _datasets(node: Any, depth: int = 0) -> Iterator[h5py.Dataset]:
    if isinstance(node, h5py.Dataset):
        yield node
        return
    if not isinstance(node, h5py.Group) or depth > _MAX_DEPTH or len(node) > _MAX_DATASETS:
        raise ValueError(f"{node.name!r} is no group of a layer's arrays")
    for name in node:
        yield from _datasets(_child(node, name), depth + 1)


def _check(dataset: h5py.Dataset, layer: str, left: int) -> None:
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"layer {layer!r} has its data in another file")
    if dataset.shape is None or dataset.dtype.kind != "f":
        raise ValueError(f"layer {layer!r} has an array of {dataset.dtype}")
    if dataset.nbytes > left:
        raise ValueError(f"layer {layer!r} has an array of shape {dataset.shape}, more than this file can hold")

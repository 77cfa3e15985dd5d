"""Read the layers of a Keras weights file (HDF5) in the order of the network.

The root's attribute `layer_names` lists the layers. Each layer is a group that contains its arrays, possibly in nested
groups. Their names depend on the version: conv1_1/conv1_1_W_1:0 in Keras 1, conv1_1/conv1_1/kernel:0 in Keras 2.
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
_MAX_DATASETS = 16  # per group of a layer


class KerasLayer(NamedTuple):
    """A layer's weights in float32. `kernel`: (height, width, in, out), or (in, out) in a dense layer."""

    name: str
    kernel: np.ndarray
    bias: np.ndarray


def read_layers(path: str | Path) -> list[KerasLayer]:
    """Return the layers that have a kernel and a bias; layers without arrays are left out.

    Raises:
        ValueError: the file is not a Keras weights file, a layer has other arrays, or an array is stored outside the
            file (links, external and virtual datasets), is not floating-point, or is far larger than the file.
    """
    # Compression saves little on weights, so a file cannot hold much more than its size. `left` counts down.
    layers, left = [], 2 * os.path.getsize(path)
    with h5py.File(path, "r") as file:
        root = _child(file, "model_weights") if "model_weights" in file else file
        if "layer_names" not in root.attrs:
            if "layers" in file or "_layer_checkpoint_dependencies" in file:
                raise ValueError(
                    "weights without a model, as Keras 3 saves them (.weights.h5), which are not read; load them into "
                    "their model and save it as HDF5 with model.save('vggface.h5')"
                )
            raise ValueError("no attribute layer_names: not a weights file of Keras 1 or 2")
        names = np.asarray(root.attrs["layer_names"]).ravel()
        if len(names) > _MAX_LAYERS:
            raise ValueError(f"{len(names)} layers, over the limit of {_MAX_LAYERS}")
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
                raise ValueError(
                    f"layer {name!r} has arrays {[a.shape for a in arrays]} instead of a kernel and a bias"
                )
            layers.append(KerasLayer(name, *(np.asarray(each[0], np.float32) for each in (kernels, biases))))
    return layers


def _child(group: h5py.Group, path: str) -> Any:
    """Return the group or dataset at a path. Raises ValueError if any step is missing or a soft or external link."""
    node: Any = group
    for name in path.split("/"):
        link = node.get(name, getlink=True) if isinstance(node, h5py.Group) else None
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"{path!r} is {'a soft or external link' if link else 'missing'}")
        node = node[name]
    return node


def _datasets(node: Any, depth: int = 0) -> Iterator[h5py.Dataset]:
    if isinstance(node, h5py.Dataset):
        yield node
        return
    if not isinstance(node, h5py.Group) or depth > _MAX_DEPTH or len(node) > _MAX_DATASETS:
        raise ValueError(f"{node.name!r} is not a group with a layer's arrays")
    for name in node:
        yield from _datasets(_child(node, name), depth + 1)


def _check(dataset: h5py.Dataset, layer: str, left: int) -> None:
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{dataset.name} of layer {layer!r} has its data in another file")
    if dataset.shape is None or dataset.dtype.kind != "f":
        raise ValueError(f"{dataset.name} of layer {layer!r} is {dataset.dtype}, not floating-point")
    if dataset.nbytes > left:
        raise ValueError(f"{dataset.name} of layer {layer!r} has shape {dataset.shape}, more than this file can hold")

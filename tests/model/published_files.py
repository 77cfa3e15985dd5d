"""Write a VGGFace's weights in the format of each public file, following the descriptions of those files."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import safetensors.torch
import torch
from torch import Tensor

State = dict[str, Tensor]
CONVS = ("1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_3", "4_1", "4_2", "4_3", "5_1", "5_2", "5_3")
POOLED = ("1_2", "2_2", "3_3", "4_3", "5_3")


def bgr(state: State) -> State:
    return state | {"conv1_1.weight": state["conv1_1.weight"][:, [2, 1, 0]]}


def renamed(state: State, conv: str, fc: str) -> State:
    return {key.replace("conv", conv).replace("fc", fc): value.clone() for key, value in state.items()}


def vgg_face_dag(state: State, path: Path) -> None:
    torch.save(renamed(state, "conv", "fc"), path, _use_new_zipfile_serialization=False)  # the format of 2018


def caffe(state: State, path: Path) -> None:
    torch.save(renamed(bgr(state), "conv_", "fc"), path)


def pyvggface(state: State, path: Path) -> None:
    torch.save(renamed(bgr(state), "features.conv_", "fc.fc"), path)


def arspm(state: State, path: Path) -> None:
    safetensors.torch.save_file({key: value.contiguous() for key, value in state.items()}, path)


def torch7(state: State, path: Path) -> None:
    """Write an nn.Sequential of SpatialConvolutionMM (2-D weights), ReLU, pools, View, Linear and Dropout."""
    state, count = bgr(state), iter(range(1, 10_000))

    def ints(*values: int) -> bytes:
        return struct.pack(f"<{len(values)}i", *values)

    def string(value: str) -> bytes:
        return ints(len(value)) + value.encode()

    def head(name: str) -> bytes:
        return ints(4, next(count)) + string("V 1") + string(name)

    def value(item: object) -> bytes:
        if isinstance(item, bool):
            return ints(5, int(item))
        if isinstance(item, int | float):
            return ints(1) + struct.pack("<d", item)
        if isinstance(item, str):
            return ints(2) + string(item)
        if isinstance(item, np.ndarray):
            strides = [s // 4 for s in item.strides]
            sizes = struct.pack(f"<{2 * item.ndim + 1}q", *item.shape, *strides, 1)
            storage = head("torch.FloatStorage") + struct.pack("<q", item.size) + item.astype("<f4").tobytes()
            return head("torch.FloatTensor") + ints(item.ndim) + sizes + storage
        assert isinstance(item, dict)
        pairs = b"".join(value(k) + value(v) if not isinstance(v, bytes) else value(k) + v for k, v in item.items())
        return ints(3, next(count), len(item)) + pairs

    def module(name: str, **fields: object) -> bytes:
        return head(name) + value({"train": False, "output": np.zeros(1, "f4"), **fields})

    def layer(name: str, class_name: str, **fields: object) -> bytes:
        weight = state[f"{name}.weight"].flatten(1).contiguous().numpy()
        bias = state[f"{name}.bias"].numpy()
        return module(class_name, weight=weight, bias=bias, gradBias=np.zeros(len(bias), "f4"), **fields)

    modules = []
    for name in CONVS:
        modules += [layer(f"conv{name}", "nn.SpatialConvolutionMM", kW=3, kH=3, padding=1), module("nn.ReLU")]
        if name in POOLED:
            modules.append(module("nn.SpatialMaxPooling", kW=2, kH=2, ceil_mode=True))
    modules += [module("nn.View", numElements=1), layer("fc6", "nn.Linear"), module("nn.ReLU")]
    modules += [module("nn.Dropout", p=0.5), layer("fc7", "nn.Linear"), module("nn.ReLU"), module("nn.Dropout", p=0.5)]
    modules += [layer("fc8", "nn.Linear"), module("nn.SoftMax")]
    path.write_bytes(
        head("nn.Sequential") + value({"modules": dict(enumerate(modules, 1)), "_type": "torch.FloatTensor"})
    )


def _keras(path: Path, layers: dict[str, dict[str, np.ndarray]]) -> None:
    """Write a Keras weights file. layers: layer name -> array name within the layer's group -> array."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([name.encode() for name in layers])
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", b"2.0.6"
        for name, arrays in layers.items():
            group = file.require_group(name)
            group.attrs["weight_names"] = np.array([each.encode() for each in arrays], dtype="S64")
            for each, array in arrays.items():
                group.create_dataset(each, data=array)


def _hwio(weight: Tensor) -> np.ndarray:
    return weight.numpy().transpose(2, 3, 1, 0)


def rcmalli(state: State, path: Path, naming: str = "{0}/kernel:0 {0}/bias:0", fc6_order: str = "hwc") -> None:
    """Write dense layers as (in, out). fc6 takes a map flattened as height, width, channel."""
    state, layers = bgr(state), {}
    for name in (*(f"conv{each}" for each in CONVS), "fc6", "fc7", "fc8"):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"].numpy()
        if name == "fc6" and fc6_order == "hwc":
            channels = len(state["conv5_3.bias"])
            side = round((weight.shape[1] / channels) ** 0.5)
            weight = weight.reshape(-1, channels, side, side).permute(0, 2, 3, 1).flatten(1)
        kernel = _hwio(weight) if name.startswith("conv") else weight.T.numpy()
        layers[name] = dict(zip(naming.format(name).split(), (kernel, bias), strict=True))
        layers |= {"pool" + name[4]: {}} if name[4:] in POOLED else {"flatten": {}} if name == "fc5" else {}
        layers |= {f"{name}/relu": {}} if name in ("fc6", "fc7") else {}  # a group inside fc6's group
    _keras(path, {"input_1": {}, **layers, "fc8/softmax": {}})


def rcmalli_keras1(state: State, path: Path) -> None:
    rcmalli(state, path, naming="{0}_W_1:0 {0}_b_1:0")


def deepface(state: State, path: Path) -> None:
    """Write sixteen convolutions: fc6 has a kernel of the size of its map, fc7 and fc8 are 1x1."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    for index, name in enumerate((*(f"conv{each}" for each in CONVS), "fc6", "fc7", "fc8"), 1):
        weight = state[f"{name}.weight"]
        if name.startswith("fc"):
            channels = len(state["conv5_3.bias"]) if name == "fc6" else weight.shape[1]
            side = round((weight.shape[1] / channels) ** 0.5)
            weight = weight.reshape(len(weight), channels, side, side)
        else:
            layers[f"zero_padding2d_{index}"] = {}
        conv = f"conv2d_{index}"
        layers[conv] = {f"{conv}/kernel:0": _hwio(weight), f"{conv}/bias:0": state[f"{name}.bias"].numpy()}
    _keras(path, {**layers, "flatten_1": {}, "activation_1": {}})


WRITERS: dict[str, Callable[[State, Path], None]] = {
    "torch7": torch7,
    "vgg_face_dag": vgg_face_dag,
    "caffe": caffe,
    "pyvggface": pyvggface,
    "rcmalli": rcmalli,
    "deepface": deepface,
    "arspm": arspm,
}

"""Read VGGFace weights from any public file, or from a run's own, into one form. `docs/vggface.md` lists the files.

The content of a file decides its format; its name does not matter. Files are untrusted: nothing in them is executed.
"""

from __future__ import annotations

import math
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from arspm.model import keras_hdf5, torch7
from arspm.model.vggface import CHANNEL_ORDERS, CONVS, LAYERS

# Format -> channel order of conv1_1's input in the public file. The Caffe and Torch7 networks take BGR, the order in
# which OpenCV reads images. The MatConvNet network, from which vgg_face_dag and deepface were converted, takes RGB.
FORMATS = {
    "torch7": "bgr",  # VGG_FACE.t7
    "vgg_face_dag": "rgb",  # vgg_face_dag.pth, and every PyTorch file with keys conv1_1.weight ...
    "caffe": "bgr",  # VGG_FACE.caffemodel converted to PyTorch: conv_1_1.weight ...
    "pyvggface": "bgr",  # vggface.pth: features.conv_1_1.weight ..., fc.fc6.weight ...
    "rcmalli": "bgr",  # rcmalli_vggface_tf_vgg16.h5: layers conv1_1 ... fc8
    "deepface": "rgb",  # vgg_face_weights.h5: 16 convolutions with generic names
    "arspm": "rgb",  # model.safetensors of a run
}

_KEY = re.compile(
    r"(?:(?:module|model)\.)*(?P<part>features\.|fc\.)?"
    r"(?:conv(?P<underscore>_?)(?P<conv>[1-5]_[1-3])|(?P<fc>fc[678]))\.(?P<kind>weight|bias)"
)
# Names that torch.compile, activation checkpointing and FSDP insert at any place of a key.
_INSERTED = re.compile(r"(?<![^.])(?:_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")
_AVERAGE_COUNT = "n_averaged"  # the counter of torch's AveragedModel, beside the keys of the average
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_MAX_PUBLISHED_BYTES = 8 << 30


class PublishedWeights(NamedTuple):
    """Weights of a VGGFace in this system's form, and how the file stored them.

    state_dict: float32 tensors named by `vggface.LAYERS`; conv1_1 takes RGB, fc6 a map flattened as C, H, W.
    format: a key of `FORMATS`. channel_order: "rgb" or "bgr", the input order of conv1_1 in the file.
    """

    state_dict: dict[str, Tensor]
    format: str
    channel_order: str


def read_published(path: str | Path, channel_order: str = "auto") -> PublishedWeights:
    """Return the weights in a file of any format in `FORMATS`.

    Args:
        channel_order: input order of conv1_1 in the file, "rgb" or "bgr"; "auto" takes it from `FORMATS`.

    Raises:
        ValueError: an unknown channel_order, or a file that has none of the formats, is damaged or holds another
            network. The message names the file and, where possible, the tensor.
        OSError: the file cannot be opened.
    """
    if channel_order not in ("auto", *CHANNEL_ORDERS):
        raise ValueError(f"channel_order must be auto or one of {', '.join(CHANNEL_ORDERS)}; got {channel_order!r}")
    with open(path, "rb") as file:
        head = file.read(16)
    try:
        weights, file_format = _read(Path(path), head)
        state_dict = _checked(weights)
    except Exception as error:  # a damaged or hostile file can make a parser raise anything
        raise ValueError(f"{path}: not VGGFace weights: {_line(error)}; see docs/vggface.md") from None
    order = FORMATS[file_format] if channel_order == "auto" else channel_order
    if order == "bgr":
        state_dict["conv1_1.weight"] = state_dict["conv1_1.weight"].flip(1)
    return PublishedWeights(state_dict, file_format, order)


def _line(error: Exception) -> str:
    """Return an error's message on one line. Errors other than our own ValueErrors come from a confused parser."""
    text = " ".join(str(error).split())[:300]
    if type(error) is ValueError:
        return text
    return f"damaged or cut off ({type(error).__name__} {text}".rstrip() + "); copy or download it again"


def _read(path: Path, head: bytes) -> tuple[dict[str, Tensor], str]:
    """Return a file's weights, named by `vggface.LAYERS` but with the file's shapes, and its format.

    `head`: the first bytes of the file, which tell the container formats apart.
    """
    size = path.stat().st_size
    if size > _MAX_PUBLISHED_BYTES:
        raise ValueError(f"the file has {size} bytes, over the limit of {_MAX_PUBLISHED_BYTES}; VGGFace has 580 MB")
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return _from_keras(keras_hdf5.read_layers(path))
    if head.startswith(struct.pack("<i", 4)):  # Torch7's type tag of an object
        return _named([tuple(map(torch.from_numpy, layer)) for layer in torch7.read_layers(path)]), "torch7"
    if head.startswith(b"PK\x03\x04") and _is_keras_3(path):
        raise ValueError(
            "a model of Keras 3 (.keras), which is not read; save it as HDF5 with "
            "keras.models.load_model(FILE).save('vggface.h5')"
        )
    if head.startswith((b"PK\x03\x04", b"\x80")):  # torch.save: a zip archive, or a pickle before torch 1.6
        return _from_pytorch(_unwrapped(_load(path, size)), size)
    if head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= size:
        weights, file_format = _from_pytorch(safetensors.torch.load_file(path), size)
        return weights, "arspm" if file_format == "vgg_face_dag" else file_format
    raise ValueError("the file is neither PyTorch, Torch7, HDF5 nor safetensors")


def _is_keras_3(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return "model.weights.h5" in archive.namelist()


def _load(path: Path, size: int) -> Any:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:  # torch.save does not compress; a compressed archive could be a zip bomb
            if sum(entry.file_size for entry in archive.infolist()) > size:
                raise ValueError("the archive unpacks to more than its size; save it with torch.save")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # torch's message advises unsafe unpickling, so it is not shown
        raise ValueError(
            "damaged, or a pickle of more than tensors, which is never opened; save only the network's state_dict()"
        ) from None


def _unwrapped(loaded: Any) -> Mapping[str, Any]:
    """Return the state dict, which training programs often store together with other things."""
    for wrapper in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping):
        raise ValueError(f"the file holds a {type(loaded).__name__}; save the network's state_dict()")
    return loaded


def _from_pytorch(loaded: Mapping[str, Any], size: int) -> tuple[dict[str, Tensor], str]:
    """Return the weights of a state dict under our names, and the format that its keys indicate."""
    weights: dict[str, Tensor] = {}
    underscores, parts = set(), set()
    matches = {
        key: _KEY.fullmatch(_INSERTED.sub("", key)) if isinstance(key, str) else None
        for key in loaded
        if key != _AVERAGE_COUNT
    }
    unknown = [key for key, match in matches.items() if match is None]
    if unknown:
        raise ValueError(f"{len(unknown)} unknown keys, the first is {str(unknown[0])[:60]!r}")
    for key, match in matches.items():
        value = loaded[key]
        assert match is not None
        if match["conv"]:
            underscores.add(match["underscore"])
        parts.add(bool(match["part"]))
        name = f"{'conv' + match['conv'] if match['conv'] else match['fc']}.{match['kind']}"
        if name in weights:
            raise ValueError(f"{name} occurs twice")
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
            raise ValueError(f"{key} is not a dense CPU tensor")
        if value.numel() * value.element_size() > size:  # with strides of 0, any shape fits into a few bytes
            raise ValueError(f"{key} of shape {tuple(value.shape)} is larger than the file")
        weights[name] = value.detach()
    if len(underscores) > 1:
        raise ValueError("the file mixes the keys conv1_1 and conv_1_1")
    return weights, "pyvggface" if True in parts else "caffe" if "_" in underscores else "vgg_face_dag"


def _from_keras(layers: list[keras_hdf5.KerasLayer]) -> tuple[dict[str, Tensor], str]:
    """Return the weights in PyTorch's layout, and the format that the layers' names indicate.

    Kernels HWIO become OIHW, and fc6's inputs H, W, C become C, H, W.
    """
    named = all(layer.name in LAYERS for layer in layers)
    if named and sorted(layer.name for layer in layers) == sorted(LAYERS):
        layers = sorted(layers, key=lambda layer: LAYERS.index(layer.name))
    elif named:
        missing = [name for name in LAYERS if name not in {layer.name for layer in layers}]
        raise ValueError(f"no layers {', '.join(missing)}; use the file that includes the top of the network")
    converted: list[tuple[Tensor, Tensor]] = []
    for layer in layers:
        kernel = torch.from_numpy(layer.kernel)
        if kernel.ndim == 4:
            kernel = kernel.permute(3, 2, 0, 1)
        elif converted and converted[-1][0].ndim == 4:  # the first dense layer takes a flattened map
            channels = len(converted[-1][0])
            side = _side(len(kernel), channels)
            kernel = kernel.reshape(side, side, channels, -1).permute(3, 2, 0, 1)
        else:
            kernel = kernel.T
        converted.append((kernel, torch.from_numpy(layer.bias)))
    return _named(converted), "rcmalli" if named else "deepface"


def _named(layers: list[Any]) -> dict[str, Tensor]:
    """Return (weight, bias) pairs, in network order, under the names of `vggface.LAYERS`."""
    if len(layers) != len(LAYERS):
        raise ValueError(f"{len(layers)} layers with weights; VGGFace has {len(LAYERS)}")
    pairs = zip(LAYERS, layers, strict=True)
    return {f"{name}.{kind}": t for name, layer in pairs for kind, t in zip(("weight", "bias"), layer, strict=True)}


def _side(inputs: int, channels: int) -> int:
    """Return the side of the square map that fc6 takes, from its number of inputs and the map's channels."""
    side = math.isqrt(inputs // channels) if channels else 0
    if side < 1 or side * side * channels != inputs:
        raise ValueError(f"fc6 has {inputs} inputs, which is not a square map of conv5_3's {channels} channels")
    return side


def _checked(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights in VGGFace's shapes and float32. Raises ValueError, naming the tensor, if one does not fit.

    Flat convolution weights are unfolded, convolutional fc layers flattened. Every shape must fit the previous layer.
    """
    missing = [name for layer in LAYERS for name in (f"{layer}.weight", f"{layer}.bias") if name not in weights]
    if missing:
        raise ValueError(f"missing {', '.join(missing[:4])}{' ...' if len(missing) > 4 else ''}")
    state_dict: dict[str, Tensor] = {}
    inputs = 3
    for layer in LAYERS:
        weight, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"].flatten()
        if not (weight.is_floating_point() and bias.is_floating_point()):
            raise ValueError(f"{layer}.weight and .bias are {weight.dtype} and {bias.dtype}, not floating-point")
        if layer in CONVS:
            if weight.ndim == 2 and weight.shape[1] == 9 * inputs:  # SpatialConvolutionMM
                weight = weight.reshape(-1, inputs, 3, 3)
            expected: tuple[int, ...] = (len(bias), inputs, 3, 3)
        else:
            weight = weight.flatten(1) if weight.ndim == 4 else weight
            if layer == "fc6" and weight.ndim == 2:
                inputs *= _side(weight.shape[1], inputs) ** 2
            expected = (len(bias), inputs)
        if tuple(weight.shape) != expected or not len(bias):
            raise ValueError(f"{layer}.weight is {tuple(weight.shape)}, but its bias and its inputs need {expected}")
        state_dict[f"{layer}.weight"] = weight.float().contiguous()
        state_dict[f"{layer}.bias"] = bias.float().contiguous()
        inputs = len(bias)
    units = [len(state_dict[f"{layer}.bias"]) for layer in ("fc6", "fc7")]
    if units[0] != units[1]:
        raise ValueError(f"fc6 has {units[0]} units and fc7 has {units[1]}; they must be equal")
    return state_dict

"""VGGFace's published weights: every public file, and this system's own, in one form. `docs/vggface.md` lists them.

Which file it is follows from its content, never from its name. All are untrusted: nothing in them is executed.
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

# Format -> the order of conv1_1's input channels in the public file. Caffe and Torch7 see BGR, as OpenCV reads images;
# MatConvNet, which vgg_face_dag and deepface were converted from, sees RGB.
FORMATS = {
    "torch7": "bgr",  # VGG_FACE.t7
    "vgg_face_dag": "rgb",  # vgg_face_dag.pth, and every file of PyTorch whose keys are conv1_1.weight ...
    "caffe": "bgr",  # VGG_FACE.caffemodel converted to PyTorch: conv_1_1.weight ...
    "pyvggface": "bgr",  # vggface.pth: features.conv_1_1.weight ..., fc.fc6.weight ...
    "rcmalli": "bgr",  # rcmalli_vggface_tf_vgg16.h5: layers conv1_1 ... fc8
    "deepface": "rgb",  # vgg_face_weights.h5: layers without a name of their own, 16 convolutions
    "arspm": "rgb",  # model.safetensors of a run
}

_KEY = re.compile(
    r"(?:(?:module|model)\.)*(?P<part>features\.|fc\.)?"
    r"(?:conv(?P<mark>_?)(?P<conv>[1-5]_[1-3])|(?P<fc>fc[678]))\.(?P<kind>weight|bias)"
)
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_MAX_PUBLISHED_BYTES = 8 << 30


class Published(NamedTuple):
    """Weights of a VGGFace in this system's form.

    state_dict: float32 under the names of `vggface.LAYERS`, conv1_1 with RGB input, fc6 flattened as C, H, W.
    format: a key of `FORMATS`. channel_order: "rgb" or "bgr", of conv1_1 in the file.
    """

    state_dict: dict[str, Tensor]
    format: str
    channel_order: str


def read_published(path: str | Path, channel_order: str = "auto") -> Published:
    """The weights of a file, of any format of `FORMATS`.

    Args:
        channel_order: of conv1_1's input in the file; "auto" is what the format has.

    Raises:
        ValueError: an unknown channel_order; or a file, named in the message, of none of the formats, damaged, or
            of another network.
        OSError: the file cannot be opened.
    """
    if channel_order not in ("auto", *CHANNEL_ORDERS):
        raise ValueError(f"channel_order must be auto or one of {', '.join(CHANNEL_ORDERS)}; got {channel_order!r}")
    with open(path, "rb") as file:
        head = file.read(16)
    try:
        weights, found = _read(Path(path), head)
        state_dict = _as_vggface(weights)
    except Exception as error:  # a damaged or hostile file makes a parser fail in any way
        raise ValueError(f"{path}: not usable as weights of VGGFace ({_line(error)})") from None
    order = FORMATS[found] if channel_order == "auto" else channel_order
    if order == "bgr":
        state_dict["conv1_1.weight"] = state_dict["conv1_1.weight"].flip(1)
    return Published(state_dict, found, order)


def _line(error: Exception) -> str:
    """What an error says, on one line; what is not of our own checks comes from a parser that lost its way."""
    text = " ".join(str(error).split())[:300]
    return text if type(error) is ValueError else f"damaged or cut off: {type(error).__name__} {text}".rstrip()


def _read(path: Path, head: bytes) -> tuple[dict[str, Tensor], str]:
    """The weights of a file that begins with `head`, named canonically but shaped as they are in it; its format."""
    size = path.stat().st_size
    if size > _MAX_PUBLISHED_BYTES:
        raise ValueError(f"{size} bytes; VGGFace's weights have 580 MB")
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return _from_keras(keras_hdf5.read_layers(path))
    if head.startswith(struct.pack("<i", 4)):  # Torch7's tag of an object
        return _named([tuple(map(torch.from_numpy, layer)) for layer in torch7.read_layers(path)]), "torch7"
    if head.startswith((b"PK\x03\x04", b"\x80")):  # torch.save's archive, and the pickle that it was before 1.6
        return _from_pytorch(_unwrapped(_load(path, size)), size)
    if head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= size:
        weights, found = _from_pytorch(safetensors.torch.load_file(path), size)
        return weights, "arspm" if found == "vgg_face_dag" else found
    raise ValueError("neither PyTorch, Torch7, HDF5 nor safetensors; docs/vggface.md lists the files that are read")


def _load(path: Path, size: int) -> Any:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:  # torch.save stores; what is packed could unpack to any size
            if sum(entry.file_size for entry in archive.infolist()) > size:
                raise ValueError("an archive that unpacks to more than its size")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # torch's own words advise to unpickle after all
        raise ValueError(
            "damaged, or a pickle of more than tensors, which is never opened: save the network's state_dict() alone"
        ) from None


def _unwrapped(loaded: Any) -> Mapping[str, Any]:
    """The state dict itself, where a training program wrote it beside other things."""
    for wrapper in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping):
        raise ValueError(f"holds a {type(loaded).__name__} instead of a state dict")
    return loaded


def _from_pytorch(loaded: Mapping[str, Any], size: int) -> tuple[dict[str, Tensor], str]:
    weights: dict[str, Tensor] = {}
    marks, parts = set(), set()
    unknown = [key for key in loaded if not (isinstance(key, str) and _KEY.fullmatch(key))]
    if unknown:
        raise ValueError(f"{len(unknown)} unknown keys, the first {str(unknown[0])[:60]!r}")
    for key, value in loaded.items():
        match = _KEY.fullmatch(key)
        assert match is not None  # or it were unknown
        if match["conv"]:
            marks.add(match["mark"])
        parts.add(bool(match["part"]))
        name = f"{'conv' + match['conv'] if match['conv'] else match['fc']}.{match['kind']}"
        if name in weights:
            raise ValueError(f"{name} is there twice")
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
            raise ValueError(f"{key} is no plain tensor")
        if value.numel() * value.element_size() > size:  # strides of 0 make any size of nothing
            raise ValueError(f"{key} of shape {tuple(value.shape)} is larger than the file")
        weights[name] = value.detach()
    if len(marks) > 1:
        raise ValueError("keys conv1_1 and conv_1_1 in one file")
    return weights, "pyvggface" if True in parts else "caffe" if "_" in marks else "vgg_face_dag"


def _from_keras(layers: list[keras_hdf5.KerasLayer]) -> tuple[dict[str, Tensor], str]:
    """HWIO becomes OIHW, and what a dense layer sees as H, W, C becomes C, H, W."""
    named = all(layer.name in LAYERS for layer in layers)
    if named and sorted(layer.name for layer in layers) == sorted(LAYERS):
        layers = sorted(layers, key=lambda layer: LAYERS.index(layer.name))
    elif named:
        missing = [name for name in LAYERS if name not in {layer.name for layer in layers}]
        raise ValueError(f"no layers {', '.join(missing)}: take the file with the top of the network")
    converted: list[tuple[Tensor, Tensor]] = []
    for layer in layers:
        kernel = torch.from_numpy(layer.kernel)
        if kernel.ndim == 4:
            kernel = kernel.permute(3, 2, 0, 1)
        elif converted and converted[-1][0].ndim == 4:  # the first dense layer sees a flattened map
            channels = len(converted[-1][0])
            side = _side(len(kernel), channels)
            kernel = kernel.reshape(side, side, channels, -1).permute(3, 2, 0, 1)
        else:
            kernel = kernel.T
        converted.append((kernel, torch.from_numpy(layer.bias)))
    return _named(converted), "rcmalli" if named else "deepface"


def _named(layers: list[Any]) -> dict[str, Tensor]:
    if len(layers) != len(LAYERS):
        raise ValueError(f"{len(layers)} layers with weights instead of {len(LAYERS)}")
    pairs = zip(LAYERS, layers, strict=True)
    return {f"{name}.{kind}": t for name, layer in pairs for kind, t in zip(("weight", "bias"), layer, strict=True)}


def _side(inputs: int, channels: int) -> int:
    """Height and width of the map of `channels` that fc6 sees."""
    side = math.isqrt(inputs // channels) if channels else 0
    if side < 1 or side * side * channels != inputs:
        raise ValueError(f"fc6 has {inputs} inputs, which are no square map of conv5_3's {channels} channels")
    return side


def _as_vggface(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Flat weights unfolded, convolutional fc layers flattened, and every shape checked against the layer before."""
    missing = [name for layer in LAYERS for name in (f"{layer}.weight", f"{layer}.bias") if name not in weights]
    if missing:
        raise ValueError(f"missing {', '.join(missing[:4])}{' ...' if len(missing) > 4 else ''}")
    found: dict[str, Tensor] = {}
    inputs = 3
    for layer in LAYERS:
        weight, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"].flatten()
        if not (weight.is_floating_point() and bias.is_floating_point()):
            raise ValueError(f"{layer} is of {weight.dtype} and {bias.dtype}, not floating-point")
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
            raise ValueError(f"{layer}.weight is {tuple(weight.shape)} where {expected} fits its bias and its inputs")
        found[f"{layer}.weight"], found[f"{layer}.bias"] = weight.float().contiguous(), bias.float().contiguous()
        inputs = len(bias)
    if len(found["fc7.bias"]) != len(found["fc6.bias"]):
        raise ValueError(f"fc7 has {len(found['fc7.bias'])} units and fc6 {len(found['fc6.bias'])}; they must agree")
    return found

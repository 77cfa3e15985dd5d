"""Parameters and FLOPs of every network at the paper's size, computed from kernels and channels, against the networks
themselves and against the tables of `docs/sizes.md`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from arspm.model.face_decoder import FaceDecoder
from arspm.model.gender_classifier import GenderClassifier
from arspm.model.speech_encoder import Speech2FaceEncoder, SpeechEncoder
from arspm.model.vggface import VGGFace

REPOSITORY = Path(__file__).parents[1]
SPECTROGRAM, FEATURE, FACE = (2, 257, 598), (4096,), (3, 224, 224)


class Layer(NamedTuple):
    """A layer's name, output shape, parameters and FLOPs; a multiply-add counts as two FLOPs."""

    name: str
    shape: tuple[int, ...]
    parameters: int
    flops: int


# --- arithmetic


def conv(
    name: str,
    kernel: int,
    channels_in: int,
    shape: tuple[int, int, int],
    *,
    bias: bool = False,
    norm: bool = True,
    multiplied_at: tuple[int, int] | None = None,
) -> Layer:
    """Return a convolution with its BatchNorm. `multiplied_at`: input size of a transposed convolution."""
    channels, height, width = shape
    weights = kernel**2 * channels_in * channels
    height, width = multiplied_at or (height, width)
    return Layer(name, shape, weights + bias * channels + norm * 2 * channels, 2 * weights * height * width)


def linear(name: str, inputs: int, outputs: int) -> Layer:
    return Layer(name, (outputs,), inputs * outputs + outputs, 2 * inputs * outputs)


def cbam(channels: int, height: int, width: int) -> Layer:
    """Return the perceptron, shared by the average and the maximum, and the 7x7 convolution of two maps to one."""
    hidden = channels // 16
    perceptron = channels * hidden + hidden + hidden * channels + channels
    flops = 2 * 2 * (2 * channels * hidden) + 2 * 49 * 2 * height * width
    return Layer("CBAM", (channels, height, width), perceptron + 49 * 2 + 2, flops)


def last_layers(channels: int, height: int, width: int) -> list[Layer]:
    """Return CBAM, Fc1 as a 1x1 convolution, and Fc2."""
    fc1 = conv("Fc1", 1, channels, (4096, height, width), bias=True, norm=False)
    return [cbam(channels, height, width), fc1, linear("Fc2", 4096, 4096)]


def table_3() -> list[Layer]:
    return [
        conv("Conv1", 7, 2, (64, 127, 297)),  # MaxPool1 leaves 63 x 148
        conv("Conv2", 5, 64, (128, 31, 73)),  # MaxPool2 leaves 15 x 36
        conv("Conv3", 3, 128, (256, 15, 36)),
        conv("Conv4", 3, 256, (512, 15, 36)),
        conv("Conv5", 3, 512, (512, 15, 36)),  # MaxPool3 leaves 4 x 17
        *last_layers(512, 4, 17),
    ]


def speech2face() -> list[Layer]:
    shapes = [(64, 257, 598), (64, 257, 598), (128, 257, 598), (128, 257, 299), (128, 257, 149), (256, 257, 74)]
    shapes += [(512, 257, 37), (512, 129, 19), (512, 65, 10)]
    channels_in = [2, *(shape[0] for shape in shapes)]
    layers = [conv("", 4, before, shape, bias=True) for before, shape in zip(channels_in, shapes, strict=False)]
    return [*layers, linear("", 512 * 65, 4096), linear("", 4096, 4096)]


def half(size: tuple[int, int]) -> tuple[int, int]:
    return (size[0] + 1) // 2, (size[1] + 1) // 2


def resnet(depths: tuple[int, ...], channels_in: int, size: tuple[int, int]) -> list[Layer]:
    """Return the layers of He et al. 2016, Table 1: a 7x7 convolution, a pool, four stages of 3x3 convolution pairs."""
    size = half(size)
    layers = [conv("", 7, channels_in, (64, *size))]
    size, channels = half(size), 64
    for stage, depth in enumerate(depths):
        wider = 64 * 2**stage
        if stage:
            size = half(size)
            layers.append(conv("", 1, channels, (wider, *size)))  # the shortcut
        for index in range(2 * depth):
            layers.append(conv("", 3, wider if index else channels, (wider, *size)))
        channels = wider
    return layers


def densenet121(channels_in: int, size: tuple[int, int]) -> list[Layer]:
    """Return the layers of Huang et al. 2017, Table 1. BatchNorms before a convolution are layers of their own here."""
    size = half(size)
    layers = [conv("", 7, channels_in, (64, *size))]
    size, channels = half(size), 64
    for block, depth in enumerate((6, 12, 24, 16)):
        if block:
            norm = Layer("", (), 2 * channels, 0)
            layers += [norm, conv("", 1, channels, (channels // 2, *size), norm=False)]
            size, channels = (size[0] // 2, size[1] // 2), channels // 2
        for _ in range(depth):
            norm = Layer("", (), 2 * channels, 0)
            layers += [norm, conv("", 1, channels, (128, *size)), conv("", 3, 128, (32, *size), norm=False)]
            channels += 32
    return [*layers, Layer("", (channels, *size), 2 * channels, 0)]


def face_decoder(as_printed: bool = False) -> list[Layer]:
    """Return the layers of Table 2 with the sizes of reading A, or as printed."""
    sides = (7, 14, 14, 14, 28, 28, 56, 56, 56, 112, 112, 224)
    if as_printed:
        sides = (7, 14, 14, 14, 14, 14, 28, 28, 28, 56, 56, 112)
    channels = (512, 512, 512, 512, 512, 512, 256, 256, 256, 64, 64, 32)
    layers = [linear("Fc1", 4096, 1000), linear("Fc2", 1000, 25088), cbam(512, 7, 7)]
    for index in range(1, 12):
        shape, before = (channels[index], sides[index], sides[index]), (sides[index - 1], sides[index - 1])
        layers.append(conv(f"ConvTrans{index}", 5, channels[index - 1], shape, multiplied_at=before))
    return [*layers, conv("Conv1", 1, 32, (3, sides[-1], sides[-1]), bias=True, norm=False)]


def vgg16(num_classes: int) -> list[Layer]:
    layers, channels = [], 3
    blocks = ((64, 2, 224), (128, 2, 112), (256, 3, 56), (512, 3, 28), (512, 3, 14))
    for wider, depth, side in blocks:
        for _ in range(depth):
            layers.append(conv("", 3, channels, (wider, side, side), bias=True, norm=False))
            channels = wider
    return [*layers, linear("", 25088, 4096), linear("", 4096, 4096), linear("", 4096, num_classes)]


def gender() -> list[Layer]:
    convs = [
        conv("", 5, 2, (16, 129, 299)),  # a 2x2 pool follows, as after the next two
        conv("", 3, 16, (32, 64, 149)),
        conv("", 3, 32, (64, 32, 74)),
        conv("", 3, 64, (128, 16, 37)),
        conv("", 3, 128, (128, 16, 37)),
    ]
    return [*convs, linear("", 4 * 128, 64), linear("", 64, 2)]


class Network(NamedTuple):
    layers: list[Layer]
    build: Callable[[], nn.Module]
    input_shape: tuple[int, ...]


BINS_AND_FRAMES = SPECTROGRAM[1:]
NETWORKS = {
    "speech encoder": Network(table_3(), SpeechEncoder, SPECTROGRAM),
    "speech encoder, speech2face": Network(speech2face(), Speech2FaceEncoder, SPECTROGRAM),
    "speech encoder, resnet18": Network(
        resnet((2, 2, 2, 2), 2, BINS_AND_FRAMES) + last_layers(512, 9, 19),
        lambda: SpeechEncoder(architecture="resnet18"),
        SPECTROGRAM,
    ),
    "speech encoder, resnet34": Network(
        resnet((3, 4, 6, 3), 2, BINS_AND_FRAMES) + last_layers(512, 9, 19),
        lambda: SpeechEncoder(architecture="resnet34"),
        SPECTROGRAM,
    ),
    "speech encoder, densenet121": Network(
        densenet121(2, BINS_AND_FRAMES) + last_layers(1024, 8, 18),
        lambda: SpeechEncoder(architecture="densenet121"),
        SPECTROGRAM,
    ),
    "face decoder": Network(face_decoder(), FaceDecoder, FEATURE),
    "face decoder, as printed": Network(face_decoder(True), lambda: FaceDecoder(as_printed=True), FEATURE),
    "VGGFace": Network(vgg16(2622), VGGFace, FACE),
    "gender classifier": Network(gender(), GenderClassifier, SPECTROGRAM),
}


def total(layers: list[Layer]) -> tuple[int, int]:
    return sum(layer.parameters for layer in layers), sum(layer.flops for layer in layers)


def measured(network: Network) -> tuple[int, FlopCounterMode]:
    """Return the real network's parameters and the FLOP counter of one sample, on the meta device."""
    with torch.device("meta"):
        model = network.build()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, *network.input_shape))
    return sum(parameter.numel() for parameter in model.parameters()), counter


@pytest.mark.parametrize(
    ("layers", "parameters", "giga_macs"),
    [
        ([*resnet((2, 2, 2, 2), 3, (224, 224)), linear("", 512, 1000)], 11_689_512, 1.814),
        ([*resnet((3, 4, 6, 3), 3, (224, 224)), linear("", 512, 1000)], 21_797_672, 3.664),
        ([*densenet121(3, (224, 224)), linear("", 1024, 1000)], 7_978_856, 2.834),
        (vgg16(1000), 138_357_544, 15.47),
    ],
    ids=["resnet18", "resnet34", "densenet121", "vgg16"],
)
def test_the_arithmetic_gives_the_published_sizes(layers, parameters, giga_macs):
    """The sizes published by torchvision for 224x224 RGB and 1000 classes; it counts multiply-adds."""
    found, flops = total(layers)
    assert found == parameters
    assert round(flops / 2e9, 3) == pytest.approx(giga_macs, abs=0.0011)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_networks_have_the_computed_sizes(name):
    parameters, counter = measured(NETWORKS[name])
    assert (parameters, counter.get_total_flops()) == total(NETWORKS[name].layers)


def test_every_layer_of_table_3_has_the_computed_size():
    _, counter = measured(NETWORKS["speech encoder"])
    convs = [f"trunk.conv{index}" for index in range(1, 6)]
    found = [by_module(counter, f"SpeechEncoder.{name}") for name in (*convs, "cbam", "fc1", "fc2")]
    assert found == [layer.flops for layer in table_3()]


@pytest.mark.parametrize("as_printed", [False, True])
def test_every_layer_of_table_2_has_the_computed_size(as_printed):
    _, counter = measured(NETWORKS["face decoder, as printed" if as_printed else "face decoder"])
    transposed = [f"conv_trans.{3 * index}" for index in range(11)]  # BatchNorm and ReLU follow each
    names = ("fc1", "fc2", "cbam_features", *transposed, "conv1")
    assert [by_module(counter, f"FaceDecoder.{name}") for name in names] == [
        layer.flops for layer in face_decoder(as_printed)
    ]


def by_module(counter: FlopCounterMode, name: str) -> int:
    return sum(counter.get_flop_counts()[name].values())


# --- the tables of docs/sizes.md


def printed(heading: str) -> list[list[str]]:
    """Return the cells of the table under a heading, without the header row."""
    _, found, text = (REPOSITORY / "docs" / "sizes.md").read_text().partition(f"\n## {heading}\n")
    assert found, f"docs/sizes.md has no heading {heading!r}"
    lines = [line for line in text.partition("\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def layer_rows(layers: list[Layer]) -> list[list[str]]:
    rows = [
        [layer.name, " x ".join(map(str, layer.shape)), f"{layer.parameters:,}", f"{layer.flops / 1e6:,.2f}"]
        for layer in layers
    ]
    parameters, flops = total(layers)
    return [*rows, ["all", "", f"{parameters:,}", f"{flops / 1e6:,.2f}"]]


def network_rows() -> list[list[str]]:
    sizes = {name: total(network.layers) for name, network in NETWORKS.items()}
    return [[name, f"{parameters:,}", f"{flops / 1e9:,.3f}"] for name, (parameters, flops) in sizes.items()]


def test_the_page_prints_these_sizes():
    assert printed("Networks") == network_rows()
    assert printed("Speech encoder, layer by layer") == layer_rows(table_3())
    assert printed("Face decoder, layer by layer") == layer_rows(face_decoder())


# --- a training step at the paper's size


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.paper_size", "--steps", "1", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.long
def test_every_network_takes_a_step_at_the_papers_size_within_24_gib():
    done = benchmark()
    assert done.returncode == 0, done.stderr
    found = {figures["network"]: figures for figures in map(json.loads, done.stdout.splitlines()[1:])}
    stages = ("encoder", "decoder", "gender", "vggface")
    variants = ("encoder-speech2face", "encoder-resnet18", "encoder-resnet34", "encoder-densenet121", "decoder-112")
    assert set(found) == {*stages, *variants} == {row[0] for row in printed("A training step")}
    for figures in found.values():
        assert figures["finite"] is True
        assert (figures["rows"], figures["precision"]) == (16, "fp32")
        assert 0.2 < figures["peak_gib"] < 24
        # Weights, gradients and Adam's two moments, in fp32.
        assert figures["peak_gib"] > 16 * figures["parameters"] / 2**30


@pytest.mark.slow
def test_too_much_memory_is_an_error_of_one_line():
    done = benchmark("gender", "--rows", "2", "--limit-gib", "0.01")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("gender: a step of 2 rows took ")
    assert done.stderr.endswith(" GiB, over 0.01\n")

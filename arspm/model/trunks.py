"""The convolutions of each speech encoder: Table 3, Speech2Face, and the ResNets and DenseNet of section 3.3."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from arspm.corpus.schema import SPECTROGRAM_SHAPE
from arspm.model.width import scaled

ARCHITECTURES = ("arspm", "speech2face", "resnet18", "resnet34", "densenet121")

CHANNELS_IN, NUM_FREQ = SPECTROGRAM_SHAPE[:2]  # real and imaginary part; frequency bins
SPEECH2FACE_FREQ = -(-NUM_FREQ // 4)  # frequency bins of Speech2Face's map: halved twice, rounded up

_RESNET_DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}


class Trunk(NamedTuple):
    """Convolutions that turn a spectrogram (batch, 2, freq, time) into a map (batch, channels, freq', time').

    `minimum`: the fewest frequency bins and frames of a spectrogram.
    """

    layers: nn.Sequential
    channels: int
    minimum: tuple[int, int]


def trunk(architecture: str, *, width: float = 1.0) -> Trunk:
    """Return the convolutions of an architecture, with random weights.

    Args:
        architecture: one of ARCHITECTURES.
        width: multiplies every channel count.

    Raises:
        ValueError: unknown architecture.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}; got {architecture!r}")
    if architecture == "arspm":
        return table_3(width)
    if architecture == "speech2face":
        return speech2face(width)
    if architecture == "densenet121":
        return densenet121(width)
    return resnet(_RESNET_DEPTHS[architecture], width)


def table_3(width: float) -> Trunk:
    """Return Conv1 to MaxPool3 of Table 3, each Conv followed by BatchNorm and ReLU (reading E).

    At width 1 the map of a (2, 257, 598) spectrogram is 512 x 4 x 17.
    """

    def conv(channels_in: int, channels_out: int, kernel: int, stride: int) -> nn.Sequential:
        # No bias: BatchNorm would cancel it.
        layer = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=1, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(channels_out), nn.ReLU())

    c1, c2, c3, c4, c5 = (scaled(channels, width) for channels in (64, 128, 256, 512, 512))
    layers = nn.Sequential()
    layers.add_module("conv1", conv(CHANNELS_IN, c1, kernel=7, stride=2))
    layers.add_module("pool1", nn.MaxPool2d(3, stride=2))
    layers.add_module("conv2", conv(c1, c2, kernel=5, stride=2))
    layers.add_module("pool2", nn.MaxPool2d(3, stride=2))
    layers.add_module("conv3", conv(c2, c3, kernel=3, stride=1))
    layers.add_module("conv4", conv(c3, c4, kernel=3, stride=1))
    layers.add_module("conv5", conv(c4, c5, kernel=3, stride=1))
    layers.add_module("pool3", nn.MaxPool2d((5, 3), stride=(3, 2)))
    # The smallest input that leaves one value after MaxPool3, whose kernel is (5, 3).
    return Trunk(layers, c5, minimum=(97, 65))


def speech2face(width: float) -> Trunk:
    """Return the convolutions of Speech2Face up to the average over time (Oh et al. 2019, Table 1; the paper's [13]).

    There are nine 4x4 convolutions, each followed by ReLU and BatchNorm; after the last one, the average comes before
    ReLU and BatchNorm. Pools and average act along time only, so 257 frequency bins become 65. The table does not
    mention padding. We pad with one zero before and two after, so that stride 1 keeps the size and stride 2 halves
    it, rounded up (TensorFlow's SAME): without padding, speech shorter than 4.5 s would leave no value, and the
    authors report results for 3 s. Pools round down. The convolutions have biases because ReLU comes before BatchNorm.
    """
    layers: list[nn.Module] = []
    channels = CHANNELS_IN
    # Output channels, stride, and whether a pool follows.
    for channels_out, stride, pools in (
        (64, 1, False),
        (64, 1, False),
        (128, 1, True),
        (128, 1, True),
        (128, 1, True),
        (256, 1, True),
        (512, 1, False),
        (512, 2, False),
        (512, 2, False),
    ):
        narrow = scaled(channels_out, width)
        layers += [
            nn.ZeroPad2d((1, 2, 1, 2)),
            nn.Conv2d(channels, narrow, 4, stride),
            nn.ReLU(),
            nn.BatchNorm2d(narrow),
        ]
        layers += [nn.MaxPool2d((1, 2))] if pools else []
        channels = narrow
    # Before the last ReLU and BatchNorm.
    layers.insert(-2, nn.AdaptiveAvgPool2d((None, 1)))
    return Trunk(nn.Sequential(*layers), channels, minimum=(NUM_FREQ, 16))


def resnet(depths: tuple[int, ...], width: float) -> Trunk:
    """Return a ResNet of basic blocks up to its last block (He et al. 2016; the paper's [27]).

    depths: number of blocks in each of the four stages. timm's ResNet has 64 channels in its stem at any width, so
    this function assembles timm's blocks itself; at width 1 the two are the same network. Every convolution is
    zero-padded, so any size would leave a value, but sizes below the total stride of 32 are refused.
    """
    from timm.models.resnet import BasicBlock  # imported here: takes a second and 200 MB

    channels = scaled(64, width)
    layers: list[nn.Module] = [
        nn.Conv2d(CHANNELS_IN, channels, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
    ]
    for stage, depth in enumerate(depths):
        channels_out = scaled(64 * 2**stage, width)
        for index in range(depth):
            stride = 2 if stage > 0 and index == 0 else 1
            shortcut = None
            if stride > 1 or channels != channels_out:
                projection = nn.Conv2d(channels, channels_out, 1, stride=stride, bias=False)
                shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels_out))
            layers.append(BasicBlock(channels, channels_out, stride, shortcut))
            channels = channels_out
    network = nn.Sequential(*layers)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return Trunk(network, channels, minimum=(32, 32))


def densenet121(width: float) -> Trunk:
    """Return DenseNet-121 up to its last BatchNorm and ReLU (Huang et al. 2017; the paper's [29]).

    `width` multiplies the growth rate of 32, from which all other channel counts follow. The transitions pool
    without padding: 29 is the smallest size that leaves a value.
    """
    from timm.models.densenet import DenseNet  # imported here, as in `resnet`

    network = DenseNet(
        growth_rate=scaled(32, width), block_config=(6, 12, 24, 16), in_chans=CHANNELS_IN, num_classes=0, global_pool=""
    )
    return Trunk(network.features, network.num_features, minimum=(29, 29))

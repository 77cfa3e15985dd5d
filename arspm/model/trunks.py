"""The convolutions of each speech encoder: Table 3's, Speech2Face's, and the general networks of section 3.3."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from arspm.corpus.schema import SPECTROGRAM_SHAPE
from arspm.model.width import scaled

ARCHITECTURES = ("arspm", "speech2face", "resnet18", "resnet34", "densenet121")

NUM_FREQ = SPECTROGRAM_SHAPE[1]  # frequency bins, which Speech2Face's first fully connected layer is bound to
SPEECH2FACE_FREQ = -(-NUM_FREQ // 4)  # what its trunk leaves of them: halved twice, rounded up

_RESNET_DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}


class Trunk(NamedTuple):
    """A spectrogram (batch, 2, freq, time) gives a map (batch, channels, freq', time').

    `minimum`: the fewest frequency bins and frames that it takes.
    """

    layers: nn.Sequential
    channels: int
    minimum: tuple[int, int]


def trunk(architecture: str, *, width: float = 1.0, channels_in: int = 2) -> Trunk:
    """The convolutions of an architecture, with random weights.

    Args:
        architecture: one of ARCHITECTURES.
        width: multiplies every channel count.
        channels_in: 2, the real and the imaginary part.

    Raises:
        ValueError: unknown architecture.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}; got {architecture!r}")
    if architecture == "arspm":
        return table_3(width, channels_in)
    if architecture == "speech2face":
        return speech2face(width, channels_in)
    if architecture == "densenet121":
        return densenet121(width, channels_in)
    return resnet(_RESNET_DEPTHS[architecture], width, channels_in)


def table_3(width: float, channels_in: int) -> Trunk:
    """Conv1 to MaxPool3 of Table 3 (reading E): 512 x 4 x 17 for (2, 257, 598). BatchNorm and ReLU follow each Conv."""

    def conv(channels_in: int, channels_out: int, kernel: int, stride: int) -> nn.Sequential:
        # BatchNorm has the bias.
        layer = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=1, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(channels_out), nn.ReLU())

    c1, c2, c3, c4, c5 = (scaled(channels, width) for channels in (64, 128, 256, 512, 512))
    layers = nn.Sequential()
    layers.add_module("conv1", conv(channels_in, c1, kernel=7, stride=2))
    layers.add_module("pool1", nn.MaxPool2d(3, stride=2))
    layers.add_module("conv2", conv(c1, c2, kernel=5, stride=2))
    layers.add_module("pool2", nn.MaxPool2d(3, stride=2))
    layers.add_module("conv3", conv(c2, c3, kernel=3, stride=1))
    layers.add_module("conv4", conv(c3, c4, kernel=3, stride=1))
    layers.add_module("conv5", conv(c4, c5, kernel=3, stride=1))
    layers.add_module("pool3", nn.MaxPool2d((5, 3), stride=(3, 2)))
    # The smallest input that leaves one value after MaxPool3: Table 3 walked upwards from its kernel, (5, 3).
    return Trunk(layers, c5, minimum=(97, 65))


def speech2face(width: float, channels_in: int) -> Trunk:
    """The voice encoder of Speech2Face up to its average over time (Oh et al. 2019, Table 1; the paper's [13]).

    Nine convolutions of 4x4, each followed by ReLU and then BatchNorm, but the last, whose ReLU and BatchNorm come
    after the average. Pools and average act along time alone, so 257 bins leave 65. The table says nothing of
    borders. Here every convolution has one zero before and two after, so that a stride of 1 keeps the size and one
    of 2 halves it, rounded up (TensorFlow's SAME): without zeros no speech under 4.5 s would leave a value, and they
    report results for 3 s. Pools round down. The convolutions have biases, since BatchNorm does not follow at once.
    """
    layers: list[nn.Module] = []
    channels = channels_in
    # Channels, stride and whether a pool follows.
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
    # The last convolution's average comes between it and its ReLU.
    layers.insert(-2, nn.AdaptiveAvgPool2d((None, 1)))
    return Trunk(nn.Sequential(*layers), channels, minimum=(NUM_FREQ, 16))


def resnet(depths: tuple[int, ...], width: float, channels_in: int) -> Trunk:
    """A ResNet of basic blocks (He et al. 2016; the paper's [27]) up to its last block.

    depths: blocks of each of the four stages. timm's own ResNet has 64 channels in its stem at any width, so its
    blocks are put together here; at width 1 the two are the same network. Every convolution has a border of
    zeros, so any size leaves a value; less than the whole stride, 32, is refused.
    """
    from timm.models.resnet import BasicBlock  # a second and 200 MB that the other architectures do not need

    channels = scaled(64, width)
    layers: list[nn.Module] = [
        nn.Conv2d(channels_in, channels, 7, stride=2, padding=3, bias=False),
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


def densenet121(width: float, channels_in: int) -> Trunk:
    """DenseNet-121 (Huang et al. 2017; the paper's [29]) up to its last BatchNorm and ReLU.

    The width multiplies the growth rate, 32, which every other channel count follows from. The transitions pool
    without a border: 29 is the smallest size that leaves a value.
    """
    from timm.models.densenet import DenseNet  # as above

    network = DenseNet(
        growth_rate=scaled(32, width), block_config=(6, 12, 24, 16), in_chans=channels_in, num_classes=0, global_pool=""
    )
    return Trunk(network.features, network.num_features, minimum=(29, 29))

"""Convolutional Block Attention Module (Woo et al. 2018, the paper's [18]; section 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ChannelAttention(nn.Module):
    """Attention weights in (0, 1), one per channel.

    One two-layer perceptron is applied to the average and to the maximum over space. The sigmoid is taken of the sum.
    """

    def __init__(self, channels: int, *, reduction: int) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels 1 1"]:
        score = self.mlp(x.mean(dim=(2, 3))) + self.mlp(x.amax(dim=(2, 3)))  # (batch, channels)
        return torch.sigmoid(score)[:, :, None, None]


class SpatialAttention(nn.Module):
    """Attention weights in (0, 1), one per position, from the maximum and the average over channels."""

    def __init__(self, *, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = nn.BatchNorm2d(1)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch 1 height width"]:
        summary = torch.cat((x.amax(dim=1, keepdim=True), x.mean(dim=1, keepdim=True)), dim=1)
        return torch.sigmoid(self.norm(self.conv(summary)))


def _channel_first(x: Tensor, attention: CBAM) -> Tensor:
    x = x * attention.channel(x)
    return x * attention.spatial(x)


def _spatial_first(x: Tensor, attention: CBAM) -> Tensor:
    x = x * attention.spatial(x)
    return x * attention.channel(x)


def _parallel(x: Tensor, attention: CBAM) -> Tensor:
    return x * attention.channel(x) * attention.spatial(x)


def _channel_only(x: Tensor, attention: CBAM) -> Tensor:
    return x * attention.channel(x)


def _none(x: Tensor, attention: CBAM) -> Tensor:
    return x


class Ordering(NamedTuple):
    """The function of a CBAM ordering, and the attentions that it uses."""

    function: Callable[[Tensor, CBAM], Tensor]
    channel: bool
    spatial: bool


ORDERINGS = {
    "channel_first": Ordering(_channel_first, channel=True, spatial=True),
    "spatial_first": Ordering(_spatial_first, channel=True, spatial=True),
    "parallel": Ordering(_parallel, channel=True, spatial=True),
    "channel_only": Ordering(_channel_only, channel=True, spatial=False),
    "none": Ordering(_none, channel=False, spatial=False),
}


class CBAM(nn.Module):
    """A feature map multiplied by channel attention, spatial attention, or both.

    Args:
        channels: channels of the feature map.
        order: one of ORDERINGS. "channel_first" and "spatial_first" apply the second attention to the output
            of the first. "parallel" computes both from the input x and returns x * channel * spatial.
            "channel_only" is squeeze-and-excitation with both poolings ([28]). "none" is the identity and has
            no parameters.
        reduction: the perceptron has max(1, channels // reduction) hidden units.
        kernel_size: size of the spatial attention's square kernel; odd.

    Raises:
        ValueError: unknown order, an even kernel_size, or a reduction below 1.
    """

    def __init__(
        self, channels: int, *, order: str = "channel_first", reduction: int = 16, kernel_size: int = 7
    ) -> None:
        super().__init__()
        if order not in ORDERINGS:
            raise ValueError(f"CBAM order must be one of {', '.join(ORDERINGS)}; got {order!r}")
        if reduction < 1:
            raise ValueError(f"CBAM reduction must be at least 1, got {reduction}")
        if kernel_size % 2 == 0:
            raise ValueError(f"CBAM kernel_size must be odd, got {kernel_size}")
        self.order = order
        if ORDERINGS[order].channel:
            self.channel = ChannelAttention(channels, reduction=reduction)
        if ORDERINGS[order].spatial:
            self.spatial = SpatialAttention(kernel_size=kernel_size)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        return ORDERINGS[self.order].function(x, self)

    def extra_repr(self) -> str:
        return f"order={self.order!r}"

"""The face decoder FD (Table 2): a face feature to a portrait."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from arspm.model.cbam import CBAM
from arspm.model.width import scaled

CBAM_POSITIONS = ("features", "output")

# Table 2, ConvTrans1 to ConvTrans11. The strides double the size at the start of each block, five times in all. The
# strides as printed double it four times (reading A).
_CHANNELS = (512, 512, 512, 512, 512, 256, 256, 256, 64, 64, 32)
_STRIDES = (2, 1, 1, 2, 1, 2, 1, 1, 2, 1, 2)
_STRIDES_AS_PRINTED = (2, 1, 1, 1, 1, 2, 1, 1, 2, 1, 2)
_KERNEL = 5


class FaceDecoder(nn.Module):
    """FD of Table 2 (readings A to D).

    Fc1 and Fc2, reshaped to a map of side image_size / 32, then eleven transposed convolutions and a 1x1
    convolution to RGB. ReLU follows both Fc layers and every transposed convolution; a sigmoid follows the last
    convolution.

    Args:
        feature_dim: size of a face feature; never scaled.
        width: multiplies every channel count and Fc1's 1000 units.
        image_size: side of the portrait in pixels, a multiple of 32.
        as_printed: use Table 2's strides as printed. They double the size four times, so the portrait's side is
            image_size / 2 (reading A).
        cbam, cbam_reduction: `order` and `reduction` of CBAM.
        cbam_position: "features" is the map after the reshape, "output" the map before Conv1. That map has few
            channels, so the reduction there is at most 8 (reading D).
        batch_norm: BatchNorm between each transposed convolution and its ReLU (reading C).

    Attributes:
        output_size: side of the portrait in pixels.

    Raises:
        ValueError: an image_size that is not a multiple of 32, or an unknown cbam_position.
    """

    def __init__(
        self,
        *,
        feature_dim: int = 4096,
        width: float = 1.0,
        image_size: int = 224,
        as_printed: bool = False,
        cbam: str = "channel_first",
        cbam_reduction: int = 16,
        cbam_position: str = "features",
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        if image_size < 32 or image_size % 32:
            raise ValueError(f"image_size must be a multiple of 32, got {image_size}")
        if cbam_position not in CBAM_POSITIONS:
            raise ValueError(f"cbam_position must be one of {', '.join(CBAM_POSITIONS)}; got {cbam_position!r}")
        start_channels = scaled(512, width)
        start_size = image_size // 32
        hidden = scaled(1000, width)
        strides = _STRIDES_AS_PRINTED if as_printed else _STRIDES
        self.output_size = start_size * math.prod(strides)

        self.fc1 = nn.Linear(feature_dim, hidden)
        self.fc2 = nn.Linear(hidden, start_channels * start_size**2)
        self.unflatten = nn.Unflatten(1, (start_channels, start_size, start_size))
        blocks: list[nn.Module] = []
        channels = start_channels
        for out_channels, stride in zip((scaled(c, width) for c in _CHANNELS), strides, strict=True):
            blocks += self._conv_trans(channels, out_channels, stride, batch_norm)
            channels = out_channels
        self.conv_trans = nn.Sequential(*blocks)
        self.conv1 = nn.Conv2d(channels, 3, kernel_size=1)
        at_output = cbam_position == "output"
        self.cbam_features = CBAM(start_channels, order="none" if at_output else cbam, reduction=cbam_reduction)
        self.cbam_output = CBAM(channels, order=cbam if at_output else "none", reduction=min(cbam_reduction, 8))
        for fc in (self.fc1, self.fc2):
            nn.init.kaiming_normal_(fc.weight, nonlinearity="relu")
            nn.init.zeros_(fc.bias)

    @staticmethod
    def _conv_trans(channels_in: int, channels_out: int, stride: int, batch_norm: bool) -> list[nn.Module]:
        conv = nn.ConvTranspose2d(
            channels_in,
            channels_out,
            _KERNEL,
            stride,
            padding=2,
            output_padding=stride - 1,
            bias=not batch_norm,
        )
        _initialize(conv.weight, stride)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        return [conv, nn.BatchNorm2d(channels_out), nn.ReLU()] if batch_norm else [conv, nn.ReLU()]

    def hidden(self, feature: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch hidden"]:
        """Return D_Fc1 of eq. 7: the output of Fc1 before its ReLU (reading C)."""
        return self.fc1(feature)

    def forward(self, feature: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch 3 size size"]:
        """Return portraits: RGB in [0, 1], float32 even under autocast."""
        x = torch.relu(self.fc2(torch.relu(self.hidden(feature))))
        x = self.cbam_features(self.unflatten(x))  # (batch, channels, image_size / 32, image_size / 32)
        x = self.cbam_output(self.conv_trans(x))  # (batch, channels, output_size, output_size)
        return torch.sigmoid(self.conv1(x).float())


def _initialize(weight: Tensor, stride: int) -> None:
    """Draw a transposed convolution's weights, (channels_in, channels_out, kernel, kernel), with Kaiming's variance.

    With stride 2 and along one axis, an even output sums three taps and an odd one two. Independent taps therefore
    start a portrait as a checkerboard, which training does not remove completely. Here both sum the same two values, so
    that each block of 2 x 2 outputs starts equal (for sub-pixel convolutions: Aitken et al. 2017).
    """
    channels_in = weight.shape[0]
    with torch.no_grad():
        if stride == 1:
            nn.init.normal_(weight, std=math.sqrt(2 / (channels_in * _KERNEL**2)))
            return
        taps = torch.empty(*weight.shape[:2], 2, 2).normal_(std=math.sqrt(2 / (channels_in * 2**2)))
        weight.copy_(F.pad(taps.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3), (0, 1, 0, 1)))

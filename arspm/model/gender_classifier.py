"""The gender classifier (section 3.1, reading G): a spectrogram to gender logits, which choose the prior."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from arspm.corpus.schema import SPECTROGRAM_SHAPE
from arspm.model.width import scaled

FEMALE = 0
MALE = 1

MINIMUM_SIZE = 16  # frequency bins and frames; the network halves both four times


def _conv(channels_in: int, channels_out: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out), nn.ReLU())


class GenderClassifier(nn.Module):
    """A classifier of five convolutions, three max-pools and two fully connected layers.

    The paper gives no sizes. We use 16, 32, 64, 128 and 128 channels, so that the convolutions cost about the same, a
    2x2 pool after each of the first three, and 64 hidden units. Before Fc1, the average over time is taken in four
    frequency bands: time, so that speech of any length works; bands, because pitch and formants lie at different
    frequencies.

    Args:
        width: multiplies the channels and the hidden units.
    """

    def __init__(self, *, width: float = 1.0) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = (scaled(channels, width) for channels in (16, 32, 64, 128, 128))
        hidden = scaled(64, width)
        self.convs = nn.Sequential(
            _conv(SPECTROGRAM_SHAPE[0], c1, kernel=5, stride=2),
            nn.MaxPool2d(2),
            _conv(c1, c2),
            nn.MaxPool2d(2),
            _conv(c2, c3),
            nn.MaxPool2d(2),
            _conv(c3, c4),
            _conv(c4, c5),
        )
        self.pool = nn.AdaptiveAvgPool2d((4, 1))
        self.fc1 = nn.Linear(4 * c5, hidden)
        self.fc2 = nn.Linear(hidden, 2)

    def forward(self, spectrogram: Float[Tensor, "batch channels freq time"]) -> Float[Tensor, "batch 2"]:
        """Return logits; the columns are FEMALE and MALE.

        Raises:
            ValueError: fewer than MINIMUM_SIZE frequency bins or frames.
        """
        freq, time = spectrogram.shape[-2:]
        if min(freq, time) < MINIMUM_SIZE:
            raise ValueError(
                f"the gender classifier needs at least {MINIMUM_SIZE} frequency bins and frames, got {freq} and {time}"
            )
        x = self.pool(self.convs(spectrogram)).flatten(1)  # (batch, channels * 4)
        return self.fc2(torch.relu(self.fc1(x)))

    def predict(
        self, spectrogram: Float[Tensor, "batch channels freq time"]
    ) -> tuple[Float[Tensor, " batch"], Int[Tensor, " batch"]]:
        """Return the probability of the more probable class, which is at least 0.5, and that class. Errors as above."""
        logits = self(spectrogram).float()
        # Not the larger probability's index: two different logits may have equal probabilities after rounding.
        return logits.softmax(dim=1).amax(dim=1), logits.argmax(dim=1)

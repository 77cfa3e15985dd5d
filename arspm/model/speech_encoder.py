"""The speech encoder SE (Table 3), and those it is compared with: a spectrogram and a prior give a face feature."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from arspm.model.cbam import CBAM
from arspm.model.trunks import NUM_FREQ, SPEECH2FACE_FREQ, trunk

FUSIONS = ("fc", "sum")
HEADS = ("fc2", "none")


class SpeechEncoder(nn.Module):
    """SE of Table 3 (readings D, E, F), or another network's convolutions in its place.

    For (2, 257, 598) and width 1 the map of Table 3 is 512 x 4 x 17 at CBAM. Fc1 is a 1x1 convolution and AvgPool1
    is global, so speech of any length works. Nothing non-linear follows Fc1, so that what is added to the prior
    can be negative. ResNets and DenseNet get the same CBAM, Fc1, fusion and Fc2 on their map.

    Speech2Face keeps its own end (Oh et al. 2019, Table 1): Fc1 over channels and frequency together, ReLU, Fc2. It
    has no CBAM and no place for a prior, and reads none of `cbam`, `cbam_reduction`, `fusion` and `head`.

    Args:
        architecture: whose convolutions, one of trunks.ARCHITECTURES.
        width: multiplies the channels of the convolutions.
        feature_dim: numbers in a face feature, and so the outputs of Fc1 and Fc2; never scaled.
        cbam, cbam_reduction: see CBAM.
        fusion: "fc" gives Fc2(pool(Fc1(x)) + prior), "sum" gives Fc2(pool(Fc1(x))) + prior (reading F).
        head: "none" leaves Fc2 out, for the bare sum pool(Fc1(x)) + prior.
        channels_in: 2, the real and the imaginary part.

    Attributes:
        minimum: the fewest frequency bins and frames that it takes.

    Raises:
        ValueError: unknown architecture, fusion or head, or fusion "fc" without the fc (head "none").
    """

    def __init__(
        self,
        *,
        architecture: str = "arspm",
        width: float = 1.0,
        feature_dim: int = 4096,
        cbam: str = "channel_first",
        cbam_reduction: int = 16,
        fusion: str = "fc",
        head: str = "fc2",
        channels_in: int = 2,
    ) -> None:
        super().__init__()
        if fusion not in FUSIONS:
            raise ValueError(f"fusion must be one of {', '.join(FUSIONS)}; got {fusion!r}")
        if head not in HEADS:
            raise ValueError(f"head must be one of {', '.join(HEADS)}; got {head!r}")
        if fusion == "fc" and head == "none":
            raise ValueError("fusion 'fc' adds the prior before Fc2, which head 'none' leaves out; use fusion 'sum'")
        self.architecture = architecture
        self.feature_dim = feature_dim
        self.fusion = fusion
        convolutions = trunk(architecture, width=width, channels_in=channels_in)
        self.minimum = convolutions.minimum
        self.trunk = convolutions.layers
        if architecture == "speech2face":
            self.fc1: nn.Module = nn.Linear(convolutions.channels * SPEECH2FACE_FREQ, feature_dim)
            self.fc2: nn.Module = nn.Linear(feature_dim, feature_dim)
            return
        self.cbam = CBAM(convolutions.channels, order=cbam, reduction=cbam_reduction)
        self.fc1 = nn.Conv2d(convolutions.channels, feature_dim, kernel_size=1)
        self.fc2 = nn.Linear(feature_dim, feature_dim) if head == "fc2" else nn.Identity()

    def forward(
        self,
        spectrogram: Float[Tensor, "batch channels freq time"],
        prior: Float[Tensor, " feature"] | Float[Tensor, "batch feature"] | None = None,
    ) -> Float[Tensor, "batch feature"]:
        """The face feature of each spectrogram.

        Args:
            spectrogram: power-law compressed real and imaginary parts (reading N).
            prior: one prior face feature for all, or one for each sample; None leaves the addition out.

        Raises:
            ValueError: a spectrogram below `minimum`, or with Speech2Face of another number of frequency bins; a
                prior of another shape, or any with Speech2Face.
        """
        self._check(spectrogram, prior)
        x = self.trunk(spectrogram)  # (batch, channels, freq, time)
        if self.architecture == "speech2face":
            return self.fc2(torch.relu(self.fc1(x.flatten(1))))
        x = self.fc1(self.cbam(x))  # (batch, feature, freq, time)
        feature = x.mean(dim=(2, 3))  # (batch, feature)
        if prior is None:
            return self.fc2(feature)
        if self.fusion == "fc":
            return self.fc2(feature + prior)
        return self.fc2(feature) + prior

    def _check(self, spectrogram: Tensor, prior: Tensor | None) -> None:
        batch, _, freq, time = spectrogram.shape
        least_freq, least_time = self.minimum
        alone = self.architecture == "speech2face"
        if freq < least_freq or time < least_time or (alone and freq != NUM_FREQ):
            raise ValueError(
                f"the speech encoder {self.architecture} needs {'exactly' if alone else 'at least'} {least_freq} "
                f"frequency bins and at least {least_time} frames, got {freq} and {time}"
            )
        if prior is not None and alone:
            raise ValueError("the speech encoder speech2face has no place for a prior; use prior.kind=none")
        if prior is not None and prior.shape not in ((self.feature_dim,), (batch, self.feature_dim)):
            raise ValueError(
                f"the prior must be ({self.feature_dim},) or ({batch}, {self.feature_dim}), got {tuple(prior.shape)}"
            )

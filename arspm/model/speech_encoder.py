"""Speech encoders: a spectrogram and, except for Speech2Face, a prior face feature give a face feature."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from arspm.model.cbam import CBAM
from arspm.model.trunks import NUM_FREQ, SPEECH2FACE_FREQ, trunk

FUSIONS = ("fc", "sum")
HEADS = ("fc2", "none")
FC2_INITS = ("random", "zero")
PRIOR_WEIGHTS = ("one", "learned")


class SpeechEncoder(nn.Module):
    """SE of Table 3 (readings D, E, F), or the same layers on the convolutions of a ResNet or DenseNet.

    The convolutions are followed by CBAM, Fc1, the average over the map and Fc2. With Table 3's convolutions at
    width 1, CBAM sees 512 x 4 x 17 for a spectrogram of (2, 257, 598). Fc1 is a 1x1 convolution and AvgPool1 is
    global, so speech of any length works. No activation follows Fc1: what is added to the prior can be negative.

    Args:
        architecture: which convolutions to use: one of trunks.ARCHITECTURES except "speech2face", which is
            Speech2FaceEncoder.
        width: multiplies the channels of the convolutions.
        feature_dim: size of a face feature, and so of Fc1's and Fc2's outputs; never scaled.
        cbam, cbam_reduction: `order` and `reduction` of CBAM.
        fusion: "fc" returns Fc2(pool(Fc1(x)) + prior), "sum" returns Fc2(pool(Fc1(x))) + prior (reading F).
        head: "none" leaves Fc2 out, so the result is pool(Fc1(x)) + prior; needs fusion "sum".
        fc2_init: "zero" initialises Fc2's weight and bias to zero, so training starts at the prior; needs Fc2 and
            fusion "sum".
        prior_weight: "learned" multiplies the prior by sigmoid(w * pool(Fc1(x)) + b), one number in (0, 1) per sample.
            w and b start at zero, so every weight starts at one half.

    Attributes:
        minimum: the fewest frequency bins and frames of a spectrogram.

    Raises:
        ValueError: an unknown option, fusion "fc" with head "none", or fc2_init "zero" without Fc2 and fusion "sum".
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
        fc2_init: str = "random",
        prior_weight: str = "one",
    ) -> None:
        super().__init__()
        if architecture == "speech2face":
            raise ValueError("SpeechEncoder does not implement architecture 'speech2face'; use Speech2FaceEncoder")
        for name, value, known in (
            ("fusion", fusion, FUSIONS),
            ("head", head, HEADS),
            ("fc2_init", fc2_init, FC2_INITS),
            ("prior_weight", prior_weight, PRIOR_WEIGHTS),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")
        if fusion == "fc" and head == "none":
            raise ValueError("fusion 'fc' adds the prior before Fc2, which head 'none' leaves out; use fusion 'sum'")
        if fc2_init == "zero" and (fusion, head) != ("sum", "fc2"):
            raise ValueError("fc2_init 'zero' needs fusion 'sum' and head 'fc2'")
        self.architecture = architecture
        self.feature_dim = feature_dim
        self.fusion = fusion
        convolutions = trunk(architecture, width=width)
        self.minimum = convolutions.minimum
        self.trunk = convolutions.layers
        self.cbam = CBAM(convolutions.channels, order=cbam, reduction=cbam_reduction)
        self.fc1 = nn.Conv2d(convolutions.channels, feature_dim, kernel_size=1)
        self.fc2 = nn.Linear(feature_dim, feature_dim) if head == "fc2" else nn.Identity()
        # Zeroed and created after the other layers, so that with one seed every variant has the same random weights.
        if fc2_init == "zero":
            _zero(self.fc2)
        self.prior_weight = nn.Linear(feature_dim, 1) if prior_weight == "learned" else None
        if self.prior_weight is not None:
            _zero(self.prior_weight)

    def forward(
        self,
        spectrogram: Float[Tensor, "batch channels freq time"],
        prior: Float[Tensor, " feature"] | Float[Tensor, "batch feature"] | None = None,
    ) -> Float[Tensor, "batch feature"]:
        """Return the face feature of each spectrogram.

        Args:
            spectrogram: power-law compressed real and imaginary parts (reading N).
            prior: one prior face feature for all samples, or one per sample; None adds nothing.

        Raises:
            ValueError: a spectrogram smaller than `minimum`, or a prior of another shape.
        """
        batch, _, freq, time = spectrogram.shape
        least_freq, least_time = self.minimum
        if freq < least_freq or time < least_time:
            raise ValueError(
                f"the speech encoder {self.architecture} needs at least {least_freq} frequency bins "
                f"and at least {least_time} frames, got {freq} and {time}"
            )
        if prior is not None and prior.shape not in ((self.feature_dim,), (batch, self.feature_dim)):
            raise ValueError(
                f"the prior must be ({self.feature_dim},) or ({batch}, {self.feature_dim}), got {tuple(prior.shape)}"
            )
        x = self.cbam(self.trunk(spectrogram))  # (batch, channels, freq, time)
        feature = self.fc1(x).mean(dim=(2, 3))  # (batch, feature)
        if prior is None:
            return self.fc2(feature)
        if self.prior_weight is not None:
            prior = torch.sigmoid(self.prior_weight(feature)) * prior  # (batch, feature)
        if self.fusion == "fc":
            return self.fc2(feature + prior)
        return self.fc2(feature) + prior


def _zero(layer: nn.Module) -> None:
    """Set all parameters of a layer to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class Speech2FaceEncoder(nn.Module):
    """The voice encoder of Speech2Face, which the paper compares with (Oh et al. 2019, Table 1; the paper's [13]).

    Fc1 sees channels and frequency bins together; ReLU and Fc2 follow. It has no CBAM and takes no prior.

    Args:
        width: multiplies the channels of the convolutions.
        feature_dim: size of a face feature, and so of Fc1's and Fc2's outputs; never scaled.

    Attributes:
        minimum: the number of frequency bins and the fewest frames of a spectrogram.
    """

    def __init__(self, *, width: float = 1.0, feature_dim: int = 4096) -> None:
        super().__init__()
        convolutions = trunk("speech2face", width=width)
        self.minimum = convolutions.minimum
        self.trunk = convolutions.layers
        self.fc1 = nn.Linear(convolutions.channels * SPEECH2FACE_FREQ, feature_dim)
        self.fc2 = nn.Linear(feature_dim, feature_dim)

    def forward(
        self, spectrogram: Float[Tensor, "batch channels freq time"], prior: Tensor | None = None
    ) -> Float[Tensor, "batch feature"]:
        """Return the face feature of each spectrogram.

        Args:
            spectrogram: power-law compressed real and imaginary parts (reading N).
            prior: must be None. It is a parameter so that both encoders can be called in the same way.

        Raises:
            ValueError: a prior, another number of frequency bins than NUM_FREQ, or too few frames.
        """
        freq, time = spectrogram.shape[-2:]
        if freq != NUM_FREQ or time < self.minimum[1]:
            raise ValueError(
                f"the speech encoder speech2face needs exactly {NUM_FREQ} frequency bins "
                f"and at least {self.minimum[1]} frames, got {freq} and {time}"
            )
        if prior is not None:
            raise ValueError("the speech encoder speech2face takes no prior; set prior.kind=none")
        return self.fc2(torch.relu(self.fc1(self.trunk(spectrogram).flatten(1))))

"""The speech encoder SE (Table 3): a spectrogram and a prior give a face feature."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from arspm.model.cbam import CBAM
from arspm.model.width import scaled

FUSIONS = ("fc", "sum")
HEADS = ("fc2", "none")

# The smallest input that leaves one value after MaxPool3: Table 3 walked upwards from its kernel, (5, 3).
MINIMUM_FREQ = 97
MINIMUM_TIME = 65


def _conv(channels_in: int, channels_out: int, kernel: int, stride: int) -> nn.Sequential:
    # BatchNorm has the bias.
    conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out), nn.ReLU())


class SpeechEncoder(nn.Module):
    """SE of Table 3 (readings D, E, F).

    For (2, 257, 598) and width 1 the map is 512 x 4 x 17 at CBAM. Fc1 is a 1x1 convolution and AvgPool1 is
    global, so speech of any length works. Nothing non-linear follows Fc1, so that what is added to the prior
    can be negative.

    Args:
        width: multiplies the channels of Conv1 to Conv5.
        feature_dim: numbers in a face feature, and so the outputs of Fc1 and Fc2; never scaled.
        cbam, cbam_reduction: see CBAM.
        fusion: "fc" gives Fc2(pool(Fc1(x)) + prior), "sum" gives Fc2(pool(Fc1(x))) + prior (reading F).
        head: "none" leaves Fc2 out, for the bare sum pool(Fc1(x)) + prior.
        channels_in: 2, the real and the imaginary part.

    Raises:
        ValueError: unknown fusion or head, or fusion "fc" without the fc (head "none").
    """

    def __init__(
        self,
        *,
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
        self.feature_dim = feature_dim
        self.fusion = fusion
        c1, c2, c3, c4, c5 = (scaled(channels, width) for channels in (64, 128, 256, 512, 512))
        self.conv1 = _conv(channels_in, c1, kernel=7, stride=2)
        self.pool1 = nn.MaxPool2d(3, stride=2)
        self.conv2 = _conv(c1, c2, kernel=5, stride=2)
        self.pool2 = nn.MaxPool2d(3, stride=2)
        self.conv3 = _conv(c2, c3, kernel=3, stride=1)
        self.conv4 = _conv(c3, c4, kernel=3, stride=1)
        self.conv5 = _conv(c4, c5, kernel=3, stride=1)
        self.pool3 = nn.MaxPool2d((5, 3), stride=(3, 2))
        self.cbam = CBAM(c5, order=cbam, reduction=cbam_reduction)
        self.fc1 = nn.Conv2d(c5, feature_dim, kernel_size=1)
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
            ValueError: a spectrogram below MINIMUM_FREQ x MINIMUM_TIME, or a prior of another shape.
        """
        batch, _, freq, time = spectrogram.shape
        if freq < MINIMUM_FREQ or time < MINIMUM_TIME:
            raise ValueError(
                f"the speech encoder needs at least {MINIMUM_FREQ} frequency bins and {MINIMUM_TIME} frames, "
                f"got {freq} and {time}"
            )
        if prior is not None and prior.shape not in ((self.feature_dim,), (batch, self.feature_dim)):
            raise ValueError(
                f"the prior must be ({self.feature_dim},) or ({batch}, {self.feature_dim}), got {tuple(prior.shape)}"
            )
        x = self.pool1(self.conv1(spectrogram))
        x = self.pool2(self.conv2(x))
        x = self.pool3(self.conv5(self.conv4(self.conv3(x))))
        x = self.fc1(self.cbam(x))  # (batch, feature, freq, time)
        feature = x.mean(dim=(2, 3))  # (batch, feature)
        if prior is None:
            return self.fc2(feature)
        if self.fusion == "fc":
            return self.fc2(feature + prior)
        return self.fc2(feature) + prior

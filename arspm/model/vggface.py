"""VGGFace (Parkhi et al. 2015, the paper's [2]): a face image to a face feature and identity logits."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from arspm.model.width import scaled

FEATURES = ("pre_relu", "post_relu")
CHANNEL_ORDERS = ("rgb", "bgr")
MEAN_RGB = (129.1863, 104.7624, 93.5940)  # of the training faces, on the scale 0..255

_BLOCKS = (
    (64, 2),
    (128, 2),
    (256, 3),
    (512, 3),
    (512, 3),
)  # channels and number of 3x3 convolutions; a 2x2 pool ends each block
CONVS = tuple(f"conv{block}_{index}" for block, (_, depth) in enumerate(_BLOCKS, 1) for index in range(1, depth + 1))
LAYERS = (*CONVS, "fc6", "fc7", "fc8")  # the published names, in order
_INPUT_SCALE = 64.0  # about the standard deviation of a face's pixels on the scale 0..255


class VGGFace(nn.Module):
    """VGG-16 for faces. The layers have the published names: conv1_1 .. conv5_3, fc6, fc7, fc8.

    Args:
        width: multiplies the channels of the convolutions.
        image_size: images are resized to squares of this side in pixels, a multiple of 32.
        feature_dim: units of fc6 and of fc7; never scaled.
        num_identities: units of fc8.
        feature: "pre_relu" or "post_relu": the face feature is fc7 before or after its ReLU (reading I).
        dropout: dropout probability after the ReLUs of fc6 and fc7; only `forward` applies it.

    Raises:
        ValueError: an image_size that is not a multiple of 32, or an unknown feature.
    """

    mean: Tensor

    def __init__(
        self,
        *,
        width: float = 1.0,
        image_size: int = 224,
        feature_dim: int = 4096,
        num_identities: int = 2622,
        feature: str = "pre_relu",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if image_size < 32 or image_size % 32:
            raise ValueError(f"image_size must be a multiple of 32, got {image_size}")
        if feature not in FEATURES:
            raise ValueError(f"feature must be one of {', '.join(FEATURES)}; got {feature!r}")
        self.image_size = image_size
        self.feature = feature
        channels = 3
        for block, (block_channels, depth) in enumerate(_BLOCKS, start=1):
            for index in range(1, depth + 1):
                out_channels = scaled(block_channels, width)
                self.add_module(f"conv{block}_{index}", nn.Conv2d(channels, out_channels, 3, padding=1))
                channels = out_channels
        self.fc6 = nn.Linear(channels * (image_size // 32) ** 2, feature_dim)
        self.fc7 = nn.Linear(feature_dim, feature_dim)
        self.fc8 = nn.Linear(feature_dim, num_identities)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("mean", torch.tensor(MEAN_RGB).view(3, 1, 1), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """Initialise the weights for pixels of 0..255 without BatchNorm: Kaiming's variance, scaled down.

        Every layer shrinks its input by the same factor. Features then start near 1, and no layer has weights so
        small that one optimiser step would replace them. fc8 starts ten times smaller, so that at first every
        identity is about equally likely.
        """
        gain = math.sqrt(2) * _INPUT_SCALE ** (-1 / len(LAYERS))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                nn.init.normal_(module.weight, std=gain / math.sqrt(fan_in))
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.fc8.weight /= 10

    def _fc6(self, images: Tensor) -> Tensor:
        """Return the output of fc6 after its ReLU. Resizes and normalises the pixels; nothing else does."""
        x = images.to(self.mean.dtype)  # not half precision, even under autocast
        if x.shape[-2:] != (self.image_size, self.image_size):
            x = F.interpolate(x, size=(self.image_size, self.image_size), mode="bilinear", antialias=True)
        x = 255 * x - self.mean
        for block, (_, depth) in enumerate(_BLOCKS, start=1):
            for index in range(1, depth + 1):
                x = torch.relu(self.get_submodule(f"conv{block}_{index}")(x))
            x = F.max_pool2d(x, 2)
        return torch.relu(self.fc6(x.flatten(1)))

    def raw_features(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch feature"]:
        """Return fc7 before its ReLU, whatever `feature` is. Images as for `features`."""
        return self.fc7(self._fc6(images))

    def features(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch feature"]:
        """Return face features: fc7, without dropout even in training mode.

        Args:
            images: RGB in [0, 1] of any size; resized bilinearly, with antialiasing. Gradients reach the images.
        """
        feature = self.raw_features(images)
        return torch.relu(feature) if self.feature == "post_relu" else feature

    def identity_logits(self, feature: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch num_identities"]:
        """Return V_Fc3 of eq. 7: fc8(relu(feature)), for face features before or after the ReLU (reading I)."""
        return self.fc8(torch.relu(feature))

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch num_identities"]:
        """Return identity logits, with dropout in training mode. Images as for `features`."""
        feature = self.fc7(self.dropout(self._fc6(images)))
        return self.fc8(self.dropout(torch.relu(feature)))


@torch.no_grad()
def scale_features(model: VGGFace, factor: float) -> None:
    """Multiply a network's face features by a positive factor, in place, without changing its logits.

    fc7 is multiplied and fc8's weights are divided: a positive factor passes through the ReLU.
    """
    model.fc7.weight.mul_(factor)
    model.fc7.bias.mul_(factor)
    model.fc8.weight.div_(factor)


def load_published(state_dict: Mapping[str, Tensor], model: VGGFace) -> VGGFace:
    """Load published weights into a network and return it.

    Args:
        state_dict: the weights as `vggface_weights.read_published` returns them: named by `LAYERS`, conv1_1 with RGB
            input, fc6 for a map flattened as C, H, W.
        model: the network to fill.

    Raises:
        ValueError: weights that do not fit. The message lists every missing, unexpected and misshapen tensor, and
            the model keeps its weights.
    """
    own = model.state_dict()
    problems = [f"missing {name}" for name in own if name not in state_dict]
    problems += [f"unexpected {name}" for name in state_dict if name not in own]
    misshapen = [
        f"{name} is {tuple(state_dict[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state_dict and state_dict[name].shape != tensor.shape
    ]
    if problems or misshapen:
        hint = "; set vggface.width, feature_dim and image_size to those of the weights" if misshapen else ""
        raise ValueError(f"the weights do not fit this VGGFace: {'; '.join(problems + misshapen)}{hint}")
    model.load_state_dict(dict(state_dict))
    return model

"""The losses of section 3.4: eq. 4 to 6 for the face decoder, eq. 7 for the speech encoder.

The building blocks return one number per sample. The two assembled losses return the mean of each term over the batch.
Samples are normalised separately (reading J). All computations are in float32, even under autocast.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from arspm.training.ms_ssim import ms_ssim
from arspm.training.zhao import zhao_loss

IMAGE_LOSSES = ("wang", "zhao")
IDENTITY_LOSSES = ("cosine", "distillation")


def _in_float32(tensor: Tensor) -> torch.autocast:
    return torch.autocast(device_type=tensor.device.type, enabled=False)


def _clamped_unit(x: Tensor) -> Tensor:
    """Return unit vectors in float32. Norms are clamped to 1e-6 here so that gradients stay finite.

    `metrics.unit_vectors` does not clamp: metrics need no gradients, and must measure short vectors too.
    """
    return F.normalize(x.float(), dim=-1, eps=1e-6)


def _require_same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:  # otherwise broadcasting would compare every sample with a single target
        raise ValueError(f"cannot compare {tuple(a.shape)} with {tuple(b.shape)}")


def cosine_loss(a: Float[Tensor, "batch dim"], b: Float[Tensor, "batch dim"]) -> Float[Tensor, " batch"]:
    """Return 1 - cos(a, b) for each pair of rows, in [0, 2] (eq. 5, reading K).

    The loss of a zero vector is 1, and its gradient is finite.

    Raises:
        ValueError: the two shapes differ.
    """
    _require_same_shape(a, b)
    with _in_float32(a):
        return 1 - (_clamped_unit(a) * _clamped_unit(b)).sum(dim=-1)


@lru_cache(maxsize=16)
def _border_weights(size: int, sigma: float, device: torch.device) -> Float[Tensor, " size"]:
    """Return the weight of each pixel of a line in the sum over the Gaussian-smoothed line."""
    with torch.inference_mode(False):  # so that a later training step may use it
        position = torch.arange(size, dtype=torch.float32, device=device)
        smoothing = torch.exp(-((position[:, None] - position) ** 2) / (2 * sigma**2))
        smoothing = smoothing / smoothing.sum(dim=1, keepdim=True)  # normalised over the pixels inside the image
        return smoothing.sum(dim=0)


def gaussian_weighted_l1(
    x: Float[Tensor, "batch channels height width"],
    y: Float[Tensor, "batch channels height width"],
    *,
    sigma: float,
) -> Float[Tensor, " batch"]:
    """Return mean(G * |x - y|) for each image, the second term of eq. 4 (reading L; Zhao et al. 2017).

    G smooths the error map with a 2-D Gaussian. At the borders, the part of the Gaussian inside the image is scaled to
    sum to one, so a constant error stays constant. Zero padding would reduce the error there; repeating the edges would
    count the outermost pixels several times.

    The map is not actually smoothed. Smoothing is linear and separable, so the mean of the smoothed map equals a
    weighted mean of the map: a pixel far from the borders has weight 1, a corner about one half.

    Args:
        sigma: of the Gaussian, in pixels. 8 for 224-pixel images, as at the coarsest MS-SSIM scale.

    Raises:
        ValueError: `sigma` is not positive.
    """
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    with _in_float32(x):
        error = (x.float() - y.float()).abs()
        rows, columns = (_border_weights(size, sigma, x.device) for size in x.shape[-2:])
        return (error * rows[:, None] * columns).mean(dim=(1, 2, 3))


def image_loss(
    x: Float[Tensor, "batch 3 height width"],
    y: Float[Tensor, "batch 3 height width"],
    *,
    alpha: float = 0.84,
    window_size: int = 11,
    window_sigma: float = 1.5,
    l1_sigma: float = 8.0,
    form: str = "wang",
) -> Float[Tensor, " batch"]:
    """Return alpha * (1 - MS-SSIM) + (1 - alpha) * mean(G * |x - y|) for each image (eq. 4, reading L).

    Two papers contribute a Gaussian. In the form "wang", MS-SSIM is Wang's: a window of one sigma (`window_sigma`) at
    five scales, each half the size of the one before. G, with `l1_sigma`, belongs to the coarsest of Zhao's scales,
    which all have the full size and differ in their sigma. The form "zhao" is Zhao's loss throughout (`zhao_loss`).

    Args:
        x, y: images in [0, 1].
        alpha: weight of the MS-SSIM term.
        window_size, window_sigma: side (odd) and standard deviation of MS-SSIM's Gaussian window, in pixels. Both sides
            of the image must exceed 16 * (window_size - 1): a window of 11 needs 161 pixels, 3 needs 33. A window of 1
            fits any image but compares only brightness.
            Not used by the form "zhao".
        l1_sigma: `sigma` of gaussian_weighted_l1 or of zhao_loss.
        form: one of IMAGE_LOSSES.

    Raises:
        ValueError: an unknown form, or a window that is even or too large for the image.
    """
    if form not in IMAGE_LOSSES:
        raise ValueError(f"form must be one of {', '.join(IMAGE_LOSSES)}; got {form!r}")
    if form == "zhao":
        return zhao_loss(x, y, alpha=alpha, sigma=l1_sigma)
    side = min(x.shape[-2:])
    if window_size < 1 or window_size % 2 == 0:
        raise ValueError(f"the MS-SSIM window must be odd, got {window_size}")
    if side <= 16 * (window_size - 1):
        raise ValueError(
            f"an MS-SSIM window of {window_size} needs images of more than {16 * (window_size - 1)} pixels "
            f"a side, got {side}: choose a smaller window_size"
        )
    with _in_float32(x):
        similarity = ms_ssim(x.float(), y.float(), window_size=window_size, window_sigma=window_sigma)
    return alpha * (1 - similarity) + (1 - alpha) * gaussian_weighted_l1(x, y, sigma=l1_sigma)


class FaceDecoderLoss(NamedTuple):
    """The loss of eq. 6 and its terms, each a scalar: total = image + cosine."""

    total: Tensor
    image: Tensor
    cosine: Tensor


def face_decoder_loss(
    portrait: Float[Tensor, "batch 3 height width"],
    image: Float[Tensor, "batch 3 height width"],
    *,
    portrait_feature: Float[Tensor, "batch feature"],
    image_feature: Float[Tensor, "batch feature"],
    alpha: float = 0.84,
    window_size: int = 11,
    window_sigma: float = 1.5,
    l1_sigma: float = 8.0,
    form: str = "wang",
) -> FaceDecoderLoss:
    """Return the face decoder's loss and its terms: L_image + L_CS (eq. 6, reading L).

    Args:
        portrait, image: the generated and the real images in [0, 1].
        portrait_feature: features of `portrait` from a frozen VGGFace, computed with gradients so that L_CS trains the
            decoder.
        image_feature: VGGFace features of `image`.
        alpha, window_size, window_sigma, l1_sigma, form: see image_loss.
    """
    image_term = image_loss(
        portrait,
        image,
        alpha=alpha,
        window_size=window_size,
        window_sigma=window_sigma,
        l1_sigma=l1_sigma,
        form=form,
    ).mean()
    cosine_term = cosine_loss(portrait_feature, image_feature).mean()
    return FaceDecoderLoss(total=image_term + cosine_term, image=image_term, cosine=cosine_term)


def distillation_loss(
    logits: Float[Tensor, "batch classes"],
    target: Float[Tensor, "batch classes"],
    *,
    temperature: float = 2.0,
) -> Float[Tensor, " batch"]:
    """Return each row's cross-entropy of logits and target logits, both divided by `temperature` (Speech2Face, [13]).

    The minimum is the entropy of the softened target, not zero.
    """
    with _in_float32(logits):
        probabilities = F.softmax(target.float() / temperature, dim=-1)
        return F.cross_entropy(logits.float() / temperature, probabilities, reduction="none")


class TriItemLoss(NamedTuple):
    """The loss of eq. 7 and its terms without their weights, each a scalar."""

    total: Tensor
    unit_l2: Tensor
    hidden_l1: Tensor
    identity: Tensor


def tri_item_loss(
    feature: Float[Tensor, "batch feature"],
    target: Float[Tensor, "batch feature"],
    *,
    hidden: Callable[[Tensor], Tensor],
    logits: Callable[[Tensor], Tensor],
    lambda1: float = 1.0,
    lambda2: float = 0.04,
    lambda3: float = 1.2,
    identity: str = "cosine",
    temperature: float = 2.0,
) -> TriItemLoss:
    """Return the speech encoder's loss and its terms (eq. 7, readings H to K).

    Args:
        feature: S_f, the speech encoder's output.
        target: F_f, the face feature; it gets no gradient.
        hidden: D_Fc1, the frozen `FaceDecoder.hidden`.
        logits: V_Fc3, the frozen `VGGFace.identity_logits`.
        lambda1: weight of the squared L2 distance between the unit vectors.
        lambda2: weight of the L1 distance between the hidden layers.
        lambda3: weight of the identity term.
        identity: identity term, "cosine" (eq. 7) or "distillation" (Speech2Face, with lambda3 200).
        temperature: temperature of the distillation.

    Raises:
        ValueError: unknown identity, or different shapes of feature and target.
    """
    _require_same_shape(feature, target)
    if identity not in IDENTITY_LOSSES:
        raise ValueError(f"identity must be one of {', '.join(IDENTITY_LOSSES)}; got {identity!r}")
    with _in_float32(feature):
        feature, target = feature.float(), target.detach().float()
        with torch.no_grad():
            target_hidden, target_logits = hidden(target), logits(target)
        unit_l2 = (_clamped_unit(target) - _clamped_unit(feature)).square().sum(dim=-1).mean()
        hidden_l1 = (target_hidden - hidden(feature)).abs().sum(dim=-1).mean()
        if identity == "cosine":
            identity_term = cosine_loss(logits(feature), target_logits).mean()
        else:
            identity_term = distillation_loss(logits(feature), target_logits, temperature=temperature).mean()
        total = lambda1 * unit_l2 + lambda2 * hidden_l1 + lambda3 * identity_term
    return TriItemLoss(total=total, unit_l2=unit_l2, hidden_l1=hidden_l1, identity=identity_term)

"""Multi-scale structural similarity (Wang et al. 2003), with all constants on the images' device.

A window or an exponent that is copied to the device in a step would make the host wait for the step before.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of Wang et al. 2003, finest scale first
_C1, _C2 = 0.01**2, 0.03**2  # for images in [0, 1]


def ms_ssim(
    x: Float[Tensor, "batch channels height width"],
    y: Float[Tensor, "batch channels height width"],
    *,
    window_size: int,
    window_sigma: float,
) -> Float[Tensor, " batch"]:
    """Return the multi-scale SSIM of each pair of images: the mean over their channels.

    Contrast and structure count at every scale, luminance at the coarsest one only. From scale to scale the images are
    halved. Negative similarities count as 0, because a power of them is not defined.

    Args:
        x, y: images in [0, 1], float32.
        window_size, window_sigma: side and standard deviation of the Gaussian window. It is not padded, so both sides
            of the images must exceed 16 * (window_size - 1).
    """
    # Views, so that the gradients of all scales are summed before those of other terms: in float32 the order counts.
    x, y = x.view_as(x), y.view_as(y)
    window = _window(window_size, window_sigma, x.shape[1], x.device)
    similarities = []
    for scale in range(len(EXPONENTS)):
        if scale:
            x, y = (F.avg_pool2d(each, 2, padding=[side % 2 for side in each.shape[2:]]) for each in (x, y))
        similarities.append(_similarity(x, y, window, with_luminance=scale == len(EXPONENTS) - 1).relu())
    powers = torch.stack(similarities) ** _exponents(x.device)  # (scale, batch, channels)
    return powers.prod(dim=0).mean(dim=1)


def _similarity(x: Tensor, y: Tensor, window: Tensor, *, with_luminance: bool) -> Tensor:
    """Return contrast times structure, or SSIM with the luminance, as means over the pixels: (batch, channels)."""
    mean_x, mean_y = _smoothed(x, window), _smoothed(y, window)
    squared_x, squared_y, product = mean_x.pow(2), mean_y.pow(2), mean_x * mean_y
    variance_x, variance_y = _smoothed(x * x, window) - squared_x, _smoothed(y * y, window) - squared_y
    covariance = _smoothed(x * y, window) - product
    similarity = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    if with_luminance:
        similarity = (2 * product + _C1) / (squared_x + squared_y + _C1) * similarity
    return similarity.flatten(2).mean(-1)


def _smoothed(maps: Tensor, window: Tensor) -> Tensor:
    """Return maps smoothed along their height, then along their width. window: (channels, 1, 1, size)."""
    channels = maps.shape[1]
    return F.conv2d(F.conv2d(maps, window.mT, groups=channels), window, groups=channels)


@lru_cache(maxsize=16)
def _window(size: int, sigma: float, channels: int, device: torch.device) -> Tensor:
    """Return a Gaussian that sums to one, for each channel: (channels, 1, 1, size)."""
    with torch.inference_mode(False):  # so that a later training step may use it
        offset = torch.arange(size, dtype=torch.float32) - size // 2
        weights = torch.exp(-(offset**2) / (2 * sigma**2))
        return (weights / weights.sum()).repeat(channels, 1, 1, 1).to(device)


@lru_cache(maxsize=16)
def _exponents(device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(EXPONENTS, device=device)[:, None, None]

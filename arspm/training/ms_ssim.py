"""Multi-scale structural similarity (Wang et al. 2003) by pytorch-msssim, with all constants on the images' device.

A window or an exponent that is copied to the device in a step would make the host wait for the step before.
"""

from __future__ import annotations

import warnings
from functools import lru_cache

import pytorch_msssim
import torch
from jaxtyping import Float
from torch import Tensor

EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of Wang et al. 2003, finest scale first


def ms_ssim(
    x: Float[Tensor, "batch channels height width"],
    y: Float[Tensor, "batch channels height width"],
    *,
    window_size: int,
    window_sigma: float,
) -> Float[Tensor, " batch"]:
    """Return the multi-scale SSIM of each pair of images: the mean over their channels.

    Args:
        x, y: images in [0, 1], float32.
        window_size, window_sigma: side and standard deviation of the Gaussian window. It is not padded, so both sides
            of the images must exceed 16 * (window_size - 1).
    """
    with warnings.catch_warnings():
        # The library converts the exponents by Tensor.new_tensor, which copies a list from the host, and warns of a
        # tensor.
        warnings.filterwarnings("ignore", "To copy construct from a tensor")
        return pytorch_msssim.ms_ssim(
            x,
            y,
            data_range=1.0,
            size_average=False,
            win=_window(window_size, window_sigma, x.shape[1], x.device),
            weights=_exponents(x.device),
        )


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
        return torch.tensor(EXPONENTS, device=device)

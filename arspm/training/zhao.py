"""The image loss of Zhao et al. 2017 in its full form: MS-SSIM and Gaussian-weighted L1 from one pyramid of Gaussians.

Every scale has a Gaussian of its own, on the image at full size. In Wang et al. 2003, on the other hand, all scales
have the same Gaussian, and the image is halved from scale to scale (`losses.image_loss` with form "wang").
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

NUM_SCALES = 5  # each sigma is twice the one before: 0.5, 1, 2, 4 and 8 in Zhao et al.
_C1, _C2 = 0.01**2, 0.03**2  # of SSIM, for images in [0, 1]


def zhao_loss(
    x: Float[Tensor, "batch channels height width"],
    y: Float[Tensor, "batch channels height width"],
    *,
    alpha: float = 0.84,
    sigma: float = 8.0,
) -> Float[Tensor, " batch"]:
    """Return alpha * (1 - MS-SSIM) + (1 - alpha) * mean(G * |x - y|) for each image, as kornia's MS_SSIMLoss does.

    MS-SSIM is computed at every pixel: the luminance at the coarsest scale times the product of contrast and structure
    over all scales, without exponents. Its mean is taken over pixels and channels. The windows end at two sigmas of the
    coarsest scale, and the images are padded with zeros. kornia multiplies the loss by a `compensation` of 200 and its
    alpha is 0.025 by default; Zhao et al. have no such factor and 0.84.

    Args:
        x, y: images in [0, 1].
        alpha: weight of the MS-SSIM term.
        sigma: of the coarsest scale and of G, in pixels. 8 in Zhao et al.; scale it with the size of the images.

    Raises:
        ValueError: `sigma` is not positive.
    """
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    with torch.autocast(device_type=x.device.type, enabled=False):
        x, y = x.float(), y.float()
        vertical, horizontal = (_smoothing(side, sigma, x.device) for side in x.shape[-2:])

        def smoothed(maps: Tensor) -> Tensor:
            """Return maps (..., height, width) at every scale: (..., scale, height, width)."""
            return vertical @ maps.unsqueeze(-3) @ horizontal.mT

        mean_x, mean_y = smoothed(x), smoothed(y)
        square_x, square_y, product = smoothed(x * x), smoothed(y * y), smoothed(x * y)
        variances = square_x - mean_x.square() + square_y - mean_y.square()
        contrast_structure = (2 * (product - mean_x * mean_y) + _C2) / (variances + _C2)
        coarse_x, coarse_y = mean_x[..., -1, :, :], mean_y[..., -1, :, :]
        luminance = (2 * coarse_x * coarse_y + _C1) / (coarse_x.square() + coarse_y.square() + _C1)
        similarity = (luminance * contrast_structure.prod(dim=-3)).mean(dim=(1, 2, 3))
        # The mean of the smoothed error is a weighted mean of the error: a pixel weighs as much as reaches the image.
        rows, columns = vertical[-1].sum(dim=0), horizontal[-1].sum(dim=0)
        error = ((x - y).abs() * rows[:, None] * columns).mean(dim=(1, 2, 3))
        return alpha * (1 - similarity) + (1 - alpha) * error


@lru_cache(maxsize=16)
def _smoothing(size: int, sigma: float, device: torch.device) -> Float[Tensor, "scale size size"]:
    """Return the matrices that smooth a line of pixels at each scale, finest first.

    Products with these matrices take a quarter of the time of convolutions on a CPU. Outside the line are zeros.
    """
    with torch.inference_mode(False):  # so that a later training step may use it
        position = torch.arange(size, dtype=torch.float32, device=device)
        offset = torch.arange(-int(2 * sigma), int(2 * sigma) + 1, dtype=torch.float32, device=device)
        sigmas = sigma / 2 ** torch.arange(NUM_SCALES - 1, -1, -1, dtype=torch.float32, device=device)[:, None, None]
        apart = position[:, None] - position
        weights = torch.exp(-(apart**2) / (2 * sigmas**2)) / torch.exp(-(offset**2) / (2 * sigmas**2)).sum(-1, True)
        return weights * (apart.abs() <= offset[-1])

"""The losses as loops written from the equations, in numpy float64, and images to compare."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.signal import convolve2d


def image_pair(batch: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth images and noisy copies of them, unlike enough that every MS-SSIM scale counts."""
    x = torch.nn.functional.interpolate(torch.rand(batch, 3, 8, 8), (size, size), mode="bicubic").clamp(0, 1)
    return x, (0.7 * x + 0.3 * torch.rand_like(x)).clamp(0, 1)


def naive_cosine_loss(a, b):
    dot = sum(i * j for i, j in zip(a, b, strict=True))
    return 1 - dot / (math.sqrt(sum(i * i for i in a)) * math.sqrt(sum(j * j for j in b)))


def naive_smoothing(error: np.ndarray, sigma: float) -> np.ndarray:
    """A 2-D Gaussian about each pixel, scaled to sum to one over the image."""
    height, width = error.shape
    i, j = np.mgrid[:height, :width]
    out = np.zeros_like(error)
    for y in range(height):
        for x in range(width):
            gaussian = np.exp(-((i - y) ** 2 + (j - x) ** 2) / (2 * sigma**2))
            out[y, x] = (gaussian * error).sum() / gaussian.sum()
    return out


def naive_ms_ssim(x: np.ndarray, y: np.ndarray, window_size: int, sigma: float) -> float:
    """Wang, Simoncelli and Bovik 2003 for one image (3, height, width) in [0, 1]; the mean over channels."""
    line = np.exp(-((np.arange(window_size) - window_size // 2) ** 2) / (2 * sigma**2))
    window = np.outer(line, line) / line.sum() ** 2
    c1, c2 = 0.01**2, 0.03**2
    exponents = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)

    def blur(z):
        return convolve2d(z, window, mode="valid")

    channels = []
    for a, b in zip(x, y, strict=True):
        value = 1.0
        for scale, exponent in enumerate(exponents):
            mean_a, mean_b = blur(a), blur(b)
            var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
            covariance = blur(a * b) - mean_a * mean_b
            contrast = (2 * covariance + c2) / (var_a + var_b + c2)
            luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
            coarsest = scale == len(exponents) - 1
            value *= ((luminance * contrast) if coarsest else contrast).mean() ** exponent
            if not coarsest:
                a, b = (z.reshape(len(z) // 2, 2, -1, 2).mean(axis=(1, 3)) for z in (a, b))
        channels.append(value)
    return float(np.mean(channels))


def naive_terms(feature: np.ndarray, target: np.ndarray, hidden, logits) -> tuple[float, float, float]:
    """The three terms of eq. 7 for one sample."""

    def linear(module, x):
        return module.weight.double().numpy() @ x + module.bias.double().numpy()

    def norm(x):
        return math.sqrt(sum(i * i for i in x))

    unit_l2 = sum((f / norm(target) - s / norm(feature)) ** 2 for f, s in zip(target, feature, strict=True))
    hidden_l1 = sum(abs(f - s) for f, s in zip(linear(hidden, target), linear(hidden, feature), strict=True))
    true, predicted = (linear(logits[1], np.maximum(x, 0)) for x in (target, feature))
    return unit_l2, hidden_l1, naive_cosine_loss(true, predicted)

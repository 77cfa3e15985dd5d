"""The figures of Tables 1 and 4 (section 4.2, reading H) and their intervals."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor, atan2, rad2deg
from torch.linalg import vector_norm

_MAX_DRAWS = 1 << 22  # bootstrap draws held at a time: 32 MiB an array


def l1_distance(a: Float[Tensor, "batch dim"], b: Float[Tensor, "batch dim"]) -> Float[Tensor, " batch"]:
    """Sum of absolute differences of each pair of features, in float64 (reading H)."""
    return (a.double() - b.double()).abs().sum(dim=-1)


def l2_distance(a: Float[Tensor, "batch dim"], b: Float[Tensor, "batch dim"]) -> Float[Tensor, " batch"]:
    """Euclidean distance of each pair of features, in float64 (reading H)."""
    return vector_norm(a.double() - b.double(), dim=-1)


def cos_degrees(a: Float[Tensor, "batch dim"], b: Float[Tensor, "batch dim"]) -> Float[Tensor, " batch"]:
    """Angle of each pair of features in degrees, 0 to 180, in float64 (reading H).

    Kahan's form on unit vectors u and v, 2 atan2(|u - v|, |u + v|): arccos loses half its digits near 0 and
    180. A zero vector has no direction and counts as 90 degrees from any other.
    """
    u, v = _unit(a.double()), _unit(b.double())
    return rad2deg(2 * atan2(vector_norm(u - v, dim=-1), vector_norm(u + v, dim=-1)))


def _unit(x: Tensor) -> Tensor:
    norm = vector_norm(x, dim=-1, keepdim=True)
    return x / norm.where(norm > 0, 1.0)


class Interval(NamedTuple):
    """A mean and the ends of its interval, in the unit of the values."""

    mean: float
    low: float
    high: float


def bootstrap_interval(
    values: ArrayLike, groups: ArrayLike, *, num_resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Mean of the values and its percentile interval from a clustered bootstrap.

    Clips of one speaker are alike, so whole groups are drawn with replacement, as many as there are, and each
    resample's mean is over all values of the groups drawn. For a paired comparison of two models, pass the
    differences by clip.

    Args:
        values: one number per clip, shape (n,).
        groups: the speaker or video of each clip, shape (n,), of any type that sorts.
        num_resamples: resamples of the groups.
        level: share of resampled means inside the interval.
        seed: the same seed gives the same interval.

    Returns:
        The interval; its ends are NaN where there is one group only, which says nothing about others.

    Raises:
        ValueError: no values, values that are not finite, other lengths, or a level outside (0, 1).
    """
    value, group = np.asarray(values, dtype=np.float64), np.asarray(groups)
    if value.ndim != 1 or value.shape != group.shape or not value.size:
        raise ValueError(f"values and groups must be (n,) with n > 0, got {value.shape} and {group.shape}")
    if not np.isfinite(value).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(value))} of {value.size} values are not finite")
    if not 0 < level < 1 or num_resamples < 1:
        raise ValueError(f"need 0 < level < 1 and num_resamples > 0, got {level} and {num_resamples}")

    _, member = np.unique(group, return_inverse=True)
    counts = np.bincount(member)
    sums = np.bincount(member, weights=value)
    num_groups = len(counts)
    if num_groups == 1:
        return Interval(float(value.mean()), float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    means = np.empty(num_resamples)
    step = max(1, _MAX_DRAWS // num_groups)
    for start in range(0, num_resamples, step):
        drawn = rng.integers(num_groups, size=(min(step, num_resamples - start), num_groups))
        means[start : start + step] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, ((1 - level) / 2, (1 + level) / 2))
    return Interval(float(value.mean()), float(low), float(high))

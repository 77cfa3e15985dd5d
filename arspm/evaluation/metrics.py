"""The distances of Tables 1 and 4 (section 4.2, reading H), and bootstrap intervals over speakers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor, atan2, rad2deg
from torch.linalg import vector_norm

Statistic = Callable[[np.ndarray], np.ndarray]  # (resamples, groups) -> (resamples,), see `percentile_interval`

_MAX_DRAWS = 1 << 22  # bootstrap draws in memory at a time: 32 MiB per array


def l1_distance(a: Float[Tensor, "batch dim"], b: Float[Tensor, "batch dim"]) -> Float[Tensor, " batch"]:
    """Return the sum of absolute differences of each pair of features, in float64 (reading H)."""
    return (a.double() - b.double()).abs().sum(dim=-1)


def l2_distance(a: Float[Tensor, "batch dim"], b: Float[Tensor, "batch dim"]) -> Float[Tensor, " batch"]:
    """Return the Euclidean distance of each pair of features, in float64 (reading H)."""
    return vector_norm(a.double() - b.double(), dim=-1)


def cos_degrees(a: Float[Tensor, "batch dim"], b: Float[Tensor, "batch dim"]) -> Float[Tensor, " batch"]:
    """Return the angle between each pair of features in degrees, 0 to 180, in float64 (reading H).

    Uses Kahan's formula on unit vectors u and v, 2 atan2(|u - v|, |u + v|): arccos loses half its digits near 0 and
    180. A zero vector has no direction and counts as 90 degrees from any other vector.
    """
    u, v = unit_vectors(a.double()), unit_vectors(b.double())
    return rad2deg(2 * atan2(vector_norm(u - v, dim=-1), vector_norm(u + v, dim=-1)))


def unit_vectors(x: Tensor) -> Tensor:
    """Return each vector of the last dimension divided by its norm. A zero vector stays zero."""
    norm = vector_norm(x, dim=-1, keepdim=True)
    return x / norm.where(norm > 0, 1.0)


class Interval(NamedTuple):
    """A mean and the bounds of its confidence interval, in the unit of the values."""

    mean: float
    low: float
    high: float


def bootstrap_interval(
    values: ArrayLike, groups: ArrayLike, *, num_resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Return the mean of the values and its percentile interval from a clustered bootstrap.

    Clips of one speaker are correlated, so the bootstrap resamples whole groups with replacement. A resample has as
    many groups as the data, and its mean is over all values of its groups. To compare two models, pass the
    differences per clip: that makes the comparison paired.

    Args:
        values: one number per clip, shape (n,).
        groups: the speaker or video of each clip, shape (n,), of any sortable type.
        num_resamples: number of bootstrap resamples.
        level: confidence level.
        seed: the same seed gives the same interval.

    Returns:
        The mean and its interval. The bounds are NaN if there is only one group.

    Raises:
        ValueError: no values, values that are not finite, different lengths, or a level outside (0, 1).
    """
    value = np.asarray(values, dtype=np.float64)
    sums, counts = group_sums(value, groups)
    bounds = percentile_interval(
        lambda weights: (weights @ sums) / (weights @ counts),
        len(counts),
        num_resamples=num_resamples,
        level=level,
        seed=seed,
    )
    low, high = (float("nan"), float("nan")) if bounds is None else bounds
    return Interval(float(value.mean()), low, high)


def mean_and_interval(
    values: ArrayLike, groups: ArrayLike, *, num_resamples: int, seed: int
) -> tuple[float, list[float] | None]:
    """Return `bootstrap_interval` as table rows store it: the mean, and [low, high] or None."""
    mean, low, high = bootstrap_interval(values, groups, num_resamples=num_resamples, seed=seed)
    return mean, None if np.isnan(low) else [low, high]


def statistic_and_interval(
    statistic: Statistic, num_groups: int, *, num_resamples: int, seed: int
) -> tuple[float | None, list[float] | None]:
    """Return a statistic of all groups and its 95 % interval; None for each that is undefined."""
    value = float(statistic(np.ones((1, num_groups)))[0])
    if not np.isfinite(value):
        return None, None
    return value, percentile_interval(statistic, num_groups, num_resamples=num_resamples, seed=seed)


def percentile_interval(
    statistic: Statistic, num_groups: int, *, num_resamples: int, level: float = 0.95, seed: int
) -> list[float] | None:
    """Return [low, high] of a statistic over bootstrap resamples of the groups, by the percentile method.

    statistic: maps weights (resamples, groups), how often each resample drew each group, to the statistic of each
    resample (resamples,), NaN where it is undefined. Undefined resamples are left out. Returns None with a single
    group, or if more than 1 - level of the resamples are undefined.
    """
    if not 0 < level < 1 or num_resamples < 1:
        raise ValueError(f"need 0 < level < 1 and num_resamples > 0, got {level} and {num_resamples}")
    if num_groups < 2:
        return None
    rng = np.random.default_rng(seed)
    values = np.empty(num_resamples)
    step = max(1, _MAX_DRAWS // num_groups)
    for start in range(0, num_resamples, step):
        drawn = rng.integers(num_groups, size=(min(step, num_resamples - start), num_groups))
        drawn += num_groups * np.arange(len(drawn))[:, None]
        weights = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)
        values[start : start + step] = statistic(weights)
    defined = values[np.isfinite(values)]
    if len(defined) < level * num_resamples:
        return None
    low, high = np.quantile(defined, ((1 - level) / 2, (1 + level) / 2))
    return [float(low), float(high)]


def group_sums(values: ArrayLike, groups: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum and the number of each group's values, (groups,) each, with the groups sorted.

    Raises ValueError for no values, values that are not finite, or different lengths.
    """
    value, group = np.asarray(values, dtype=np.float64), np.asarray(groups)
    if value.ndim != 1 or value.shape != group.shape or not value.size:
        raise ValueError(f"values and groups must be (n,) with n > 0, got {value.shape} and {group.shape}")
    if not np.isfinite(value).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(value))} of {value.size} values are not finite")
    _, member = np.unique(group, return_inverse=True)
    return np.bincount(member, weights=value), np.bincount(member).astype(np.float64)


def pair_ratio(numerator: np.ndarray, denominator: np.ndarray) -> Statistic:
    """Return the statistic sum(numerator) / sum(denominator) over pairs of groups, (groups, groups) each.

    The diagonals must be zero: a group that a resample drew twice is not a pair of different groups.
    """

    def statistic(weights: np.ndarray) -> np.ndarray:
        return ratio_or_nan(*(((weights @ pairs) * weights).sum(axis=1) for pairs in (numerator, denominator)))

    return statistic


def ratio_or_nan(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return the ratio where the denominator is above zero, otherwise NaN."""
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)

"""The distances of Tables 1 and 4 (section 4.2, reading H), and the interval of any figure."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor, atan2, rad2deg
from torch.linalg import vector_norm

Statistic = Callable[[np.ndarray], np.ndarray]  # (resamples, groups) -> (resamples,), see `interval`

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
    value = np.asarray(values, dtype=np.float64)
    sums, counts = group_sums(value, groups)
    ends = interval(
        lambda weights: (weights @ sums) / (weights @ counts),
        len(counts),
        num_resamples=num_resamples,
        level=level,
        seed=seed,
    )
    low, high = (float("nan"), float("nan")) if ends is None else ends
    return Interval(float(value.mean()), low, high)


def mean_and_interval(
    values: ArrayLike, groups: ArrayLike, *, num_resamples: int, seed: int
) -> tuple[float, list[float] | None]:
    """`bootstrap_interval` as the rows of our tables hold it: the mean, and its interval or None."""
    mean, low, high = bootstrap_interval(values, groups, num_resamples=num_resamples, seed=seed)
    return mean, None if np.isnan(low) else [low, high]


def estimate(
    statistic: Statistic, num_groups: int, *, num_resamples: int, seed: int
) -> tuple[float | None, list[float] | None]:
    """A figure of all groups and its 95 % interval from the clustered bootstrap; None where it is undefined."""
    found = float(statistic(np.ones((1, num_groups)))[0])
    if not np.isfinite(found):
        return None, None
    return found, interval(statistic, num_groups, num_resamples=num_resamples, seed=seed)


def interval(
    statistic: Statistic, num_groups: int, *, num_resamples: int, level: float = 0.95, seed: int
) -> list[float] | None:
    """[low, high] of a figure over resamples of the groups, by the percentile method.

    statistic: weights (resamples, groups), how often each resample drew each group -> the figure of each resample
    (resamples,), NaN where it is undefined. Undefined resamples are left out. None with one group, which says nothing
    about others, or where more than 1 - level of the resamples are undefined.
    """
    if not 0 < level < 1 or num_resamples < 1:
        raise ValueError(f"need 0 < level < 1 and num_resamples > 0, got {level} and {num_resamples}")
    if num_groups < 2:
        return None
    rng = np.random.default_rng(seed)
    figures = np.empty(num_resamples)
    step = max(1, _MAX_DRAWS // num_groups)
    for start in range(0, num_resamples, step):
        drawn = rng.integers(num_groups, size=(min(step, num_resamples - start), num_groups))
        drawn += num_groups * np.arange(len(drawn))[:, None]
        weights = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)
        figures[start : start + step] = statistic(weights)
    known = figures[np.isfinite(figures)]
    if len(known) < level * num_resamples:
        return None
    low, high = np.quantile(known, ((1 - level) / 2, (1 + level) / 2))
    return [float(low), float(high)]


def group_sums(values: ArrayLike, groups: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The sum of each group's values and how many they are, (groups,) each, groups sorted.

    Raises ValueError for no values, values that are not finite, or other lengths.
    """
    value, group = np.asarray(values, dtype=np.float64), np.asarray(groups)
    if value.ndim != 1 or value.shape != group.shape or not value.size:
        raise ValueError(f"values and groups must be (n,) with n > 0, got {value.shape} and {group.shape}")
    if not np.isfinite(value).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(value))} of {value.size} values are not finite")
    _, member = np.unique(group, return_inverse=True)
    return np.bincount(member, weights=value), np.bincount(member).astype(np.float64)


def pair_ratio(numerator: np.ndarray, denominator: np.ndarray) -> Statistic:
    """The statistic of pairs of groups: the sum of `numerator` over the sum of `denominator`, (groups, groups) each.

    Two draws of one group are no pair of two: the caller leaves the diagonals zero.
    """

    def statistic(weights: np.ndarray) -> np.ndarray:
        return divided(*(((weights @ pairs) * weights).sum(axis=1) for pairs in (numerator, denominator)))

    return statistic


def divided(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The ratio where the denominator is above zero, else NaN."""
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)

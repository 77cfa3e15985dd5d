"""Intervals over seeds and speakers together, p-values for differences, and Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from arspm.evaluation.metrics import group_sums

LEVEL = 0.95  # confidence level of every interval; 1 - LEVEL is the significance level of every verdict

_MAX_DRAWS = 1 << 22  # bootstrap draws in memory at a time: 32 MiB per array


class Estimate(NamedTuple):
    """A mean, the bounds of its 95 % interval, and the p-value of the mean being zero; None if undefined."""

    mean: float
    low: float | None
    high: float | None
    p: float | None

    @property
    def interval(self) -> list[float] | None:
        return None if self.low is None or self.high is None else [self.low, self.high]


def over_seeds_and_speakers(values: ArrayLike, speakers: ArrayLike, *, num_resamples: int, seed: int) -> Estimate:
    """Return the mean over seeds and clips with its uncertainty for other seeds and other speakers (two-way bootstrap).

    A resample draws seeds and, independently, speakers, both with replacement, and averages the clips of the drawn
    speakers under the drawn seeds. It draws one seed and one speaker fewer than there are, which makes the variance of
    the resamples unbiased for few seeds (Rao and Wu 1988). The interval is mean ± t * the resamples' standard
    deviation. t has Satterthwaite's degrees of freedom: close to the number of seeds minus one if the seeds contribute
    most of the variance, close to the number of speakers minus one if the speakers do.

    The bootstrap counts what only a seed and a speaker together explain up to three times (Owen 2007), so the interval
    errs on the wide side. To compare two models, pass their differences with the same seeds and clips: each resample
    then has the same seeds and speakers for both, which makes the comparison paired.

    Args:
        values: one number per seed and clip, shape (seeds, n).
        speakers: the speaker of each clip, shape (n,), of any sortable type.
        num_resamples: number of bootstrap resamples.
        seed: the same seed gives the same interval.

    Returns:
        The estimate. With a single seed, seeds are not resampled: the interval is over speakers only. With a single
        speaker there is no interval and no p-value.

    Raises:
        ValueError: no seeds or clips, values that are not finite, or different lengths.
    """
    value = np.asarray(values, dtype=np.float64)
    if value.ndim != 2 or not len(value):
        raise ValueError(f"values must be (seeds, n) with at least one seed, got {value.shape}")
    by_seed = [group_sums(row, speakers) for row in value]
    sums, counts = np.stack([each for each, _ in by_seed]), by_seed[0][1]  # (seeds, speakers), (speakers,)
    mean = float(value.mean())
    num_seeds, num_speakers = sums.shape
    if num_speakers < 2:
        return Estimate(mean, None, None, None)
    error = float(np.std(_resampled_means(sums, counts, num_resamples, seed), ddof=1))
    share = 0.0  # of the variance, that of the seeds
    if num_seeds > 1 and error > 0:
        share = min(1.0, float(value.mean(axis=1).var(ddof=1)) / num_seeds / error**2)
    freedom = 1 / ((share**2 / (num_seeds - 1) if share else 0.0) + (1 - share) ** 2 / (num_speakers - 1))
    return _estimate(mean, error, freedom)


def over_seeds(values: ArrayLike) -> Estimate:
    """Return the mean of one number per seed with Student's interval, (seeds,) -> the uncertainty for other seeds.

    For figures that were not stored by clip. A single seed has no interval and no p-value.
    """
    value = np.asarray(values, dtype=np.float64)
    mean = float(value.mean())
    if len(value) < 2:
        return Estimate(mean, None, None, None)
    return _estimate(mean, float(value.std(ddof=1)) / len(value) ** 0.5, float(len(value) - 1))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values adjusted for their number by Holm's step-down procedure; None stays None and does not count.

    Rejecting what is below 0.05 keeps the probability of any false rejection below 0.05.
    """
    known = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[index] = largest
    return adjusted


def add_holm(entries: Sequence[dict[str, Any] | None]) -> None:
    """Add "p_holm" and "comparisons", the size of the family, to entries with "p". None entries are left out."""
    present = [entry for entry in entries if entry is not None]
    adjusted = holm([entry["p"] for entry in present])
    for entry, p_holm in zip(present, adjusted, strict=True):
        entry |= {"p_holm": p_holm, "comparisons": sum(each is not None for each in adjusted)}


def difference_entry(estimate: Estimate, num_seeds: int, *, over_speakers: bool) -> dict[str, Any]:
    """Return an estimated difference as metrics.json stores it; `add_holm` adds the rest.

    over_speakers: whether the interval is over speakers; with more than one seed it is over seeds too.
    """
    return {
        "difference": estimate.mean,
        "interval": estimate.interval,
        "p": estimate.p,
        "num_seeds": num_seeds,
        "over_speakers": over_speakers,
    }


def _estimate(mean: float, error: float, freedom: float) -> Estimate:
    """Return mean ± t * error, and the p-value of Student's t."""
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    if error == 0:
        return Estimate(mean, mean, mean, float(mean == 0))
    return Estimate(mean, mean - half, mean + half, float(2 * stats.t.sf(abs(mean) / error, freedom)))


def _resampled_means(sums: np.ndarray, counts: np.ndarray, num_resamples: int, seed: int) -> np.ndarray:
    """Return the mean of each resample, (resamples,). sums: (seeds, speakers); counts: clips of each speaker."""
    num_seeds, num_speakers = sums.shape
    rng = np.random.default_rng(seed)
    means = np.empty(num_resamples)
    step = max(1, _MAX_DRAWS // num_speakers)
    for start in range(0, num_resamples, step):
        size = min(step, num_resamples - start)
        drawn_seeds = _weights(rng, size, num_seeds) if num_seeds > 1 else np.ones((size, 1))
        drawn_speakers = _weights(rng, size, num_speakers)
        totals = ((drawn_seeds @ sums) * drawn_speakers).sum(axis=1)
        means[start : start + size] = totals / (drawn_seeds.sum(axis=1) * (drawn_speakers @ counts))
    return means


def _weights(rng: np.random.Generator, num_resamples: int, size: int) -> np.ndarray:
    """Return how often each resample draws each unit, (resamples, size). A resample has size - 1 draws."""
    return rng.multinomial(size - 1, np.full(size, 1 / size), size=num_resamples).astype(np.float64)

"""Rows of Table 4, the fraction learnt between prior and oracle, and the similarity of clips."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from arspm.evaluation import metrics

DISTANCES = {"l1": metrics.l1_distance, "l2": metrics.l2_distance, "cos_degrees": metrics.cos_degrees}
MAX_COMPARED = 4000  # clips whose pairs are all compared; larger sets are sampled


def distances(truth: np.ndarray, feature: np.ndarray | None, portrait: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return each row's L1, L2 and angle between the true feature and a feature or its portrait's (reading H).

    truth, feature, portrait: (rows, feature). The result maps a column name of Table 4 to (rows,); if `feature` or
    `portrait` is None, its columns are absent.
    """
    return {
        prefix + figure: distance(_tensor(values), _tensor(truth)).numpy()
        for prefix, values in (("", feature), ("portrait_", portrait))
        if values is not None
        for figure, distance in DISTANCES.items()
    }


def table4_row(
    name: str,
    truth: np.ndarray,
    speakers: np.ndarray,
    *,
    feature: np.ndarray | None,
    portrait: np.ndarray | None,
    num_resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Return a row of Table 4: mean L1, L2 and angle of a feature, and of its portrait's feature, to the true one.

    truth, feature, portrait: (rows, feature). speakers: (rows,), the groups of the bootstrap. Each value has a 95 %
    interval, which is None with a single speaker. Values of a feature or portrait that is None are None. An angle also
    has its standard deviation over the pairs (_sd) and the angle of the mean cosine (_of_mean), reading H.
    """
    row: dict[str, Any] = {"model": name, "n": len(truth)}
    by_column = distances(truth, feature, portrait)
    for key in (prefix + figure for prefix in ("", "portrait_") for figure in DISTANCES):
        row[key] = row[f"{key}_interval"] = None
        if key in by_column:
            row[key], row[f"{key}_interval"] = metrics.mean_and_interval(
                by_column[key], speakers, num_resamples=num_resamples, seed=seed
            )
    for key in ("cos_degrees", "portrait_cos_degrees"):
        angles = by_column.get(key)
        row[f"{key}_sd"] = None if angles is None or len(angles) < 2 else float(angles.std(ddof=1))
        mean_cosine = None if angles is None else np.cos(np.radians(angles)).mean()
        row[f"{key}_of_mean"] = None if mean_cosine is None else float(np.degrees(np.arccos(mean_cosine)))
    return row


def other_speakers(speakers: np.ndarray, seed: int) -> np.ndarray | None:
    """Return for each row the index of a row of another speaker: the shuffled-speech control.

    All speakers are used about equally often. Returns None if there is only one speaker.
    """
    names, inverse = np.unique(speakers, return_inverse=True)
    if len(names) < 2:
        return None
    rng = np.random.default_rng(seed)
    ring = rng.permutation(len(names))  # each speaker gets rows of the next speaker in a random cycle
    following = np.empty(len(names), np.int64)
    following[ring] = np.roll(ring, -1)
    rows = [np.flatnonzero(inverse == speaker) for speaker in range(len(names))]
    return np.array([rng.choice(rows[following[speaker]]) for speaker in inverse])


def learnt_fraction(
    model: np.ndarray,
    prior_only: np.ndarray,
    oracle: np.ndarray,
    speakers: np.ndarray,
    *,
    num_resamples: int,
    seed: int,
) -> tuple[float | None, list[float] | None]:
    """Return how far the model gets from prior-only (0) to the oracle (1), and the interval of that fraction.

    model, prior_only, oracle: distances of the same rows, (rows,). The fraction is
    (mean prior_only - mean model) / (mean prior_only - mean oracle). The bootstrap over speakers resamples the ratio
    itself, so that speakers who are hard for all three do not widen the interval. Both are None if the oracle is not
    better than the prior. The interval alone is None if that happens in more than 5 % of the resamples: the ratio is
    then unbounded.
    """
    gained, counts = metrics.group_sums(np.subtract(prior_only, model, dtype=np.float64), speakers)
    possible, _ = metrics.group_sums(np.subtract(prior_only, oracle, dtype=np.float64), speakers)
    return metrics.statistic_and_interval(
        lambda weights: metrics.ratio_or_nan(weights @ gained, weights @ possible),
        len(counts),
        num_resamples=num_resamples,
        seed=seed,
    )


def similarity(
    features: np.ndarray, speakers: np.ndarray, *, num_resamples: int, seed: int, max_compared: int = MAX_COMPARED
) -> dict[str, Any]:
    """Return how similar clips of one speaker are, and clips of different speakers, each with its interval.

    features: (rows, feature). speakers: (rows,). "within" is the mean angle in degrees between clips of one speaker:
    the mean over a speaker's pairs, then over the speakers with several clips. "between" and "between_cosine" are the
    mean angle and the mean cosine over all pairs of clips of different speakers. Each is None if there is no such pair.

    The mean cosine needs no loop over pairs: the sum of cosines over all pairs of unit vectors is the squared length of
    their sum. The angles do need the pairs: of more than `max_compared` rows, a sample of `max_compared` is compared.
    """
    resampling: dict[str, int] = {"num_resamples": num_resamples, "seed": seed}
    names, member = np.unique(speakers, return_inverse=True)
    order = np.argsort(member, kind="stable")
    counts = np.bincount(member)
    sums = np.empty((len(names), features.shape[1]))
    own = np.empty(len(names))  # a speaker's own contribution to the squared length, to subtract
    within = np.full(len(names), np.nan)
    for speaker, rows in enumerate(np.split(order, np.cumsum(counts)[:-1])):
        unit = _unit_rows(features[rows])
        sums[speaker] = unit.sum(axis=0)
        own[speaker] = (sums[speaker] ** 2).sum()
        if len(rows) > 1:
            within[speaker] = _degrees(unit @ unit.T)[np.triu_indices(len(rows), 1)].mean()

    def mean_cosine(weights: np.ndarray) -> np.ndarray:
        cosines = ((weights @ sums) ** 2).sum(axis=1) - weights**2 @ own
        return metrics.ratio_or_nan(cosines, (weights @ counts) ** 2 - weights**2 @ counts**2)

    several = np.isfinite(within)
    result: dict[str, Any] = {"within": None, "within_interval": None}
    if several.any():
        result["within"], result["within_interval"] = metrics.mean_and_interval(
            within[several], names[several], **resampling
        )
    angles, pairs = _between(features, member, seed, max_compared)
    statistic = metrics.pair_ratio(angles, pairs)
    result["between"], result["between_interval"] = metrics.statistic_and_interval(statistic, len(pairs), **resampling)
    cosine, interval = metrics.statistic_and_interval(mean_cosine, len(names), **resampling)
    return result | {"between_cosine": cosine, "between_cosine_interval": interval}


def _between(features: np.ndarray, member: np.ndarray, seed: int, max_compared: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum of angles and the number of clip pairs of each two speakers, (speakers, speakers) each.

    Contains only the speakers of the sampled rows.
    """
    rows = np.arange(len(member))
    if len(rows) > max_compared:
        rows = np.random.default_rng(seed).choice(rows, max_compared, replace=False)
    rows = rows[np.argsort(member[rows], kind="stable")]
    unit = _unit_rows(features[rows])
    _, begins, counts = np.unique(member[rows], return_index=True, return_counts=True)
    angles = np.stack(  # one speaker at a time, to avoid a (rows, rows) array
        [
            np.add.reduceat(_degrees(unit[begin : begin + count] @ unit.T).sum(axis=0), begins)
            for begin, count in zip(begins, counts, strict=True)
        ]
    )
    pairs = np.outer(counts, counts).astype(np.float64)
    np.fill_diagonal(angles, 0)
    np.fill_diagonal(pairs, 0)
    return angles, pairs


def _unit_rows(features: np.ndarray) -> np.ndarray:
    """Return unit vectors in float64. A zero vector stays zero, which is 90 degrees from any other vector.

    `metrics.unit_vectors` in NumPy: torch sums in another order, so the two differ in the last digit.
    """
    values = features.astype(np.float64)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(length > 0, length, 1.0)


def _degrees(cosines: np.ndarray) -> np.ndarray:
    return np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0)))


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.asarray(values))

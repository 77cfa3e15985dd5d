"""The figures of Table 4 and what stands beside them: paired differences, the share learnt, portraits' likeness."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from arspm.evaluation import metrics

DISTANCES = {"l1": metrics.l1_distance, "l2": metrics.l2_distance, "cos_degrees": metrics.cos_degrees}
MAX_COMPARED = 4000  # clips whose pairs are all looked at: more are sampled


def distances(truth: np.ndarray, feature: np.ndarray | None, portrait: np.ndarray | None) -> dict[str, np.ndarray]:
    """Each row's L1, L2 and degrees of a feature, and of its portrait's feature, from the true one (reading H).

    truth, feature, portrait: (rows, feature). Figure -> (rows,); what is not there has no figures.
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
    """One row of Table 4: L1, L2 and degrees of a feature, and of its portrait's feature, from the true one.

    truth, feature, portrait: (rows, feature). speakers: (rows,), the groups of the bootstrap. Each figure comes with
    its 95 % interval, None where there is one speaker only; a figure that the row does not have is None. Beside an
    angle stand its standard deviation over the pairs (_sd) and the angle of the mean cosine (_of_mean), reading H.
    """
    row: dict[str, Any] = {"model": name, "n": len(truth)}
    each = distances(truth, feature, portrait)
    for key in (prefix + figure for prefix in ("", "portrait_") for figure in DISTANCES):
        row[key] = row[f"{key}_interval"] = None
        if key in each:
            row[key], row[f"{key}_interval"] = metrics.mean_and_interval(
                each[key], speakers, num_resamples=num_resamples, seed=seed
            )
    for key in ("cos_degrees", "portrait_cos_degrees"):
        angles = each.get(key)
        row[f"{key}_sd"] = None if angles is None or len(angles) < 2 else float(angles.std(ddof=1))
        mean_cosine = None if angles is None else np.cos(np.radians(angles)).mean()
        row[f"{key}_of_mean"] = None if mean_cosine is None else float(np.degrees(np.arccos(mean_cosine)))
    return row


def other_speakers(speakers: np.ndarray, seed: int) -> np.ndarray | None:
    """For each row a row of another speaker, each taken about equally often: the shuffled-speech control.

    None when there is only one speaker.
    """
    known, inverse = np.unique(speakers, return_inverse=True)
    if len(known) < 2:
        return None
    rng = np.random.default_rng(seed)
    ring = rng.permutation(len(known))  # each speaker takes from the next one round a random ring
    following = np.empty(len(known), np.int64)
    following[ring] = np.roll(ring, -1)
    rows = [np.flatnonzero(inverse == speaker) for speaker in range(len(known))]
    return np.array([rng.choice(rows[following[speaker]]) for speaker in inverse])


def paired_difference(
    a: np.ndarray, b: np.ndarray, speakers: np.ndarray, *, num_resamples: int, seed: int
) -> tuple[float, list[float] | None]:
    """The mean of a - b over the same rows (rows,), and its interval by the bootstrap over speakers."""
    return metrics.mean_and_interval(
        np.subtract(a, b, dtype=np.float64), speakers, num_resamples=num_resamples, seed=seed
    )


def learnt_share(
    model: np.ndarray,
    prior_only: np.ndarray,
    oracle: np.ndarray,
    speakers: np.ndarray,
    *,
    num_resamples: int,
    seed: int,
) -> tuple[float | None, list[float] | None]:
    """How much of what a voice tells the model has learnt: 0 is the prior for everyone, 1 the oracle.

    model, prior_only, oracle: distances of the same rows (rows,). The share is
    (mean prior_only - mean model) / (mean prior_only - mean oracle); the bootstrap over speakers is of the whole ratio,
    so that what is hard for all three cancels. None where the oracle is not better than the prior; no interval where it
    is not in more than 5 % of the resamples, since a ratio over a difference that may be zero has no bounds.
    """
    gained, counts = metrics.group_sums(np.subtract(prior_only, model, dtype=np.float64), speakers)
    possible, _ = metrics.group_sums(np.subtract(prior_only, oracle, dtype=np.float64), speakers)
    return metrics.estimate(
        lambda weights: metrics.divided(weights @ gained, weights @ possible),
        len(counts),
        num_resamples=num_resamples,
        seed=seed,
    )


def similarity(
    features: np.ndarray, speakers: np.ndarray, *, num_resamples: int, seed: int, max_compared: int = MAX_COMPARED
) -> dict[str, Any]:
    """How alike the clips of one speaker are, and those of different speakers, each with its interval.

    features: (rows, feature). speakers: (rows,). "within" is the mean angle in degrees of different clips of one
    speaker, first over a speaker's pairs, then over the speakers with several clips. "between" and "between_cosine"
    are the mean angle and the mean cosine over all pairs of clips of different speakers. A figure is None without a
    pair.

    The cosines need no pairs: their sum over all pairs of unit vectors is the squared length of the vectors' sum. The
    angles do, and above `max_compared` rows they are those of as many rows drawn with the seed.
    """
    chance: dict[str, int] = {"num_resamples": num_resamples, "seed": seed}
    names, member = np.unique(speakers, return_inverse=True)
    order = np.argsort(member, kind="stable")
    counts = np.bincount(member)
    sums = np.empty((len(names), features.shape[1]))
    own = np.empty(len(names))  # what a speaker's own clips add to the squared length: they are no pair
    within = np.full(len(names), np.nan)
    for speaker, rows in enumerate(np.split(order, np.cumsum(counts)[:-1])):
        unit = _unit(features[rows])
        sums[speaker] = unit.sum(axis=0)
        own[speaker] = (sums[speaker] ** 2).sum()
        if len(rows) > 1:
            within[speaker] = _degrees(unit @ unit.T)[np.triu_indices(len(rows), 1)].mean()

    def mean_cosine(weights: np.ndarray) -> np.ndarray:
        cosines = ((weights @ sums) ** 2).sum(axis=1) - weights**2 @ own
        return metrics.divided(cosines, (weights @ counts) ** 2 - weights**2 @ counts**2)

    several = np.isfinite(within)
    found: dict[str, Any] = {"within": None, "within_interval": None}
    if several.any():
        found["within"], found["within_interval"] = metrics.mean_and_interval(within[several], names[several], **chance)
    angles, pairs = _between(features, member, seed, max_compared)
    statistic = metrics.pair_ratio(angles, pairs)
    found["between"], found["between_interval"] = metrics.estimate(statistic, len(pairs), **chance)
    cosine, interval = metrics.estimate(mean_cosine, len(names), **chance)
    return found | {"between_cosine": cosine, "between_cosine_interval": interval}


def _between(features: np.ndarray, member: np.ndarray, seed: int, max_compared: int) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the angles, and number, of the pairs of clips of each two speakers, (speakers, speakers) each.

    Only the speakers that the sample of rows holds are there.
    """
    rows = np.arange(len(member))
    if len(rows) > max_compared:
        rows = np.random.default_rng(seed).choice(rows, max_compared, replace=False)
    rows = rows[np.argsort(member[rows], kind="stable")]
    unit = _unit(features[rows])
    _, begins, counts = np.unique(member[rows], return_index=True, return_counts=True)
    angles = np.stack(  # a speaker at a time, so that no array is (rows, rows)
        [
            np.add.reduceat(_degrees(unit[begin : begin + count] @ unit.T).sum(axis=0), begins)
            for begin, count in zip(begins, counts, strict=True)
        ]
    )
    pairs = np.outer(counts, counts).astype(np.float64)
    np.fill_diagonal(angles, 0)
    np.fill_diagonal(pairs, 0)
    return angles, pairs


def _unit(features: np.ndarray) -> np.ndarray:
    """Unit vectors in float64; a zero vector stays, and so is at 90 degrees from any other."""
    values = features.astype(np.float64)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(length > 0, length, 1.0)


def _degrees(cosines: np.ndarray) -> np.ndarray:
    return np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0)))


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.asarray(values))

"""The prior face features: mean face features of the training split (eq. 3, Table 1, reading R)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from arspm.corpus import schema

TABLE1_COUNTS = (10, 50, 100, 500, 1000, 5000, 10_000)


class PriorRows(NamedTuple):
    """Row numbers whose mean face feature is a prior. A prior of n faces uses the first n.

    `balanced`: whether both sexes are equally represented.
    """

    rows: np.ndarray
    balanced: bool


def choose_rows(genders: Sequence[str | None], num_faces: int, seed: int) -> dict[str, PriorRows]:
    """Return the rows of each prior in MEAN_FACES that the labels allow: "neutral", "female" and "male".

    genders: each training row's label or None, (rows,). num_faces: maximum number of rows per prior.
    """
    shuffled = np.random.default_rng(seed).permutation(len(genders))
    by_sex = {sex: np.array([row for row in shuffled if genders[row] == sex], np.int64) for sex in schema.GENDERS}
    chosen = {name: choose(shuffled, by_sex, num_faces) for name, choose in MEAN_FACES.items()}
    return {name: rows for name, rows in chosen.items() if rows is not None}


def _neutral(shuffled: np.ndarray, by_sex: Mapping[str, np.ndarray], num_faces: int) -> PriorRows:
    """Return rows that alternate between the sexes; if not both are labelled, any rows."""
    pairs = min(num_faces // 2, *(len(rows) for rows in by_sex.values()))
    alternating = np.stack([rows[:pairs] for rows in by_sex.values()], axis=1).ravel()
    return PriorRows(alternating, True) if pairs else PriorRows(shuffled[:num_faces], False)


def _female(_shuffled: np.ndarray, by_sex: Mapping[str, np.ndarray], num_faces: int) -> PriorRows | None:
    return PriorRows(by_sex["female"][:num_faces], False) if len(by_sex["female"]) else None


def _male(_shuffled: np.ndarray, by_sex: Mapping[str, np.ndarray], num_faces: int) -> PriorRows | None:
    return PriorRows(by_sex["male"][:num_faces], False) if len(by_sex["male"]) else None


# Each prior's rows, from all rows in random order, the labelled rows of each sex, and the maximum number; None without
# the labels that it needs.
MEAN_FACES: dict[str, Callable[[np.ndarray, Mapping[str, np.ndarray], int], PriorRows | None]] = {
    "neutral": _neutral,
    "female": _female,
    "male": _male,
}


def running_means(features: np.ndarray, counts: Sequence[int] = TABLE1_COUNTS) -> dict[int, np.ndarray]:
    """Return n -> the mean of the first n features, (feature,), for each n of `counts` and for all rows (Figure 2).

    features: (rows, feature), in the order of `PriorRows`. Counts above the number of rows are left out.
    """
    sums = np.cumsum(features, axis=0, dtype=np.float64)
    return {n: sums[n - 1] / n for n in sorted({*(n for n in counts if n < len(features)), len(features)})}


def convergence(features: np.ndarray, counts: Sequence[int] = TABLE1_COUNTS) -> list[dict[str, int | float]]:
    """Return {"n", "l1"} for each count: L1 distance between the mean of the first n features and of all (Table 1).

    features: (rows, feature), in the order of `PriorRows`. Only counts below the number of rows are included.
    """
    means = running_means(features, counts)
    final = means.pop(len(features))
    return [{"n": n, "l1": float(np.abs(mean - final).sum())} for n, mean in means.items()]

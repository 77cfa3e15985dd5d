"""The prior face features: mean face features of the training split (eq. 3, Table 1, reading R)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from arspm.corpus import schema

TABLE1_COUNTS = (10, 50, 100, 500, 1000, 5000, 10_000)


class Choice(NamedTuple):
    """Rows whose mean is a prior: a smaller number takes the first of them. `balanced`: as many of each sex."""

    rows: np.ndarray
    balanced: bool


def choose_rows(genders: Sequence[str | None], num_faces: int, seed: int) -> dict[str, Choice]:
    """The rows behind each prior: "neutral" and, where there are labels of the sex, "female" and "male".

    genders: each training row's label, None where nobody gave one. The neutral prior takes the sexes in turn if
    both are labelled, else any rows. At most `num_faces` rows each, or all there are.
    """
    shuffled = np.random.default_rng(seed).permutation(len(genders))
    by_sex = {sex: np.array([row for row in shuffled if genders[row] == sex], np.int64) for sex in schema.GENDERS}
    pairs = min(num_faces // 2, *(len(rows) for rows in by_sex.values()))
    turns = np.stack([rows[:pairs] for rows in by_sex.values()], axis=1).ravel()
    found = {"neutral": Choice(turns, True) if pairs else Choice(shuffled[:num_faces], False)}
    found |= {sex: Choice(rows[:num_faces], False) for sex, rows in by_sex.items() if len(rows)}
    return found


def running_means(features: np.ndarray, counts: Sequence[int] = TABLE1_COUNTS) -> dict[int, np.ndarray]:
    """The mean of the first n features for each n that there are (Figure 2), and of all of them.

    features: (rows, feature), in the order in which their number grows.
    """
    sums = np.cumsum(features, axis=0, dtype=np.float64)
    return {n: sums[n - 1] / n for n in sorted({*(n for n in counts if n < len(features)), len(features)})}


def convergence(features: np.ndarray, counts: Sequence[int] = TABLE1_COUNTS) -> list[dict[str, int | float]]:
    """L1 distance between the mean of the first n features and the mean of all, for each n below all (Table 1).

    features: (rows, feature), in the order in which their number grows.
    """
    means = running_means(features, counts)
    final = means.pop(len(features))
    return [{"n": n, "l1": float(np.abs(mean - final).sum())} for n, mean in means.items()]

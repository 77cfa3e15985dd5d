"""The figures of Table 4 and the gender judge of Table 5, from features of the test split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from arspm import schema
from arspm.learning import metrics

DISTANCES = {"l1": metrics.l1_distance, "l2": metrics.l2_distance, "cos_degrees": metrics.cos_degrees}


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
    its 95 % interval, None where there is one speaker only; a figure that the row does not have is None.
    """
    row: dict[str, Any] = {"model": name, "n": len(truth)}
    for prefix, values in (("", feature), ("portrait_", portrait)):
        for figure, distance in DISTANCES.items():
            key = prefix + figure
            if values is None:
                row[key] = row[f"{key}_interval"] = None
                continue
            each = distance(torch.tensor(values), torch.tensor(truth)).numpy()
            row[key], row[f"{key}_interval"] = _mean_and_interval(each, speakers, num_resamples, seed)
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


def fit_judge(features: np.ndarray, genders: np.ndarray) -> Pipeline:
    """A judge of a face's sex: logistic regression on VGGFace features of the labelled training faces (reading Q).

    features: (rows, feature). genders: (rows,) classes of schema.GENDERS.
    """
    judge = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000, class_weight="balanced"))
    return judge.fit(features, genders)


def judged(
    judge: Pipeline,
    pictures: Mapping[str, np.ndarray],
    genders: np.ndarray,
    speakers: np.ndarray,
    *,
    num_resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Table 5: the share of pictures judged to be of the speaker's sex, with intervals.

    pictures: name -> VGGFace features of the pictures (rows, feature). genders: (rows,) the labels' classes.
    speakers: as in `table4_row`.
    """
    table = []
    for name, features in pictures.items():
        right = (judge.predict(features) == genders).astype(float)
        mean, interval = _mean_and_interval(right, speakers, num_resamples, seed)
        row: dict[str, Any] = {"pictures": name, "n": len(right), "accuracy": mean, "accuracy_interval": interval}
        for number, sex in enumerate(schema.GENDERS):
            own = right[genders == number]
            row[sex] = float(own.mean()) if len(own) else None
        table.append(row)
    return table


def _mean_and_interval(
    values: np.ndarray, speakers: np.ndarray, num_resamples: int, seed: int
) -> tuple[float, list[float] | None]:
    mean, low, high = metrics.bootstrap_interval(values, speakers, num_resamples=num_resamples, seed=seed)
    return mean, None if np.isnan(low) else [low, high]

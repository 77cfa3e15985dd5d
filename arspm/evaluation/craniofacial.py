"""Craniofacial measures: do proportions of the face correlate between portraits and real faces?"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from arspm.evaluation import metrics
from arspm.media.detectors import yunet
from arspm.media.jpeg import decode_jpeg

LANDMARKS = ("right_eye", "left_eye", "nose_tip", "right_mouth_corner", "left_mouth_corner")
MEASURES = ("mouth_width", "eyes_to_mouth", "eyes_to_nose", "nose_to_mouth", "nose_position", "mouth_shape")

_IMAGE_SIZE = 224  # pixels; every picture is resized to this before detection
_MIN_SCORE = 0.3  # of the detector: lower than for photographs, because portraits are blurrier and always show one face
_MAX_TURN = 0.3  # offset of the nose tip from the middle of the eyes, in units of the distance between the eyes
_MIN_SPEAKERS = 3  # two points are always perfectly correlated


def landmarks(jpegs: Sequence[bytes], yunet_path: str | os.PathLike[str]) -> np.ndarray:
    """Return the five landmarks of the highest-scoring face in each square JPEG: (rows, 5, 2).

    Coordinates are x, y in pixels of the JPEG at 224 x 224, in the order of LANDMARKS; right and left are the person's.
    NaN where YuNet finds no face. Raises the errors of `yunet`.
    """
    find = yunet(yunet_path, threshold=_MIN_SCORE)
    points = np.full((len(jpegs), len(LANDMARKS), 2), np.nan)
    for row, jpeg in zip(points, jpegs, strict=True):
        faces = find(decode_jpeg(jpeg, _IMAGE_SIZE))
        if len(faces):
            row[:] = faces[faces[:, -1].argmax(), 4:14].reshape(-1, 2)
    return points


def measures(points: np.ndarray) -> dict[str, np.ndarray]:
    """Return facial proportions that are invariant to translation, in-plane rotation and scale: measure -> (rows,).

    points: (rows, 5, 2), from `landmarks`. Heights are perpendicular to the line through the eyes. In units of the
    distance between the eyes: mouth width, and the heights from the eyes to the mouth, from the eyes to the nose tip
    and from the nose tip to the mouth. Then the position of the nose between eyes and mouth (0 to 1), and the mouth
    width divided by the height from the eyes to the mouth. NaN where landmarks are missing or a proportion is
    undefined, and for faces turned sideways (nose tip near or beyond an eye), whose widths are foreshortened.
    """
    right_eye, left_eye, nose, right_corner, left_corner = np.moveaxis(np.asarray(points, np.float64), 1, 0)
    eyes, mouth = (right_eye + left_eye) / 2, (right_corner + left_corner) / 2
    across = left_eye - right_eye
    apart = _positive(np.linalg.norm(across, axis=1))
    turn = np.abs(((nose - eyes) * across).sum(axis=1)) / apart**2  # 0.5: below an eye
    apart = np.where(turn > _MAX_TURN, np.nan, apart)
    down = np.stack([-across[:, 1], across[:, 0]], axis=1) / apart[:, None]  # y grows downwards

    def height(vectors: np.ndarray) -> np.ndarray:
        return (vectors * down).sum(axis=1)

    width = np.linalg.norm(left_corner - right_corner, axis=1)
    eyes_to_mouth = _positive(height(mouth - eyes))
    return {
        "mouth_width": width / apart,
        "eyes_to_mouth": eyes_to_mouth / apart,
        "eyes_to_nose": height(nose - eyes) / apart,
        "nose_to_mouth": height(mouth - nose) / apart,
        "nose_position": height(nose - eyes) / eyes_to_mouth,
        "mouth_shape": width / eyes_to_mouth,
    }


def correlations(
    real: np.ndarray, pictures: np.ndarray, speakers: np.ndarray, *, num_resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Return Pearson's r of each measure between real faces and pictures of the same clips, over speaker means.

    real, pictures: landmarks of the same rows, (rows, 5, 2). speakers: (rows,). Clips without landmarks in either
    picture are left out. "n" is the number of speakers. r is None for fewer than three speakers, or if either side does
    not vary.
    """
    table = []
    for name, a, b in zip(MEASURES, measures(real).values(), measures(pictures).values(), strict=True):
        known = np.isfinite(a) & np.isfinite(b)
        row: dict[str, Any] = {"measure": name, "r": None, "r_interval": None, "n": len(np.unique(speakers[known]))}
        if row["n"] >= _MIN_SPEAKERS:
            means = []
            for values in (a, b):
                sums, counts = metrics.group_sums(values[known], speakers[known])
                means.append(sums / counts)
            row["r"], row["r_interval"] = metrics.statistic_and_interval(
                pearson(*means), row["n"], num_resamples=num_resamples, seed=seed
            )
        table.append(row)
    return table


def pearson(a: np.ndarray, b: np.ndarray) -> metrics.Statistic:
    """Return the statistic Pearson's r of the groups' values, (groups,) each; NaN where either does not vary."""
    x, y = (_rescaled(values) for values in (a, b))
    moments = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)

    def statistic(weights: np.ndarray) -> np.ndarray:
        n, sum_x, sum_y, sum_xx, sum_yy, sum_xy = (weights @ moments).T
        spread = np.sqrt(np.maximum(n * sum_xx - sum_x**2, 0) * np.maximum(n * sum_yy - sum_y**2, 0))
        with np.errstate(invalid="ignore"):
            r = metrics.ratio_or_nan(n * sum_xy - sum_x * sum_y, np.where(spread > 1e-9 * n**2, spread, 0.0))
        return np.clip(r, -1.0, 1.0)

    return statistic


def _rescaled(values: np.ndarray) -> np.ndarray:
    """Return the values with mean 0 and range 1; NaN if they differ by rounding errors only."""
    value_range = np.ptp(values)
    return (values - values.mean()) / (value_range if value_range > 1e-9 * np.abs(values).max() else np.nan)


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, np.nan)

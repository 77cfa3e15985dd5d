"""Craniofacial measures: do the proportions of the faces in portraits go with those of the real faces?"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from arspm.evaluation import metrics
from arspm.media.faces import decode_jpeg, yunet_finder

LANDMARKS = ("right_eye", "left_eye", "nose_tip", "right_mouth_corner", "left_mouth_corner")
MEASURES = ("mouth_width", "eyes_to_mouth", "eyes_to_nose", "nose_to_mouth", "nose_position", "mouth_shape")

_SIDE = 224  # pixels at which pictures are looked at, whatever their own size
_THRESHOLD = 0.3  # of the detector's score: a portrait is softer than a photograph, and always has one face
_MOST_ASIDE = 0.3  # of the eyes' distance: where the nose's tip may be from their middle
_FEWEST = 3  # speakers: two points always lie on a line


def landmarks(jpegs: Sequence[bytes], yunet_path: str | os.PathLike[str]) -> np.ndarray:
    """The five landmarks of the best face in each square JPEG, by YuNet: (rows, 5, 2), x and y in pixels of 224.

    The order is LANDMARKS; right and left are the person's. NaN where no face is found. Raises as `yunet_finder`.
    """
    find = yunet_finder(yunet_path, threshold=_THRESHOLD)
    found = np.full((len(jpegs), len(LANDMARKS), 2), np.nan)
    for points, jpeg in zip(found, jpegs, strict=True):
        faces = find(decode_jpeg(jpeg, _SIDE))
        if len(faces):
            points[:] = faces[faces[:, -1].argmax(), 4:14].reshape(-1, 2)
    return found


def measures(points: np.ndarray) -> dict[str, np.ndarray]:
    """Proportions that do not change when a picture is moved, turned in its plane or enlarged; measure -> (rows,).

    points: (rows, 5, 2), as `landmarks` gives them. Heights are at right angles to the line of the eyes. In units of
    the distance of the eyes: the width of the mouth, and the heights from the eyes to the mouth, from the eyes to the
    tip of the nose and from there to the mouth. Then the nose's place between eyes and mouth (0 to 1), and the width of
    the mouth over the height from the eyes to it. NaN where there are no landmarks, where they give no proportion, and
    for a face turned aside (the nose's tip near an eye, or beyond it, along their line), which shortens all widths.
    """
    right_eye, left_eye, nose, right_corner, left_corner = np.moveaxis(np.asarray(points, np.float64), 1, 0)
    eyes, mouth = (right_eye + left_eye) / 2, (right_corner + left_corner) / 2
    across = left_eye - right_eye
    apart = _positive(np.linalg.norm(across, axis=1))
    aside = np.abs(((nose - eyes) * across).sum(axis=1)) / apart**2  # 0.5 is an eye
    apart = np.where(aside > _MOST_ASIDE, np.nan, apart)
    down = np.stack([-across[:, 1], across[:, 0]], axis=1) / apart[:, None]  # y grows downwards

    def height(vectors: np.ndarray) -> np.ndarray:
        return (vectors * down).sum(axis=1)

    width = np.linalg.norm(left_corner - right_corner, axis=1)
    whole = _positive(height(mouth - eyes))
    return {
        "mouth_width": width / apart,
        "eyes_to_mouth": whole / apart,
        "eyes_to_nose": height(nose - eyes) / apart,
        "nose_to_mouth": height(mouth - nose) / apart,
        "nose_position": height(nose - eyes) / whole,
        "mouth_shape": width / whole,
    }


def correlations(
    real: np.ndarray, pictures: np.ndarray, speakers: np.ndarray, *, num_resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Pearson's r of each measure between real faces and pictures of the same clips, over the speakers' means.

    real, pictures: landmarks of the same rows, (rows, 5, 2). speakers: (rows,). Clips in which either face was not
    found do not count. "n" is the number of speakers. None for fewer than three speakers, and where either side does
    not vary.
    """
    table = []
    both = zip(MEASURES, measures(real).values(), measures(pictures).values(), strict=True)
    for name, a, b in both:
        known = np.isfinite(a) & np.isfinite(b)
        row: dict[str, Any] = {"measure": name, "r": None, "r_interval": None, "n": len(np.unique(speakers[known]))}
        if row["n"] >= _FEWEST:
            means = []
            for values in (a, b):
                sums, counts = metrics.group_sums(values[known], speakers[known])
                means.append(sums / counts)
            row["r"], row["r_interval"] = metrics.estimate(
                pearson(*means), row["n"], num_resamples=num_resamples, seed=seed
            )
        table.append(row)
    return table


def pearson(a: np.ndarray, b: np.ndarray) -> metrics.Statistic:
    """Pearson's correlation of the groups' values, (groups,) each; NaN where either does not vary."""
    x, y = (_spread_out(values) for values in (a, b))
    moments = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)

    def statistic(weights: np.ndarray) -> np.ndarray:
        n, sum_x, sum_y, sum_xx, sum_yy, sum_xy = (weights @ moments).T
        spread = np.sqrt(np.maximum(n * sum_xx - sum_x**2, 0) * np.maximum(n * sum_yy - sum_y**2, 0))
        with np.errstate(invalid="ignore"):
            r = metrics.divided(n * sum_xy - sum_x * sum_y, np.where(spread > 1e-9 * n**2, spread, 0.0))
        return np.clip(r, -1.0, 1.0)

    return statistic


def _spread_out(values: np.ndarray) -> np.ndarray:
    """The values about 0, with a range of 1; NaN where they differ by no more than rounding."""
    reach = np.ptp(values)
    return (values - values.mean()) / (reach if reach > 1e-9 * np.abs(values).max() else np.nan)


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, np.nan)

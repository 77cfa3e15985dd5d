"""Faces that are aligned by five landmarks: the eyes are level, and every face has the same place and size."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from arspm.corpus.schema import FACE_SIZE
from arspm.media.detectors import FaceDetector

MARGIN = 0.25  # fraction of the box's side, added on each side: hair and chin, as VGGFace's training images have
_NUM_REFINEMENTS = 2
_SEARCH_MARGIN = 0.0  # of the crop in which landmarks are found again: the larger the face, the more exactly

# Where ArcFace's crops of 112 pixels have the right eye, the left eye, the nose tip and the right and left corner of
# the mouth (Deng et al. 2019). Many published face networks are trained on such crops.
ARCFACE_SIDE = 112
ARCFACE = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
# Such a crop ends at the chin and the hairline. VGGFace saw more of a head. So ArcFace's points are placed where they
# are in a detected box on average: their crop has 4/3 of the box's side, and its centre is 0.2 sides above the box's
# (medians of 295 photographs and 39 video frames of real people: 1.32 and 1.36 sides, 0.20 and 0.20).
_SIDES, _RISE = 4 / 3, 0.2
_IN_BOX = (np.array(ARCFACE) / ARCFACE_SIDE - 0.5) * _SIDES - (0, _RISE)  # in sides, from the box's centre


def align_face(
    rgb: np.ndarray, landmarks: Sequence[float], *, size: int = FACE_SIZE, margin: float = MARGIN
) -> np.ndarray:
    """Return a face that is turned, scaled and shifted so that its landmarks are at the template, (size, size, 3).

    rgb: uint8 (height, width, 3). landmarks: x and y of five points, as in `FaceBox`; they must not all coincide. The
    crop shows as much of an average face as `crop_face` with the same margin. Outside the frame, the frame's border
    pixels are repeated. Shrinking averages (INTER_AREA), otherwise interpolation is bicubic.
    """
    return move_landmarks(rgb, np.reshape(landmarks, (5, 2)), template(size, margin), size)


def move_landmarks(rgb: np.ndarray, landmarks: np.ndarray, targets: np.ndarray, size: int) -> np.ndarray:
    """Return the picture turned, scaled and shifted to bring its landmarks closest to targets, (size, size, 3).

    rgb: uint8 (height, width, 3). landmarks, targets: (n, 2), x and y in pixels of the picture and of the result.
    Pixels are computed as in `align_face`.
    """
    matrix = similarity(landmarks, targets)
    scale = float(np.hypot(*matrix[:, 0]))
    height, width = rgb.shape[:2]
    if scale < 1:  # warpAffine cannot average, so the frame is shrunk first
        rgb = cv2.resize(rgb, (max(1, round(width * scale)), max(1, round(height * scale))), None, 0, 0, cv2.INTER_AREA)
        matrix[:, :2] /= rgb.shape[1] / width, rgb.shape[0] / height
    # Landmarks count from the corner of the first pixel, OpenCV from its centre.
    matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    return cv2.warpAffine(rgb, matrix, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def refined(rgb: np.ndarray, landmarks: Sequence[float], detector: FaceDetector) -> tuple[float, ...]:
    """Return the landmarks as the detector finds them once the head is upright, in pixels of the frame.

    YuNet takes a tilted head for a more upright one. In the crop that is aligned by its landmarks, the head is nearly
    upright, and the landmarks are found again there. 150 photographs were turned by 20 degrees: the angle of the crop
    changed by 4.4 degrees, by 1.2 if landmarks are found again once, and by 0.9 if twice (medians). Landmarks that are
    not found again are kept.
    """
    points, centre = np.reshape(landmarks, (5, 2)), (FACE_SIZE / 2, FACE_SIZE / 2)
    for _ in range(_NUM_REFINEMENTS):
        boxes = detector(align_face(rgb, points.ravel().tolist(), margin=_SEARCH_MARGIN))
        found = [
            (box.score, box.landmarks)
            for box in boxes
            if box.landmarks is not None and box.contains(*centre) and is_upright(box.landmarks)
        ]
        if not found:
            break
        matrix = similarity(points, template(FACE_SIZE, _SEARCH_MARGIN))
        points = np.linalg.solve(matrix[:, :2], (np.reshape(max(found)[1], (5, 2)) - matrix[:, 2]).T).T
    return tuple(points.ravel().tolist())


def template(size: int, margin: float) -> np.ndarray:
    """Return where the five landmarks are in an aligned crop of `size` pixels, (5, 2)."""
    return size * (0.5 + _IN_BOX / (1 + 2 * margin))


def similarity(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the rotation, scale and shift, (2, 3), that bring points (n, 2) closest to targets (n, 2).

    The least squares have a closed form (Umeyama 1991). In the plane it is the regression of complex numbers: a factor
    turns and scales, and reflections are excluded.
    """
    source, target = (pairs[:, 0] + 1j * pairs[:, 1] for pairs in (points, targets))
    centred = source - source.mean()
    factor = np.vdot(centred, target) / np.vdot(centred, centred)
    shift = target.mean() - factor * source.mean()
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])


def is_upright(landmarks: Sequence[float]) -> bool:
    """Return whether the eyes are above the mouth. landmarks: x and y of five points, as in `FaceBox`."""
    heights = np.reshape(landmarks, (5, 2))[:, 1]
    return bool(heights[:2].mean() < heights[3:].mean())

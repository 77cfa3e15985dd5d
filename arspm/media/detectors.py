"""Face detectors, and the one convention for boxes that they all follow.

A box is a square from the eyebrows to the chin, as dlib's HOG detector returns it, so that crops are alike whichever
detector found the face. Scores are in [0, 1].
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import cv2
import dlib
import numpy as np

from arspm import storage
from arspm.media.models import model_file


@dataclass(frozen=True, slots=True)
class FaceBox:
    """A face in pixels of its frame.

    `score`: from 0, barely detected, to 1, certain. `frontalness`: from 0, in profile, to 1, facing the camera.
    `landmarks`: x and y of the right eye, the left eye, the nose tip and the right and left corner of the mouth, as the
    person has them; None if the detector has none, and then the frontalness is unknown and 1.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    score: float
    frontalness: float = 1.0
    landmarks: tuple[float, ...] | None = None

    @property
    def side(self) -> float:
        return max(self.x1 - self.x0, self.y1 - self.y0)

    @property
    def area(self) -> float:
        return (self.x1 - self.x0) * (self.y1 - self.y0)

    @property
    def centre(self) -> tuple[float, float]:
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2

    def contains(self, x: float, y: float) -> bool:
        return self.x0 <= x <= self.x1 and self.y0 <= y <= self.y1


@runtime_checkable
class FaceDetector(Protocol):
    """A function that returns the faces in a uint8 RGB frame (height, width, 3).

    zoom: extra factor on the size to which the frame is scaled before detection. Boxes are in pixels of the original
    frame whatever the zoom.
    """

    def __call__(self, rgb: np.ndarray, zoom: float = 1.0, /) -> list[FaceBox]: ...


def make_detector(name_or_path: str) -> FaceDetector:
    """Return the detector with this name: `hog`, `yunet`, or the local path or s3:// URI of a YuNet .onnx file.

    Raises ValueError for another name or a file that is not a YuNet model, FileNotFoundError for a missing file,
    ConnectionError if YuNet cannot be downloaded.
    """
    if name_or_path == "hog":
        return hog_detector()
    if name_or_path == "yunet":
        return yunet_detector(model_file("yunet"))
    if name_or_path.endswith(".onnx"):
        if not storage.is_remote(name_or_path):
            return yunet_detector(name_or_path)
        with storage.local_copy(name_or_path) as path:  # OpenCV reads the file completely here
            try:
                return yunet_detector(path)
            except ValueError as error:
                raise ValueError(str(error).replace(str(path), name_or_path)) from error
    raise ValueError(f"face detector {name_or_path!r}: expected 'hog', 'yunet' or the path of a YuNet .onnx file")


def hog_detector(*, sides: Sequence[int] = (480, 960), max_enlargement: float = 2.0) -> FaceDetector:
    """Return dlib's frontal face detector. It needs no model file and finds faces of 80 pixels or more.

    sides: the longest side, in pixels, to which a frame is resized. The sizes are tried in order until a face is
    found: first a fast pass, then a larger image for small faces. The first pass never enlarges the frame; later
    passes enlarge it at most by `max_enlargement`. The score is 1 - exp(-margin of the detector), which is 0.6 or more
    for most frontal faces.
    """
    detector = dlib.get_frontal_face_detector()

    def detect(rgb: np.ndarray, zoom: float = 1.0) -> list[FaceBox]:
        previous_scale = 0.0
        for number, side in enumerate(sides):
            scale = min(side / max(rgb.shape[:2]), max_enlargement if number else 1.0) * zoom
            if scale <= previous_scale:
                break
            previous_scale = scale
            rectangles, margins, _ = detector.run(np.ascontiguousarray(_scaled(rgb, scale)), 0, 0.0)
            if rectangles:
                return [_hog_box(*detection, scale) for detection in zip(rectangles, margins, strict=True)]
        return []

    return detect


def _hog_box(rectangle: dlib.rectangle, margin: float, scale: float) -> FaceBox:
    edges = (rectangle.left(), rectangle.top(), rectangle.right() + 1, rectangle.bottom() + 1)
    x0, y0, x1, y1 = (edge / scale for edge in edges)
    return FaceBox(x0, y0, x1, y1, score=1 - math.exp(-max(margin, 0.0)))


def yunet_detector(
    path: str | os.PathLike[str], *, max_side: int = 640, threshold: float = 0.6, box_ratio: float = 1.30
) -> FaceDetector:
    """Return OpenCV's YuNet detector with boxes in this module's convention. It needs the model's .onnx file.

    About as fast as HOG, and better on small, turned and partly hidden faces. YuNet's boxes reach from the hairline to
    the chin; `box_ratio`, measured on frontal faces, is their height divided by the side of dlib's box of the same
    face. The frontalness follows from the nose's position between the eyes. YuNet also finds faces on their side and on
    their head, and gives them landmarks as if they were upright. So the frame is turned as well, and a face with a
    higher score in a turned frame does not count. Raises as `yunet`.
    """
    detect_raw = yunet(path, max_side=max_side, threshold=threshold)

    def detect(rgb: np.ndarray, zoom: float = 1.0) -> list[FaceBox]:
        boxes = [_yunet_box(row, threshold, box_ratio) for row in detect_raw(rgb, zoom)]
        for quarters in (1, 2, 3) if boxes else ():
            for row in detect_raw(np.ascontiguousarray(np.rot90(rgb, quarters)), zoom):
                turned = _yunet_box(row, threshold, box_ratio)
                centre = _before_rot90(turned.centre, quarters, rgb.shape)
                boxes = [box for box in boxes if box.score >= turned.score or not box.contains(*centre)]
        return boxes

    return detect


def yunet(path: str | os.PathLike[str], *, max_side: int = 640, threshold: float = 0.6) -> Callable[..., np.ndarray]:
    """Return YuNet with its own output format: a function (rgb, zoom=1.0) -> (faces, 15).

    A row is x, y, width, height, the x and y of five landmarks (right eye, left eye, nose tip, right and left corner of
    the mouth), all in pixels of the frame, and the score, which is at least `threshold`. Raises FileNotFoundError for a
    missing file and ValueError for a file that is not a YuNet model.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no face detector at {path}: give the path of a YuNet .onnx file, or 'hog'")
    try:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # OpenCV 5 warns about its own defaults
        detector = cv2.FaceDetectorYN.create(str(path), "", (320, 320), threshold)
        detector.detect(np.zeros((320, 320, 3), np.uint8))
    except (cv2.error, SystemError) as error:  # the Python binding raises SystemError for some OpenCV errors
        raise ValueError(f"{path} is not a YuNet model that OpenCV {cv2.__version__} can read") from error

    def detect(rgb: np.ndarray, zoom: float = 1.0) -> np.ndarray:
        scale = min(1.0, max_side / max(rgb.shape[:2])) * zoom
        bgr = cv2.cvtColor(_scaled(rgb, scale), cv2.COLOR_RGB2BGR)
        detector.setInputSize((bgr.shape[1], bgr.shape[0]))
        _, faces = detector.detect(bgr)
        rows = np.empty((0, 15)) if faces is None else np.array(faces, np.float64)
        rows[:, :14] /= scale
        return rows

    return detect


def _before_rot90(point: tuple[float, float], quarters: int, shape: tuple[int, ...]) -> tuple[float, float]:
    """Return where a point (x, y) of `np.rot90(image, quarters)` was in the image of this shape."""
    (x, y), (height, width) = point, shape[:2]
    return {1: (width - y, x), 2: (width - x, height - y), 3: (y, height - x)}[quarters]


def _yunet_box(row: np.ndarray, threshold: float, box_ratio: float) -> FaceBox:
    """Return the box of one row of `yunet`."""
    x, y, width, height = (float(value) for value in row[:4])
    half = height / box_ratio / 2
    centre_x, centre_y = x + width / 2, y + height / 2 + 0.2 * half
    right_eye, left_eye, nose = float(row[4]), float(row[6]), float(row[8])
    nose_position = (nose - right_eye) / (left_eye - right_eye) if left_eye > right_eye else 0.0  # frontal: 0.5
    return FaceBox(
        centre_x - half,
        centre_y - half,
        centre_x + half,
        centre_y + half,
        score=max(0.0, float(row[14]) - threshold) / (1 - threshold),
        frontalness=max(0.0, 1 - abs(2 * nose_position - 1)),
        landmarks=tuple(float(value) for value in row[4:14]),
    )


def _scaled(rgb: np.ndarray, scale: float) -> np.ndarray:
    if scale == 1:
        return rgb
    size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)

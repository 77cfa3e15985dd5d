"""Faces: find them, pick the speaker's, choose the best frame, crop, and JPEG in and out.

Boxes follow one convention whatever the detector, so that the crops of two corpora are alike: a square from
the brows to the chin, which is what dlib's HOG detector gives. Scores are in [0, 1].
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import cv2
import dlib
import numpy as np

from arspm import storage
from arspm.corpus.schema import FACE_SIZE, DropReason
from arspm.media.clips import DroppedClip

# Of the box's side, on each side: hair and chin are in, as in the loose crops that VGGFace's networks were shown.
MARGIN = 0.25
MAX_STORED_SIDE = 4096  # of a JPEG that `decode_jpeg` takes; a header's few bytes could ask for gigabytes
PYRAMID_STEP = 1.2  # between the sizes at which dlib's HOG looks


@dataclass(frozen=True, slots=True)
class FaceBox:
    """A face in pixels of its frame. score: 0 barely found, 1 certain; frontalness: 1 facing us, 0 in
    profile.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    score: float
    frontalness: float = 1.0

    @property
    def side(self) -> float:
        return max(self.x1 - self.x0, self.y1 - self.y0)

    @property
    def area(self) -> float:
        return (self.x1 - self.x0) * (self.y1 - self.y0)

    @property
    def centre(self) -> tuple[float, float]:
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2

    def holds(self, x: float, y: float) -> bool:
        return self.x0 <= x <= self.x1 and self.y0 <= y <= self.y1


@runtime_checkable
class FaceDetector(Protocol):
    """Anything that finds faces in a uint8 RGB frame (height, width, 3).

    zoom: a factor on the size at which the frame is looked at; boxes are in pixels of the frame all the same.
    """

    def __call__(self, rgb: np.ndarray, zoom: float = 1.0, /) -> list[FaceBox]: ...


def make_detector(name_or_path: str) -> FaceDetector:
    """`hog`, or a YuNet model by its path or s3://. Raises ValueError or FileNotFoundError with what to do."""
    if name_or_path == "hog":
        return hog_detector()
    if name_or_path.endswith(".onnx"):
        if not storage.is_remote(name_or_path):
            return yunet_detector(name_or_path)
        with storage.local_copy(name_or_path) as path:  # it is read at once
            try:
                return yunet_detector(path)
            except ValueError as error:
                raise ValueError(str(error).replace(str(path), name_or_path)) from error
    raise ValueError(f"face detector {name_or_path!r}: expected 'hog' or the path of a YuNet .onnx file")


def hog_detector(*, sides: Sequence[int] = (480, 960), max_enlargement: float = 2.0) -> FaceDetector:
    """dlib's frontal face detector; it needs no model file and finds faces of 80 pixels or more.

    sides: the longest side, in pixels, that a frame is resized to, one look after the other until there is a
    face: a quick look, then a closer one for small faces. A frame is enlarged in the closer looks only, by
    `max_enlargement` at most. The score is 1 - exp(-margin of the detector), which is 0.6 or more for most
    frontal faces.
    """
    detector = dlib.get_frontal_face_detector()

    def detect(rgb: np.ndarray, zoom: float = 1.0) -> list[FaceBox]:
        before = 0.0
        for look, side in enumerate(sides):
            scale = min(side / max(rgb.shape[:2]), max_enlargement if look else 1.0) * zoom
            if scale <= before:
                break
            before = scale
            rectangles, margins, _ = detector.run(np.ascontiguousarray(_scaled(rgb, scale)), 0, 0.0)
            if rectangles:
                found = zip(rectangles, margins, strict=True)
                return [_hog_box(rectangle, margin, scale) for rectangle, margin in found]
        return []

    return detect


def _hog_box(rectangle: dlib.rectangle, margin: float, scale: float) -> FaceBox:
    edges = (rectangle.left(), rectangle.top(), rectangle.right() + 1, rectangle.bottom() + 1)
    x0, y0, x1, y1 = (edge / scale for edge in edges)
    return FaceBox(x0, y0, x1, y1, score=1 - math.exp(-max(margin, 0.0)))


def yunet_detector(
    path: str | os.PathLike[str], *, max_side: int = 640, threshold: float = 0.6, box_ratio: float = 1.30
) -> FaceDetector:
    """OpenCV's YuNet: about as quick as HOG, better on small, turned and covered faces; it needs its .onnx
    file.

    YuNet's boxes reach from the hairline to the chin. `box_ratio` is their height over the side of dlib's box
    of the same face (measured on frontal faces), by which they are brought to this module's convention. The
    frontalness is where the nose stands between the eyes.
    """
    find = yunet_finder(path, max_side=max_side, threshold=threshold)

    def detect(rgb: np.ndarray, zoom: float = 1.0) -> list[FaceBox]:
        return [_yunet_box(row, threshold, box_ratio) for row in find(rgb, zoom)]

    return detect


def yunet_finder(
    path: str | os.PathLike[str], *, max_side: int = 640, threshold: float = 0.6
) -> Callable[..., np.ndarray]:
    """What YuNet itself says of the faces in a frame, as a function (rgb, zoom=1.0) -> (faces, 15).

    A row is x, y, width, height, the x and y of five landmarks (right eye, left eye, nose tip, right and left corner of
    the mouth), in pixels of the frame, and the score, `threshold` or more. Raises FileNotFoundError, and ValueError for
    a file that is no YuNet model.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no face detector at {path}: give the path of a YuNet .onnx file, or 'hog'")
    try:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # OpenCV 5 warns of its own defaults
        detector = cv2.FaceDetectorYN.create(str(path), "", (320, 320), threshold)
        detector.detect(np.zeros((320, 320, 3), np.uint8))
    except (
        cv2.error,
        SystemError,
    ) as error:  # SystemError: how the binding passes some of OpenCV's errors on
        raise ValueError(f"{path} is not a YuNet model that OpenCV {cv2.__version__} can read") from error

    def find(rgb: np.ndarray, zoom: float = 1.0) -> np.ndarray:
        scale = min(1.0, max_side / max(rgb.shape[:2])) * zoom
        bgr = cv2.cvtColor(_scaled(rgb, scale), cv2.COLOR_RGB2BGR)
        detector.setInputSize((bgr.shape[1], bgr.shape[0]))
        _, found = detector.detect(bgr)
        rows = np.empty((0, 15)) if found is None else np.array(found, np.float64)
        rows[:, :14] /= scale
        return rows

    return find


def _yunet_box(row: np.ndarray, threshold: float, box_ratio: float) -> FaceBox:
    """row: as `yunet_finder` gives it."""
    x, y, width, height = (float(value) for value in row[:4])
    half = height / box_ratio / 2
    centre_x, centre_y = x + width / 2, y + height / 2 + 0.2 * half
    right_eye, left_eye, nose = float(row[4]), float(row[6]), float(row[8])
    between = (nose - right_eye) / (left_eye - right_eye) if left_eye > right_eye else 0.0
    return FaceBox(
        centre_x - half,
        centre_y - half,
        centre_x + half,
        centre_y + half,
        score=max(0.0, float(row[14]) - threshold) / (1 - threshold),
        frontalness=max(0.0, 1 - abs(2 * between - 1)),
    )


def _scaled(rgb: np.ndarray, scale: float) -> np.ndarray:
    if scale == 1:
        return rgb
    size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def choose_face(
    boxes: Sequence[FaceBox],
    xy: tuple[float, float] | None,
    frame_size: tuple[int, int],
    *,
    max_distance: float = 1.0,
) -> FaceBox:
    """The speaker's box among the boxes of one frame.

    xy: AVSpeech's position of the speaker, as fractions of width and height; frame_size: (width, height) in
    pixels. With xy: the nearest of the boxes that hold it, else the nearest whose centre is within
    `max_distance` sides of it, since people move. Without: the only box. Stray boxes do not count
    (`without_strays`). Raises DroppedClip no_face or several_faces.
    """
    real = without_strays(boxes)
    if not real:
        raise DroppedClip(DropReason.no_face, "no face is found")
    if xy is None:
        if len(real) > 1:
            raise DroppedClip(DropReason.several_faces, f"{len(real)} faces, and no x, y to tell whose is the speech")
        return real[0]
    x, y = xy[0] * frame_size[0], xy[1] * frame_size[1]

    def distance(box: FaceBox) -> float:
        return math.dist(box.centre, (x, y)) / box.side

    nearest = min([box for box in real if box.holds(x, y)] or real, key=distance)
    if distance(nearest) > max_distance:
        raise DroppedClip(
            DropReason.no_face,
            f"{len(real)} found, none within a face's width of x, y = {xy[0]:.2f}, {xy[1]:.2f}",
        )
    return nearest


def without_strays(boxes: Sequence[FaceBox]) -> list[FaceBox]:
    """Leave out what is hardly a second person, so that it cannot veto a clip; best first.

    A box is stray beside a better one if its centre lies inside that one (a face found twice, or a part of
    it), or if it is both doubtful and smaller: under a quarter of the score and half of the area. A small
    face that is clearly a face, or a large one that is doubtful, stays and counts as a second person.
    """
    kept: list[FaceBox] = []
    for box in sorted(boxes, key=lambda box: box.score * box.area, reverse=True):
        if not any(
            better.holds(*box.centre) or (box.score < 0.25 * better.score and box.area < 0.5 * better.area)
            for better in kept
        ):
            kept.append(box)
    return kept


def crop_face(rgb: np.ndarray, box: FaceBox, *, size: int = FACE_SIZE, margin: float = MARGIN) -> np.ndarray:
    """A square around the box with `margin` of its side on each side: uint8 (size, size, 3).

    Where it runs off the frame, the frame's border is repeated. Shrinking averages (INTER_AREA), enlarging is
    bicubic. Raises ValueError for a box that lies outside the frame.
    """
    height, width = rgb.shape[:2]
    side = max(1, round(box.side * (1 + 2 * margin)))
    left, top = round(box.centre[0] - side / 2), round(box.centre[1] - side / 2)
    right, bottom = left + side, top + side
    inside = rgb[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    if inside.size == 0:
        raise ValueError(f"{box} lies outside the frame of {width}x{height}")
    square = cv2.copyMakeBorder(
        inside,
        max(-top, 0),
        max(bottom - height, 0),
        max(-left, 0),
        max(right - width, 0),
        cv2.BORDER_REPLICATE,
    )
    return cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC)


def best_face(
    frames: Sequence[np.ndarray],
    detector: FaceDetector,
    xy: tuple[float, float] | None,
    *,
    size: int = FACE_SIZE,
    margin: float = MARGIN,
    min_side: float = 48.0,
) -> tuple[np.ndarray, FaceBox, int]:
    """The crop (size, size, 3), the box and the frame's index of the speaker's best face among a clip's
    frames.

    Best is the largest product of: the detector's score; the frontalness; the share of the box inside the
    frame; the square root of the sharpness (variance of the Laplacian of the crop) over the clip's sharpest;
    the square root of the side over the clip's largest. The first frame often is a cut, a blink or a turned
    head.

    Raises DroppedClip with the reason that most frames gave: no_face, face_too_small (a box under `min_side`
    pixels), several_faces. Without xy, several faces in more than a quarter of the frames with faces drop the
    clip, although other frames have one: whose the speech is cannot be known. One frame in four may err.
    """
    faces: list[tuple[int, FaceBox, np.ndarray]] = []
    drops: list[DroppedClip] = []
    for index, frame in enumerate(frames):
        try:
            boxes = detector(frame, PYRAMID_STEP ** (-index / len(frames)))
            box = choose_face(boxes, xy, (frame.shape[1], frame.shape[0]))
            if box.side < min_side:
                raise DroppedClip(DropReason.face_too_small, f"{box.side:.0f} pixels, {min_side:.0f} are needed")
            faces.append((index, box, crop_face(frame, box, size=size, margin=margin)))
        except DroppedClip as drop:
            drops.append(drop)
    counts = Counter(drop.reason for drop in drops)
    num_several = counts[DropReason.several_faces]
    reason = DropReason.several_faces if num_several * 4 > num_several + len(faces) and faces else None
    if not faces:
        reason = counts.most_common(1)[0][0] if counts else DropReason.no_face
    if reason is not None:
        detail = next((drop.detail for drop in drops if drop.reason is reason), "no frame to look at")
        raise DroppedClip(reason, f"{counts[reason]} of {len(frames)} frames: {detail}")
    best = int(np.argmax(_qualities(frames, faces)))
    index, box, _ = faces[best]
    box = _steadied(box, [other for _, other, _ in faces])
    return crop_face(frames[index], box, size=size, margin=margin), box, index


def _steadied(box: FaceBox, boxes: Sequence[FaceBox]) -> FaceBox:
    """The box with the mean side of those of about its size.

    A detector that looks at sizes in steps says the same side for all faces between two steps. Each frame was looked
    at in another size, so the mean falls between the steps as the face does: one person's crops then vary in size by
    4 % instead of 7 % (measured on 100 drawn clips of 25 people, three frames each).
    """
    side = float(np.exp(np.mean([np.log(b.side) for b in boxes if abs(np.log(b.side / box.side)) < 0.25])))
    (x, y), half = box.centre, side / 2
    return replace(box, x0=x - half, y0=y - half, x1=x + half, y1=y + half)


def _qualities(frames: Sequence[np.ndarray], faces: Sequence[tuple[int, FaceBox, np.ndarray]]) -> np.ndarray:
    """The quality of each face, (faces,); what it is stands with `best_face`."""
    sharpness = np.array([cv2.Laplacian(cv2.cvtColor(c, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var() for _, _, c in faces])
    side = np.array([box.side for _, box, _ in faces])
    looks = np.array([box.score * box.frontalness * _share_inside(box, frames[i].shape) for i, box, _ in faces])
    return looks * np.sqrt((sharpness + 1e-6) / (sharpness.max() + 1e-6)) * np.sqrt(side / side.max())


def _share_inside(box: FaceBox, shape: Sequence[int]) -> float:
    """The share of the box's area that lies in a frame of shape (height, width, ...)."""
    width = max(0.0, min(box.x1, shape[1]) - max(box.x0, 0.0))
    height = max(0.0, min(box.y1, shape[0]) - max(box.y0, 0.0))
    return width * height / box.area


def encode_jpeg(crop: np.ndarray, quality: int = 95) -> bytes:
    """JPEG bytes of a uint8 RGB picture (height, width, 3)."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"a picture of shape {crop.shape} cannot be written as JPEG")
    return data.tobytes()


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) by the frame header of a JPEG; None where there is none."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        kind, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):  # these are tables
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        at += 1 if kind == 0xFF else 2 + length  # any number of 0xFF may stand before a marker
    return None


def decode_jpeg(data: bytes, size: int = FACE_SIZE) -> np.ndarray:
    """A square JPEG as uint8 RGB (size, size, 3), contiguous. Raises ValueError if it is broken or not
    square.

    For half the stored size or less the decoder itself shrinks (a smaller inverse DCT), which is faster and
    averages.
    """
    if not (data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9")):  # libjpeg paints a cut-off end grey
        raise ValueError(f"not a whole JPEG: {len(data)} bytes")
    sides = jpeg_size(data)
    if sides is None:
        raise ValueError(f"a JPEG of {len(data)} bytes cannot be decoded: it has no size")
    if max(sides) > MAX_STORED_SIDE:
        raise ValueError(f"a JPEG of {sides[0]}x{sides[1]}; a face has {MAX_STORED_SIDE} pixels a side at most")
    buffer = np.frombuffer(data, np.uint8)
    bgr = cv2.imdecode(buffer, cv2.IMREAD_REDUCED_COLOR_2 if size * 2 <= FACE_SIZE else cv2.IMREAD_COLOR)
    if bgr is not None and bgr.shape[0] < size:
        bgr = cv2.imdecode(buffer, cv2.IMREAD_COLOR)
    if bgr is None:
        raise ValueError(f"a JPEG of {len(data)} bytes cannot be decoded")
    if bgr.shape[0] != bgr.shape[1]:
        raise ValueError(f"a face must be square, this JPEG is {bgr.shape[1]}x{bgr.shape[0]}")
    if bgr.shape[0] != size:
        smaller = size < bgr.shape[0]
        bgr = cv2.resize(bgr, (size, size), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)

"""The speaker's face: choose it among the people in a frame, choose the best frame of a clip, crop it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np

from arspm.corpus.schema import FACE_SIZE, DropReason
from arspm.media.alignment import MARGIN, align_face, is_upright, refined
from arspm.media.detectors import FaceBox, FaceDetector
from arspm.media.dropped import DroppedClip

PYRAMID_STEP = 1.2  # factor between the image sizes that dlib's HOG detector searches


class SpeakerFace(NamedTuple):
    """The speaker's best face in a clip.

    `crop`: uint8 (size, size, 3). `box`: in pixels of the frame with this index. `frame_size`: (width, height) of that
    frame. `sharpness`: variance of the crop's Laplacian. `num_faces`: people in that frame. `num_face_frames`: of the
    `num_frames`, those in which the speaker's face was found.
    """

    crop: np.ndarray
    box: FaceBox
    frame_index: int
    frame_size: tuple[int, int]
    sharpness: float
    num_faces: int
    num_face_frames: int
    num_frames: int


class _FaceInFrame(NamedTuple):
    frame_index: int
    box: FaceBox
    crop: np.ndarray
    num_faces: int


def choose_face(
    people: Sequence[FaceBox],
    xy: tuple[float, float] | None,
    frame_size: tuple[int, int],
    *,
    centred: bool = False,
    max_distance: float = 1.0,
) -> FaceBox:
    """Return the speaker's box among the people in one frame (`without_strays`).

    xy: AVSpeech's position of the speaker, as fractions of width and height. frame_size: (width, height) in pixels.
    With xy, the result is the nearest box that contains the position. If none contains it, it is the nearest box whose
    centre is at most `max_distance` sides away, because people move. Without xy it is the only box, or if the picture
    is `centred` on a person, the only box that contains its centre. Raises DroppedClip(no_face) or
    DroppedClip(several_faces).
    """
    if not people:
        raise DroppedClip(DropReason.no_face, "no face found")
    if xy is None:
        middle = [box for box in people if box.contains(frame_size[0] / 2, frame_size[1] / 2)]
        if centred and len(middle) == 1:
            return middle[0]
        if len(people) > 1:
            raise DroppedClip(DropReason.several_faces, f"{len(people)} faces, and no x, y that says which one speaks")
        return people[0]
    x, y = xy[0] * frame_size[0], xy[1] * frame_size[1]

    def distance(box: FaceBox) -> float:
        return math.dist(box.centre, (x, y)) / box.side

    nearest = min([box for box in people if box.contains(x, y)] or people, key=distance)
    if distance(nearest) > max_distance:
        raise DroppedClip(
            DropReason.no_face,
            f"{len(people)} found, none within a face's width of x, y = {xy[0]:.2f}, {xy[1]:.2f}",
        )
    return nearest


def without_strays(boxes: Sequence[FaceBox]) -> list[FaceBox]:
    """Return the boxes that may be separate people, best first. Stray boxes would cause clips to be dropped.

    A box is stray if a better one exists and either its centre is inside the better one (a face found twice, or a part
    of it), or it is both doubtful and small: less than a quarter of the better one's score and half of its area. A
    small but clear face, and a large but doubtful one, count as a second person.
    """
    kept: list[FaceBox] = []
    for box in sorted(boxes, key=lambda box: box.score * box.area, reverse=True):
        if not any(
            better.contains(*box.centre) or (box.score < 0.25 * better.score and box.area < 0.5 * better.area)
            for better in kept
        ):
            kept.append(box)
    return kept


def crop_face(rgb: np.ndarray, box: FaceBox, *, size: int = FACE_SIZE, margin: float = MARGIN) -> np.ndarray:
    """Return the square around the box, uint8 (size, size, 3).

    margin: fraction of the box's side that is added on each side. Outside the frame, the frame's border pixels are
    repeated. Shrinking averages (INTER_AREA), enlarging is bicubic. Raises ValueError for a box outside the frame.
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
    centred: bool = False,
    size: int = FACE_SIZE,
    margin: float = MARGIN,
    min_side: float = 48.0,
    min_score: float = 0.0,
    min_frames: int = 1,
    aligned: bool = False,
) -> SpeakerFace:
    """Return the speaker's best face among a clip's frames, cropped by `crop_face` or, if `aligned`, `align_face`.

    The first frame is often a cut, a blink or a turned head, so every frame gets a quality. It is the product of the
    detector's score, the frontalness, the fraction of the box inside the frame, the square root of the sharpness
    (variance of the crop's Laplacian) relative to the clip's sharpest face, and the square root of the box's side
    relative to the clip's largest.

    Boxes below `min_score` do not count. A face must be found in `min_frames`, or in half of the frames if there are
    few. Raises DroppedClip with the most frequent reason among the frames: no_face (also one whose eyes are not above
    its mouth), face_too_small (a box smaller than `min_side` pixels), several_faces. Without xy, the clip is also
    dropped if more than a quarter of its frames with faces show several: then nobody knows who speaks. Up to a quarter
    may be detection errors. Raises ValueError for `aligned` with a detector that finds no landmarks.
    """

    def cropped(frame: np.ndarray, box: FaceBox) -> np.ndarray:
        if not aligned:
            return crop_face(frame, box, size=size, margin=margin)
        if box.landmarks is None:
            raise ValueError("aligned crops need a face detector with landmarks: use yunet")
        return align_face(frame, box.landmarks, size=size, margin=margin)

    faces: list[_FaceInFrame] = []
    drops: list[DroppedClip] = []
    for index, frame in enumerate(frames):
        try:
            found = detector(frame, PYRAMID_STEP ** (-index / len(frames)))
            boxes = [box for box in found if box.score >= min_score]
            if found and not boxes:
                best_score = max(box.score for box in found)
                raise DroppedClip(DropReason.no_face, f"score {best_score:.2f}; at least {min_score:g} needed")
            people = without_strays(boxes)
            box = choose_face(people, xy, (frame.shape[1], frame.shape[0]), centred=centred)
            if box.landmarks is not None and not is_upright(box.landmarks):
                raise DroppedClip(DropReason.no_face, "the eyes are not above the mouth")
            if box.side < min_side:
                raise DroppedClip(DropReason.face_too_small, f"{box.side:.0f} pixels; at least {min_side:.0f} needed")
            faces.append(_FaceInFrame(index, box, cropped(frame, box), len(people)))
        except DroppedClip as drop:
            drops.append(drop)
    counts = Counter(drop.reason for drop in drops)
    num_several = counts[DropReason.several_faces]
    reason = DropReason.several_faces if num_several * 4 > num_several + len(faces) and faces else None
    if not faces:
        reason = counts.most_common(1)[0][0] if counts else DropReason.no_face
    if reason is not None:
        detail = next((drop.detail for drop in drops if drop.reason is reason), "no frames")
        raise DroppedClip(reason, f"{counts[reason]} of {len(frames)} frames: {detail}")
    if len(faces) < min(min_frames, max(1, len(frames) // 2)):
        raise DroppedClip(DropReason.no_face, f"in {len(faces)} of {len(frames)} frames only; {min_frames} needed")
    sharpness = np.array([_sharpness(face.crop) for face in faces], np.float32)
    best = int(np.argmax(_qualities(frames, faces, sharpness)))
    face, frame = faces[best], frames[faces[best].frame_index]
    box = _with_mean_side(face.box, [other.box for other in faces])
    if aligned and box.landmarks is not None:
        box = replace(box, landmarks=refined(frame, box.landmarks, detector))
    return SpeakerFace(
        crop=cropped(frame, box),
        box=box,
        frame_index=face.frame_index,
        frame_size=(frame.shape[1], frame.shape[0]),
        sharpness=float(sharpness[best]),
        num_faces=face.num_faces,
        num_face_frames=len(faces),
        num_frames=len(frames),
    )


def _with_mean_side(box: FaceBox, boxes: Sequence[FaceBox]) -> FaceBox:
    """Return the box with the geometric mean of the sides of all boxes of about its size.

    A detector that searches sizes in steps rounds each face's side to a step. Each frame was scaled differently before
    detection, so the rounding errors differ and their mean is small. The crops of one person then vary in size by 4 %
    instead of 7 % (measured on 100 synthetic clips of 25 speakers, three frames each).
    """
    side = float(np.exp(np.mean([np.log(b.side) for b in boxes if abs(np.log(b.side / box.side)) < 0.25])))
    (x, y), half = box.centre, side / 2
    return replace(box, x0=x - half, y0=y - half, x1=x + half, y1=y + half)


def _sharpness(rgb: np.ndarray) -> float:
    return float(cv2.Laplacian(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var())


def _qualities(frames: Sequence[np.ndarray], faces: Sequence[_FaceInFrame], sharpness: np.ndarray) -> np.ndarray:
    """Return the quality of each face as `best_face` defines it, (faces,). sharpness: (faces,)."""
    boxes = [face.box for face in faces]
    side = np.array([box.side for box in boxes])
    visible = [_visible(face.box, frames[face.frame_index].shape) for face in faces]
    detection = np.array([box.score * box.frontalness for box in boxes]) * visible
    return detection * np.sqrt((sharpness + 1e-6) / (sharpness.max() + 1e-6)) * np.sqrt(side / side.max())


def _visible(box: FaceBox, shape: Sequence[int]) -> float:
    """Return the fraction of the box's area that is inside a frame of shape (height, width, ...)."""
    width = max(0.0, min(box.x1, shape[1]) - max(box.x0, 0.0))
    height = max(0.0, min(box.y1, shape[0]) - max(box.y0, 0.0))
    return width * height / box.area

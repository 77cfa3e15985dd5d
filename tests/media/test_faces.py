"""The speaker's face: which box, which frame, which crop."""

import cv2
import numpy as np
import pytest

from arspm.corpus.schema import DropReason
from arspm.media.detectors import FaceBox, hog_detector
from arspm.media.dropped import DroppedClip
from arspm.media.faces import best_face, choose_face, crop_face, without_strays
from arspm.synthetic.face import draw_face
from arspm.synthetic.people import sample_speakers

FRAME = (400, 200)  # width, height
LEFT = FaceBox(20, 50, 120, 150, score=0.8)
RIGHT = FaceBox(250, 60, 350, 160, score=0.9)


@pytest.fixture(scope="module")
def portraits() -> list[np.ndarray]:
    return [draw_face(speaker, size=240) for speaker in sample_speakers(2, seed=0)]


@pytest.fixture(scope="module")
def pair(portraits) -> np.ndarray:
    """Two people side by side, (240, 480, 3)."""
    return np.hstack(portraits)


def box_at(x: float, y: float, side: float, score: float = 0.8, frontalness: float = 1.0) -> FaceBox:
    return FaceBox(x - side / 2, y - side / 2, x + side / 2, y + side / 2, score, frontalness)


def reason_of(call, *args, **options) -> DropReason:
    with pytest.raises(DroppedClip) as caught:
        call(*args, **options)
    return caught.value.reason


def textured(height: int, width: int, blur: float = 0.0, seed: int = 0) -> np.ndarray:
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(rgb, (0, 0), blur) if blur else rgb


# --- choosing the speaker's box


def test_the_box_that_contains_the_speakers_position_is_chosen():
    for box in (LEFT, RIGHT):
        x, y = box.centre
        assert choose_face([LEFT, RIGHT], (x / 400, y / 200), FRAME) is box
        assert choose_face([RIGHT, LEFT], (x / 400, y / 200), FRAME) is box


def test_a_speaker_who_moved_is_found_within_a_face_width_and_no_further():
    x, y = RIGHT.centre
    assert choose_face([LEFT, RIGHT], ((x + 95) / 400, y / 200), FRAME) is RIGHT
    assert reason_of(choose_face, [LEFT], ((LEFT.centre[0] + 105) / 400, 0.5), FRAME) is DropReason.no_face


def test_x_is_relative_to_the_width_and_y_to_the_height():
    tall = box_at(20, 150, 30)
    wide = box_at(75, 40, 30)
    assert choose_face([tall, wide], (0.2, 0.75), (100, 200)) is tall


def test_two_faces_without_a_position_drop_the_clip():
    assert reason_of(choose_face, [LEFT, RIGHT], None, FRAME) is DropReason.several_faces
    assert choose_face([LEFT], None, FRAME) is LEFT
    assert reason_of(choose_face, [], None, FRAME) is DropReason.no_face


@pytest.mark.parametrize(
    ("stray", "is_stray"),
    [
        (box_at(300, 100, 40, score=0.1), True),  # doubtful and small
        (box_at(70, 120, 40, score=0.7), True),  # the mouth of the same face
        (box_at(300, 100, 95, score=0.1), False),  # doubtful, but as large: perhaps a second person in the dark
        (box_at(300, 100, 40, score=0.7), False),  # small, but a face: somebody behind
    ],
)
def test_stray_boxes_are_left_out(stray, is_stray):
    assert without_strays([stray, LEFT]) == ([LEFT] if is_stray else [LEFT, stray])


# --- crops


def test_crop_is_the_box_with_its_margin():
    frame = textured(300, 400)
    crop = crop_face(frame, FaceBox(150, 100, 250, 200, 1.0), size=150, margin=0.25)
    np.testing.assert_array_equal(crop, frame[75:225, 125:275])
    assert crop_face(frame, LEFT).shape == (224, 224, 3)


def test_crop_repeats_the_border_where_it_runs_off_the_frame():
    frame = textured(100, 100)
    crop = crop_face(frame, FaceBox(-10, 20, 50, 80, 1.0), size=60, margin=0.0)
    np.testing.assert_array_equal(crop[:, 10:], frame[20:80, :50])
    np.testing.assert_array_equal(crop[:, :10], np.repeat(frame[20:80, :1], 10, axis=1))
    crop = crop_face(frame, FaceBox(60, 60, 120, 120, 1.0), size=60, margin=0.0)
    np.testing.assert_array_equal(crop[:40, :40], frame[60:, 60:])
    np.testing.assert_array_equal(crop[40:, 40:], np.broadcast_to(frame[-1, -1], (20, 20, 3)))
    with pytest.raises(ValueError, match="outside the frame"):
        crop_face(frame, FaceBox(200, 200, 260, 260, 1.0))


def test_crop_shrinks_by_averaging():
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 200  # any method other than averaging leaves stripes
    crop = crop_face(stripes, FaceBox(100, 100, 300, 300, 1.0), size=50, margin=0.0)
    assert np.ptp(crop) <= 1
    assert crop.mean() == pytest.approx(100, abs=1)


# --- the best frame


def test_the_best_face_is_sharp_frontal_certain_large_and_complete():
    good = box_at(200, 100, 100)
    worse = {
        "blurred": (textured(200, 400, blur=3), good),
        "turned": (textured(200, 400), box_at(200, 100, 100, frontalness=0.4)),
        "doubtful": (textured(200, 400), box_at(200, 100, 100, score=0.4)),
        "far": (textured(200, 400), box_at(200, 100, 60)),
        "cut off": (textured(200, 400), box_at(10, 100, 100)),
    }
    for name, (frame, box) in worse.items():
        boxes = iter([[], [box], [good], [box]])
        face = best_face([frame, frame, textured(200, 400), frame], lambda _, zoom, b=boxes: next(b), None)
        assert face.frame_index == 2, name
        assert edges(face.box) == pytest.approx(edges(good)), name
        np.testing.assert_array_equal(face.crop, crop_face(textured(200, 400), good))
        assert (face.frame_size, face.num_faces, face.num_face_frames, face.num_frames) == ((400, 200), 1, 3, 4)
        grey = cv2.cvtColor(face.crop, cv2.COLOR_RGB2GRAY)
        assert face.sharpness == pytest.approx(cv2.Laplacian(grey, cv2.CV_64F).var(), rel=1e-4)


def test_the_larger_of_two_equally_sharp_faces_is_better():
    flat = [np.full((200, 400, 3), 90, np.uint8)] * 2
    boxes = iter([[box_at(200, 100, 90)], [box_at(200, 100, 100)]])
    assert best_face(flat, lambda _, zoom: next(boxes), None).frame_index == 1


def edges(box: FaceBox) -> tuple[float, float, float, float]:
    return box.x0, box.y0, box.x1, box.y1


def test_the_crop_has_the_mean_side_of_boxes_of_similar_size():
    sides, zooms = iter([90, 100, 40]), []

    def detector(_, zoom):
        zooms.append(zoom)
        return [box_at(200, 100, next(sides))]

    face = best_face([textured(200, 400)] * 3, detector, None, min_side=20)
    assert face.frame_index == 1  # the largest
    assert face.box.side == pytest.approx(np.sqrt(90 * 100))  # 40 differs by more than a step of the detector
    assert face.box.centre == pytest.approx((200, 100))
    np.testing.assert_allclose(zooms, [1, 1.2 ** (-1 / 3), 1.2 ** (-2 / 3)])


def face_of(per_frame: list[list[FaceBox]], xy=None, **options):
    boxes = iter(per_frame)
    frames = [textured(200, 400)] * len(per_frame)
    return best_face(frames, lambda _, zoom: next(boxes), xy, **options)


def test_drop_reasons_of_a_clip():
    assert reason_of(face_of, [[], [], []]) is DropReason.no_face
    assert reason_of(face_of, []) is DropReason.no_face
    assert reason_of(face_of, [[LEFT]] * 4, (0.9, 0.5)) is DropReason.no_face
    assert reason_of(face_of, [[LEFT, RIGHT]] * 3 + [[]]) is DropReason.several_faces
    assert reason_of(face_of, [[box_at(100, 100, 30)]] * 3 + [[]]) is DropReason.face_too_small
    face_of([[box_at(100, 100, 30)]], min_side=20)


def test_at_most_a_quarter_of_the_frames_may_show_a_second_face():
    assert edges(face_of([[LEFT, RIGHT], [LEFT], [LEFT], [LEFT]]).box) == pytest.approx(edges(LEFT))
    assert reason_of(face_of, [[LEFT, RIGHT], [LEFT], [LEFT], []]) is DropReason.several_faces
    right = face_of([[LEFT, RIGHT, box_at(300, 120, 30, 0.3)]] * 4, (0.75, 0.55))
    assert edges(right.box) == pytest.approx(edges(RIGHT))
    assert (right.num_faces, right.num_face_frames) == (2, 4), "a stray box is no person"


def test_two_real_faces_with_and_without_the_position(pair, portraits):
    detector = hog_detector()
    assert reason_of(best_face, [pair, pair], detector, None) is DropReason.several_faces
    for x, portrait in ((0.25, portraits[0]), (0.75, portraits[1])):
        face = best_face([pair], detector, (x, 0.5))
        assert abs(face.box.centre[0] - x * 480) < 40
        assert (face.frame_index, face.num_faces) == (0, 2)
        alone = best_face([portrait], detector, None).crop
        assert np.abs(face.crop[30:-30, 30:-30].astype(int) - alone[30:-30, 30:-30]).mean() < 12
    assert reason_of(best_face, [np.zeros_like(pair)], detector, None) is DropReason.no_face


def test_doubtful_faces_and_faces_in_one_frame_only_do_not_count():
    frames = [textured(200, 400, seed=number) for number in range(8)]

    def found_in(scores: list[float], **options):
        answers = iter([[box_at(100, 100, 80, score)] if score else [] for score in scores])
        return best_face(frames[: len(scores)], lambda rgb, zoom: next(answers), None, **options)

    assert found_in([0.3] * 8).box.score == 0.3
    with pytest.raises(DroppedClip, match=r"no_face: 8 of 8 frames: score 0\.30; at least 0\.4 needed"):
        found_in([0.3] * 8, min_score=0.4)
    with pytest.raises(DroppedClip, match="no_face: in 1 of 8 frames only; 2 needed"):
        found_in([0, 0, 0.9, 0, 0.3, 0, 0, 0], min_score=0.4, min_frames=2)
    assert found_in([0, 0, 0.9, 0, 0.5, 0, 0, 0], min_score=0.4, min_frames=2).frame_index == 2
    assert found_in([0, 0.9, 0], min_frames=2).frame_index == 1, "of few frames, one is enough"
    assert found_in([0.9], min_frames=2).frame_index == 0


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_face_that_is_not_upright_is_not_taken_for_another(portraits, quarters):
    turned = [np.ascontiguousarray(np.rot90(face, quarters)) for face in portraits * 4]
    with pytest.raises(DroppedClip) as caught:
        best_face(turned, hog_detector(), None, min_score=0.4, min_frames=2)
    assert caught.value.reason is DropReason.no_face

"""Pictures of synthetic speakers."""

from __future__ import annotations

from dataclasses import replace

import dlib
import numpy as np
import pytest

from arspm.synthetic.face import draw_face
from arspm.synthetic.people import Speaker, sample_speakers
from arspm.synthetic.scene import Pose, sample_pose, sample_scene
from tests.synthetic.measures import contains


def test_dlib_finds_the_face_at_the_position_of_the_pose() -> None:
    detector = dlib.get_frontal_face_detector()
    rng = np.random.default_rng(0)
    num_found = 0
    for speaker in sample_speakers(60, seed=11):
        pose = sample_pose(rng)
        frame = draw_face(
            speaker, pose=pose, scene=sample_scene(rng), mouth=rng.uniform(), noise=rng.uniform(0, 3), rng=rng
        )
        boxes = detector(frame, 0)
        num_found += len(boxes) == 1 and contains(boxes[0], 256 * pose.x, 256 * pose.y)
    assert num_found >= 57


def test_a_picture_is_reproducible_and_shows_the_traits(speakers: list[Speaker]) -> None:
    speaker = speakers[0]
    without_noise = draw_face(speaker)
    assert without_noise.shape == (256, 256, 3)
    assert without_noise.dtype == np.uint8
    np.testing.assert_array_equal(without_noise, draw_face(speaker))
    noisy = [draw_face(speaker, noise=3.0, rng=np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert (noisy[0] != noisy[2]).mean() > 0.5
    assert 2.0 < (noisy[0].astype(float) - without_noise).std() < 3.5
    face = np.s_[90:200, 80:176]
    changed = {
        trait: np.abs(draw_face(replace(speaker, **{trait: value}))[face] - without_noise[face].astype(float)).mean()
        for trait, value in {
            "beard_shadow": 1.0,
            "wrinkles": 1.0 - speaker.wrinkles,
            "face_width": 1.15 * speaker.face_width,
            "jaw_width": 0.98,
            "nose_width": 0.25,
            "brow_thickness": 0.1,
            "glasses": not speaker.glasses,
        }.items()
    }
    assert min(changed.values()) > 0.5, changed


def test_wrinkles_appear_on_the_forehead(speakers: list[Speaker]) -> None:
    man = replace(speakers[1], hair_recession=0.5, glasses=False)
    ripples = []
    for wrinkles in (0.0, 1.0):
        forehead = draw_face(replace(man, wrinkles=wrinkles))[66:88, 110:146].astype(float).mean((1, 2))
        ripples.append(np.abs(np.diff(forehead, 2)).mean())
    assert ripples[1] > 3 * ripples[0]


def test_opening_the_mouth_changes_pixels_of_the_mouth_only(speakers: list[Speaker]) -> None:
    pose = Pose(x=0.5, y=0.5, scale=0.3)
    shut, wide = (draw_face(speakers[0], pose=pose, mouth=m).astype(int) for m in (0.0, 1.0))
    rows, cols = np.nonzero(np.abs(wide - shut).sum(2))
    assert rows.size > 200
    assert rows.min() > 128 + 10
    assert rows.max() < 128 + 0.85 * 0.3 * 256
    assert abs(cols.mean() - 128) < 3


def test_dlib_finds_two_faces_side_by_side(speakers: list[Speaker]) -> None:
    two = np.hstack([draw_face(speakers[0]), draw_face(speakers[1])])
    assert len(dlib.get_frontal_face_detector()(two, 0)) == 2


@pytest.mark.parametrize("wrong", [{"size": 16}, {"mouth": 1.5}, {"noise": 2.0}])
def test_draw_face_rejects_invalid_arguments(speakers: list[Speaker], wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        draw_face(speakers[0], **wrong)

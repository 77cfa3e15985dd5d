from __future__ import annotations

import json
import os

import cv2
import numpy as np
import pytest
from scipy.stats import bootstrap, pearsonr

from arspm.evaluation.craniofacial import MEASURES, correlations, landmarks, measures
from arspm.media.detectors import hog_detector
from arspm.media.faces import crop_face
from arspm.media.jpeg import encode_jpeg
from arspm.synthetic.face import draw_face
from arspm.synthetic.people import sample_speakers

# right eye, left eye, nose tip, right and left corner of the mouth
FACE = np.array([(80, 100), (140, 100), (110, 130), (92, 160), (128, 160)], float)


def faces(num_speakers: int, clips: int, seed: int, spread: float = 2.5) -> np.ndarray:
    """Landmarks that differ between speakers, and a little between their clips: (speakers * clips, 5, 2)."""
    rng = np.random.default_rng(seed)
    own = FACE + spread * rng.standard_normal((num_speakers, 1, 5, 2))
    return (own + 0.5 * rng.standard_normal((num_speakers, clips, 5, 2))).reshape(-1, 5, 2)


def test_measures_of_a_hand_computed_face():
    found = {name: values.item() for name, values in measures(FACE[None]).items()}
    assert found == pytest.approx(
        {
            "mouth_width": 36 / 60,
            "eyes_to_mouth": 60 / 60,
            "eyes_to_nose": 30 / 60,
            "nose_to_mouth": 30 / 60,
            "nose_position": 30 / 60,
            "mouth_shape": 36 / 60,
        }
    )
    assert tuple(found) == MEASURES


def test_measures_distinguish_nose_and_mouth():
    lower_nose, wider_mouth = FACE.copy(), FACE.copy()
    lower_nose[2, 1] += 12
    wider_mouth[3:, 0] += -6, 6
    both = measures(np.stack([lower_nose, wider_mouth]))
    found = {name: values.round(6).tolist() for name, values in both.items()}
    assert found == {
        "mouth_width": [0.6, 0.8],
        "eyes_to_mouth": [1.0, 1.0],
        "eyes_to_nose": [0.7, 0.5],
        "nose_to_mouth": [0.3, 0.5],
        "nose_position": [0.7, 0.5],
        "mouth_shape": [0.6, 0.8],
    }


@pytest.mark.parametrize("degrees", [-40, 10, 90])
def test_measures_are_invariant_to_translation_rotation_and_scale(degrees):
    points = faces(20, 1, seed=0)
    angle = np.radians(degrees)
    turned = 2.5 * points @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) + (300, -70)
    for name, values in measures(turned).items():
        np.testing.assert_allclose(values, measures(points)[name], err_msg=name)


def test_undefined_measures_are_nan():
    none_found, one_point, upside_down = np.full((5, 2), np.nan), np.full((5, 2), 7.0), FACE[[0, 1, 2, 3, 4]].copy()
    upside_down[3:, 1] = 40  # the mouth above the eyes
    aside = FACE.copy()
    aside[2, 0] = 135  # the nose tip is below an eye
    found = measures(np.stack([none_found, one_point, upside_down, aside, FACE]))
    for name, values in found.items():
        unknown = [True, True, name not in ("mouth_width", "eyes_to_nose", "nose_to_mouth"), True, False]
        assert np.isnan(values).tolist() == unknown, name


def rows_of(real, pictures, speakers, **changes):
    rows = correlations(real, pictures, speakers, **({"num_resamples": 300, "seed": 0} | changes))
    assert [row["measure"] for row in rows] == list(MEASURES)
    json.dumps(rows, allow_nan=False)
    return {row["measure"]: row for row in rows}


def test_correlations_are_pearsons_r_over_speaker_means():
    real = faces(40, 3, seed=0)
    pictures = real + faces(40, 3, seed=1) - FACE  # real faces explain half of the variance
    speakers = np.repeat([f"speaker {n:02d}" for n in range(40)], 3)
    order = np.random.default_rng(2).permutation(120)
    rows = rows_of(real[order], pictures[order], speakers[order], num_resamples=5000)
    for name, row in rows.items():
        means = [measures(points)[name].reshape(40, 3).mean(axis=1) for points in (real, pictures)]
        assert row["r"] == pytest.approx(pearsonr(*means).statistic)
        assert row["n"] == 40
        reference = bootstrap(
            means, lambda *both: pearsonr(*both).statistic, paired=True, vectorized=False, n_resamples=2000,
            method="percentile", random_state=0,
        ).confidence_interval  # fmt: skip
        assert row["r_interval"] == pytest.approx([reference.low, reference.high], abs=0.04)
        assert 0.3 < row["r"] < 0.95


def test_clips_without_landmarks_in_either_picture_are_left_out():
    real, speakers = faces(30, 2, seed=0), np.repeat(np.arange(30), 2)
    pictures = real.copy()
    real[0] = pictures[3] = np.nan  # one clip of speakers 0 and 1
    pictures[4:6] = np.nan  # both of speaker 2
    pictures[1, 3:, 0] += -20, 20  # found but different: included
    rows = rows_of(real, pictures, speakers)
    assert {row["n"] for row in rows.values()} == {29}
    pictures[1] = real[1]
    assert rows["mouth_width"]["r"] < 0.999
    assert rows_of(real, pictures, speakers)["mouth_width"]["r"] == pytest.approx(1)


def test_the_same_picture_for_everyone_has_no_correlation():
    real = faces(30, 3, seed=0)
    speakers = np.arange(90) % 31  # speakers have different numbers of clips
    same = np.repeat(faces(1, 1, seed=5), 90, axis=0)
    for row in rows_of(real, same, speakers).values():
        assert (row["r"], row["r_interval"], row["n"]) == (None, None, 31)


def test_two_speakers_have_no_correlation():
    real = faces(3, 2, seed=0)
    two, three = (rows_of(real[: 2 * n], real[: 2 * n], np.repeat(np.arange(n), 2)) for n in (2, 3))
    assert [(row["r"], row["r_interval"], row["n"]) for row in two.values()] == [(None, None, 2)] * 6
    assert all(row["r"] == pytest.approx(1) for row in three.values())


# --- landmarks


class FakeYuNet:
    """Stub of OpenCV's FaceDetectorYN: two faces, the higher score second; none in a black picture."""

    def setInputSize(self, size):
        assert size == (224, 224)

    def detect(self, bgr):
        if bgr.max() < 100:
            return 1, None
        doubtful = [20, 20, 40, 52, *FACE.ravel() + 9, 0.4]
        return 1, np.array([doubtful, [20, 20, 40, 52, *FACE.ravel(), 0.9]], np.float32)


def test_landmarks_are_of_the_face_with_the_highest_score(tmp_path, monkeypatch):
    (tmp_path / "yunet.onnx").write_bytes(b"")
    monkeypatch.setattr(cv2.FaceDetectorYN, "create", lambda *args: FakeYuNet())
    jpegs = [encode_jpeg(np.full((64, 64, 3), grey, np.uint8)) for grey in (200, 0)]
    found = landmarks(jpegs, tmp_path / "yunet.onnx")
    np.testing.assert_allclose(found[0], FACE)
    assert np.isnan(found[1]).all()
    assert landmarks([], tmp_path / "yunet.onnx").shape == (0, 5, 2)


def test_a_missing_detector_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no face detector at"):
        landmarks([], tmp_path / "yunet.onnx")


@pytest.mark.skipif("ARSPM_YUNET" not in os.environ, reason="set ARSPM_YUNET to a YuNet .onnx file to run this test")
def test_yunet_finds_the_landmarks_of_drawn_faces():
    """Also at the demo's picture size: measures at both sizes correlate over speakers."""
    detect = hog_detector()
    crops = []
    for speaker in sample_speakers(40, seed=3):
        frame = draw_face(speaker)
        crops.append(crop_face(frame, detect(frame)[0]))
    small = [cv2.resize(crop, (64, 64), interpolation=cv2.INTER_AREA) for crop in crops]
    black = np.zeros((64, 64, 3), np.uint8)
    large, reduced = (
        landmarks([encode_jpeg(picture) for picture in (*pictures, black)], os.environ["ARSPM_YUNET"])
        for pictures in (crops, small)
    )
    for found in (large, reduced):
        assert np.isnan(found[-1]).all()
        assert np.isfinite(found[:-1]).all()
        right_eye, left_eye, nose, right_corner, left_corner = found[:-1].transpose(1, 0, 2)
        assert (right_eye[:, 0] + 30 < left_eye[:, 0]).all()  # the person's right is the viewer's left
        assert (right_corner[:, 0] + 20 < left_corner[:, 0]).all()
        assert (right_eye[:, 1] + 10 < nose[:, 1]).all()
        assert (nose[:, 1] + 10 < right_corner[:, 1]).all()
    assert np.median(np.linalg.norm(large[:-1] - reduced[:-1], axis=-1)) < 4
    rows = correlations(large[:-1], reduced[:-1], np.arange(40), num_resamples=100, seed=0)
    assert np.mean([row["r"] for row in rows]) > 0.6
    assert min(row["r_interval"][0] for row in rows) > 0

"""Synthetic speakers with the same causes, and their faces as the corpus would contain them."""

from __future__ import annotations

from dataclasses import asdict, astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from arspm.config.presets import preset
from arspm.media.clips import decode_clip
from arspm.media.detectors import FaceBox, hog_detector
from arspm.media.faces import best_face
from arspm.media.frames import evenly_spaced
from arspm.media.jpeg import decode_jpeg, encode_jpeg
from arspm.model.speech_portrait import vggface
from arspm.synthetic.films import film, write_clip
from arspm.synthetic.oracle_faces import MAX_TRIES, faces_with_causes
from arspm.synthetic.people import HAIR_COLOURS, HAIR_STYLES, Speaker, sample_speakers, sample_with_causes

SMOKE = preset("smoke")
DETECTOR = hog_detector()
ARGUMENTS: dict[str, Any] = {  # of `faces_with_causes`
    "seed": 0,
    "detector": DETECTOR,
    "num_frames": 2,
    "margin": 0.25,
    "min_side": 24.0,
    "aligned": False,
    "jpeg_quality": 95,
}


def oracle_faces(speaker: Speaker, num_draws: int, **changed: Any) -> list[bytes]:
    """Return JPEG faces of random speakers with the causes of `speaker`. changed: arguments other than the defaults."""
    causes = (speaker.video_id, speaker.sex, speaker.age, speaker.body_size)
    return faces_with_causes(*causes, num_draws=num_draws, **(ARGUMENTS | changed))


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """An untrained VGGFace. Its features are still a deterministic function of the face."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return vggface(SMOKE, 10).eval()


def features(network: Any, pictures: list[bytes]) -> np.ndarray:
    """Return the face features of JPEG faces, one row per face."""
    pixels = np.stack([decode_jpeg(picture, SMOKE.image_size) for picture in pictures])
    with torch.no_grad():
        return network.features(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255).double().numpy()


def corpus_face(speaker: Speaker, seed: int) -> bytes:
    """Return a JPEG face of the speaker, as the corpus contains it."""
    take = film(speaker, 30, np.random.default_rng(seed), frame_numbers=evenly_spaced(30, ARGUMENTS["num_frames"]))
    return encode_jpeg(best_face(take.frames, DETECTOR, (take.x, take.y)).crop, ARGUMENTS["jpeg_quality"])


# People


def test_the_speakers_of_a_seed_never_change() -> None:
    """Corpora written by earlier versions contain these speakers."""
    assert sample_speakers(4, seed=7)[2:] == [
        Speaker(
            video_id="synth000002",
            sex="female",
            age=38.58784351689991,
            body_size=0.03350855914850075,
            f0_hz=209.0213046847964,
            vocal_tract_cm=14.118386029817191,
            breathiness=0.3648435384966906,
            syllables_per_second=5.120329907851844,
            jitter=0.008183774057374745,
            face_width=0.7425882547643463,
            jaw_width=0.7013393946316083,
            chin_length=-0.005622822739037098,
            brow_thickness=0.03457207840933969,
            brow_height=0.27117495235520717,
            eye_size=1.0778914112187383,
            nose_width=0.15778538188180763,
            lip_fullness=0.09712899420862824,
            lip_redness=0.7136350641132545,
            beard_shadow=0.0,
            wrinkles=0.31044158939959654,
            greyness=0.0918735176414944,
            hair_recession=0.04336543309497812,
            hair_length=0.9345414193063453,
            neck_width=0.3738483323341761,
            hair_colour="black",
            hair_style="swept back",
            glasses=False,
            skin_tone=0.8655292789783664,
        ),
        Speaker(
            video_id="synth000003",
            sex="male",
            age=76.59301204049275,
            body_size=-0.5841952217882175,
            f0_hz=132.32588403712967,
            vocal_tract_cm=16.29406096902134,
            breathiness=0.6297279123100963,
            syllables_per_second=3.5988816270947415,
            jitter=0.021572550060314413,
            face_width=0.7180145121712599,
            jaw_width=0.8462436349494223,
            chin_length=0.05845710655605716,
            brow_thickness=0.0856210830528405,
            brow_height=0.1877367509167177,
            eye_size=0.7519232342082832,
            nose_width=0.22204245256299956,
            lip_fullness=0.04968641663238556,
            lip_redness=0.0,
            beard_shadow=0.823388909444756,
            wrinkles=0.978604031348115,
            greyness=1.0,
            hair_recession=0.9701253997637005,
            hair_length=0.06814221983671043,
            neck_width=0.43221695427084106,
            hair_colour="chestnut",
            hair_style="left parting",
            glasses=False,
            skin_tone=0.8773870780232048,
        ),
    ]


def test_speakers_with_the_same_causes_differ_in_all_other_traits() -> None:
    speaker = sample_speakers(2, seed=3)[1]
    rng = np.random.default_rng(0)
    people = [
        sample_with_causes(speaker.video_id, speaker.sex, speaker.age, speaker.body_size, rng) for _ in range(400)
    ]
    given = {"video_id", "sex", "age", "body_size"}
    for name, value in asdict(speaker).items():
        values = {getattr(person, name) for person in people}
        if name in given:
            assert values == {value}
        else:
            assert len(values) > 1, name
    assert 0.12 < np.mean([person.glasses for person in people]) < 0.28
    for name, choices in (("hair_colour", list(HAIR_COLOURS)), ("hair_style", HAIR_STYLES)):
        counts = [sum(getattr(person, name) == each for person in people) for each in choices]
        assert stats.chisquare(counts).pvalue > 0.01


def test_sample_with_causes_has_the_distribution_of_sample_speakers() -> None:
    """For 1000 speakers, draw another with the same causes: traits follow one distribution and depend on the causes."""
    speakers = sample_speakers(1000, seed=5)
    rng = np.random.default_rng(1)
    others = [sample_with_causes(s.video_id, s.sex, s.age, s.body_size, rng) for s in speakers]
    for name in ("face_width", "jaw_width", "nose_width", "wrinkles", "f0_hz", "skin_tone", "neck_width"):
        own, other = ([float(getattr(s, name)) for s in people] for people in (speakers, others))
        assert stats.ks_2samp(own, other).pvalue > 0.01, name
        r = np.corrcoef(own, other)[0, 1]
        assert abs(r) < 0.1 if name == "skin_tone" else r > 0.8, name


# The camera


def test_drawn_frames_are_those_that_the_corpus_reads_from_a_clip(tmp_path: Path) -> None:
    """Video compression changes them little, compared with the difference between two speakers."""
    speaker = sample_speakers(1, seed=2)[0]
    whole = film(speaker, 35, np.random.default_rng(4))
    numbers = evenly_spaced(35, 3)
    part = film(speaker, 35, np.random.default_rng(4), frame_numbers=numbers)
    assert (part.x, part.y) == (whole.x, whole.y)
    np.testing.assert_array_equal(part.voice, whole.voice)
    for number, frame in zip(numbers, part.frames, strict=True):
        difference = [np.abs(frame.astype(int) - other).mean() for other in whole.frames]
        assert int(np.argmin(difference)) == number
        assert max(np.abs(frame.astype(int) - whole.frames[number]).ravel()) <= 12  # the camera noise differs
    write_clip(tmp_path / "clip.mp4", whole.frames, whole.voice, fps=10)
    media = decode_clip(tmp_path / "clip.mp4", num_frames=3)
    for number, frame in zip(numbers, media.frames, strict=True):
        difference = [np.abs(frame.astype(int) - other).mean() for other in whole.frames]
        assert int(np.argmin(difference)) == number
    crops = [best_face(frames, DETECTOR, (whole.x, whole.y)).crop for frames in (part.frames, media.frames)]
    other = decode_jpeg(corpus_face(sample_speakers(3, seed=2)[2], seed=4))
    far = np.abs(crops[0].astype(int) - other).mean()
    assert np.abs(crops[0].astype(int) - crops[1]).mean() < 0.15 * far


# Faces


def test_faces_depend_on_the_seed_and_the_video_id() -> None:
    one, two = sample_speakers(2, seed=0)
    pictures = oracle_faces(one, 4)
    assert oracle_faces(one, 4) == pictures
    assert oracle_faces(one, 2) == pictures[:2]
    assert len(set(pictures)) == 4
    assert not set(oracle_faces(one, 4, seed=1)) & set(pictures)
    assert not set(oracle_faces(replace(one, video_id=two.video_id), 4)) & set(pictures)
    assert {decode_jpeg(picture).shape for picture in pictures} == {(224, 224, 3)}


def test_faces_do_not_depend_on_other_traits_of_the_speaker() -> None:
    one, other = sample_speakers(3, seed=0)[::2]
    same = replace(other, video_id=one.video_id, sex=one.sex, age=one.age, body_size=one.body_size)
    assert astuple(same) != astuple(one)
    assert oracle_faces(same, 3) == oracle_faces(one, 3)


def test_a_draw_without_a_detected_face_is_repeated() -> None:
    speaker = sample_speakers(1, seed=0)[0]
    num_calls = 0

    def fails_at_first(rgb: np.ndarray, zoom: float = 1.0, /) -> list[FaceBox]:
        nonlocal num_calls
        num_calls += 1
        return DETECTOR(rgb, zoom) if num_calls > 2 * ARGUMENTS["num_frames"] else []

    found = oracle_faces(speaker, 2, detector=fails_at_first)
    assert num_calls == 4 * ARGUMENTS["num_frames"]
    undisturbed = oracle_faces(speaker, 2)
    assert found[0] != undisturbed[0]
    assert found[1] == undisturbed[1]


def test_an_error_is_raised_if_a_face_is_never_detected() -> None:
    speaker = sample_speakers(1, seed=0)[0]
    with pytest.raises(ValueError, match=r"^synth000000: no face in 10 pictures .*face_too_small.*min_side_pixels$"):
        oracle_faces(speaker, 1, min_side=1000.0)
    assert MAX_TRIES == 10


# The mean of the faces


def same_mean(a: np.ndarray, b: np.ndarray) -> float:
    """Return the p-value of Hotelling's test that two samples (draws, dim) have the same mean.

    Only the ten principal components with most variance are compared.
    """
    both = np.concatenate([a - a.mean(axis=0), b - b.mean(axis=0)])
    _, sizes, directions = np.linalg.svd(both, full_matrices=False)
    dims, freedom = 10, len(both) - 2
    apart = (a.mean(axis=0) - b.mean(axis=0)) @ directions[:dims].T
    t_squared = len(a) * len(b) / len(both) * np.sum(apart**2 / (sizes[:dims] ** 2 / freedom))
    return float(stats.f.sf(t_squared * (freedom - dims + 1) / (freedom * dims), dims, freedom - dims + 1))


def test_the_mean_feature_depends_on_the_causes_only(network: Any) -> None:
    """With 40 draws, the means of two speakers differ significantly only if their causes differ."""
    speaker = sample_speakers(1, seed=11)[0]
    woman, man = (replace(speaker, sex=sex, age=age) for sex, age in (("female", 25.0), ("male", 70.0)))
    people = (woman, replace(woman, video_id="somebody else"), man)
    draws = [features(network, oracle_faces(each, 40, num_frames=1)) for each in people]
    assert same_mean(draws[0], draws[1]) > 0.01
    assert same_mean(draws[0], draws[2]) < 1e-3


def test_the_oracle_is_nearer_to_the_speaker_than_the_mean_of_all(network: Any) -> None:
    speakers = sample_speakers(16, seed=33)
    truth = features(network, [corpus_face(speaker, seed=number) for number, speaker in enumerate(speakers)])
    oracle = np.stack([features(network, oracle_faces(speaker, 6, num_frames=1)).mean(axis=0) for speaker in speakers])

    def distance(estimate: np.ndarray) -> float:
        return float(np.linalg.norm(truth - estimate, axis=1).mean())

    assert distance(oracle) < 0.9 * distance(truth.mean(axis=0))
    other_speaker_of_same_sex = np.roll(oracle, 2, axis=0)
    assert distance(oracle) < 0.9 * distance(other_speaker_of_same_sex)

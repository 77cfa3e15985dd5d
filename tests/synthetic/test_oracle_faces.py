"""People who share what a voice carries, and their faces as the corpus would see them."""

from __future__ import annotations

from dataclasses import asdict, astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from arspm.config.presets import preset
from arspm.media import faces
from arspm.media.clips import decode_clip, evenly_spaced
from arspm.model.speech_portrait import vggface
from arspm.synthetic.films import film, write_clip
from arspm.synthetic.oracle_faces import MAX_TRIES, alike_faces
from arspm.synthetic.people import HAIR_COLOURS, HAIR_STYLES, Speaker, alike, sample_speakers

SMOKE = preset("smoke")
DETECTOR = faces.hog_detector()
FACE: dict[str, Any] = {
    "seed": 0,
    "detector": DETECTOR,
    "num_frames": 2,
    "margin": 0.25,
    "min_side": 24.0,
    "jpeg_quality": 95,
}


def of(speaker: Speaker, num_draws: int, **changed: Any) -> list[bytes]:
    causes = (speaker.video_id, speaker.sex, speaker.age, speaker.body_size)
    return alike_faces(*causes, num_draws=num_draws, **(FACE | changed))


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """A VGGFace that nobody trained: what it says of faces is still the same for the same faces."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return vggface(SMOKE, 10).eval()


def features(network: Any, pictures: list[bytes]) -> np.ndarray:
    pixels = np.stack([faces.decode_jpeg(picture, SMOKE.image_size) for picture in pictures])
    with torch.no_grad():
        return network.features(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255).double().numpy()


def filmed(speaker: Speaker, seed: int) -> bytes:
    """A face of the speaker, as the corpus has it."""
    take = film(speaker, 30, np.random.default_rng(seed), kept=evenly_spaced(30, FACE["num_frames"]))
    return faces.encode_jpeg(faces.best_face(take.frames, DETECTOR, (take.x, take.y))[0], FACE["jpeg_quality"])


# People


def test_the_speakers_of_a_seed_are_who_they_always_were() -> None:
    """What earlier corpora hold."""
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


def test_people_alike_share_the_causes_and_nothing_else() -> None:
    speaker = sample_speakers(2, seed=3)[1]
    rng = np.random.default_rng(0)
    people = [alike(speaker.video_id, speaker.sex, speaker.age, speaker.body_size, rng) for _ in range(400)]
    shared = {"video_id", "sex", "age", "body_size"}
    for name, value in asdict(speaker).items():
        values = {getattr(person, name) for person in people}
        if name in shared:
            assert values == {value}
        else:
            assert len(values) > 1, name
    assert 0.12 < np.mean([person.glasses for person in people]) < 0.28
    for name, all_there_are in (("hair_colour", list(HAIR_COLOURS)), ("hair_style", HAIR_STYLES)):
        counts = [sum(getattr(person, name) == each for person in people) for each in all_there_are]
        assert stats.chisquare(counts).pvalue > 0.01


def test_people_alike_are_drawn_from_the_speakers_own_distribution() -> None:
    """Somebody alike for each of many speakers: no test tells the two samples apart, and what is caused agrees."""
    speakers = sample_speakers(1000, seed=5)
    rng = np.random.default_rng(1)
    others = [alike(s.video_id, s.sex, s.age, s.body_size, rng) for s in speakers]
    for name in ("face_width", "jaw_width", "nose_width", "wrinkles", "f0_hz", "skin_tone", "neck_width"):
        own, other = ([float(getattr(s, name)) for s in people] for people in (speakers, others))
        assert stats.ks_2samp(own, other).pvalue > 0.01, name
        r = np.corrcoef(own, other)[0, 1]
        assert abs(r) < 0.1 if name == "skin_tone" else r > 0.8, name


# The camera


def test_the_frames_are_those_that_are_read_from_a_clip(tmp_path: Path) -> None:
    """And what video compression does to them is little beside what tells people apart."""
    speaker = sample_speakers(1, seed=2)[0]
    whole = film(speaker, 35, np.random.default_rng(4))
    numbers = evenly_spaced(35, 3)
    part = film(speaker, 35, np.random.default_rng(4), kept=numbers)
    assert (part.x, part.y) == (whole.x, whole.y)
    np.testing.assert_array_equal(part.voice, whole.voice)
    for number, frame in zip(numbers, part.frames, strict=True):
        difference = [np.abs(frame.astype(int) - other).mean() for other in whole.frames]
        assert int(np.argmin(difference)) == number
        assert max(np.abs(frame.astype(int) - whole.frames[number]).ravel()) <= 12  # another grain of the camera
    write_clip(tmp_path / "clip.mp4", whole.frames, whole.voice, fps=10)
    media = decode_clip(tmp_path / "clip.mp4", num_frames=3)
    for number, frame in zip(numbers, media.frames, strict=True):
        difference = [np.abs(frame.astype(int) - other).mean() for other in whole.frames]
        assert int(np.argmin(difference)) == number
    crops = [faces.best_face(frames, DETECTOR, (whole.x, whole.y))[0] for frames in (part.frames, media.frames)]
    other = faces.decode_jpeg(filmed(sample_speakers(3, seed=2)[2], seed=4))
    far = np.abs(crops[0].astype(int) - other).mean()
    assert np.abs(crops[0].astype(int) - crops[1]).mean() < 0.15 * far


# Faces


def test_faces_follow_from_the_seed_and_the_speaker() -> None:
    one, two = sample_speakers(2, seed=0)
    pictures = of(one, 4)
    assert of(one, 4) == pictures
    assert of(one, 2) == pictures[:2]
    assert len(set(pictures)) == 4
    assert not set(of(one, 4, seed=1)) & set(pictures)
    assert not set(of(replace(one, video_id=two.video_id), 4)) & set(pictures)
    assert {faces.decode_jpeg(picture).shape for picture in pictures} == {(224, 224, 3)}


def test_nothing_but_the_causes_of_the_speaker_counts() -> None:
    one, other = sample_speakers(3, seed=0)[::2]
    same = replace(other, video_id=one.video_id, sex=one.sex, age=one.age, body_size=one.body_size)
    assert astuple(same) != astuple(one)
    assert of(same, 3) == of(one, 3)


def test_a_face_that_is_not_found_is_drawn_again() -> None:
    speaker = sample_speakers(1, seed=0)[0]
    seen = 0

    def blind_at_first(rgb: np.ndarray, zoom: float = 1.0, /) -> list[faces.FaceBox]:
        nonlocal seen
        seen += 1
        return DETECTOR(rgb, zoom) if seen > 2 * FACE["num_frames"] else []

    found = of(speaker, 2, detector=blind_at_first)
    assert seen == 4 * FACE["num_frames"]
    plain = of(speaker, 2)
    assert found[0] != plain[0]
    assert found[1] == plain[1]


def test_a_face_that_is_never_found_is_one_clear_line() -> None:
    speaker = sample_speakers(1, seed=0)[0]
    with pytest.raises(ValueError, match=r"^synth000000: no face in 10 pictures .*face_too_small.*min_side_pixels$"):
        of(speaker, 1, min_side=1000.0)
    assert MAX_TRIES == 10


# What their mean is worth


def same_mean(a: np.ndarray, b: np.ndarray) -> float:
    """p of Hotelling's test that two samples (draws, dim) have one mean, in the ten directions of most variance."""
    both = np.concatenate([a - a.mean(axis=0), b - b.mean(axis=0)])
    _, sizes, directions = np.linalg.svd(both, full_matrices=False)
    dims, freedom = 10, len(both) - 2
    apart = (a.mean(axis=0) - b.mean(axis=0)) @ directions[:dims].T
    t_squared = len(a) * len(b) / len(both) * np.sum(apart**2 / (sizes[:dims] ** 2 / freedom))
    return float(stats.f.sf(t_squared * (freedom - dims + 1) / (freedom * dims), dims, freedom - dims + 1))


def test_the_mean_follows_the_causes_alone(network: Any) -> None:
    """Two speakers with the causes in common have one mean, as far as 40 draws can tell; with other causes another."""
    speaker = sample_speakers(1, seed=11)[0]
    woman, man = (replace(speaker, sex=sex, age=age) for sex, age in (("female", 25.0), ("male", 70.0)))
    people = (woman, replace(woman, video_id="somebody else"), man)
    draws = [features(network, of(each, 40, num_frames=1)) for each in people]
    assert same_mean(draws[0], draws[1]) > 0.01
    assert same_mean(draws[0], draws[2]) < 1e-3


def test_it_is_nearer_to_the_speaker_than_the_mean_of_all(network: Any) -> None:
    speakers = sample_speakers(16, seed=33)
    truth = features(network, [filmed(speaker, seed=number) for number, speaker in enumerate(speakers)])
    oracle = np.stack([features(network, of(speaker, 6, num_frames=1)).mean(axis=0) for speaker in speakers])

    def distance(answer: np.ndarray) -> float:
        return float(np.linalg.norm(truth - answer, axis=1).mean())

    assert distance(oracle) < 0.9 * distance(truth.mean(axis=0))
    assert distance(oracle) < 0.9 * distance(np.roll(oracle, 2, axis=0))  # of somebody of the same sex

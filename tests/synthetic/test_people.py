"""Traits of synthetic speakers: which of them can be predicted from the voice."""

from __future__ import annotations

import numpy as np
import pytest

from arspm.synthetic.people import HAIR_COLOURS, Speaker, sample_speakers


def test_a_speaker_depends_on_the_seed_and_its_index_only() -> None:
    few, many = sample_speakers(3, seed=1), sample_speakers(9, seed=1)
    assert many[:3] == few
    assert len({s.age for s in many}) == 9
    assert sample_speakers(3, seed=2)[0].age != few[0].age


def test_sexes_and_ages_are_balanced_and_video_ids_are_unique(speakers: list[Speaker]) -> None:
    assert sum(s.sex == "female" for s in speakers) == len(speakers) // 2
    assert len({s.video_id for s in speakers}) == len(speakers)
    assert {len(s.video_id) for s in speakers} == {11}
    ages = [s.age for s in speakers]
    assert min(ages) >= 20
    assert max(ages) <= 80
    assert np.histogram(ages, bins=6, range=(20, 80))[0].min() > 250


def test_pitch_is_in_the_human_range_and_separates_the_sexes(speakers: list[Speaker]) -> None:
    pitch = {sex: [s.f0_hz for s in speakers if s.sex == sex] for sex in ("male", "female")}
    assert min(pitch["male"]) >= 85
    assert max(pitch["male"]) <= 155
    assert min(pitch["female"]) >= 165
    assert max(pitch["female"]) <= 255
    male = np.array([s.sex == "male" for s in speakers], float)
    assert np.corrcoef(male, [s.f0_hz for s in speakers])[0, 1] < -0.9


def r_squared(causes: np.ndarray, effect: np.ndarray) -> float:
    """Return R2 on the second half of the speakers, after a linear fit on the first half."""
    design = np.column_stack([np.ones(len(causes)), causes])
    half = len(causes) // 2
    weights = np.linalg.lstsq(design[:half], effect[:half], rcond=None)[0]
    rest = effect[half:]
    return 1 - np.mean((rest - design[half:] @ weights) ** 2) / np.mean((rest - effect[:half].mean()) ** 2)


def voice_features(speakers: list[Speaker]) -> np.ndarray:
    """Return the four voice traits, standardised, and all products of two of them: (speakers, 14)."""
    voice = np.array([(s.f0_hz, s.vocal_tract_cm, s.breathiness, s.syllables_per_second) for s in speakers])
    voice = (voice - voice.mean(0)) / voice.std(0)
    products = [voice[:, i] * voice[:, j] for i in range(4) for j in range(i, 4)]
    return np.column_stack([voice, *products])


@pytest.mark.parametrize(
    "trait",
    ["face_width", "jaw_width", "nose_width", "brow_thickness", "lip_redness", "wrinkles", "greyness", "neck_width"],
)
def test_face_traits_can_be_predicted_from_the_voice(speakers: list[Speaker], trait: str) -> None:
    assert r_squared(voice_features(speakers), np.array([getattr(s, trait) for s in speakers], float)) > 0.7


def test_hair_colour_style_glasses_and_skin_tone_cannot_be_predicted_from_the_voice(speakers: list[Speaker]) -> None:
    independent = {"glasses": [s.glasses for s in speakers], "skin_tone": [s.skin_tone for s in speakers]}
    independent |= {colour: [s.hair_colour == colour for s in speakers] for colour in HAIR_COLOURS}
    independent |= {"fringe": [s.hair_style == "fringe" for s in speakers]}
    for name, values in independent.items():
        effect = np.array(values, float)
        assert effect.std() > 0.1, name
        assert r_squared(voice_features(speakers), effect) < 0.02, name


def test_traits_vary_among_speakers_with_the_same_causes(speakers: list[Speaker]) -> None:
    causes = np.array([(s.sex == "male", s.age, s.body_size) for s in speakers], float)
    causes = np.column_stack([causes, causes[:, :1] * causes, causes**2])
    for trait in ("f0_hz", "vocal_tract_cm", "face_width", "nose_width"):
        assert r_squared(causes, np.array([getattr(s, trait) for s in speakers])) < 0.995, trait

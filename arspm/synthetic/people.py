"""Made-up people: the causes that a voice and a face share, and those that they do not.

Sex, age and body size come first. From them follow, with a little personal noise, the voice traits (read by
`made_up_voice`) and the face traits (read by `drawn_face`). The last traits of the list are drawn apart from
everything else, so no voice can tell them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["GLASSES_SHARE", "HAIR_COLOURS", "HAIR_STYLES", "MAX_SPEAKERS", "Speaker", "alike", "sample_speakers"]

HAIR_COLOURS: dict[str, tuple[int, int, int]] = {
    "black": (38, 32, 32),
    "brown": (86, 58, 42),
    "chestnut": (122, 72, 44),
    "blond": (190, 150, 92),
}
HAIR_STYLES = ("left parting", "right parting", "fringe", "swept back")
GLASSES_SHARE = 0.2
MAX_SPEAKERS = 1_000_000  # as many as the six digits of a video id tell apart


@dataclass(frozen=True)
class Speaker:
    """One made-up person. Lengths of the face are in units of half the height of the head.

    `body_size` is in standard deviations within the sex; shares and degrees without a unit run from 0 to 1.
    """

    video_id: str  # 11 characters, as a YouTube id has
    # The shared causes.
    sex: str  # "female" or "male"
    age: float  # years, 20 to 80
    body_size: float
    # The voice.
    f0_hz: float
    vocal_tract_cm: float
    breathiness: float
    syllables_per_second: float
    jitter: float  # relative deviation of one glottal period
    # The face, as far as the causes drive it.
    face_width: float
    jaw_width: float  # as a share of the face width
    chin_length: float
    brow_thickness: float
    brow_height: float
    eye_size: float
    nose_width: float
    lip_fullness: float
    lip_redness: float
    beard_shadow: float
    wrinkles: float
    greyness: float
    hair_recession: float
    hair_length: float
    neck_width: float
    # The face, independent of the causes and so of the voice.
    hair_colour: str
    hair_style: str
    glasses: bool
    skin_tone: float  # 0 light, 1 dark


def sample_speakers(num_speakers: int, seed: int) -> list[Speaker]:
    """The first `num_speakers` of the endless list of people that `seed` names; sexes alternate.

    Speaker i depends on (seed, i) only, so a shorter list is the beginning of a longer one.
    Raises `ValueError` for a count outside 0..`MAX_SPEAKERS` or a negative seed.
    """
    if not 0 <= num_speakers <= MAX_SPEAKERS:
        raise ValueError(f"num_speakers must be in 0..{MAX_SPEAKERS}, got {num_speakers}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    return [_sample_speaker(seed, index) for index in range(num_speakers)]


def _sample_speaker(seed: int, index: int) -> Speaker:
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0, index)))
    sex = "male" if index % 2 else "female"
    age = rng.uniform(20.0, 80.0)
    return alike(f"synth{index:06d}", sex, age, float(np.clip(rng.normal(), -2.0, 2.0)), rng)


def alike(video_id: str, sex: str, age: float, body_size: float, rng: np.random.Generator) -> Speaker:
    """One of the people who have these causes in common: all else is drawn from `rng`, as for any speaker.

    sex: "female" or "male"; age in years; body_size in standard deviations within the sex.
    """
    male, size, old = int(sex == "male"), body_size, (age - 20.0) / 60.0

    def about(mean: float, noise: float, low: float, high: float) -> float:
        return float(np.clip(mean + noise * rng.normal(), low, high))

    # Pitch: women's falls through life, men's falls to middle age and rises after (Hollien and Shipp 1972;
    # Stoicheff 1981 give the directions). Big bodies speak lower.
    if male:
        f0_hz = about((106.0 + 80.0 * (old - 0.45) ** 2) * (1.0 - 0.07 * size), 3.5, 85.0, 155.0)
    else:
        f0_hz = about((226.0 - 34.0 * old) * (1.0 - 0.05 * size), 5.0, 165.0, 255.0)
    return Speaker(
        video_id=video_id,
        sex=sex,
        age=age,
        body_size=size,
        f0_hz=f0_hz,
        # Adult means about 16.9 and 14.1 cm (Fitch and Giedd 1999).
        vocal_tract_cm=about((16.9 if male else 14.2) + 0.8 * size, 0.12, 12.0, 19.0),
        breathiness=about(0.12 + 0.10 * (1 - male) + 0.50 * old, 0.04, 0.0, 1.0),
        syllables_per_second=about(5.6 - 2.2 * old, 0.15, 2.8, 6.2),
        jitter=about(0.004 + 0.018 * old, 0.001, 0.002, 0.03),
        face_width=about(0.740 + 0.020 * male + 0.080 * size, 0.008, 0.56, 0.95),
        jaw_width=about(0.70 + 0.13 * male + 0.045 * size + 0.06 * old, 0.012, 0.58, 0.99),
        chin_length=about(0.05 * male - 0.02 * size, 0.012, -0.06, 0.12),
        brow_thickness=about(0.038 + 0.052 * male, 0.005, 0.02, 0.12),
        brow_height=about(0.285 - 0.055 * male - 0.03 * old, 0.008, 0.17, 0.33),
        eye_size=about(1.16 - 0.18 * male - 0.24 * old, 0.02, 0.65, 1.25),
        nose_width=about(0.140 + 0.045 * male + 0.045 * old + 0.016 * size, 0.006, 0.10, 0.28),
        lip_fullness=about(0.100 - 0.032 * male - 0.035 * old, 0.005, 0.025, 0.13),
        lip_redness=about(0.85 - 0.65 * male - 0.20 * old, 0.05, 0.0, 1.0),
        beard_shadow=about(0.78, 0.08, 0.50, 1.0) if male else 0.0,
        wrinkles=about(1.15 * old - 0.10, 0.05, 0.0, 1.0),
        greyness=about(1.5 * old - 0.40, 0.06, 0.0, 1.0),
        hair_recession=about(1.15 * old - 0.12, 0.08, 0.0, 1.0) if male else about(0.12 * old, 0.02, 0.0, 0.2),
        hair_length=about(0.08, 0.02, 0.0, 0.2) if male else about(1.0 - 0.55 * old, 0.07, 0.3, 1.1),
        neck_width=about(0.36 + 0.11 * male + 0.055 * size, 0.01, 0.22, 0.62),
        hair_colour=str(rng.choice(list(HAIR_COLOURS))),
        hair_style=str(rng.choice(HAIR_STYLES)),
        glasses=bool(rng.random() < GLASSES_SHARE),
        skin_tone=float(rng.uniform()),
    )

"""The traits of synthetic speakers.

Sex, age and body size are the causes. The traits of the voice (used by `voice`) and most traits of the face (used by
`face`) depend on them, plus some random variation per speaker. The last four traits of `Speaker` are independent of
everything else, so they cannot be predicted from the voice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = [
    "GLASSES_PROBABILITY",
    "HAIR_COLOURS",
    "HAIR_STYLES",
    "MAX_SPEAKERS",
    "Speaker",
    "sample_speakers",
    "sample_with_causes",
]

HAIR_COLOURS: dict[str, tuple[int, int, int]] = {
    "black": (38, 32, 32),
    "brown": (86, 58, 42),
    "chestnut": (122, 72, 44),
    "blond": (190, 150, 92),
}
HAIR_STYLES = ("left parting", "right parting", "fringe", "swept back")
GLASSES_PROBABILITY = 0.2
MAX_SPEAKERS = 1_000_000  # a video id has six digits for the speaker


@dataclass(frozen=True)
class Speaker:
    """The traits of one synthetic speaker.

    Lengths of the face are in units of half the head's height. Traits without a unit, such as `breathiness` or
    `wrinkles`, are between 0 and 1.
    """

    video_id: str  # 11 characters, like a YouTube id
    # The causes, common to voice and face.
    sex: str  # "female" or "male"
    age: float  # years, 20 to 80
    body_size: float  # standard deviations from the mean of the sex, -2 to 2
    # The voice.
    f0_hz: float
    vocal_tract_cm: float
    breathiness: float
    syllables_per_second: float
    jitter: float  # standard deviation of a glottal period, as a fraction of the period
    # The face, where it depends on the causes.
    face_width: float
    jaw_width: float  # as a fraction of the face width
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
    # The face, where it is independent of the causes and therefore of the voice.
    hair_colour: str
    hair_style: str
    glasses: bool
    skin_tone: float  # 0: light, 1: dark


def sample_speakers(num_speakers: int, seed: int) -> list[Speaker]:
    """Return random synthetic speakers, alternately female and male.

    Speaker i depends on (seed, i) only, so a shorter list is a prefix of a longer one with the same seed.
    Raises `ValueError` if `num_speakers` is outside 0..`MAX_SPEAKERS` or the seed is negative.
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
    return sample_with_causes(f"synth{index:06d}", sex, age, float(np.clip(rng.normal(), -2.0, 2.0)), rng)


def sample_with_causes(video_id: str, sex: str, age: float, body_size: float, rng: np.random.Generator) -> Speaker:
    """Return a random speaker with the given causes. All other traits are drawn from `rng`.

    sex: "female" or "male". age: years. body_size: standard deviations from the mean of the sex.
    """
    male, size, old = int(sex == "male"), body_size, (age - 20.0) / 60.0  # old: 0 to 1

    def around(mean: float, noise: float, low: float, high: float) -> float:
        return float(np.clip(mean + noise * rng.normal(), low, high))

    # The pitch of women falls with age. The pitch of men falls until middle age and then rises. These directions are
    # from Hollien and Shipp (1972) and Stoicheff (1981). Larger bodies have lower voices.
    if male:
        f0_hz = around((106.0 + 80.0 * (old - 0.45) ** 2) * (1.0 - 0.07 * size), 3.5, 85.0, 155.0)
    else:
        f0_hz = around((226.0 - 34.0 * old) * (1.0 - 0.05 * size), 5.0, 165.0, 255.0)
    return Speaker(
        video_id=video_id,
        sex=sex,
        age=age,
        body_size=size,
        f0_hz=f0_hz,
        # Adult means: about 16.9 cm (male) and 14.1 cm (female), from Fitch and Giedd (1999).
        vocal_tract_cm=around((16.9 if male else 14.2) + 0.8 * size, 0.12, 12.0, 19.0),
        breathiness=around(0.12 + 0.10 * (1 - male) + 0.50 * old, 0.04, 0.0, 1.0),
        syllables_per_second=around(5.6 - 2.2 * old, 0.15, 2.8, 6.2),
        jitter=around(0.004 + 0.018 * old, 0.001, 0.002, 0.03),
        face_width=around(0.740 + 0.020 * male + 0.080 * size, 0.008, 0.56, 0.95),
        jaw_width=around(0.70 + 0.13 * male + 0.045 * size + 0.06 * old, 0.012, 0.58, 0.99),
        chin_length=around(0.05 * male - 0.02 * size, 0.012, -0.06, 0.12),
        brow_thickness=around(0.038 + 0.052 * male, 0.005, 0.02, 0.12),
        brow_height=around(0.285 - 0.055 * male - 0.03 * old, 0.008, 0.17, 0.33),
        eye_size=around(1.16 - 0.18 * male - 0.24 * old, 0.02, 0.65, 1.25),
        nose_width=around(0.140 + 0.045 * male + 0.045 * old + 0.016 * size, 0.006, 0.10, 0.28),
        lip_fullness=around(0.100 - 0.032 * male - 0.035 * old, 0.005, 0.025, 0.13),
        lip_redness=around(0.85 - 0.65 * male - 0.20 * old, 0.05, 0.0, 1.0),
        beard_shadow=around(0.78, 0.08, 0.50, 1.0) if male else 0.0,
        wrinkles=around(1.15 * old - 0.10, 0.05, 0.0, 1.0),
        greyness=around(1.5 * old - 0.40, 0.06, 0.0, 1.0),
        hair_recession=around(1.15 * old - 0.12, 0.08, 0.0, 1.0) if male else around(0.12 * old, 0.02, 0.0, 0.2),
        hair_length=around(0.08, 0.02, 0.0, 0.2) if male else around(1.0 - 0.55 * old, 0.07, 0.3, 1.1),
        neck_width=around(0.36 + 0.11 * male + 0.055 * size, 0.01, 0.22, 0.62),
        hair_colour=str(rng.choice(list(HAIR_COLOURS))),
        hair_style=str(rng.choice(HAIR_STYLES)),
        glasses=bool(rng.random() < GLASSES_PROBABILITY),
        skin_tone=float(rng.uniform()),
    )

"""Voices of made-up people: a glottal source and the formants of a vocal tract speak syllables of no language.

The source-filter model: pulses of air at the pitch of the voice, with breath noise, excite the resonances of a
tube. The tube's length moves all formants together: beside the pitch, what the body gives to the sound.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from arspm.synthetic.people import Speaker

__all__ = ["REFERENCE_TRACT_CM", "VOWEL_FORMANTS_HZ", "speak"]

# Mean F1, F2 and F3 of the men in Peterson and Barney, "Control methods used in a study of the vowels" (1952).
VOWEL_FORMANTS_HZ: dict[str, tuple[float, float, float]] = {
    "i": (270, 2290, 3010),
    "ɪ": (390, 1990, 2550),
    "ɛ": (530, 1840, 2480),
    "æ": (660, 1720, 2410),
    "ɑ": (730, 1090, 2440),
    "ɔ": (570, 840, 2410),
    "ʊ": (440, 1020, 2240),
    "u": (300, 870, 2240),
    "ʌ": (640, 1190, 2390),
}
REFERENCE_TRACT_CM = 16.9  # the tract those formants are taken for, the mean of men in Fitch and Giedd (1999)
_HIGH_FORMANTS_HZ = (3500.0, 4500.0)  # of a uniform tube of about that length
_BANDWIDTHS_HZ = np.array([65.0, 85.0, 125.0, 190.0, 260.0])
# Voiced consonants: formants of the tongue's place and the level against a vowel's.
_VOICED_CONSONANTS: dict[str, tuple[tuple[float, float, float], float]] = {
    "m": ((260, 1050, 2200), 0.30),
    "n": ((260, 1550, 2500), 0.30),
    "l": ((350, 1150, 2700), 0.50),
    "w": ((300, 700, 2200), 0.50),
    "j": ((280, 2200, 3000), 0.50),
}
# Noise consonants: resonance and bandwidth of the noise, and its level.
_NOISES_HZ = {"s": (5600.0, 1500.0, 0.30), "ʃ": (3000.0, 1100.0, 0.30), "h": (1500.0, 1500.0, 0.16)}
_FRAMES_PER_SECOND = 200
_LEVEL = 0.08  # root mean square of the result


def speak(
    speaker: Speaker, seconds: float, rng: np.random.Generator, *, sample_rate: int = 16_000
) -> NDArray[np.float32]:
    """Say something in the speaker's voice: (round(seconds * sample_rate),) in [-1, 1], no background noise.

    `rng` chooses the words, the pauses and the intonation. The mean pitch over voiced time is the speaker's.
    Raises `ValueError` for less than half a second or a sample rate below 16 kHz, which cannot hold the fifth
    formant.
    """
    if seconds < 0.5:
        raise ValueError(f"seconds must be at least 0.5, got {seconds}")
    if sample_rate < 16_000:
        raise ValueError(f"sample_rate must be at least 16000 Hz, got {sample_rate}")
    num_samples = round(seconds * sample_rate)
    num_frames = -(-num_samples * _FRAMES_PER_SECOND // sample_rate) + 1
    formants, voicing, noises, accents = _score(speaker, num_frames, rng)
    pitch_hz = _intonation(speaker, voicing, accents, rng)

    time = np.arange(num_samples) / sample_rate
    frame_time = np.arange(num_frames) / _FRAMES_PER_SECOND
    source = _glottal_source(speaker, np.interp(time, frame_time, pitch_hz), sample_rate, rng)
    voiced = _vocal_tract(source * np.interp(time, frame_time, voicing), formants, speaker, sample_rate)
    voiced /= np.sqrt(np.mean(voiced**2)) + 1e-9

    scale = REFERENCE_TRACT_CM / speaker.vocal_tract_cm
    white = rng.standard_normal(num_samples)
    for (centre_hz, width_hz, level), envelope in zip(_NOISES_HZ.values(), noises, strict=True):
        b, a = _resonator(np.array([min(centre_hz * scale, 7000.0)]), np.array([width_hz]), sample_rate)
        noise = lfilter([b[0], 0, -b[0]], a[0], white)  # the zeros keep the noise out of the lowest band
        voiced += level * np.interp(time, frame_time, envelope) * noise / np.sqrt(np.mean(noise**2))
    voiced *= _LEVEL / np.sqrt(np.mean(voiced**2))
    return np.clip(voiced, -1.0, 1.0).astype(np.float32)


def _score(
    s: Speaker, num_frames: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """What is said, by frame: formants (frames, 3) of the reference tract, voicing, noises (3, frames), accents."""
    formants = np.empty((num_frames, 3))
    formants[:] = VOWEL_FORMANTS_HZ["ʌ"]
    voicing, accents = np.zeros(num_frames), np.zeros(num_frames)
    noises = np.zeros((len(_NOISES_HZ), num_frames))
    vowels, consonants = list(VOWEL_FORMANTS_HZ.values()), list(_VOICED_CONSONANTS.values())
    at = int(rng.integers(10, 30))
    left_in_phrase = int(rng.integers(4, 9))
    while at < num_frames:
        length = round(_FRAMES_PER_SECOND / s.syllables_per_second * rng.uniform(0.8, 1.2))
        onset = max(4, round(length * rng.uniform(0.28, 0.40)))
        nucleus, end = at + onset, at + length
        kind = rng.choice(4, p=[0.3, 0.3, 0.3, 0.1])
        if kind == 0:  # a voiced consonant
            target, level = consonants[rng.integers(len(consonants))]
            formants[at:nucleus], voicing[at:nucleus] = target, level
        elif kind == 1:  # a fricative
            noises[rng.integers(len(noises)), at : nucleus - 1] = 1.0
        elif kind == 2:  # a stop: silence, a burst, a little breath
            burst = max(at, nucleus - 5)
            noises[rng.integers(2), burst : burst + 3] = 1.6
            noises[2, burst + 2 : nucleus] = 0.6
        else:
            nucleus = at
        formants[nucleus:end] = vowels[rng.integers(len(vowels))]
        voicing[nucleus:end] = rng.uniform(0.75, 1.0)
        accents[at:end] = rng.normal(0.0, 0.045)
        at, left_in_phrase = end, left_in_phrase - 1
        if left_in_phrase == 0:
            at += int(rng.integers(40, 80))
            left_in_phrase = int(rng.integers(4, 9))
    return (
        np.stack([_smoothed(formants[:, k], 13) for k in range(3)], 1),
        _smoothed(voicing, 9),
        np.stack([_smoothed(noise, 5) for noise in noises]),
        _smoothed(accents, 31),
    )


def _smoothed(track: NDArray[np.float64], num_frames: int) -> NDArray[np.float64]:
    window = np.hanning(num_frames + 2)[1:-1]
    padded = np.pad(track, num_frames // 2, mode="edge")
    return np.convolve(padded, window / window.sum(), "valid")


def _intonation(
    s: Speaker, voicing: NDArray[np.float64], accents: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Pitch by frame: falling over the utterance, rising on accents, trembling in an old voice."""
    time = np.arange(len(voicing)) / _FRAMES_PER_SECOND
    tremor = 0.8 * s.jitter * np.sin(2 * np.pi * (5.0 * time + rng.random()))
    shape = 1.0 + accents + tremor + np.linspace(0.06, -0.06, len(voicing))
    return s.f0_hz * shape * voicing.sum() / (shape * voicing).sum()


def _glottal_source(
    s: Speaker, pitch_hz: NDArray[np.float64], sample_rate: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Rosenberg pulses with jitter and shimmer, differentiated by the lips' radiation, and breath."""
    num_samples = len(pitch_hz)
    cycles = np.cumsum(pitch_hz) / sample_rate
    num_pulses = int(cycles[-1]) + 2
    starts = np.interp(np.arange(num_pulses), cycles, np.arange(num_samples))
    starts[1:-1] += rng.normal(0, s.jitter / 2**0.5, num_pulses - 2) * np.diff(starts)[:-1]
    starts[-1] = max(starts[-1], starts[-2]) + sample_rate / pitch_hz[-1]
    cycles = np.interp(np.arange(num_samples), starts, np.arange(num_pulses))
    pulse = cycles.astype(np.int64)
    phase = cycles - pulse
    opening, closing = 0.40 + 0.08 * s.breathiness, 0.14 + 0.16 * s.breathiness
    falling = np.cos(np.pi / 2 * np.clip((phase - opening) / closing, 0.0, 1.0))
    flow = np.where(phase < opening, 0.5 - 0.5 * np.cos(np.pi * phase / opening), falling)
    flow *= (1.0 + rng.normal(0, 4 * s.jitter, num_pulses))[pulse]  # shimmer
    source = np.diff(flow, prepend=flow[0])
    source /= np.sqrt(np.mean(source**2))
    tilt = 0.75 * s.breathiness  # a soft closure loses the high harmonics
    source = lfilter([1.0 - tilt], [1.0, -tilt], source)
    breath = lfilter([1.0, -0.7], [1.0], rng.standard_normal(num_samples))
    return source + (0.02 + 0.30 * s.breathiness) * (0.25 + flow) * breath


def _vocal_tract(
    source: NDArray[np.float64], formants: NDArray[np.float64], s: Speaker, sample_rate: int
) -> NDArray[np.float64]:
    """The source through five resonances in a row, renewed every frame of 5 ms."""
    scale = REFERENCE_TRACT_CM / s.vocal_tract_cm
    high = np.broadcast_to(_HIGH_FORMANTS_HZ, (len(formants), 2))
    centres = scale * np.concatenate([formants, high], 1)  # (frames, 5)
    gains, denominators = _resonator(centres, _BANDWIDTHS_HZ * (1 + 0.4 * s.breathiness), sample_rate)
    whole = denominators[:, 0]
    for k in range(1, centres.shape[1]):
        product = np.zeros((len(whole), whole.shape[1] + 2))
        for lag in range(3):
            product[:, lag : lag + whole.shape[1]] += denominators[:, k, lag, None] * whole
        whole = product
    gain = gains.prod(1)
    hop = sample_rate // _FRAMES_PER_SECOND
    state = np.zeros(whole.shape[1] - 1)
    out = np.empty_like(source)
    for start in range(0, len(source), hop):
        frame = start * _FRAMES_PER_SECOND // sample_rate
        block = slice(start, start + hop)
        out[block], state = lfilter(gain[frame : frame + 1], whole[frame], source[block], zi=state)
    return out


def _resonator(
    centres_hz: NDArray[np.float64], widths_hz: NDArray[np.float64], sample_rate: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two-pole resonators of gain 1 at 0 Hz: gains (...,) and denominators (..., 3)."""
    radius = np.exp(-np.pi * widths_hz / sample_rate)
    first = -2 * radius * np.cos(2 * np.pi * centres_hz / sample_rate)
    second = np.broadcast_to(radius**2, first.shape)
    return 1 + first + second, np.stack([np.ones_like(first), first, second], -1)

"""Voices of synthetic speakers: a formant synthesizer that speaks random syllables of no language.

It follows the source-filter model: a glottal source, pulses at the pitch of the voice with breath noise, excites the
resonances (formants) of a tube, the vocal tract. The tube's length scales all formants. Pitch and tube length are how
the size of the body changes the sound.
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
# Tract length assumed for the formants above: the mean of men in Fitch and Giedd (1999).
REFERENCE_TRACT_CM = 16.9
_HIGH_FORMANTS_HZ = (3500.0, 4500.0)  # F4 and F5 of a uniform tube of about the reference length
_BANDWIDTHS_HZ = np.array([65.0, 85.0, 125.0, 190.0, 260.0])
# Voiced consonants: formants, and level relative to a vowel.
_VOICED_CONSONANTS: dict[str, tuple[tuple[float, float, float], float]] = {
    "m": ((260, 1050, 2200), 0.30),
    "n": ((260, 1550, 2500), 0.30),
    "l": ((350, 1150, 2700), 0.50),
    "w": ((300, 700, 2200), 0.50),
    "j": ((280, 2200, 3000), 0.50),
}
# Noise consonants: resonance (Hz), bandwidth (Hz) and level of the noise.
_NOISES_HZ = {"s": (5600.0, 1500.0, 0.30), "ʃ": (3000.0, 1100.0, 0.30), "h": (1500.0, 1500.0, 0.16)}
_FRAMES_PER_SECOND = 200
_LEVEL = 0.08  # root mean square of the waveform


def speak(
    speaker: Speaker, seconds: float, rng: np.random.Generator, *, sample_rate: int = 16_000
) -> NDArray[np.float32]:
    """Return random speech in the speaker's voice: (round(seconds * sample_rate),) in [-1, 1].

    There is no background noise. Syllables, pauses and intonation are drawn from `rng`. The mean pitch over voiced time
    is `speaker.f0_hz`. Raises `ValueError` for less than half a second, or for a sample rate below 16 kHz, which cannot
    represent the fifth formant.
    """
    if seconds < 0.5:
        raise ValueError(f"seconds must be at least 0.5, got {seconds}; ask for longer speech")
    if sample_rate < 16_000:
        raise ValueError(f"sample_rate must be at least 16000 Hz, got {sample_rate}; resample afterwards")
    num_samples = round(seconds * sample_rate)
    num_frames = -(-num_samples * _FRAMES_PER_SECOND // sample_rate) + 1
    formants, voicing, noises, accents = _plan_syllables(speaker, num_frames, rng)
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
        noise = lfilter([b[0], 0, -b[0]], a[0], white)  # the zeros at 0 Hz remove low frequencies from the noise
        voiced += level * np.interp(time, frame_time, envelope) * noise / np.sqrt(np.mean(noise**2))
    voiced *= _LEVEL / np.sqrt(np.mean(voiced**2))
    return np.clip(voiced, -1.0, 1.0).astype(np.float32)


def _plan_syllables(
    s: Speaker, num_frames: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Choose random syllables and return their parameters for each frame.

    Returns formants (frames, 3) in Hz for the reference tract; voicing (frames,), the level of the voiced sound;
    noises (3, frames), the level of each noise consonant; and accents (frames,), relative changes of pitch.
    """
    formants = np.empty((num_frames, 3))
    formants[:] = VOWEL_FORMANTS_HZ["ʌ"]
    voicing, accents = np.zeros(num_frames), np.zeros(num_frames)
    noises = np.zeros((len(_NOISES_HZ), num_frames))
    vowels, consonants = list(VOWEL_FORMANTS_HZ.values()), list(_VOICED_CONSONANTS.values())
    start = int(rng.integers(10, 30))
    left_in_phrase = int(rng.integers(4, 9))
    while start < num_frames:
        length = round(_FRAMES_PER_SECOND / s.syllables_per_second * rng.uniform(0.8, 1.2))
        onset = max(4, round(length * rng.uniform(0.28, 0.40)))
        nucleus, end = start + onset, start + length
        kind = rng.choice(4, p=[0.3, 0.3, 0.3, 0.1])
        if kind == 0:  # a voiced consonant
            target, level = consonants[rng.integers(len(consonants))]
            formants[start:nucleus], voicing[start:nucleus] = target, level
        elif kind == 1:  # a fricative
            noises[rng.integers(len(noises)), start : nucleus - 1] = 1.0
        elif kind == 2:  # a stop: silence, a burst, a short breath
            burst = max(start, nucleus - 5)
            noises[rng.integers(2), burst : burst + 3] = 1.6
            noises[2, burst + 2 : nucleus] = 0.6
        else:
            nucleus = start
        formants[nucleus:end] = vowels[rng.integers(len(vowels))]
        voicing[nucleus:end] = rng.uniform(0.75, 1.0)
        accents[start:end] = rng.normal(0.0, 0.045)
        start, left_in_phrase = end, left_in_phrase - 1
        if left_in_phrase == 0:
            start += int(rng.integers(40, 80))
            left_in_phrase = int(rng.integers(4, 9))
    return (
        np.stack([_smoothed(formants[:, k], 13) for k in range(3)], 1),
        _smoothed(voicing, 9),
        np.stack([_smoothed(noise, 5) for noise in noises]),
        _smoothed(accents, 31),
    )


def _smoothed(track: NDArray[np.float64], num_frames: int) -> NDArray[np.float64]:
    """Return the track smoothed by a Hann window of `num_frames` frames, an odd number."""
    window = np.hanning(num_frames + 2)[1:-1]
    padded = np.pad(track, num_frames // 2, mode="edge")
    return np.convolve(padded, window / window.sum(), "valid")


def _intonation(
    s: Speaker, voicing: NDArray[np.float64], accents: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the pitch in Hz for each frame.

    It falls over the utterance and changes with each accent. The tremor grows with `jitter`.
    """
    time = np.arange(len(voicing)) / _FRAMES_PER_SECOND
    tremor = 0.8 * s.jitter * np.sin(2 * np.pi * (5.0 * time + rng.random()))
    shape = 1.0 + accents + tremor + np.linspace(0.06, -0.06, len(voicing))
    return s.f0_hz * shape * voicing.sum() / (shape * voicing).sum()


def _glottal_source(
    s: Speaker, pitch_hz: NDArray[np.float64], sample_rate: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the glottal source: Rosenberg pulses with jitter and shimmer, and breath noise.

    The pulses are differentiated, which models the radiation at the lips.
    """
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
    tilt = 0.75 * s.breathiness  # a glottis that closes softly produces weaker high harmonics
    source = lfilter([1.0 - tilt], [1.0, -tilt], source)
    breath = lfilter([1.0, -0.7], [1.0], rng.standard_normal(num_samples))
    return source + (0.02 + 0.30 * s.breathiness) * (0.25 + flow) * breath


def _vocal_tract(
    source: NDArray[np.float64], formants: NDArray[np.float64], s: Speaker, sample_rate: int
) -> NDArray[np.float64]:
    """Filter the source with five resonators in series, whose coefficients change every frame of 5 ms."""
    scale = REFERENCE_TRACT_CM / s.vocal_tract_cm
    high = np.broadcast_to(_HIGH_FORMANTS_HZ, (len(formants), 2))
    centres = scale * np.concatenate([formants, high], 1)  # (frames, 5)
    gains, denominators = _resonator(centres, _BANDWIDTHS_HZ * (1 + 0.4 * s.breathiness), sample_rate)
    denominator = denominators[:, 0]
    for k in range(1, centres.shape[1]):
        product = np.zeros((len(denominator), denominator.shape[1] + 2))
        for lag in range(3):
            product[:, lag : lag + denominator.shape[1]] += denominators[:, k, lag, None] * denominator
        denominator = product
    gain = gains.prod(1)
    hop = sample_rate // _FRAMES_PER_SECOND
    state = np.zeros(denominator.shape[1] - 1)
    out = np.empty_like(source)
    for start in range(0, len(source), hop):
        frame = start * _FRAMES_PER_SECOND // sample_rate
        block = slice(start, start + hop)
        out[block], state = lfilter(gain[frame : frame + 1], denominator[frame], source[block], zi=state)
    return out


def _resonator(
    centres_hz: NDArray[np.float64], widths_hz: NDArray[np.float64], sample_rate: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return two-pole resonators with gain 1 at 0 Hz: gains (...,) and filter denominators (..., 3)."""
    radius = np.exp(-np.pi * widths_hz / sample_rate)
    first = -2 * radius * np.cos(2 * np.pi * centres_hz / sample_rate)
    second = np.broadcast_to(radius**2, first.shape)
    return 1 + first + second, np.stack([np.ones_like(first), first, second], -1)

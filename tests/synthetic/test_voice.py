"""Voices of synthetic speakers: pitch, formants, breathiness and rate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from arspm.synthetic.people import sample_speakers
from arspm.synthetic.voice import speak
from tests.synthetic.measures import SAMPLE_RATE, track_pitch_hz


def test_the_pitch_of_the_voice_is_f0() -> None:
    rng = np.random.default_rng(3)
    for speaker in sample_speakers(16, seed=2):
        pitch_hz, _ = track_pitch_hz(speak(speaker, 3.0, rng))
        assert pitch_hz == pytest.approx(speaker.f0_hz, rel=0.05), speaker


def spectral_envelope_db(waveform: np.ndarray) -> np.ndarray:
    """Return the long-term spectrum in dB, smoothed over harmonics, at frequencies 1 % apart from 600 to 6000 Hz."""
    windows = np.lib.stride_tricks.sliding_window_view(waveform, 512)[::160] * np.hanning(512)
    power = (np.abs(np.fft.rfft(windows, 1024)) ** 2).mean(0)
    power = np.convolve(power, np.hanning(25), "same")
    hz = 600 * 1.01 ** np.arange(232)
    return 10 * np.log10(np.interp(hz, np.fft.rfftfreq(1024, 1 / SAMPLE_RATE), power))


@pytest.mark.parametrize("tract_cm", [13.5, 15.0, 18.0])
def test_formants_scale_with_the_vocal_tract(tract_cm: float) -> None:
    base = replace(sample_speakers(2, seed=0)[1], f0_hz=100.0, vocal_tract_cm=16.0, breathiness=0.3)
    spectra = [
        spectral_envelope_db(speak(replace(base, vocal_tract_cm=cm), 4.0, np.random.default_rng(1)))
        for cm in (16.0, tract_cm)
    ]

    def agreement(shift: int) -> float:
        """Return the correlation of the two spectra after the second is moved down by `shift` percent."""
        first = spectra[0][max(0, -shift) : len(spectra[0]) - max(0, shift)]
        second = spectra[1][max(0, shift) : len(spectra[1]) - max(0, -shift)]
        return float(np.corrcoef(first, second)[0, 1])

    best = max(range(-40, 41), key=agreement)
    assert agreement(best) > 0.97
    assert 1.01**best == pytest.approx(16.0 / tract_cm, rel=0.03)


def test_breathy_voices_are_less_periodic_in_the_treble() -> None:
    base = replace(sample_speakers(1, seed=0)[0], jitter=0.004)
    periodicity = []
    for breathiness in (0.05, 0.9):
        speech = speak(replace(base, breathiness=breathiness), 3.0, np.random.default_rng(1))
        treble = np.diff(speech, 2)
        periodicity.append(track_pitch_hz(0.08 * treble / treble.std())[1])
    assert periodicity[1] < periodicity[0] - 0.15


def test_slow_speakers_speak_fewer_syllables() -> None:
    base = sample_speakers(1, seed=0)[0]

    def num_onsets(rate: float) -> int:
        waveform = speak(replace(base, syllables_per_second=rate), 20.0, np.random.default_rng(1))
        level = np.sqrt(np.convolve(waveform**2, np.hanning(640) / 320, "same"))[::80]
        rises = np.diff((level > 0.5 * np.median(level[level > 0.02])).astype(int))
        return int((rises > 0).sum())

    assert num_onsets(5.6) > 1.25 * num_onsets(3.2)


def test_a_recording_is_reproducible_and_has_the_requested_length() -> None:
    speaker = sample_speakers(1, seed=0)[0]
    first, again, other = (speak(speaker, 2.0, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.dtype == np.float32
    assert first.shape == (32_000,)
    assert 0.3 < np.abs(first).max() <= 1.0
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    assert speak(speaker, 1.0, np.random.default_rng(0), sample_rate=44_100).shape == (44_100,)


@pytest.mark.parametrize(("seconds", "sample_rate"), [(0.1, 16_000), (2.0, 8_000)])
def test_speak_rejects_invalid_arguments(seconds: float, sample_rate: int) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        speak(sample_speakers(1, seed=0)[0], seconds, np.random.default_rng(0), sample_rate=sample_rate)

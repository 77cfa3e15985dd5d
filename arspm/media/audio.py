"""Waveforms: length, the power-law spectrogram (reading N), int16 storage, and checks that a sound is speech."""

from __future__ import annotations

from typing import NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from arspm.corpus.schema import DropReason
from arspm.media.dropped import DroppedClip

INT16_SCALE = 32_768.0
WINDOW_LENGTH, HOP_LENGTH = 400, 160  # samples: 25 and 10 ms
Samples = TypeVar("Samples", np.ndarray, Tensor)


def fit_length(waveform: np.ndarray, num_samples: int = 96_000) -> np.ndarray:
    """Return a copy of a waveform with `num_samples`: repeated from its start if shorter, truncated if longer.

    waveform: (samples,). Returns (num_samples,). Raises ValueError for an empty waveform. Reading N.
    """
    if waveform.ndim != 1 or waveform.size == 0:
        raise ValueError(f"expected a waveform of shape (samples,), not empty, got shape {waveform.shape}")
    repeats = -(-num_samples // waveform.size)
    return np.tile(waveform[:num_samples], repeats)[:num_samples]


def num_frames(num_samples: int) -> int:
    """Return the number of frames of a spectrogram of `num_samples`, at least one window (reading N)."""
    return 1 + (num_samples - WINDOW_LENGTH) // HOP_LENGTH


def spectrogram(
    waveform: Tensor,
    *,
    window_length: int = WINDOW_LENGTH,
    hop_length: int = HOP_LENGTH,
    num_fft: int = 512,
    power: float = 0.3,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the encoder's input: real and imaginary parts of the STFT, each sgn(s) * abs(s) ** power. Reading N.

    waveform: (samples,) or (batch, samples) at 16 kHz in [-1, 1], any device. Returns (2, num_fft // 2 + 1,
    frames) or (batch, 2, num_fft // 2 + 1, frames): channel 0 real, channel 1 imaginary (not the phase), low
    frequencies first; (2, 257, 598) for six seconds. frames = 1 + (samples - window_length) // hop_length.
    Raises ValueError for less than one window.

    Frame t is samples [t * hop, t * hop + window_length) under a periodic Hann window, followed by zeros up to
    `num_fft`. tf.signal.stft does the same, and Looking to Listen and Speech2Face use it. torch.stft would centre a
    short window in the FFT, which changes every phase. Zeros are therefore appended to the window, and to the waveform
    so that the last frames exist.
    """
    if waveform.dim() not in (1, 2) or waveform.shape[-1] < window_length:
        raise ValueError(
            f"expected (samples,) or (batch, samples) with {window_length} samples or more, "
            f"got shape {tuple(waveform.shape)}"
        )
    num_zeros = num_fft - window_length
    window = torch.hann_window(window_length, periodic=True, device=waveform.device)
    transform = torch.stft(
        pad(waveform.float(), (0, num_zeros)),
        n_fft=num_fft,
        hop_length=hop_length,
        window=pad(window, (0, num_zeros)),
        center=False,
        return_complex=True,
    )  # (..., freq, frames)
    parts = torch.stack((transform.real, transform.imag), dim=-3)  # (..., 2, freq, frames)
    return (parts.sign() * parts.abs().pow(power)).to(dtype)


def to_int16(waveform: Samples) -> Samples:
    """Return floats in [-1, 1] as int16, as in the corpus's `waveform` column. Louder samples are clipped."""
    if isinstance(waveform, Tensor):
        scaled = (waveform * INT16_SCALE).round().clamp(-INT16_SCALE, INT16_SCALE - 1)
        return cast(Samples, scaled.to(torch.int16))
    return np.clip(np.round(waveform * INT16_SCALE), -INT16_SCALE, INT16_SCALE - 1).astype(np.int16)


def from_int16(samples: Samples) -> Samples:
    """Return int16 samples as float32 in [-1, 1). `to_int16` is the exact inverse."""
    if isinstance(samples, Tensor):
        return cast(Samples, samples.to(torch.float32) / INT16_SCALE)
    return samples.astype(np.float32) / np.float32(INT16_SCALE)


def level_dbfs(waveform: np.ndarray) -> float:
    """Return the root mean square in dB relative to full scale, -inf for digital silence. waveform: (samples,)."""
    mean_square = float(np.mean(np.square(waveform, dtype=np.float64)))
    return 10 * float(np.log10(mean_square)) if mean_square > 0 else -np.inf


class SpeechSigns(NamedTuple):
    """Two measures that tell speech from steady noise.

    `dynamics_db`: range of the level between 200 and 3800 Hz, measured every 20 ms (95th minus 10th percentile).
    `voiced_fraction`: fraction of 50 ms windows that are clearly periodic with a pitch of 65 to 400 Hz.
    """

    dynamics_db: float
    voiced_fraction: float


def speech_signs(waveform: np.ndarray, *, sample_rate: int = 16_000) -> SpeechSigns:
    """Return the measures of syllables and of pitch, which speech has and wind, hiss and rumble lack.

    waveform: (samples,), 0.1 s or more. Read speech has dynamics of 21 dB or more and a voiced fraction of 0.1 or more;
    steady noise has neither. Other sounds have one of the two (a hum, a knock).
    """
    window_length, hop_length = sample_rate // 20, sample_rate // 50
    windows = np.lib.stride_tricks.sliding_window_view(waveform, window_length)[::hop_length]
    taper = np.hanning(window_length).astype(np.float32)
    num_fft = 1 << (2 * window_length - 1).bit_length()
    spectrum = np.abs(np.fft.rfft(windows * taper, num_fft)) ** 2  # (windows, freq)
    hz = np.fft.rfftfreq(num_fft, 1 / sample_rate)
    spectrum[:, (hz < 200) | (hz > 3800)] = 0
    energy_db = 10 * np.log10(spectrum.sum(axis=1) + 1e-9)

    correlation = np.fft.irfft(spectrum)[:, :window_length]
    taper_correlation = np.fft.irfft(np.abs(np.fft.rfft(taper, num_fft)) ** 2)[:window_length]
    lags = slice(sample_rate // 400, sample_rate // 65)
    periodicity = correlation[:, lags] / (correlation[:, :1] + 1e-9) / (taper_correlation[lags] / taper_correlation[0])
    voiced = (periodicity.max(axis=1) > 0.8) & (energy_db > energy_db.max() - 30)
    low, high = np.percentile(energy_db, (10, 95))
    return SpeechSigns(float(high - low), float(voiced.mean()))


def check_speech(
    waveform: np.ndarray,
    *,
    sample_rate: int = 16_000,
    min_seconds: float = 0.5,
    silent_dbfs: float = -60.0,
    speech_seconds: float = 6.0,
    min_dynamics_db: float = 13.0,
    min_voiced_fraction: float = 0.07,
) -> None:
    """Raise DroppedClip for a sound without audible speech: too_short, silent, or undecodable if not finite.

    Only the first `speech_seconds` decide about silent, because the model hears no more. Silent is a level below
    `silent_dbfs`, or noise that has neither syllables nor a pitch (`speech_signs`; both must be missing). Of 113 clips
    and utterances with noise 10 dB below the voice none is dropped; at 5 dB below, about one in fifteen is.
    """
    seconds = waveform.size / sample_rate
    if seconds < min_seconds:
        raise DroppedClip(DropReason.too_short, f"{seconds:.2f} s of sound; at least {min_seconds:g} s needed")
    if not np.isfinite(waveform).all():
        raise DroppedClip(DropReason.undecodable, "the sound has samples that are not finite numbers")
    heard = waveform[: int(speech_seconds * sample_rate)]
    level = level_dbfs(heard)
    if level < silent_dbfs:
        raise DroppedClip(DropReason.silent, f"level {level:.0f} dBFS in the first {speech_seconds:g} s")
    signs = speech_signs(heard, sample_rate=sample_rate)
    if signs.dynamics_db < min_dynamics_db and signs.voiced_fraction < min_voiced_fraction:
        raise DroppedClip(
            DropReason.silent,
            f"noise without speech: its level varies by {signs.dynamics_db:.0f} dB and "
            f"{signs.voiced_fraction:.0%} of it has a pitch",
        )

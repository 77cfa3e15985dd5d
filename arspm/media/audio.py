"""Speech as numbers: six seconds, the power-law spectrogram (reading N), int16 storage, signs of speech."""

from __future__ import annotations

from typing import NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

INT16_SCALE = 32_768.0
WINDOW_LENGTH, HOP_LENGTH = 400, 160  # samples: 25 and 10 ms
Samples = TypeVar("Samples", np.ndarray, Tensor)


def fit_length(waveform: np.ndarray, num_samples: int = 96_000) -> np.ndarray:
    """Make a waveform `num_samples` long: repeat it from its start if shorter, keep its start if longer.

    waveform: (samples,). Returns (num_samples,), a copy. Raises ValueError for an empty waveform. Reading N.
    """
    if waveform.ndim != 1 or waveform.size == 0:
        raise ValueError(f"expected a waveform of shape (samples,) with samples in it, got shape {waveform.shape}")
    repeats = -(-num_samples // waveform.size)
    return np.tile(waveform[:num_samples], repeats)[:num_samples]


def num_frames(num_samples: int) -> int:
    """Frames of a spectrogram of that many samples, one window or more (reading N)."""
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
    """The encoder's input: real and imaginary parts of the STFT, each sgn(s) * abs(s) ** power. Reading N.

    waveform: (samples,) or (batch, samples) at 16 kHz in [-1, 1], any device. Returns (2, num_fft // 2 + 1,
    frames) or (batch, 2, num_fft // 2 + 1, frames): channel 0 real, channel 1 imaginary (not the phase), low
    frequencies first; (2, 257, 598) for six seconds. frames = 1 + (samples - window_length) // hop_length.
    Raises ValueError below one window.

    Frame t is samples [t * hop, t * hop + window_length) under a periodic Hann window, followed by zeros up
    to `num_fft`: what tf.signal.stft does, on which Looking to Listen and Speech2Face are built. torch.stft
    would put a short window in the middle of the FFT, which turns every phase; so the window is lengthened
    with zeros on its right, and the waveform too, for the sake of the last frames.
    """
    if waveform.dim() not in (1, 2) or waveform.shape[-1] < window_length:
        raise ValueError(
            f"expected (samples,) or (batch, samples), {window_length} samples or more, "
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
    """Floats in [-1, 1] as int16, the corpus's `waveform` column; what is louder is clipped."""
    if isinstance(waveform, Tensor):
        scaled = (waveform * INT16_SCALE).round().clamp(-INT16_SCALE, INT16_SCALE - 1)
        return cast(Samples, scaled.to(torch.int16))
    return np.clip(np.round(waveform * INT16_SCALE), -INT16_SCALE, INT16_SCALE - 1).astype(np.int16)


def from_int16(samples: Samples) -> Samples:
    """int16 as float32 in [-1, 1); `to_int16` gives the same integers back."""
    if isinstance(samples, Tensor):
        return cast(Samples, samples.to(torch.float32) / INT16_SCALE)
    return samples.astype(np.float32) / np.float32(INT16_SCALE)


def level_dbfs(waveform: np.ndarray) -> float:
    """Root mean square in dB below full scale; -inf for digital silence. waveform: (samples,) floats."""
    mean_square = float(np.mean(np.square(waveform, dtype=np.float64)))
    return 10 * float(np.log10(mean_square)) if mean_square > 0 else -np.inf


class SpeechSigns(NamedTuple):
    """How far a sound is from steady noise.

    `dynamics_db`: how much the level between 200 and 3800 Hz changes from 20 ms to 20 ms (95th less 10th
    percentile). `voiced_fraction`: the share of 50 ms windows that are clearly periodic with a pitch of 65 to
    400 Hz.
    """

    dynamics_db: float
    voiced_fraction: float


def speech_signs(waveform: np.ndarray, *, sample_rate: int = 16_000) -> SpeechSigns:
    """Measure the two things that speech has and wind, hiss and rumble lack: syllables and a pitch.

    waveform: (samples,), 0.1 s or more. Read speech has dynamics of 21 dB or more and a voiced fraction of
    0.1 or more; noise that does not change has neither. Either alone is found in other sounds too (a hum, a
    knock).
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
    of_taper = np.fft.irfft(np.abs(np.fft.rfft(taper, num_fft)) ** 2)[:window_length]
    lags = slice(sample_rate // 400, sample_rate // 65)
    periodicity = correlation[:, lags] / (correlation[:, :1] + 1e-9) / (of_taper[lags] / of_taper[0])
    voiced = (periodicity.max(axis=1) > 0.8) & (energy_db > energy_db.max() - 30)
    low, high = np.percentile(energy_db, (10, 95))
    return SpeechSigns(float(high - low), float(voiced.mean()))

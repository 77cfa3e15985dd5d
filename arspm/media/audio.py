"""The power-law spectrogram (reading N), and waveforms as networks need them."""

from __future__ import annotations

from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from arspm.media.waveforms import INT16_SCALE

WINDOW_LENGTH, HOP_LENGTH = 400, 160  # samples: 25 and 10 ms
Samples = TypeVar("Samples", np.ndarray, Tensor)


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


def from_int16(samples: Samples) -> Samples:
    """Return int16 samples as float32 in [-1, 1). `waveforms.to_int16` is the exact inverse."""
    if isinstance(samples, Tensor):
        return cast(Samples, samples.to(torch.float32) / INT16_SCALE)
    return samples.astype(np.float32) / np.float32(INT16_SCALE)

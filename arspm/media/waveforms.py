"""Waveforms as the corpus stores them: length and int16.

Without torch, which preprocessing loads for spectrograms only.
"""

from __future__ import annotations

import numpy as np

INT16_SCALE = 32_768.0


def fit_length(waveform: np.ndarray, num_samples: int = 96_000) -> np.ndarray:
    """Return a copy of a waveform with `num_samples`: repeated from its start if shorter, truncated if longer.

    waveform: (samples,). Returns (num_samples,). Raises ValueError for an empty waveform. Reading N.
    """
    if waveform.ndim != 1 or waveform.size == 0:
        raise ValueError(f"expected a waveform of shape (samples,), not empty, got shape {waveform.shape}")
    repeats = -(-num_samples // waveform.size)
    return np.tile(waveform[:num_samples], repeats)[:num_samples]


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """Return floats in [-1, 1] as int16, as in the corpus's `waveform` column. Louder samples are clipped."""
    return np.clip(np.round(waveform * INT16_SCALE), -INT16_SCALE, INT16_SCALE - 1).astype(np.int16)

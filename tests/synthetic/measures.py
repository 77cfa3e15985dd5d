"""Measurements on pictures and waveforms of synthetic speakers."""

from __future__ import annotations

import dlib
import numpy as np

SAMPLE_RATE = 16_000


def contains(box: dlib.rectangle, x: float, y: float) -> bool:
    """Return whether the point (x, y) is inside the box."""
    return box.left() < x < box.right() and box.top() < y < box.bottom()


def track_pitch_hz(waveform: np.ndarray) -> tuple[float, float]:
    """Return the median pitch of the periodic windows, and the mean periodicity of all voiced windows.

    The periodicity of a window is the highest peak of its autocorrelation, normalised to 1 for a periodic signal.
    """
    taper = np.hanning(800)
    taper_correlation = np.correlate(taper, taper, "full")[799:]
    pitches, peaks = [], []
    for start in range(0, len(waveform) - 800, 320):
        window = waveform[start : start + 800] * taper
        if np.sqrt(np.mean(window**2)) < 0.03:
            continue
        correlation = np.correlate(window, window, "full")[799:]
        correlation = correlation[:270] / taper_correlation[:270] * taper_correlation[0] / correlation[0]
        best = correlation[55:270].max()
        lag = 55 + int(np.argmax(correlation[55:270] > 0.9 * best))  # multiples of the period have peaks too
        while lag < 269 and correlation[lag + 1] > correlation[lag]:
            lag += 1
        if best > 0.6:
            pitches.append(SAMPLE_RATE / lag)
        peaks.append(best)
    return float(np.median(pitches)), float(np.mean(peaks))

"""The sound of a part of a file: decoded frames to one mono waveform at one rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import av
import numpy as np

from arspm.media.containers import check_sound_format

# Weights of the channels in a mono downmix, before they are scaled to a sum of 1 (ITU-R BS.775: the sides are 3 dB
# below the centre, and what is behind 6 dB; the low-frequency channel is left out).
_WEIGHTS = {"FC": 1.0, "FL": math.sqrt(0.5), "FR": math.sqrt(0.5), "LFE": 0.0, "LFE2": 0.0}
_BEHIND = 0.5
_CANCELLED = 0.1  # of the power that unrelated channels would have: below it, the channels cancel each other


class Sound:
    """Collects the frames of a sound stream between two times, whatever formats they have.

    rate: of the waveform. start, end: seconds on the file's clock; with start None, the first sample is the start, and
    `end` counts from there. Each run of frames of one format has its own resampler (libswresample): from 44.1 to 16
    kHz its alias at 9 kHz is 62 dB down, against 17 dB for torchaudio's default, and it handles any rate.
    """

    def __init__(self, rate: int, start: float | None, end: float) -> None:
        self.rate = rate
        self.first: float | None = None  # time of the first sample that is kept
        self._start, self._end = start, end
        self._time = 0.0  # of the next frame, if it has no timestamp of its own
        self._format: tuple[str, str, int] | None = None
        self._resampler: av.AudioResampler | None = None
        self._runs: list[tuple[list[str], list[np.ndarray]]] = []  # channel names, pieces (channels, samples)
        self._num_samples = 0

    @property
    def is_complete(self) -> bool:
        """Whether the sound reaches the end."""
        return self._num_samples >= self._wanted() + self._skipped()

    def add(self, frame: av.AudioFrame) -> None:
        """Add the next frame of the stream. Raises DroppedClip for an unusual rate or number of channels."""
        check_sound_format(frame)
        time = self._time if frame.time is None else frame.time
        self._time = time + frame.samples / frame.sample_rate
        if self._start is not None and self._time <= self._start:
            return
        if self.first is None:
            self.first = time
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if form != self._format:
            self._flush()
            self._format = form
            self._resampler = av.AudioResampler(format="fltp", rate=self.rate)
            self._runs.append(([channel.name for channel in frame.layout.channels], []))
        self._resample(frame)

    def waveform(self) -> np.ndarray:
        """Return the sound as float32 mono, (samples,). Call it once, after the last frame."""
        self._flush()
        mono = [downmix(np.concatenate(pieces, axis=1), names) for names, pieces in self._runs if pieces]
        waveform = np.concatenate(mono) if mono else np.zeros(0, np.float32)
        return waveform[self._skipped() :][: self._wanted()]

    def _wanted(self) -> int:
        begin = 0.0 if self._start is None else max(self._start, self._start if self.first is None else self.first)
        return max(0, round((self._end - begin) * self.rate))

    def _skipped(self) -> int:
        """Return how many samples of the first frame are before the start."""
        if self._start is None or self.first is None:
            return 0
        return max(0, round((self._start - self.first) * self.rate))

    def _flush(self) -> None:
        if self._resampler is not None:
            self._resample(None)
            self._resampler = None

    def _resample(self, frame: av.AudioFrame | None) -> None:
        assert self._resampler is not None
        for piece in self._resampler.resample(frame):
            self._runs[-1][1].append(piece.to_ndarray())
            self._num_samples += piece.samples


def downmix(channels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return the mono sound of (channels, samples): the standard downmix, or the loudest channel if channels cancel.

    names: FFmpeg's of the channels, such as FL. Two microphones of opposite polarity would otherwise give silence.
    """
    known = [_WEIGHTS.get(name, _BEHIND) for name in names] if len(names) == len(channels) else []
    weights = np.array(known if sum(known) else [1.0] * len(channels), np.float32)
    weights /= weights.sum()
    mono = weights @ channels
    power = np.mean(np.square(channels, dtype=np.float64), axis=1)
    if np.mean(np.square(mono, dtype=np.float64)) < _CANCELLED * (np.square(weights) @ power):
        mono = channels[int(np.argmax(power * (weights > 0)))]
    return np.ascontiguousarray(mono, np.float32)

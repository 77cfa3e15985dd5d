"""Speech in a recording: where it is, by a voice activity detector, and how loud it is.

Every waveform is brought to one level of its speech. A portrait therefore does not depend on the microphone's gain.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime

from arspm.corpus.schema import SAMPLE_RATE_HZ, DropReason
from arspm.media.dropped import DroppedClip

WINDOW, CONTEXT = 512, 64  # samples of silero-vad's windows, and of the one before that it also sees
LEVEL_DBFS = -26.0  # of the speech in every waveform; ITU-T P.56's usual level, which leaves room for all peaks
IS_SPEECH = 0.5  # probability of a window with speech, as silero-vad recommends


class Speech(NamedTuple):
    """A waveform, float32 (samples,), whose speech is at LEVEL_DBFS, and what was measured.

    `level_dbfs`: of the speech before. `gain_db`: what was added to it. `voiced_seconds`: how much of it is speech.
    """

    waveform: np.ndarray
    level_dbfs: float
    gain_db: float
    voiced_seconds: float


def level_dbfs(waveform: np.ndarray) -> float:
    """Return the root mean square in dB relative to full scale, -inf for digital silence. waveform: (samples,)."""
    mean_square = float(np.mean(np.square(waveform, dtype=np.float64))) if waveform.size else 0.0
    return 10 * float(np.log10(mean_square)) if mean_square > 0 else -np.inf


def find_speech(
    waveform: np.ndarray, *, min_seconds: float = 0.5, silent_dbfs: float = -75.0, min_speech_seconds: float = 0.3
) -> Speech:
    """Return the waveform at the common level of speech.

    waveform: (samples,) at 16 kHz. The level is that of the windows with speech, without their mean (a microphone's
    offset). Raises DroppedClip: too_short (less than `min_seconds`), undecodable (not finite), silent (below
    `silent_dbfs`), no_speech (less than `min_speech_seconds` of it: a tone, noise or music).
    """
    seconds = waveform.size / SAMPLE_RATE_HZ
    require_length(seconds, min_seconds)
    if not np.isfinite(waveform).all():
        raise DroppedClip(DropReason.undecodable, "the sound has samples that are not finite numbers")
    centred = waveform - np.mean(waveform, dtype=np.float64).astype(np.float32)
    level = level_dbfs(centred)
    if level < silent_dbfs:
        raise DroppedClip(DropReason.silent, f"level {level:.0f} dBFS")
    is_speech = speech_probability(centred * _factor(LEVEL_DBFS - level)) >= IS_SPEECH
    voiced_seconds = float(is_speech.sum()) * WINDOW / SAMPLE_RATE_HZ
    if voiced_seconds < min_speech_seconds:
        raise DroppedClip(
            DropReason.no_speech, f"{voiced_seconds:.1f} of {seconds:.1f} s are speech; {min_speech_seconds:g} s needed"
        )
    windows = np.resize(centred, (is_speech.size, WINDOW))  # the last is filled up from the beginning
    level = level_dbfs(windows[is_speech].ravel())
    gain = LEVEL_DBFS - level
    return Speech(waveform * _factor(gain), level, gain, voiced_seconds)


def require_length(seconds: float, min_seconds: float) -> None:
    """Raise DroppedClip(too_short) for less than `min_seconds` of sound."""
    if seconds < min_seconds:
        raise DroppedClip(DropReason.too_short, f"{seconds:.2f} s of sound; at least {min_seconds:g} s needed")


def begin_of_most_speech(waveform: np.ndarray, seconds: float) -> float:
    """Return when those `seconds` of a waveform begin that have most speech; of several, the first.

    waveform: (samples,) at 16 kHz, not empty. Returns seconds, a multiple of 32 ms.
    """
    level = level_dbfs(waveform)
    if not np.isfinite(level):
        return 0.0
    is_speech = speech_probability(waveform * _factor(LEVEL_DBFS - level)) >= IS_SPEECH
    num_windows = min(len(is_speech), round(seconds * SAMPLE_RATE_HZ / WINDOW))
    counts = np.convolve(is_speech, np.ones(num_windows), "valid")
    return float(np.argmax(counts)) * WINDOW / SAMPLE_RATE_HZ


def speech_probability(waveform: np.ndarray) -> np.ndarray:
    """Return the probability that each window of 32 ms contains speech, (windows,). waveform: (samples,) at 16 kHz."""
    num_windows = -(-waveform.size // WINDOW)
    padded = np.zeros(CONTEXT + num_windows * WINDOW, np.float32)
    padded[CONTEXT : CONTEXT + waveform.size] = waveform
    windows = np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + WINDOW)[::WINDOW]
    state = np.zeros((1, 1, 128), np.float32)
    inputs = {"input": np.ascontiguousarray(windows), "h": state, "c": state}
    return np.asarray(voice_activity_detector().run(["speech_probs"], inputs)[0])


@functools.lru_cache(maxsize=1)
def voice_activity_detector() -> onnxruntime.InferenceSession:
    """Return silero-vad's network, which its package brings. Loaded once per process."""
    # Not imported: the package imports torchaudio, and needs neither here.
    package = importlib.util.find_spec("silero_vad")
    assert package is not None
    assert package.submodule_search_locations
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # clips are prepared in parallel, one per core
    model = Path(package.submodule_search_locations[0], "data", "silero_vad_16k_sequence.onnx")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _factor(gain_db: float) -> np.float32:
    return np.float32(10 ** (gain_db / 20))

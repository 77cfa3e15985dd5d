"""The Python API: portraits from speech, with a trained run or an exported model. Needs no Ray.

    from arspm import SpeechPortrait

    model = SpeechPortrait.load("runs/one")
    image, feature = model.draw("voice.wav")
    image.save("portrait.png")

A portrait is an average-looking face that correlates with a voice. It identifies no one.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from arspm import storage
from arspm.config import Config
from arspm.corpus.schema import SAMPLE_RATE_HZ, WAVEFORM_SHAPE
from arspm.export import folder
from arspm.media import clips
from arspm.media.audio import spectrogram
from arspm.media.containers import Source
from arspm.media.dropped import DroppedClip
from arspm.media.speech import begin_of_most_speech, find_speech
from arspm.media.waveforms import fit_length
from arspm.model import speech_portrait
from arspm.runs import find, stages
from arspm.storage.retries import first_line
from arspm.training import artifacts

# A path or URI, a file's bytes, an open file, or a mono waveform (samples,) at 16 kHz.
Recording: TypeAlias = "Source | np.ndarray | Tensor"


class Portrait(NamedTuple):
    """A drawn portrait. `image`: RGB. `feature`: the speech feature that it was drawn from, float32 (feature,)."""

    image: Image.Image
    feature: np.ndarray


class SpeechPortrait:
    """A trained model that draws portraits from speech.

    Attributes:
        config: the configuration that the model was trained with.
        network: the torch module, in eval mode, on `device`.
        device: where the network computes.
    """

    def __init__(
        self, network: speech_portrait.SpeechPortrait, config: Config, *, device: str | torch.device = "cpu"
    ) -> None:
        self.config, self.device = config, _available(device)
        self.network = network.eval().to(self.device)

    @classmethod
    def load(cls, uri: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> SpeechPortrait:
        """Return the model of a trained run, or of a folder that `arspm export` wrote.

        uri: a local path or s3://bucket/prefix. device: "cpu", "cuda" or "cuda:1".

        Raises FileNotFoundError if there is neither at the URI or the run's encoder is not trained, and ValueError for
        damaged files or a device that is not available; each in one line.
        """
        location, device = storage.absolute(os.fspath(uri)), _available(device)
        if folder.is_export(location):
            network, config = folder.read(location)
        else:
            find.require_run(location)
            config = stages.finished_config(location, "encoder")
            network = artifacts.load_speech_portrait(location, config)
        return cls(network, config, device=device)

    def draw(self, recording: Recording) -> Portrait:
        """Return the portrait of a recording (wav, flac, mp3, mp4, ...), or of a mono waveform at 16 kHz.

        Raises ValueError, in one line, if the recording cannot be used: missing, silent, no speech, ...; OSError if
        the storage fails.
        """
        return next(self.draw_many([recording]))

    def draw_many(self, recordings: Iterable[Recording], *, batch_size: int = 16) -> Iterator[Portrait]:
        """Yield the portrait of each recording, in order. Only `batch_size` recordings are in memory at a time.

        Raises as `draw`, at the first recording that cannot be used.
        """
        recordings = iter(recordings)
        while batch := list(itertools.islice(recordings, batch_size)):
            waveforms = np.stack([self.waveform(recording) for recording in batch])
            features = self.features(torch.from_numpy(waveforms))
            pixels = to_pixels(self.portraits(features))
            for rgb, feature in zip(pixels, features.cpu().numpy(), strict=True):
                yield Portrait(Image.fromarray(rgb), feature)

    def waveform(self, recording: Recording) -> np.ndarray:
        """Return what the model hears of a recording: six seconds at 16 kHz, float32 (96000,). Raises as `draw`.

        As in training, these are the first seconds or those with most speech (`data.seconds`), a shorter recording is
        repeated (reading N), and the speech is brought to one level.
        """
        most_speech = self.config.data.seconds == "speech"
        if isinstance(recording, (np.ndarray, Tensor)):
            samples = _from_samples(recording, most_speech)
        else:
            samples = clips.load_speech(recording, most_speech=most_speech)
        return fit_length(samples, *WAVEFORM_SHAPE)

    @torch.no_grad()
    def features(self, waveforms: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch feature"]:
        """Return the speech feature of each waveform at 16 kHz, on `device`; of any length that the network accepts.

        The waveforms are used as they are: `waveform` selects the seconds and the level that training used.
        """
        return self.network.feature(spectrogram(waveforms.to(self.device))).float()

    @torch.no_grad()
    def portraits(self, features: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch 3 height width"]:
        """Return the portrait of each feature, RGB in [0, 1], on `device`."""
        return self.network.decoder(features.to(self.device))


def to_pixels(images: Float[Tensor, "batch 3 height width"]) -> np.ndarray:
    """Return images, RGB in [0, 1], as 8-bit RGB: (batch, height, width, 3)."""
    return (images * 255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _from_samples(recording: np.ndarray | Tensor, most_speech: bool) -> np.ndarray:
    """Return the part of a waveform that is used, at the common level of speech: float32 (samples,)."""
    array = recording.detach().cpu().numpy() if isinstance(recording, Tensor) else recording
    if array.ndim != 1:
        raise ValueError(f"a waveform must be mono, (samples,) at {SAMPLE_RATE_HZ} Hz, not {array.shape}")
    samples, (most,) = array.astype(np.float32), WAVEFORM_SHAPE
    try:
        if most_speech and samples.size > most:
            begin = round(begin_of_most_speech(samples, most / SAMPLE_RATE_HZ) * SAMPLE_RATE_HZ)
            samples = samples[begin:]
        return find_speech(samples[:most]).waveform
    except DroppedClip as drop:
        raise ValueError(f"the waveform: {drop.text}") from None


def _available(device: str | torch.device) -> torch.device:
    """Return a device that torch can use. Raises ValueError, in one line."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:  # torch's own, by kind of failure
        raise ValueError(
            f"device {device}: torch cannot use it here ({first_line(error)}); give cpu, or another one"
        ) from None
    return found

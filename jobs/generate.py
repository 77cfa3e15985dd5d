"""Draw portraits from recordings, on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from arspm import storage
from arspm.corpus import schema
from arspm.media.audio import fit_length, spectrogram
from arspm.media.clips import load_speech
from arspm.media.jpeg import encode_jpeg
from arspm.runs import stages
from arspm.training.artifacts import load_speech_portrait


def generate(run: str, recordings: Sequence[str], out: str) -> Iterator[str]:
    """Draw a portrait of each recording (wav, flac, mp3, mp4, ...) with a run's trained model; yield the JPEGs' URIs.

    As in training, six seconds are used (`data.seconds`), and a shorter recording is repeated (reading N). Raises
    ValueError or FileNotFoundError, in one line and before anything is written, if a recording cannot be used.
    """
    targets = [storage.join(out, f"{Path(recording).stem}.jpg") for recording in recordings]
    if len(set(targets)) < len(targets):
        raise ValueError(
            "two recordings have the same file name, so their portraits would too; rename one, or use two commands"
        )
    config = stages.finished_config(run, "encoder")
    model = load_speech_portrait(run, config)
    loaded = [load_speech(recording, most_speech=config.data.seconds == "speech") for recording in recordings]
    speech = [fit_length(waveform, schema.WAVEFORM_SHAPE[0]) for waveform in loaded]
    for waveform, target in zip(speech, targets, strict=True):
        with torch.no_grad():
            portrait = model(spectrogram(torch.from_numpy(waveform))[None])[0]
        pixels = (portrait * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
        storage.write_bytes(target, encode_jpeg(pixels))
        yield target

"""Portraits from recordings, on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from arspm import storage
from arspm.corpus import schema
from arspm.media.audio import fit_length, spectrogram
from arspm.media.clips import load_speech
from arspm.media.faces import encode_jpeg
from arspm.runs import stages
from arspm.training.artifacts import load_speech_portrait


def generate(run: str, recordings: Sequence[str], out: str) -> Iterator[str]:
    """Draw a portrait from each recording (wav, flac, mp3, mp4, ...) with a run's trained model; the pictures' URIs.

    A recording is what the model was trained on: its first six seconds, repeated if it is shorter (reading N). Raises
    ValueError or FileNotFoundError, in one line, before anything is written if a recording cannot be used.
    """
    targets = [storage.join(out, f"{Path(recording).stem}.jpg") for recording in recordings]
    if len(set(targets)) < len(targets):
        raise ValueError("two recordings have the same name and would share a picture; rename one or run them apart")
    model = load_speech_portrait(run, stages.finished_config(run, "encoder"))
    speech = [fit_length(load_speech(recording), schema.WAVEFORM_SHAPE[0]) for recording in recordings]
    for waveform, target in zip(speech, targets, strict=True):
        with torch.no_grad():
            portrait = model(spectrogram(torch.from_numpy(waveform))[None])[0]
        pixels = (portrait * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
        storage.write_bytes(target, encode_jpeg(pixels))
        yield target

"""The networks as ONNX files, which any ONNX runtime computes without torch, checked against torch when written."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim

from arspm.corpus.schema import SAMPLE_RATE_HZ, SPECTROGRAM_SHAPE
from arspm.media.audio import num_frames
from arspm.model.gender_classifier import MINIMUM_SIZE
from arspm.model.speech_portrait import SpeechPortrait

OPSET = 18  # of torch's own exporter; onnxruntime reads it since 1.14
# Seconds of speech, and rows of a batch, that each file is checked with. The shortest speech is added.
CHECKED = ((1.0, 1), (3.0, 3), (6.0, 2), (12.0, 1))
# Largest accepted difference, as a fraction of the largest value: the runtimes add in another order.
TOLERANCE = 1e-4


def write(network: SpeechPortrait, encoder: Path, decoder: Path) -> dict[str, Any]:
    """Write both files and return what was checked.

    encoder: `spectrogram` (batch, 2, 257, time) -> `feature` (batch, feature), with the prior. decoder: `feature` ->
    `portrait` (batch, 3, height, width), RGB in [0, 1]. Batch and time are free.

    Raises ValueError if a file computes something else than torch for one of the lengths.
    """
    network = copy.deepcopy(network).cpu().eval()
    _average_over_any_time(network)
    shortest = network.encoder.minimum[1]
    if network.prior.classifier is not None:
        shortest = max(shortest, MINIMUM_SIZE)
    speech = {"spectrogram": {0: Dim("batch"), 3: Dim("time", min=shortest)}}
    with _quiet():
        _write(_Encoder(network), torch.zeros(2, *SPECTROGRAM_SHAPE), encoder, "feature", speech)
        feature = torch.zeros(2, network.decoder.fc1.in_features)
        _write(network.decoder, feature, decoder, "portrait", {"feature": {0: Dim("batch")}})
    shapes = [(1, shortest), *((rows, num_frames(round(seconds * SAMPLE_RATE_HZ))) for seconds, rows in CHECKED)]
    return {"opset": OPSET, "frames": [frames for _, frames in shapes], **_check(network, encoder, decoder, shapes)}


class _Encoder(nn.Module):
    """Encoder, prior and, if the prior needs it, gender classifier."""

    def __init__(self, network: SpeechPortrait) -> None:
        super().__init__()
        self.network = network

    def forward(self, spectrogram: Tensor) -> Tensor:
        return self.network.feature(spectrogram)


class _AverageOverTime(nn.Module):
    """AdaptiveAvgPool2d((rows, 1)) in two steps. The exporter would compute its windows for one length of speech."""

    def __init__(self, rows: int | None) -> None:
        super().__init__()
        self.rows = nn.Identity() if rows is None else nn.AdaptiveAvgPool2d((rows, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.rows(x.mean(dim=3, keepdim=True))


def _average_over_any_time(network: nn.Module) -> None:
    for parent in [*network.modules()]:
        for name, child in parent.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d):
                size = child.output_size
                assert isinstance(size, tuple)
                assert size[1] == 1
                setattr(parent, name, _AverageOverTime(size[0]))


def _write(module: nn.Module, example: Tensor, path: Path, output: str, dynamic: dict[str, Any]) -> None:
    [name] = dynamic
    program = torch.onnx.export(
        module.eval(),
        (example,),
        input_names=[name],
        output_names=[output],
        dynamic_shapes=dynamic,
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(path, external_data=False)  # one file; ONNX allows 2 GB, ten times the paper's networks


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out the exporter's notes on its own internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@torch.no_grad()
def _check(network: SpeechPortrait, encoder: Path, decoder: Path, shapes: list[tuple[int, int]]) -> dict[str, float]:
    """Return the largest difference of each file from torch, as a fraction of the largest value.

    shapes: rows and frames of the spectrograms. Raises ValueError above TOLERANCE.
    """
    sessions = [onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (encoder, decoder)]
    largest = {"encoder_difference": 0.0, "decoder_difference": 0.0}
    generator = torch.Generator().manual_seed(0)
    for rows, frames in shapes:
        speech = torch.randn(rows, *SPECTROGRAM_SHAPE[:2], frames, generator=generator)
        feature = network.feature(speech)
        computed = (("spectrogram", speech, feature), ("feature", feature, network.decoder(feature)))
        for session, path, name, (key, given, wanted) in zip(
            sessions, (encoder, decoder), largest, computed, strict=True
        ):
            try:
                found = session.run(None, {key: given.numpy()})[0]
            except Exception as error:  # onnxruntime has no common class of its own errors
                raise ValueError(f"{path.name} fails for {frames} frames: {str(error)[:200]}") from None
            difference = float(np.abs(found - wanted.numpy()).max() / wanted.abs().max())
            if not difference <= TOLERANCE:
                raise ValueError(
                    f"{path.name} differs from torch by {difference:.1e} of the largest value for {frames} frames; "
                    "export without the ONNX files (--no-onnx)"
                )
            largest[name] = max(largest[name], difference)
    return largest

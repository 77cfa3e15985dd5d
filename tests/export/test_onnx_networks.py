"""The ONNX files compute what torch computes, for any length of speech and any batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from arspm import SpeechPortrait
from arspm.export import onnx_networks
from tests.untrained_run import write_untrained_run

GENDER = {"prior.kind": "gender", "gender.min_confidence": 0.6}
SPEECH2FACE = {"speech_encoder.architecture": "speech2face", "prior.kind": "none"}
RESNET = {"speech_encoder.architecture": "resnet18", "speech_encoder.cbam": "spatial_first"}


@pytest.mark.parametrize(
    "changes",
    [
        GENDER,
        pytest.param(SPEECH2FACE, marks=pytest.mark.slow),
        pytest.param(RESNET, marks=pytest.mark.slow),
        pytest.param(
            {"prior.kind": "none", "speech_encoder.head": "none", "speech_encoder.fusion": "sum"},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["gender", "speech2face", "resnet18", "no-prior"],
)
def test_the_files_compute_what_torch_computes(tmp_path: Path, changes: dict[str, object]):
    network = SpeechPortrait.load(write_untrained_run(tmp_path / "run", changes)).network
    files = tmp_path / "encoder.onnx", tmp_path / "decoder.onnx"
    checked = onnx_networks.write(network, *files)
    assert checked["encoder_difference"] < 1e-5
    assert checked["decoder_difference"] < 1e-5
    assert len({*checked["frames"]}) == 5
    encoder, decoder = (onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]) for file in files)
    for file in files:
        onnx.checker.check_model(file, full_check=True)
    assert encoder.get_inputs()[0].shape == ["batch", 2, 257, "time"]
    assert decoder.get_inputs()[0].shape == ["batch", 64]
    # Lengths and batches that the check at export has not seen.
    for rows, frames in ((4, 77), (1, 411), (5, 902)):
        speech = torch.randn(rows, 2, 257, frames)
        with torch.no_grad():
            feature, portrait = network.feature(speech), network(speech)
        [found] = encoder.run(["feature"], {"spectrogram": speech.numpy()})
        np.testing.assert_allclose(found, feature.numpy(), rtol=1e-4, atol=1e-5)
        [drawn] = decoder.run(["portrait"], {"feature": found})
        np.testing.assert_allclose(drawn, portrait.numpy(), rtol=1e-3, atol=1e-4)

    # The check at export finds files of another network.
    other = SpeechPortrait.load(write_untrained_run(tmp_path / "other", {**changes, "seed": 5})).network
    torch.nn.init.normal_(other.encoder.fc1.bias)
    with pytest.raises(ValueError, match=r"encoder\.onnx differs from torch by .* for 98 frames"):
        onnx_networks._check(other, *files, [(1, 98)])

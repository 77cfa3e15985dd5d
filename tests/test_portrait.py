"""The Python API: `SpeechPortrait`."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from arspm import SpeechPortrait, storage
from arspm.corpus.schema import WAVEFORM_SHAPE
from tests.media.media_files import voice
from tests.untrained_run import write_untrained_run

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_untrained_run(tmp_path_factory.mktemp("untrained") / "run")


@pytest.fixture(scope="module")
def model(run: str) -> SpeechPortrait:
    return SpeechPortrait.load(run)


@pytest.fixture
def recording(tmp_path: Path) -> str:
    path = tmp_path / "voice.wav"
    soundfile.write(path, voice(4.0), 16_000, subtype="FLOAT")
    return str(path)


def test_a_recording_gives_an_image_and_its_feature(model: SpeechPortrait, recording: str):
    image, feature = model.draw(recording)
    assert (image.mode, image.size) == ("RGB", (64, 64))
    assert (feature.dtype, feature.shape) == (np.float32, (64,))
    with torch.no_grad():
        portrait = model.network.decoder(torch.from_numpy(feature)[None])[0]
    np.testing.assert_array_equal(np.asarray(image), (portrait * 255).round().byte().permute(1, 2, 0).numpy())
    assert np.asarray(image).std() > 1


def test_a_recording_may_be_a_path_bytes_an_open_file_or_samples(model: SpeechPortrait, recording: str):
    expected = model.draw(recording).feature
    data = Path(recording).read_bytes()
    samples = voice(4.0)
    others = [Path(recording), data, io.BytesIO(data), samples, torch.from_numpy(samples), f"file://{recording}"]
    for other in others:
        np.testing.assert_allclose(model.draw(other).feature, expected, rtol=1e-4, atol=1e-5)
    loud = (samples * 32_767 * 0.5).astype(np.int16)  # another level, and integers
    np.testing.assert_allclose(model.draw(loud).feature, expected, rtol=2e-2, atol=2e-3)


def test_many_are_drawn_in_order_and_lazily(model: SpeechPortrait):
    voices = [voice(seconds) for seconds in (1.0, 2.0, 4.0)]
    taken = []

    def recordings():
        for number, samples in enumerate(voices):
            taken.append(number)
            yield samples

    drawn = model.draw_many(recordings(), batch_size=2)
    first = next(drawn)
    assert taken == [0, 1]
    for found, samples in zip([first, *drawn], voices, strict=True):
        np.testing.assert_allclose(found.feature, model.draw(samples).feature, rtol=1e-4, atol=1e-5)
    assert taken == [0, 1, 2]


def test_tensors_in_and_tensors_out(model: SpeechPortrait):
    waveforms = torch.from_numpy(np.stack([model.waveform(voice(seconds)) for seconds in (2.0, 6.0)]))
    assert waveforms.shape == (2, *WAVEFORM_SHAPE)
    features = model.features(waveforms)
    portraits = model.portraits(features)
    assert (features.shape, portraits.shape) == ((2, 64), (2, 3, 64, 64))
    assert not portraits.requires_grad
    assert float(portraits.min()) >= 0
    assert float(portraits.max()) <= 1
    assert model.features(waveforms[:, :48_000]).shape == (2, 64)  # any length


def test_with_most_speech_the_same_seconds_are_used_of_a_file_and_of_samples(tmp_path: Path):
    model = SpeechPortrait.load(write_untrained_run(tmp_path / "run", {"data.seconds": "speech"}))
    samples = np.concatenate([np.zeros(7 * 16_000, np.float32), voice(6.0)])
    soundfile.write(tmp_path / "late.wav", samples, 16_000, subtype="FLOAT")
    np.testing.assert_allclose(model.waveform(samples), model.waveform(tmp_path / "late.wav"), atol=2e-3)


@pytest.mark.parametrize(
    ("recording", "says"),
    [
        (np.zeros(32_000, np.float32), "the waveform: silent: level -inf dBFS"),
        (np.zeros((2, 32_000), np.float32), r"a waveform must be mono, \(samples,\) at 16000 Hz, not \(2, 32000\)"),
        (np.empty(0, np.float32), "the waveform: 0.00 s of sound"),
        (np.full(32_000, np.nan, np.float32), "not finite"),
        (b"", "the recording: an empty file"),
        (b"no sound", "the recording: cannot be decoded"),
        ("/no/such/voice.wav", "/no/such/voice.wav: no such file"),
        ("s3://user:password@bucket/voice.wav", "must not contain credentials"),
    ],
)
def test_what_cannot_be_drawn_is_named_in_one_line(model: SpeechPortrait, recording: object, says: str):
    with pytest.raises(ValueError, match=says) as raised:
        model.draw(recording)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)
    assert "password" not in str(raised.value)


def test_an_unavailable_device_is_named_before_anything_is_loaded(run: str):
    with pytest.raises(ValueError, match="device gpu: torch cannot use it here"):
        SpeechPortrait.load(run, device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device cuda: torch cannot use it here"):
            SpeechPortrait.load("nowhere", device="cuda")


def test_a_run_that_is_not_there_or_not_trained_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such run"):
        SpeechPortrait.load(str(tmp_path / "nowhere"))
    storage.remove(f"{write_untrained_run(tmp_path / 'run')}/encoder/_SUCCESS.json")
    with pytest.raises(FileNotFoundError, match="stage encoder is not done"):
        SpeechPortrait.load(str(tmp_path / "run"))


CHEAP = """
import sys, arspm
assert "torch" not in sys.modules and "ray" not in sys.modules
assert arspm.__all__ == ["Portrait", "SpeechPortrait"]
from arspm import SpeechPortrait
image, feature = SpeechPortrait.load(sys.argv[1]).draw(sys.argv[2])
assert image.size == (64, 64)
assert "ray" not in sys.modules
try:
    arspm.nothing
except AttributeError:
    pass
else:
    sys.exit("arspm.nothing exists")
"""


def test_import_is_cheap_and_nothing_needs_ray(run: str, recording: str):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", CHEAP, run, recording], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
def test_a_gpu_draws_what_a_cpu_draws(run: str, model: SpeechPortrait):
    on_gpu = SpeechPortrait.load(run, device="cuda")
    waveforms = torch.from_numpy(model.waveform(voice(4.0)))[None]
    assert on_gpu.features(waveforms).device.type == "cuda"
    torch.testing.assert_close(on_gpu.features(waveforms).cpu(), model.features(waveforms), rtol=1e-3, atol=1e-4)
    assert on_gpu.draw(voice(4.0)).image.size == (64, 64)

"""Waveforms: length, spectrogram and int16."""

import numpy as np
import pytest
import torch
from scipy.signal.windows import hann

from arspm.media.audio import from_int16, spectrogram
from arspm.media.waveforms import fit_length, to_int16


def noise(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).uniform(-0.5, 0.5, shape).astype(np.float32))


def transform_by_definition(waveform: np.ndarray, frame: int) -> np.ndarray:
    """Return STFT frame t from the definition, in float64: samples [160 t, 160 t + 400), 512-point DFT."""
    windowed = waveform[160 * frame : 160 * frame + 400].astype(np.float64) * hann(400, sym=False)
    turns = np.outer(np.arange(257), np.arange(400)) / 512
    return (windowed * np.exp(-2j * np.pi * turns)).sum(axis=1)


def test_spectrogram_is_the_definition_of_reading_n():
    waveform = noise(96_000)
    result = spectrogram(waveform)
    assert result.shape == (2, 257, 598)
    assert result.dtype == torch.float32
    for frame in (0, 1, 300, 597):
        expected = transform_by_definition(waveform.numpy(), frame)
        for channel, part in enumerate((expected.real, expected.imag)):
            compressed = np.sign(part) * np.abs(part) ** 0.3
            # The power is steep at zero, so float32's last bits show there: compare where the part is not tiny.
            big = np.abs(part) > 1e-2
            np.testing.assert_allclose(result[channel, :, frame].numpy()[big], compressed[big], rtol=2e-4)
            assert big.mean() > 0.95 or channel == 1


def test_second_channel_is_the_imaginary_part_and_not_the_phase():
    loud = spectrogram(0.5 * noise(8000))
    # A louder sound keeps its phase; the imaginary part grows.
    torch.testing.assert_close(spectrogram(noise(8000))[1], loud[1] * 2**0.3, rtol=1e-3, atol=1e-3)
    assert loud[1].abs().max() > np.pi / 2  # a compressed phase could not be so large
    linear = spectrogram(noise(8000), power=1.0)
    expected = transform_by_definition(noise(8000).numpy(), 3)
    np.testing.assert_allclose(np.hypot(*linear[:, :, 3].numpy()), np.abs(expected), atol=1e-4)


def test_power_law_keeps_the_sign():
    waveform = noise(4000)
    torch.testing.assert_close(spectrogram(-waveform), -spectrogram(waveform))
    assert (spectrogram(waveform).sign() == spectrogram(waveform, power=1.0).sign()).all()


def test_frame_starts_at_its_hop_and_not_in_the_middle_of_the_fft():
    waveform = torch.zeros(96_000)
    waveform[160 * 5 + 200] = 1.0  # the window's peak, 200 samples into frame 5: bin k has phase -2 pi 200 k / 512
    parts = spectrogram(waveform, power=1.0)[:, :, 5]
    angle = -2 * np.pi * 200 * np.arange(257) / 512
    np.testing.assert_allclose(parts.numpy(), [np.cos(angle), np.sin(angle)], atol=1e-4)


@pytest.mark.parametrize(("samples", "frames"), [(400, 1), (559, 1), (560, 2), (16_000, 98), (96_000, 598)])
def test_number_of_frames(samples, frames):
    assert spectrogram(noise(samples)).shape[-1] == frames


def test_a_batch_equals_single_waveforms_and_float16_is_large_enough():
    batch = noise(3, 5000)
    together = spectrogram(batch)
    assert together.shape == (3, 2, 257, 29)
    for one, single in zip(together, batch, strict=True):
        torch.testing.assert_close(one, spectrogram(single), rtol=1e-3, atol=1e-2)
    half = spectrogram(torch.ones(400), dtype=torch.float16)  # the largest possible value, 200 ** 0.3
    assert half.dtype == torch.float16
    assert half.isfinite().all()


@pytest.mark.parametrize("shape", [(399,), (1, 1, 400), ()])
def test_spectrogram_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="400 samples or more"):
        spectrogram(torch.zeros(shape))


def test_fit_length_repeats_and_cuts_from_the_start():
    waveform = np.arange(5, dtype=np.float32)
    np.testing.assert_array_equal(fit_length(waveform, 12), [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1])
    np.testing.assert_array_equal(fit_length(waveform, 3), [0, 1, 2])
    np.testing.assert_array_equal(fit_length(waveform, 5), waveform)
    assert fit_length(waveform).shape == (96_000,)
    assert fit_length(waveform).dtype == np.float32
    fit_length(waveform, 3)[0] = 9
    assert waveform[0] == 0


@pytest.mark.parametrize("shape", [(0,), (2, 5)])
def test_fit_length_refuses_empty_and_multichannel_sound(shape):
    with pytest.raises(ValueError, match="shape"):
        fit_length(np.zeros(shape))


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_int16_round_trip_is_exact_and_loud_samples_are_clipped(convert):
    every = np.arange(-32_768, 32_768, dtype=np.int16)
    floats = from_int16(convert(every))
    assert str(floats.dtype).endswith("float32")
    assert -1 <= floats.min() < floats.max() < 1
    np.testing.assert_array_equal(to_int16(np.asarray(floats)), every)
    loud = to_int16(np.array([-3.0, 1.0, 3.0], np.float32))
    np.testing.assert_array_equal(loud, [-32_768, 32_767, 32_767])

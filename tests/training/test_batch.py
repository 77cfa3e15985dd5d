from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from arspm.corpus.genders import UNKNOWN
from arspm.corpus.schema import CLIP_ID, FACE_FEATURE, GENDER, IDENTITY, SPECTROGRAM, WAVEFORM
from arspm.media import audio, waveforms
from arspm.training.batch import host_tensor, to_batch
from arspm.training.columns import FACE, WEIGHT, Picked

CPU = torch.device("cpu")


def read_only(values: np.ndarray) -> np.ndarray:
    values.setflags(write=False)  # like arrays read from the corpus
    return values


def test_faces_become_channels_first_numbers_from_0_to_1():
    faces = read_only(np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8))
    batch = to_batch({CLIP_ID: ["a", "b"], FACE: faces}, CPU)
    assert batch.face.shape == (2, 3, 5, 7)
    assert batch.face.dtype == torch.float32
    for row, y, x, channel in ((0, 0, 0, 0), (1, 4, 6, 2), (1, 3, 2, 1)):
        assert batch.face[row, channel, y, x].item() == pytest.approx(faces[row, y, x, channel] / 255)


def test_a_spectrogram_is_only_converted_to_float32():
    stored = read_only(np.random.default_rng(0).standard_normal((3, 2, 5, 4)).astype(np.float16))
    batch = to_batch({CLIP_ID: list("abc"), SPECTROGRAM: stored}, CPU)
    assert batch.spectrogram.dtype == torch.float32
    np.testing.assert_array_equal(batch.spectrogram.numpy(), stored.astype(np.float32))


def test_a_waveform_becomes_the_spectrogram_that_would_have_been_stored():
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 4000)).astype(np.float32)
    batch = to_batch({CLIP_ID: ["a", "b"], WAVEFORM: read_only(waveforms.to_int16(sound))}, CPU)
    direct = audio.spectrogram(torch.from_numpy(sound))
    assert batch.spectrogram.shape == (2, 2, 257, 23)
    # int16 rounds by 1.5e-5; the power of 0.3 amplifies that where a bin is nearly empty
    assert (batch.spectrogram - direct).abs().mean() < 1e-2
    torch.testing.assert_close(
        batch.spectrogram, audio.spectrogram(audio.from_int16(torch.tensor(waveforms.to_int16(sound))))
    )


def test_labels_features_and_weights():
    batch = to_batch(
        {
            CLIP_ID: ["a", "b"],
            FACE_FEATURE: read_only(np.float16([[1, 2], [3, 4]])),
            GENDER: np.array([1, UNKNOWN]),
            IDENTITY: np.array([5, 6]),
            WEIGHT: np.float32([1, 0]),
        },
        CPU,
    )
    assert batch.clip_ids == ["a", "b"]
    assert torch.equal(batch.face_feature, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert (batch.gender.tolist(), batch.identity.tolist(), batch.weight.tolist()) == ([1, -1], [5, 6], [1, 0])


def test_missing_columns_are_none_and_every_row_has_weight_1():
    batch = to_batch({CLIP_ID: ["a", "b"]}, CPU)
    assert (batch.spectrogram, batch.face, batch.face_feature, batch.gender, batch.identity) == (None,) * 5
    assert batch.weight.tolist() == [1, 1]


def test_a_batch_copies_its_arrays():
    stored = np.zeros((1, 2, 3, 4), np.float32)
    batch = to_batch({CLIP_ID: ["a"], SPECTROGRAM: stored}, CPU)
    batch.spectrogram.add_(1)
    assert (stored == 0).all()


@pytest.mark.parametrize("channels_last", [False, True])
def test_stored_arrays_are_copied_only_by_their_conversion(channels_last):
    """Once each, into the batch's own memory, and once more if the layout changes.

    torch would warn about read-only arrays; warnings are errors here.
    """
    rng = np.random.default_rng(0)
    stored = {
        SPECTROGRAM: read_only(rng.standard_normal((64, 2, 64, 80)).astype(np.float16)),
        FACE: read_only(rng.integers(0, 256, (64, 64, 64, 3), dtype=np.uint8)),
        FACE_FEATURE: read_only(rng.standard_normal((64, 4096)).astype(np.float32)),
        WEIGHT: read_only(np.ones(64, np.float32)),
    }
    before = {name: values.copy() for name, values in stored.items()}
    copied = []

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.name().partition(".")[0] in ("aten::_to_copy", "aten::copy_", "aten::clone"):
                copied.append(tuple(args[0].shape))
            return func(*args, **(kwargs or {}))

    with Copies():  # the first use imports modules
        to_batch({CLIP_ID: [""], SPECTROGRAM: np.zeros((1, 2, 3, 4), np.float16)}, CPU)
    copied.clear()
    tracemalloc.start()  # it sees numpy's memory, but not torch's
    with Copies():
        batch = to_batch({CLIP_ID: [""] * 64, **stored}, CPU, channels_last=channels_last)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < min(stored[name].nbytes for name in (SPECTROGRAM, FACE, FACE_FEATURE))
    changed_layout = (64, 2, 64, 80) if channels_last else (64, 3, 64, 64)  # faces are stored channels-last
    assert sorted(copied) == sorted([(64, 2, 64, 80), (64, 3, 64, 64), (64, 4096), (64,), changed_layout])
    for tensor in (batch.spectrogram, batch.face, batch.face_feature, batch.weight):
        tensor.zero_()
    for name, values in stored.items():
        np.testing.assert_array_equal(values, before[name])


@pytest.mark.parametrize("channels_last", [False, True])
def test_images_and_spectrograms_have_the_requested_memory_format(channels_last):
    faces, sound = np.zeros((2, 4, 6, 3), np.uint8), np.zeros((2, 2, 4, 6), np.float16)
    batch = to_batch({CLIP_ID: ["a", "b"], FACE: faces, SPECTROGRAM: sound}, CPU, channels_last=channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert batch.face.is_contiguous(memory_format=layout)
    assert batch.spectrogram.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("sizes", [(6,), (2, 4), (1, 0, 3, 2)])
def test_picked_rows_are_those_of_the_joined_pieces(sizes: tuple[int, ...]) -> None:
    values = np.arange(6 * 2 * 3, dtype=np.int16).reshape(6, 2, 3)
    index = np.array([5, 0, 3, 3, 2])
    picked = Picked(np.split(values, np.cumsum(sizes)[:-1]), index)
    assert (len(picked), picked.shape, picked.dtype) == (5, (5, 2, 3), np.int16)
    np.testing.assert_array_equal(picked, values[index])
    buffer = np.zeros(picked.shape, picked.dtype)
    picked.copy_to(buffer)
    np.testing.assert_array_equal(buffer, values[index])
    np.testing.assert_array_equal(np.asarray(picked, np.float32), values[index].astype(np.float32))
    assert torch.equal(host_tensor(picked), torch.from_numpy(values[index]))

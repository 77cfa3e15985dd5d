"""Face images in JPEG: sizes, channel order, broken files."""

import cv2
import numpy as np
import pytest

from arspm.media.jpeg import decode_jpeg, encode_jpeg


def textured(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth_picture(size: int = 224) -> np.ndarray:
    return cv2.resize(textured(7, 7), (size, size), interpolation=cv2.INTER_CUBIC)


def test_jpeg_keeps_picture_and_channel_order():
    crop = smooth_picture()
    back = decode_jpeg(encode_jpeg(crop))
    assert (back.shape, back.dtype, back.flags.c_contiguous) == ((224, 224, 3), np.uint8, True)
    assert np.abs(back.astype(int) - crop).mean() < 2


@pytest.mark.parametrize(("stored", "size"), [(224, 112), (224, 64), (224, 160), (100, 64), (64, 112)])
def test_jpeg_at_another_size_is_the_resized_picture(stored, size):
    crop = smooth_picture(stored)
    back = decode_jpeg(encode_jpeg(crop), size)
    expected = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if size < stored else cv2.INTER_CUBIC)
    assert back.shape == (size, size, 3)
    assert back.flags.c_contiguous
    assert np.abs(back.astype(int) - expected).mean() < 3


@pytest.mark.parametrize("damage", [lambda d: b"", lambda d: d[:-1], lambda d: d[: len(d) // 2], lambda d: d[9:]])
def test_broken_jpeg_is_refused(damage):
    with pytest.raises(ValueError, match="JPEG"):
        decode_jpeg(damage(encode_jpeg(smooth_picture())))


def test_jpeg_must_be_a_picture_and_square():
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode_jpeg(b"\xff\xd8 nothing \xff\xd9")
    with pytest.raises(ValueError, match="square"):
        decode_jpeg(encode_jpeg(textured(100, 224)))

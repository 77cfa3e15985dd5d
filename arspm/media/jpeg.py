"""Face images to and from JPEG."""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg

from arspm.corpus.schema import FACE_SIZE

MAX_STORED_SIDE = 4096  # pixels; a few bytes in a JPEG header could otherwise ask for gigabytes of memory


def encode_jpeg(rgb: np.ndarray, quality: int = 95) -> bytes:
    """Return the JPEG bytes of a uint8 RGB image (height, width, 3)."""
    encoded, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not encoded:
        raise ValueError(f"cannot encode an image of shape {rgb.shape} as JPEG")
    return data.tobytes()


def decode_jpeg(data: bytes, size: int = FACE_SIZE) -> np.ndarray:
    """Return a square JPEG as contiguous uint8 RGB (size, size, 3).

    For half the stored size or less, the JPEG decoder itself halves the image, which is faster and averages pixels.
    EXIF orientation is ignored; `encode_jpeg` writes none.
    Raises ValueError for a JPEG that is broken, not square or larger than MAX_STORED_SIDE.
    """
    if not (data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9")):  # libjpeg fills a missing end with grey
        raise ValueError(f"not a complete JPEG: {len(data)} bytes")
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        if max(height, width) > MAX_STORED_SIDE:
            raise ValueError(f"{width}x{height} pixels; a face has at most {MAX_STORED_SIDE} on a side")
        if height != width:
            raise ValueError(f"{width}x{height} pixels; a face must be square")
        half = (height + 1) // 2
        side = half if size * 2 <= FACE_SIZE and half >= size else height
        # Not strict: accept minor damage, such as extra bytes, which libjpeg only warns about.
        rgb = simplejpeg.decode_jpeg(data, min_height=side, min_width=side, strict=False)
    except ValueError as error:
        raise ValueError(f"a JPEG of {len(data)} bytes cannot be decoded: {error}") from None
    if side == size:
        return rgb
    return cv2.resize(rgb, (size, size), interpolation=cv2.INTER_AREA if size < side else cv2.INTER_CUBIC)

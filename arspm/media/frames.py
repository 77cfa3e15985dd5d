"""Frames of a video and pictures, as uint8 RGB arrays."""

from __future__ import annotations

import io
import struct
from typing import Any, Generic, TypeVar

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from arspm.corpus.schema import DropReason
from arspm.media.containers import (
    MAX_PIXELS,
    PICTURE_CONTAINERS,
    Source,
    check_pixels,
    open_container,
    open_source,
)
from arspm.media.dropped import DroppedClip

MAX_PICTURE_BYTES = 64 << 20

T = TypeVar("T")


def evenly_spaced(num_seen: int, num_frames: int) -> list[int]:
    """Return the indices of the frames that `decode_clip` keeps of a video of `num_seen` frames."""
    kept: EvenlySpaced[int] = EvenlySpaced(num_frames)
    for index in range(num_seen):
        kept.add(index)
    return kept.frames()


class EvenlySpaced(Generic[T]):
    """Evenly spaced frames of a stream of unknown length, in bounded memory.

    It keeps every frame, then every 2nd, every 4th and so on, so that there are always fewer than 2 * num_frames.
    """

    def __init__(self, num_frames: int) -> None:
        self.num_frames = num_frames
        self.kept: list[T] = []
        self.stride = 1
        self.num_seen = 0

    def add(self, frame: T) -> None:
        if self.num_seen % self.stride == 0:
            self.kept.append(frame)
        self.num_seen += 1
        if len(self.kept) >= 2 * self.num_frames:
            self.kept = self.kept[::2]
            self.stride *= 2

    def frames(self) -> list[T]:
        """Return `num_frames` of the kept frames, or all if there are fewer."""
        num_frames = min(self.num_frames, len(self.kept))
        return [self.kept[int((i + 0.5) * len(self.kept) / num_frames)] for i in range(num_frames)]


def to_rgb(frame: av.VideoFrame, aspect: float, reformatter: VideoReformatter) -> np.ndarray:
    """Return a video frame as uint8 (height, width, 3) with square pixels, turned and mirrored as the file says.

    aspect: width of a pixel divided by its height; ignored outside 0.25 to 4. HDR is mapped to the range of a usual
    screen (`tone_mapped`). reformatter: one for all frames of a video, because creating it takes longer than its work.
    """

    def converted(form: str) -> np.ndarray:
        # On one thread: clips are prepared in parallel, one per core.
        return reformatter.reformat(frame, width, frame.height, form, threads=1).to_ndarray()

    width = max(1, round(frame.width * aspect)) if 0.25 <= aspect <= 4 else frame.width
    transfer = int(frame.color_trc)
    if transfer in (PQ, HLG):
        signal = converted("rgb48le") / np.float32(65_535)
        rgb = tone_mapped(signal, transfer)
    else:
        rgb = converted("rgb24")
    return np.ascontiguousarray(_displayed(rgb, frame))


def _displayed(image: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """Return an image as the frame's display matrix says: turned by quarters, mirrored, or both.

    The matrix maps a stored position (x, y) to (a x + c y, b x + d y).
    """
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, a, d = image.swapaxes(0, 1), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


# Transfer functions of HDR video, as numbered in ITU-T H.273.
PQ, HLG = 16, 18
_WHITE_NITS = 203  # of paper in HDR (ITU-R BT.2408)
_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)  # from BT.2020's primaries (ITU-R BT.2087)


def tone_mapped(signal: np.ndarray, transfer: int) -> np.ndarray:
    """Return HDR video as uint8 BT.709 of the same shape. Paper becomes white; what is brighter is compressed.

    signal: (height, width, 3) in [0, 1] with BT.2020's primaries. transfer: PQ (SMPTE ST 2084) or HLG (ITU-R BT.2100,
    for a screen of 1000 nits).
    """
    if transfer == PQ:
        root = signal ** np.float32(1 / 78.84375)
        nits = 10_000 * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)
    else:
        scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12)
        luminance = scene @ np.array([0.2627, 0.6780, 0.0593], np.float32)
        nits = 1000 * scene * np.maximum(luminance, 1e-6)[..., None] ** 0.2
    light = np.maximum((nits / _WHITE_NITS).astype(np.float32) @ _TO_BT709.T, 0)
    knee = 0.7
    light = np.where(light < knee, light, knee + (1 - knee) * (1 - np.exp(-(light - knee) / (1 - knee))))
    video = np.where(light < 0.018, 4.5 * light, 1.099 * np.maximum(light, 1e-6) ** 0.45 - 0.099)
    return np.round(255 * np.clip(video, 0, 1)).astype(np.uint8)


def read_picture(source: Source, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return a JPEG, PNG, WebP, AVIF, GIF or BMP as uint8 RGB (height, width, 3), rotated as its EXIF says.

    FFmpeg reads the size from the header first, so that a small file cannot expand to gigabytes. Raises DroppedClip.
    """
    try:
        with open_source(source) as file:
            data = file.read(MAX_PICTURE_BYTES + 1)
        if len(data) > MAX_PICTURE_BYTES:
            raise DroppedClip(DropReason.undecodable, f"more than {MAX_PICTURE_BYTES >> 20} MiB")
        # Give FFmpeg bytes without a name: it takes a file name that ends in .jpg for a numbered series of files.
        with open_container(io.BytesIO(data), PICTURE_CONTAINERS) as container:
            header = container.streams.video[0].codec_context
            check_pixels(header.width, header.height, max_pixels)
    except DroppedClip as drop:
        raise DroppedClip(drop.reason, f"picture: {drop.detail}") from None
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        bgr = None
    if bgr is None:
        raise DroppedClip(DropReason.undecodable, "picture: cannot be decoded")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)

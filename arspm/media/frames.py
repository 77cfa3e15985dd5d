"""Frames of a video and pictures, as uint8 RGB arrays."""

from __future__ import annotations

import io
from typing import Generic, TypeVar

import av
import cv2
import numpy as np

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


def to_rgb(frame: av.VideoFrame, aspect: float) -> np.ndarray:
    """Return a video frame as uint8 (height, width, 3) with square pixels, rotated as the file's display matrix says.

    aspect: width of a pixel divided by its height; ignored outside 0.25 to 4.
    """
    width = max(1, round(frame.width * aspect)) if 0.25 <= aspect <= 4 else frame.width
    rgb = frame.to_ndarray(format="rgb24", width=width, height=frame.height)
    return np.ascontiguousarray(np.rot90(rgb, k=round(frame.rotation / 90) % 4))  # both count counter-clockwise


def read_picture(source: Source, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return a JPEG or PNG as uint8 RGB (height, width, 3), rotated as its EXIF says.

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

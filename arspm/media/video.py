"""The frames of a part of a video: its packets, of which as few as possible are decoded, to evenly spaced frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import av

from arspm.corpus.schema import DropReason
from arspm.media.containers import check_pixels, seconds
from arspm.media.dropped import DroppedClip
from arspm.media.frames import EvenlySpaced

MAX_FRAMES_PER_SECOND = 240
SEEK_ERROR_SECONDS = 0.2  # by which decoding may begin after the start
LATE_SECONDS = 2.0  # packets may be out of order by this much
FIELD_SECONDS = 0.05  # the two fields of an interlaced frame may be in two packets, at most this far apart
# Whose key frames are used alone. Those of MPEG-1, 2 and 4 may be less sharp than other frames (variance of the face's
# Laplacian in 13 clips of the GRID corpus: 14 to 19 % less, medians by detector), and decoding all takes little time.
KEY_FRAME_CODECS = ("h264", "hevc", "vp9", "av1", "mjpeg", "prores", "dnxhd")
MIN_KEY_FRAMES = 4  # in fewer, a blink or a turned head may hide the face
MAX_HELD_BYTES, MAX_HELD_PACKETS = 256 << 20, 4096


class Video:
    """Collects frames of a video stream between two times, on the file's clock, from its packets in order.

    Frames to which no other refers are not decoded (`choose_streams`), nor is what follows the end. `num_frames` evenly
    spaced ones of the others are kept. Packets without timestamps are decoded until a frame is after the end.

    `is_late`: the first intact frame is after the start. `num_decoded`, `num_refused`: frames that were decoded, and
    packets that cannot be decoded. `is_complete`: no further packet is needed.
    """

    def __init__(
        self,
        stream: Any,
        start: float,
        end: float,
        num_frames: int,
        *,
        max_pixels: int,
        max_decoded: float = math.inf,
    ) -> None:
        self.num_decoded = self.num_refused = 0
        self.is_late = self.is_complete = self.has_only_key_frames = False
        self._stream, self._context, self._base = stream, stream.codec_context, stream.time_base
        self._start, self._end, self._num_frames = start, end, num_frames
        self._max_pixels, self._max_decoded = max_pixels, max_decoded
        self._trim = self._key_frames = self._has_trimmed = self._has_begun = False
        self._held: list[Any] | None = None  # packets that may not be needed; None: what comes is decoded at once
        self._held_bytes = 0
        self._kept: EvenlySpaced[av.VideoFrame] = EvenlySpaced(num_frames)
        self._alone: list[av.VideoFrame] = []

    def hold(self, *, trim: bool, key_frames: bool) -> None:
        """Decode still less. Call it before the first packet.

        trim: nothing that precedes the last key frame at or before the start. key_frames: only `chosen_key_frames`, if
        there are enough and the codec is one of KEY_FRAME_CODECS, and otherwise all.
        """
        self._trim = trim
        self._key_frames = key_frames and self._context.codec.canonical_name in KEY_FRAME_CODECS
        self._held = [] if self._trim or self._key_frames else None

    def frames(self) -> list[av.VideoFrame]:
        """Return the frames in order of time. Call it after `finish`."""
        return self._alone if self.has_only_key_frames else self._kept.frames()

    def add(self, packet: Any) -> None:
        """Add the stream's next packet. Raises DroppedClip(undecodable): too many frames or pixels."""
        if self.is_complete:
            return
        if not packet.size and packet.dts is None:  # the end of the file
            self.finish()
            return
        order = None if packet.dts is None else seconds(packet.dts, self._base)
        time = None if packet.pts is None else seconds(packet.pts, self._base)
        if order is not None and order > self._end + (LATE_SECONDS if time is None else FIELD_SECONDS):
            self.finish(drain=time is not None)
            return
        if self._held is None:
            self._decode(packet)
            return
        if self._trim and packet.is_keyframe and time is not None and time <= self._start:
            self._has_trimmed = self._has_trimmed or bool(self._held)
            self._held, self._held_bytes = [], 0
        self._held.append(packet)
        self._held_bytes += packet.size
        if time is None or self._held_bytes > MAX_HELD_BYTES or len(self._held) > MAX_HELD_PACKETS:
            self._release()
        elif not self._key_frames and order is not None and order > self._start:
            self._release()  # no later key frame can be before the start

    def finish(self, *, drain: bool = True) -> None:
        """Decode what is still needed."""
        if self.is_complete:
            return
        self.is_complete = True
        if self._key_frames and self._held and self._decode_alone():
            return
        self._release()
        if drain:
            self._decode(None)

    def _release(self) -> None:
        """Decode the packets that are held, and hold no more."""
        held, self._held = self._held, None
        for packet in held or ():
            self._decode(packet)

    def _decode(self, packet: Any) -> None:
        for frame in self._decoded(packet):
            if not self._has_begun and not frame.is_corrupt:
                self._has_begun = True
                error = 0.0 if self._has_trimmed else SEEK_ERROR_SECONDS
                self.is_late = frame.time is not None and frame.time > self._start + error
            if frame.time is not None and frame.time >= self._end:
                self.is_complete = True
            if not frame.is_corrupt and (frame.time is None or self._start <= frame.time < self._end):
                self._kept.add(frame)

    def _decode_alone(self) -> bool:
        """Decode the chosen key frames. Returns False if there are too few, or one of them is not what it should be."""
        chosen = chosen_key_frames(self._held or (), self._start, self._end, self._num_frames, self._base)
        for packet in chosen:
            frames = [*self._decoded(packet), *self._decoded(None)]
            self._context.flush_buffers()
            # Half of an interlaced frame may be in the next packet, and some files mark every packet as a key frame.
            if len(frames) != 1 or frames[0].is_corrupt or not frames[0].key_frame or frames[0].interlaced_frame:
                self._alone, self.num_refused = [], 0
                return False
            self._alone += frames
        self.has_only_key_frames = bool(chosen)
        return self.has_only_key_frames

    def _decoded(self, packet: Any) -> list[av.VideoFrame]:
        """Return the frames that a packet completes; those that the decoder still has, without a packet."""
        try:
            frames: list[av.VideoFrame] = self._context.decode(packet)
        except av.error.FFmpegError:
            self.num_refused += 1
            return []
        for frame in frames:
            check_pixels(frame.width, frame.height, self._max_pixels)
            frame.time_base = self._base  # PyAV does not know it of the last frames
        self.num_decoded += len(frames)
        if self.num_decoded > self._max_decoded:
            raise DroppedClip(DropReason.undecodable, f"more than {MAX_FRAMES_PER_SECOND} frames per second")
        return frames


def chosen_key_frames(packets: Sequence[Any], start: float, end: float, num_frames: int, time_base: Any) -> list[Any]:
    """Return up to `num_frames` packets with key frames between two times; none if they are too few or badly spaced.

    The time is divided into `num_frames` equal parts. Of each part, the key frame that is nearest to its middle is
    chosen. At most every second part may have none: parts 0 and 1 together need one, 2 and 3, and so on. Four key
    frames are needed in any case, or `num_frames` if that is less.
    """
    part_seconds = (end - start) / num_frames
    nearest: dict[int, tuple[float, Any]] = {}
    for packet in packets:
        time = seconds(packet.pts, time_base)
        if packet.is_keyframe and not packet.is_discard and start <= time < end:
            part = min(int((time - start) / part_seconds), num_frames - 1)
            distance = abs(time - start - (part + 0.5) * part_seconds)
            if part not in nearest or distance < nearest[part][0]:
                nearest[part] = (distance, packet)
    if len({part // 2 for part in nearest}) < (num_frames + 1) // 2 or len(nearest) < min(num_frames, MIN_KEY_FRAMES):
        return []
    return [packet for _, (_, packet) in sorted(nearest.items())]

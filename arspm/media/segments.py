"""Cut a part out of a video without decoding it: the packets of [start, end), and those that they depend on.

Nothing is encoded, so a clip costs no quality and a few milliseconds. The picture begins with the key frame at or
before the start, and the sound with a packet or two before it. An MP4's edit list says that playing begins at the
start; FFmpeg's decoders, and players, obey it. Matroska has no edit list: there the picture begins before the sound,
and `clips.decode_clip` looks at no frame before the sound begins.
"""

from __future__ import annotations

import heapq
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, BinaryIO, NamedTuple

import av
from av.container import InputContainer

from arspm.corpus.schema import DropReason
from arspm.media.clips import SEEK_MARGINS_SECONDS
from arspm.media.containers import CONTAINERS, best_stream, open_container, require_media
from arspm.media.dropped import DroppedClip
from arspm.media.video import LATE_SECONDS, SEEK_ERROR_SECONDS

TOLERANCE_SECONDS = 0.5  # by which a clip's sound may be shorter than its row, as `data.tolerance_seconds`
# What FFmpeg writes into MP4 and other programs read there.
_MP4_CODECS = {"h264", "hevc", "vp9", "av1", "mpeg4", "aac", "opus", "mp3", "flac", "ac3", "eac3"}
# Packets of sound before the first one that is heard, which a decoder needs to decode that one: AAC overlaps with one,
# MP3 borrows bits from several, Opus converges in 80 ms.
_PREROLL = {"mp3": 4, "opus": 4}


class _Sample(NamedTuple):
    """A packet and its times on the file's clock, in seconds: when it is decoded, is shown, and is over."""

    order: float
    time: float
    end: float
    packet: Any


def cut(sources: Sequence[BinaryIO], start: float, end: float, folder: str | os.PathLike[str]) -> str:
    """Write [start, end) of a video into a folder, as `clip.mp4` or, for codecs that MP4 lacks, `clip.mkv`.

    Returns the path. sources: one file with picture and sound, or two files on one clock: the picture and the sound.
    start, end: seconds from the file's beginning, as in AVSpeech.

    Only what is needed is read, if the sources can seek. Raises DroppedClip: undecodable, no_video, no_sound,
    wrong_length (the sound ends more than TOLERANCE_SECONDS before the end).
    """
    for margin in SEEK_MARGINS_SECONDS:
        if start > margin and (path := _cut(sources, start, end, folder, start - margin)):
            return path
    path = _cut(sources, start, end, folder, None)
    assert path is not None
    return path


def _cut(
    sources: Sequence[BinaryIO], start: float, end: float, folder: str | os.PathLike[str], seek_to: float | None
) -> str | None:
    """Return the path of the clip, made of what follows `seek_to`; None if the key frame is before that."""
    with ExitStack() as stack:
        containers = []
        for source in sources:
            require_media(source)
            containers.append(stack.enter_context(open_container(source, CONTAINERS)))
        video, audio = _streams(containers)
        zero = max(0.0, min(each.start_time or 0 for each in containers) / av.time_base)
        begin = zero + start
        if seek_to is not None:
            for container in containers:
                container.seek(int((zero + seek_to) * av.time_base), backward=True)
        codecs = [each.codec_context.codec.canonical_name for each in (video, audio)]
        in_mp4 = _MP4_CODECS.issuperset(codecs)
        picture = _Picture(begin, zero + end)
        sound = _Sound(begin, zero + end, _PREROLL.get(codecs[1], 1) if in_mp4 else 0)
        path = os.path.join(folder, "clip.mp4" if in_mp4 else "clip.mkv")
        with av.open(path, "w", options={"fflags": "+bitexact"}) as target:
            copies = {stream: target.add_stream_from_template(stream) for stream in (video, audio)}
            for sample in heapq.merge(*(_samples(each, (video, audio)) for each in containers), key=_order):
                part = picture if sample.packet.stream is video else sound
                for packet in part.packets(sample):
                    offset = round(begin / packet.time_base)
                    packet.pts, packet.dts = packet.pts - offset, packet.dts - offset
                    packet.stream = copies[packet.stream]
                    target.mux(packet)
                if seek_to is not None and picture.is_late:
                    return None
                if sound.is_complete and (picture.is_complete or sample.order > zero + end + LATE_SECONDS):
                    break
    if sound.last < zero + end - TOLERANCE_SECONDS:
        last = max(0.0, sound.last - zero)
        raise DroppedClip(DropReason.wrong_length, f"the sound ends at {last:.2f} s, and the clip at {end:.2f} s")
    if not picture.num_packets:
        raise DroppedClip(DropReason.no_video, "no picture while the sound lasts")
    return path


def _streams(containers: Sequence[InputContainer]) -> tuple[Any, Any]:
    """Return the streams of picture and sound that `decode_clip` would choose. Raises DroppedClip."""
    streams = [each for container in containers for each in container.streams]
    video, audio = (best_stream(each for each in streams if each.type == kind) for kind in ("video", "audio"))
    if video is None:
        raise DroppedClip(DropReason.no_video, "no video in the file")
    if audio is None:
        raise DroppedClip(DropReason.no_sound, "no sound in the file")
    return video, audio


def _samples(container: InputContainer, streams: Sequence[Any]) -> Iterator[_Sample]:
    """Yield the packets of those of the streams that are in this container. Packets without a time are left out."""
    undated: dict[Any, list[Any]] = {stream: [] for stream in streams}
    for packet in container.demux([each for each in streams if each.container is container]):
        held = undated[packet.stream]
        if packet.size and (packet.pts is not None or packet.dts is not None):
            packet.pts = packet.dts if packet.pts is None else packet.pts
            held.append(packet)
        # Matroska says only when frames are shown. FFmpeg then finds out when they are decoded, but not for the first.
        if packet.dts is not None or not packet.size:
            _date(held)
            yield from map(_sample, held)
            held.clear()


def _date(packets: Sequence[Any]) -> None:
    """Set the decoding times that are missing, by those that follow."""
    following = math.inf
    for packet in reversed(packets):
        if packet.dts is None:
            packet.dts = int(min(packet.pts, following - max(1, packet.duration or 0)))
        following = packet.dts


def _sample(packet: Any) -> _Sample:
    order, time, seconds = (float((each or 0) * packet.time_base) for each in (packet.dts, packet.pts, packet.duration))
    return _Sample(order, time, time + seconds, packet)


def _order(sample: _Sample) -> float:
    return sample.order


class _Picture:
    """Chooses packets: from the last key frame at or before the start, in the order of decoding.

    A frame after the end is kept only if one before the end follows it, which then refers to it.
    """

    def __init__(self, start: float, end: float) -> None:
        self.start, self.end = start, end
        self.num_packets = 0
        self.is_complete = self.is_late = False
        self._held: list[Any] = []
        self._has_key = self._has_begun = False

    def packets(self, sample: _Sample) -> list[Any]:
        """Return the packets to write now."""
        packet = sample.packet
        if self.is_complete or sample.order >= self.end:
            self.is_complete = True
            return []
        if packet.is_keyframe and not self._has_key:
            self.is_late = sample.time > self.start + SEEK_ERROR_SECONDS
        if packet.is_keyframe and (sample.time <= self.start or not self._has_key):
            self._held, self._has_key = [], True
        if not self._has_key:
            return []
        self._held.append(packet)
        # Until then a later key frame may be at or before the start, too.
        self._has_begun = self._has_begun or sample.order > self.start
        if not self._has_begun or sample.time >= self.end:
            return []
        ready, self._held = self._held, []
        self.num_packets += len(ready)
        return ready


class _Sound:
    """Chooses packets: those that are heard between start and end, and `preroll` packets before them."""

    def __init__(self, start: float, end: float, preroll: int) -> None:
        self.start, self.end = start, end
        self.last = -math.inf  # when what was chosen is over
        self.is_complete = False
        self._preroll, self._held = preroll, list[Any]()

    def packets(self, sample: _Sample) -> list[Any]:
        """Return the packets to write now."""
        if self.is_complete or sample.time >= self.end:
            self.is_complete = True
            return []
        if sample.end <= self.start:
            self._held = [*self._held, sample.packet][-self._preroll :] if self._preroll else []
            return []
        ready, self._held = [*self._held, sample.packet], []
        self.last = max(self.last, sample.end)
        return ready

"""The frames and the sound of a clip: a media file, or a part of one."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import av
import numpy as np
from av.container import InputContainer

from arspm.corpus.schema import SPEECH_SECONDS, DropReason
from arspm.media.containers import (
    CONTAINERS,
    MAX_PIXELS,
    Source,
    check_pixels,
    check_sound_format,
    open_container,
    open_source,
    require_media,
)
from arspm.media.dropped import DroppedClip
from arspm.media.frames import EvenlySpaced, read_picture, to_rgb
from arspm.media.sound import Sound
from arspm.media.speech import begin_of_most_speech, find_speech, require_length
from arspm.storage.uris import redact

MAX_FRAMES_PER_SECOND = 240
SCANNED_SECONDS = 120.0  # files up to this length are read once to find where their sound begins and ends
# How far before the clip decoding begins: some codecs need the packets before the first sample, and MPEG's containers
# have no index of key frames, so that the next one may be too late.
SEEK_MARGINS_SECONDS = (0.5, 15.0)
SEEK_ERROR_SECONDS = 0.2
MAX_RECORDING_SECONDS = 3600.0  # of a recording in which speech is looked for
LATE_SECONDS = 2.0  # packets may be out of order by this much


@dataclass(frozen=True, slots=True)
class Media:
    """`frames`: uint8 RGB arrays (height, width, 3) in order of time. `waveform`: float32 mono, (samples,)."""

    frames: list[np.ndarray]
    waveform: np.ndarray


class Span(NamedTuple):
    """The time from `start` to `end` on a file's clock, in seconds. `zero`: where the file itself begins."""

    start: float
    end: float
    zero: float

    @property
    def seconds(self) -> float:
        return self.end - self.start

    def first(self, seconds: float) -> Span:
        """Return the beginning of the span, or all of it if it is shorter."""
        return self._replace(end=min(self.end, self.start + seconds))


def decode_clip(
    source: Source,
    *,
    part: tuple[float, float] | None = None,
    image: Source | None = None,
    num_frames: int = 8,
    sample_rate: int = 16_000,
    max_seconds: float = 3600.0,
    max_pixels: int = MAX_PIXELS,
    min_seconds: float = 0.5,
    speech_seconds: float = SPEECH_SECONDS,
    most_speech: bool = False,
    tolerance_seconds: float = 0.5,
) -> Media:
    """Return `speech_seconds` of a clip's sound, and up to `num_frames` upright frames of the same time.

    These are the first seconds, or those with most speech (`speech.begin_of_most_speech`).

    source: a file in a container and codec that FFmpeg commonly reads. part: start and end of the clip in the video, in
    seconds; None if the file is the clip. With a part, the file may be the whole video, which is then cut by seeking,
    or the clip itself, which lasts end - start within the tolerance. image: a JPEG or PNG that replaces the frames, for
    a sound file. The frames are evenly spaced, and only from the time of the sound: before and after it, the video may
    show somebody else. Sound and frames are those of the streams that FFmpeg chooses; `Sound` says how channels are
    mixed.

    Raises DroppedClip: missing_file, undecodable (broken, or over `max_pixels`), no_video, no_sound, wrong_length
    (neither the clip nor a video that contains it), too_long (over `max_seconds`), too_short (less than `min_seconds`
    of sound).
    """
    picture = None if image is None else [read_picture(image, max_pixels)]
    with open_source(source) as file:
        if part is not None:
            _require_at_most(part[1] - part[0], max_seconds)
        extent = _sound_extent(file)
        span = _clip_span(extent, part, tolerance_seconds, min_seconds)
        _require_at_most(span.seconds, max_seconds)
        span = _heard(file, extent, span, speech_seconds, sample_rate, most_speech=most_speech)
        wanted = 0 if picture else num_frames
        video_frames, waveform = _decode_span(file, extent, span, wanted, sample_rate, max_pixels)
    require_length(waveform.size / sample_rate, min_seconds)
    frames = picture or video_frames
    if not frames:
        raise DroppedClip(DropReason.no_video, "no frame can be decoded while the sound lasts")
    return Media(frames, waveform)


def load_speech(source: Source, *, sample_rate: int = 16_000, most_speech: bool = False) -> np.ndarray:
    """Return six seconds of a recording (wav, flac, mp3, m4a, mp4, ...): float32 mono, (samples,).

    As in a corpus, they are the first ones or those with most speech, and their speech has one level (`find_speech`).
    Raises ValueError with one line that says what is wrong with the file.
    """
    name = redact(str(source)) if isinstance(source, (str, os.PathLike)) else "the recording"
    try:
        with open_source(source) as file:
            extent = _sound_extent(file)
            span = extent.first(MAX_RECORDING_SECONDS)
            span = _heard(file, extent, span, SPEECH_SECONDS, sample_rate, most_speech=most_speech)
            return find_speech(_decode_span(file, extent, span, 0, sample_rate, MAX_PIXELS)[1]).waveform
    except DroppedClip as drop:
        raise ValueError(f"{name}: {drop.detail}") from None


def decode_sound(source: Source, *, sample_rate: int = 16_000, max_seconds: float = math.inf) -> np.ndarray:
    """Return the first `max_seconds` of a recording: float32 mono, (samples,). Raises DroppedClip."""
    with open_source(source) as file:
        extent = _sound_extent(file)
        return _decode_span(file, extent, extent.first(max_seconds), 0, sample_rate, MAX_PIXELS)[1]


def _heard(file: BinaryIO, extent: Span, span: Span, seconds: float, sample_rate: int, *, most_speech: bool) -> Span:
    """Return the part of a clip's span that is used: the first `seconds`, or those with most speech."""
    if most_speech and span.seconds > seconds:
        _, waveform = _decode_span(file, extent, span, 0, sample_rate, MAX_PIXELS)
        span = span._replace(start=span.start + begin_of_most_speech(waveform, seconds))
    return span.first(seconds)


def _decode_span(
    file: BinaryIO, extent: Span, span: Span, num_frames: int, sample_rate: int, max_pixels: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the frames and the waveform of a span of a file whose sound has this extent."""
    decoded = None
    for margin in SEEK_MARGINS_SECONDS:
        if decoded is None and span.start - margin > extent.start:
            decoded = _decode(file, span, num_frames, sample_rate, max_pixels, seek_to=span.start - margin)
    if decoded is None:  # nothing to seek, or not possible: decode what is before the clip, too
        decoded = _decode(file, span, num_frames, sample_rate, max_pixels, whole=span.start == extent.start)
    assert decoded is not None
    return decoded


def _sound_extent(file: BinaryIO) -> Span:
    """Return when the file's sound begins and ends: of a short file exactly, of a longer one by its header."""
    require_media(file)
    with open_container(file, CONTAINERS) as container:
        _, sound = _streams(container, want_video=False, max_pixels=MAX_PIXELS)
        begin = (container.start_time or 0) / av.time_base
        seconds = 0.0 if container.duration is None else container.duration / av.time_base
        first, last = math.inf, -math.inf
        for packet in container.demux(sound):
            if packet.pts is not None and packet.size:
                first = min(first, float(packet.pts * packet.time_base))
                last = max(last, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if seconds > SCANNED_SECONDS:
                    return Span(first, begin + seconds, max(0.0, begin))
    return Span(first, last, max(0.0, begin)) if first < last else Span(begin, begin, max(0.0, begin))


def _clip_span(extent: Span, part: tuple[float, float] | None, tolerance: float, min_seconds: float) -> Span:
    """Return when the clip is, on the file's clock. Raises DroppedClip(too_short) or DroppedClip(wrong_length)."""
    if part is None or extent.seconds < min_seconds:
        return extent  # too short is said after decoding, which knows better
    start, end = part
    if abs(extent.seconds - (end - start)) <= tolerance:
        return extent
    if extent.zero + end <= extent.end + tolerance:
        return Span(extent.zero + start, extent.zero + end, extent.zero)
    raise DroppedClip(
        DropReason.wrong_length,
        f"the file's sound lasts {extent.seconds:.2f} s: neither {end - start:.2f} s, as the clip, nor until "
        f"{end:.2f} s, where the clip ends",
    )


def _require_at_most(seconds: float, max_seconds: float) -> None:
    if seconds > max_seconds:
        raise DroppedClip(DropReason.too_long, f"{seconds:.1f} s; the limit is {max_seconds:g} s")


def _decode(
    file: BinaryIO,
    span: Span,
    num_frames: int,
    sample_rate: int,
    max_pixels: int,
    *,
    seek_to: float | None = None,
    whole: bool = False,
) -> tuple[list[np.ndarray], np.ndarray] | None:
    """Return the frames and the waveform of a span from one pass over the file; None if seeking went too far.

    whole: the waveform begins with the file's first sample, whatever its time. Packets that FFmpeg cannot decode are
    skipped, as its own program does, if they are at most a tenth of all.
    """
    file.seek(0)
    with open_container(file, CONTAINERS) as container:
        video, stream = _streams(container, want_video=num_frames > 0, max_pixels=max_pixels)
        if seek_to is not None:
            container.seek(int(seek_to * av.time_base), backward=True)
        sound = Sound(sample_rate, None, span.seconds) if whole else Sound(sample_rate, span.start, span.end)
        kept: EvenlySpaced[av.VideoFrame] = EvenlySpaced(num_frames)
        num_packets = num_refused = num_decoded = 0
        video_time = -math.inf if video is not None else math.inf
        for packet in container.demux([each for each in (video, stream) if each is not None]):
            time = None if packet.dts is None else float(packet.dts * packet.time_base)
            late = time is not None and time > span.end + LATE_SECONDS
            if late and packet.stream is stream:
                break
            if late:
                video_time = math.inf  # and the sound may still come, if the file is badly interleaved
                continue
            num_packets += 1
            try:
                decoded = packet.decode()
            except av.error.FFmpegError:
                num_refused += 1
                continue
            first: float | None = None
            for frame in decoded:
                if isinstance(frame, av.VideoFrame):
                    first = frame.time if num_decoded == 0 else None
                    num_decoded += 1
                    check_pixels(frame.width, frame.height, max_pixels)
                    video_time = max(video_time, 0.0) if frame.time is None else frame.time
                    if not frame.is_corrupt and (frame.time is None or span.start <= frame.time < span.end):
                        kept.add(frame)
                elif isinstance(frame, av.AudioFrame):
                    sound.add(frame)
                    first = sound.first
                if seek_to is not None and first is not None and first > span.start + SEEK_ERROR_SECONDS:
                    return None
            if sound.is_complete and video_time >= span.end:
                break
            if num_decoded > MAX_FRAMES_PER_SECOND * (span.end - span.zero + LATE_SECONDS):
                raise DroppedClip(DropReason.undecodable, f"more than {MAX_FRAMES_PER_SECOND} frames per second")
        if seek_to is not None and video is not None and not kept.kept:
            return None  # no key frame between there and the end
        if num_refused * 10 > num_packets:
            raise DroppedClip(DropReason.undecodable, f"{num_refused} of {num_packets} packets cannot be decoded")
        aspect = float(video.sample_aspect_ratio or 1) if video is not None else 1.0
        return [to_rgb(frame, aspect) for frame in kept.frames()], sound.waveform()


def _streams(container: InputContainer, *, want_video: bool, max_pixels: int) -> tuple[Any, Any]:
    """Return the video stream (None if not wanted) and the sound stream that FFmpeg would choose.

    Of several streams of a kind, that is one with the default flag, then the one with the most pixels or channels.
    """
    flags = av.stream.Disposition

    def choose(streams: Iterable[Any]) -> Any:
        """Return the stream to decode, None if there is none. Cover art is no video."""
        every = [each for each in streams if not each.disposition & flags.attached_pic]
        usable = [each for each in every if each.codec_context is not None]
        if every and not usable:
            raise DroppedClip(DropReason.undecodable, f"no decoder for its {every[0].type}")
        return max(usable, key=rank, default=None)

    def rank(stream: Any) -> tuple[bool, int]:
        codec = stream.codec_context
        size = codec.width * codec.height if stream.type == "video" else codec.layout.nb_channels
        return bool(stream.disposition & flags.default), size

    video = choose(container.streams.video) if want_video else None
    sound = choose(container.streams.audio)
    if want_video and video is None:
        raise DroppedClip(DropReason.no_video, "no video in the file")
    if sound is None:
        raise DroppedClip(DropReason.no_sound, "no sound in the file")
    if sound.codec_context.sample_rate:  # else the header does not say
        check_sound_format(sound.codec_context)
    if video is not None:
        check_pixels(video.codec_context.width, video.codec_context.height, max_pixels)
        video.codec_context.thread_count = 1  # clips are decoded in parallel, one per core
        video.codec_context.skip_frame = "NONREF"  # decodes every second frame of most H.264, in half the time
    return video, sound

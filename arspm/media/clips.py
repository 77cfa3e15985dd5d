"""The frames and the sound of a clip: a media file, or a part of one."""

from __future__ import annotations

import functools
import math
import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from arspm.corpus.schema import SPEECH_SECONDS, DropReason
from arspm.media.containers import (
    CONTAINERS,
    MAX_PIXELS,
    Source,
    choose_streams,
    open_container,
    open_source,
    require_media,
)
from arspm.media.containers import seconds as to_seconds
from arspm.media.dropped import DroppedClip
from arspm.media.frames import to_rgb
from arspm.media.sound import Sound
from arspm.media.speech import begin_of_most_speech, find_speech, require_length
from arspm.media.video import LATE_SECONDS, MAX_FRAMES_PER_SECOND, SEEK_ERROR_SECONDS, Video
from arspm.storage.uris import redact

SCANNED_SECONDS = 120.0  # files up to this length are read once to find where their sound begins and ends
# How far before the clip decoding begins: some codecs need the packets before the first sample, and MPEG's containers
# have no index of key frames, so that the next one may be too late.
SEEK_MARGINS_SECONDS = (0.5, 15.0)
# The last key frame before the start need not be one at which decoding can begin: if the picture is renewed bit by bit,
# it is complete seconds later. Then decoding begins before it.
_SEEKS = tuple((margin, trim) for margin in SEEK_MARGINS_SECONDS for trim in (True, False))
MAX_RECORDING_SECONDS = 3600.0  # of a recording in which speech is looked for


@dataclass(frozen=True, slots=True)
class Media:
    """What is used of a clip, and what was found out about its file.

    `frames`: uint8 RGB arrays (height, width, 3) in order of time, and for each the `frame_seconds` after the clip's
    start, None without timestamps. `waveform`: float32 mono, (samples,), which begins `start_seconds` after the clip's
    start. `source_seconds`: how long the file's sound lasts, for files of more than two minutes by their header.
    `has_own_sound`: False if the waveform is from a separate file. `video_codec`: None if no frames were wanted.
    `num_decoded`: frames that were decoded. `has_only_key_frames`: whether only key frames were.
    """

    frames: list[np.ndarray]
    frame_seconds: list[float | None]
    waveform: np.ndarray
    start_seconds: float
    source_bytes: int
    source_seconds: float
    has_own_sound: bool
    video_codec: str | None
    audio_codec: str
    num_decoded: int
    has_only_key_frames: bool


class _Decoded(NamedTuple):
    """Frames with their times on the file's clock, the waveform, and the codecs' names; None or empty if not wanted."""

    frames: list[tuple[float | None, np.ndarray]]
    waveform: np.ndarray
    video_codec: str | None
    audio_codec: str | None
    num_decoded: int
    has_only_key_frames: bool


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
    sound: Source | None = None,
    part: tuple[float, float] | None = None,
    num_frames: int = 8,
    key_frames: bool = False,
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

    source: a file in a container and codec that FFmpeg commonly reads. sound: the file with its sound, on the same
    clock, which is read only if the source has no sound. part: start and end of the clip in the video, in seconds; None
    if the file is the clip. With a part, the file may be the whole video, which is then cut by seeking, or the clip
    itself, which lasts end - start within the tolerance. num_frames: 0 for a sound file. The frames are evenly spaced,
    and only from the time of the sound: before and after it, the video may show somebody else. They are chosen among
    the frames to which others refer, because only these are decoded. key_frames: choose among the key frames, which
    need no other frame, if there are enough (`chosen_key_frames`); there may then be half as many. Sound and frames are
    those of the streams that FFmpeg chooses; `Sound` says how channels are mixed.

    Raises DroppedClip: missing_file, undecodable (broken, or over `max_pixels`), no_video, no_sound, wrong_length
    (neither the clip nor a video that contains it), too_long (over `max_seconds`), too_short (less than `min_seconds`
    of sound).
    """
    with ExitStack() as stack:
        if part is not None:
            _require_at_most(part[1] - part[0], max_seconds)
        file = sound_file = stack.enter_context(open_source(source))
        try:
            extent = _sound_extent(file)
        except DroppedClip as drop:
            if sound is None or drop.reason is not DropReason.no_sound:
                raise
            sound_file = stack.enter_context(open_source(sound))
            extent = _sound_extent(sound_file)
        clip = _clip_span(extent, part, tolerance_seconds, min_seconds)
        _require_at_most(clip.seconds, max_seconds)
        span = _heard(sound_file, extent, clip, speech_seconds, sample_rate, most_speech=most_speech)
        frames_here = num_frames if sound_file is file else 0
        decode = functools.partial(_decode_span, extent=extent, span=span, sample_rate=sample_rate)
        decode = functools.partial(decode, max_pixels=max_pixels, key_frames=key_frames)
        heard = seen = decode(sound_file, num_frames=frames_here)
        require_length(heard.waveform.size / sample_rate, min_seconds)
        if sound_file is not file and num_frames:
            seen = decode(file, num_frames=num_frames, want_sound=False)
        num_bytes = file.seek(0, os.SEEK_END)
    if num_frames and not seen.frames:
        raise DroppedClip(DropReason.no_video, "no frame can be decoded while the sound lasts")
    assert heard.audio_codec is not None
    return Media(
        frames=[rgb for _, rgb in seen.frames],
        frame_seconds=[None if time is None else time - clip.start for time, _ in seen.frames],
        waveform=heard.waveform,
        start_seconds=span.start - clip.start,
        source_bytes=num_bytes,
        source_seconds=extent.seconds,
        has_own_sound=sound_file is file,
        video_codec=seen.video_codec,
        audio_codec=heard.audio_codec,
        num_decoded=seen.num_decoded,
        has_only_key_frames=seen.has_only_key_frames,
    )


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
            return find_speech(_decode_span(file, extent, span, 0, sample_rate, MAX_PIXELS).waveform).waveform
    except DroppedClip as drop:
        raise ValueError(f"{name}: {drop.text}") from None


def decode_sound(source: Source, *, sample_rate: int = 16_000, max_seconds: float = math.inf) -> np.ndarray:
    """Return the first `max_seconds` of a recording: float32 mono, (samples,). Raises DroppedClip."""
    with open_source(source) as file:
        extent = _sound_extent(file)
        return _decode_span(file, extent, extent.first(max_seconds), 0, sample_rate, MAX_PIXELS).waveform


def _heard(file: BinaryIO, extent: Span, span: Span, seconds: float, sample_rate: int, *, most_speech: bool) -> Span:
    """Return the part of a clip's span that is used: the first `seconds`, or those with most speech."""
    if most_speech and span.seconds > seconds:
        waveform = _decode_span(file, extent, span, 0, sample_rate, MAX_PIXELS).waveform
        span = span._replace(start=span.start + begin_of_most_speech(waveform, seconds))
    return span.first(seconds)


def _decode_span(
    file: BinaryIO,
    extent: Span,
    span: Span,
    num_frames: int,
    sample_rate: int,
    max_pixels: int,
    *,
    want_sound: bool = True,
    key_frames: bool = False,
) -> _Decoded:
    """Return the frames and the waveform of a span of a file whose sound has this extent."""
    decode = functools.partial(
        _decode, file, span, num_frames, sample_rate, max_pixels, want_sound=want_sound, key_frames=key_frames
    )
    decoded = None
    for margin, trim in _SEEKS:
        if decoded is None and span.start - margin > extent.start:
            decoded = decode(seek_to=span.start - margin, trim=trim)
    if decoded is None:  # nothing to seek, or not possible: decode what is before the clip, too
        decoded = decode(whole=span.start == extent.start)
    assert decoded is not None
    return decoded


def _sound_extent(file: BinaryIO) -> Span:
    """Return when the file's sound begins and ends: of a short file exactly, of a longer one by its header."""
    require_media(file)
    with open_container(file, CONTAINERS) as container:
        _, sound = choose_streams(container, want_video=False)
        begin = (container.start_time or 0) / av.time_base
        seconds = 0.0 if container.duration is None else container.duration / av.time_base
        first, last = math.inf, -math.inf
        base = sound.time_base
        for packet in container.demux(sound):
            if packet.pts is not None and packet.size:
                first = min(first, to_seconds(packet.pts, base))
                last = max(last, to_seconds(packet.pts + (packet.duration or 0), base))
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
    want_sound: bool = True,
    key_frames: bool = False,
    seek_to: float | None = None,
    trim: bool = False,
    whole: bool = False,
) -> _Decoded | None:
    """Return the frames and the waveform of a span from one pass over the file; None if seeking went too far.

    key_frames, trim: as in `Video`. whole: the waveform begins with the file's first sample, whatever its time. Packets
    that FFmpeg cannot decode are skipped, as its own program does, if they are at most a tenth of all.
    """
    file.seek(0)
    with open_container(file, CONTAINERS) as container:
        want_video = num_frames > 0
        video, stream = choose_streams(container, want_video=want_video, want_sound=want_sound, max_pixels=max_pixels)
        if seek_to is not None:
            container.seek(int(seek_to * av.time_base), backward=True)
        sound = Sound(sample_rate, None, span.seconds) if whole else Sound(sample_rate, span.start, span.end)
        pictures = None
        if video is not None:
            limit = MAX_FRAMES_PER_SECOND * (span.end - span.zero + LATE_SECONDS)
            pictures = Video(video, span.start, span.end, num_frames, max_pixels=max_pixels, max_decoded=limit)
            pictures.hold(trim=trim, key_frames=key_frames)
        num_packets = num_refused = 0
        for packet in container.demux([each for each in (video, stream) if each is not None]):
            num_packets += 1
            if pictures is not None and packet.stream is video:
                pictures.add(packet)
            elif packet.dts is not None and to_seconds(packet.dts, stream.time_base) > span.end + LATE_SECONDS:
                break
            else:
                try:
                    decoded = packet.decode()
                except av.error.FFmpegError:
                    num_refused += 1
                    continue
                for frame in decoded:
                    assert isinstance(frame, av.AudioFrame)
                    sound.add(frame)
            if seek_to is not None and (
                (pictures is not None and pictures.is_late)
                or (sound.first is not None and sound.first > span.start + SEEK_ERROR_SECONDS)
            ):
                return None
            if (stream is None or sound.is_complete) and (pictures is None or pictures.is_complete):
                break
        kept: list[av.VideoFrame] = []
        if pictures is not None:
            pictures.finish()
            kept = pictures.frames()
            num_refused += pictures.num_refused
            if seek_to is not None and (pictures.is_late or not kept):
                return None  # no key frame before the span, or none between there and the end
        if num_refused * 10 > num_packets:
            raise DroppedClip(DropReason.undecodable, f"{num_refused} of {num_packets} packets cannot be decoded")
        aspect = float(video.sample_aspect_ratio or 1) if video is not None else 1.0
        reformatter = VideoReformatter()
        return _Decoded(
            [(frame.time, to_rgb(frame, aspect, reformatter)) for frame in kept],
            sound.waveform(),
            _codec(video),
            _codec(stream),
            0 if pictures is None else pictures.num_decoded,
            pictures is not None and pictures.has_only_key_frames,
        )


def _codec(stream: Any) -> str | None:
    """Return the name of a stream's codec, not that of one of its decoders."""
    return None if stream is None else str(stream.codec_context.codec.canonical_name)

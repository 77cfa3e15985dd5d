"""The frames and the sound of a clip's media file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.container import InputContainer

from arspm.corpus.schema import DropReason
from arspm.media.audio import check_speech
from arspm.media.containers import (
    CONTAINERS,
    MAX_PIXELS,
    Limits,
    Source,
    check_pixels,
    check_sound_format,
    open_container,
    open_source,
)
from arspm.media.dropped import DroppedClip
from arspm.media.frames import EvenlySpaced, read_picture, to_rgb
from arspm.storage.uris import redact

MAX_FRAMES_PER_SECOND = 240


@dataclass(frozen=True, slots=True)
class Media:
    """`frames`: uint8 RGB arrays (height, width, 3) in order of time. `waveform`: float32 mono, (samples,)."""

    frames: list[np.ndarray]
    waveform: np.ndarray


def decode_clip(
    source: Source,
    *,
    image: Source | None = None,
    num_frames: int = 8,
    sample_rate: int = 16_000,
    max_seconds: float = 60.0,
    max_pixels: int = MAX_PIXELS,
    min_seconds: float = 0.5,
    silent_dbfs: float = -60.0,
    speech_seconds: float = 6.0,
) -> Media:
    """Return up to `num_frames` upright frames, evenly spaced over the clip, and the clip's sound.

    source: a file in a container and codec that FFmpeg commonly reads. image: a JPEG or PNG that replaces the frames,
    for a sound file. The sound is the mean of the channels, resampled by libswresample. From 44.1 to 16 kHz, its alias
    at 9 kHz is 62 dB down, against 17 dB for torchaudio's default, and it handles any rate in constant memory.

    Raises DroppedClip: missing_file, undecodable (broken, over `max_seconds` or `max_pixels`), no_video, no_sound,
    too_short (less than `min_seconds` of sound), silent (see `check_speech`).
    """
    picture = None if image is None else [read_picture(image, max_pixels)]
    with open_source(source) as file, open_container(file, CONTAINERS) as container:
        limits = Limits(max_seconds, max_pixels, sample_rate)
        video_frames, waveform = _decode(container, limits, 0 if picture else num_frames, truncate=False)
    frames = picture or video_frames
    if not frames:
        raise DroppedClip(DropReason.no_video, "no frame of the video can be decoded")
    check_speech(
        waveform,
        sample_rate=sample_rate,
        min_seconds=min_seconds,
        silent_dbfs=silent_dbfs,
        speech_seconds=speech_seconds,
    )
    return Media(frames, waveform)


def load_speech(source: Source, *, sample_rate: int = 16_000, max_seconds: float = 60.0) -> np.ndarray:
    """Return the first `max_seconds` of a recording (wav, flac, mp3, m4a, mp4, ...): float32 mono, (samples,).

    Raises ValueError with one line that says what is wrong with the file.
    """
    name = redact(str(source)) if isinstance(source, (str, os.PathLike)) else "the recording"
    try:
        with open_source(source) as file, open_container(file, CONTAINERS) as container:
            _, waveform = _decode(container, Limits(max_seconds, MAX_PIXELS, sample_rate), 0, truncate=True)
        check_speech(waveform, sample_rate=sample_rate)
    except DroppedClip as drop:
        raise ValueError(f"{name}: {drop.detail}") from None
    return waveform


def _decode(
    container: InputContainer, limits: Limits, num_frames: int, truncate: bool
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return frames and waveform from one pass over the file.

    truncate: stop at `max_seconds` instead of refusing a longer file. Packets that FFmpeg cannot decode are skipped, as
    its own program does, if they are at most a tenth of all.
    """
    video, sound = _streams(container, limits, want_video=num_frames > 0, truncate=truncate)
    resampler = av.AudioResampler(format="fltp", rate=limits.sample_rate)
    kept: EvenlySpaced[av.VideoFrame] = EvenlySpaced(num_frames)
    pieces: list[np.ndarray] = []
    num_packets = num_refused = num_decoded = num_samples = 0

    def add_sound(frame: av.AudioFrame | None) -> None:
        nonlocal num_samples
        for piece in resampler.resample(frame):
            pieces.append(piece.to_ndarray().mean(axis=0, dtype=np.float32))  # (samples,)
            num_samples += pieces[-1].size

    for packet in container.demux([stream for stream in (video, sound) if stream is not None]):
        num_packets += 1
        try:
            decoded = packet.decode()
        except av.error.FFmpegError:
            num_refused += 1
            continue
        for frame in decoded:
            if isinstance(frame, av.VideoFrame):
                num_decoded += 1
                check_pixels(frame.width, frame.height, limits.max_pixels)
                if not frame.is_corrupt:
                    kept.add(frame)
            elif isinstance(frame, av.AudioFrame):
                check_sound_format(frame)
                add_sound(frame)
        too_many_frames = num_decoded > MAX_FRAMES_PER_SECOND * limits.max_seconds
        if num_samples > limits.max_seconds * limits.sample_rate or too_many_frames:
            if truncate:
                break
            raise limits.too_long()
    if num_refused * 10 > num_packets:
        raise DroppedClip(DropReason.undecodable, f"{num_refused} of {num_packets} packets cannot be decoded")
    if pieces:
        add_sound(None)
    waveform = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    if truncate:
        waveform = waveform[: int(limits.max_seconds * limits.sample_rate)]
    aspect = float(video.sample_aspect_ratio or 1) if video is not None else 1.0
    return [to_rgb(frame, aspect) for frame in kept.frames()], waveform


def _streams(container: InputContainer, limits: Limits, want_video: bool, truncate: bool) -> tuple[Any, Any]:
    """Return the video stream (None if not wanted) and the sound stream. Checks the limits that the headers reveal."""
    cover_art = [s for s in container.streams.video if s.disposition & av.stream.Disposition.attached_pic]
    video = next((s for s in container.streams.video if s not in cover_art), None) if want_video else None
    sound = next(iter(container.streams.audio), None)
    if want_video and video is None:
        raise DroppedClip(DropReason.no_video, "no video in the file")
    if sound is None:
        raise DroppedClip(DropReason.no_sound, "no sound in the file")
    for stream in (video, sound):
        if stream is not None and stream.codec_context is None:
            raise DroppedClip(DropReason.undecodable, f"no decoder for its {stream.type}")
    if not truncate and container.duration is not None and container.duration / av.time_base > limits.max_seconds:
        raise limits.too_long()
    check_sound_format(sound.codec_context)
    if video is not None:
        check_pixels(video.codec_context.width, video.codec_context.height, limits.max_pixels)
        video.codec_context.thread_count = 1  # clips are decoded in parallel, one per core
        video.codec_context.skip_frame = "NONREF"  # decodes every second frame of most H.264, in half the time
    return video, sound

"""A clip's file as frames and sound. A file that cannot be used gives its reason, never a crash.

Only a fault of the storage (a network that is down, no permission) comes out as OSError, because it is not
the clip's and trying again may help.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Generic, TypeAlias, TypeVar

import av
import cv2
import numpy as np
from av.container import InputContainer

from arspm import storage
from arspm.corpus.schema import DropReason
from arspm.media.audio import level_dbfs, speech_signs
from arspm.storage.uris import redact

T = TypeVar("T")

# The containers that FFmpeg may take a file for. Its playlists (concat, hls, dash, ...) are not among them:
# such a "video" names other files and addresses, and FFmpeg would read those.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,asf,flv,wav,w64,flac,mp3,aac,ogg"
PICTURE_CONTAINERS = "jpeg_pipe,png_pipe"
MAX_PIXELS = 4096 * 4096
MAX_PICTURE_BYTES = 64 << 20
MAX_FRAMES_PER_SECOND = 240
# Of sound: what recordings have. Beyond, libswresample runs out of memory or crashes.
RATES_HZ = (4_000, 768_000)
MAX_CHANNELS = 64
# How the libraries say that a file is broken.
BROKEN = (av.error.FFmpegError, ValueError, RuntimeError)

Source: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO"  # a path or URI, a file's bytes, an open file


class DroppedClip(Exception):
    """A clip that cannot be used: the reason, one of a fixed list, and the particulars in a line."""

    def __init__(self, reason: DropReason, detail: str) -> None:
        super().__init__(reason, detail)  # both in args, so that it survives pickling
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Media:
    """`frames`: uint8 RGB arrays (height, width, 3), in order of time; `waveform`: float32 mono
    (samples,).
    """

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
    """Up to `num_frames` frames, evenly spaced over the clip and the right way up, and its sound.

    source: any container and codec of FFmpeg's usual ones. image: a JPEG or PNG that stands for the frames of
    a sound file. Sound is the mean of the channels, resampled by libswresample: at 44.1 to 16 kHz its alias
    at 9 kHz is 62 dB down against 17 dB for torchaudio's default, and it takes any rate in a fixed amount of
    memory.

    Raises DroppedClip: missing_file, undecodable (broken, over `max_seconds` or `max_pixels`), no_video,
    no_sound, too_short (less than `min_seconds` of sound), silent (see `check_speech`).
    """
    frames = None if image is None else [read_picture(image, max_pixels)]
    with _opened(source) as file, _container(file, CONTAINERS) as container:
        limits = _Limits(max_seconds, max_pixels, sample_rate)
        even, waveform = _decode(container, limits, 0 if frames else num_frames, cut=False)
    frames = frames or even
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
    """The sound of a recording (wav, flac, mp3, m4a, mp4, ...): float32 mono (samples,), its first
    `max_seconds`.

    Raises ValueError with one line that says what is wrong with the file.
    """
    name = redact(str(source)) if isinstance(source, (str, os.PathLike)) else "the recording"
    try:
        with _opened(source) as file, _container(file, CONTAINERS) as container:
            _, waveform = _decode(container, _Limits(max_seconds, MAX_PIXELS, sample_rate), 0, cut=True)
        check_speech(waveform, sample_rate=sample_rate)
    except DroppedClip as drop:
        raise ValueError(f"{name}: {drop.detail}") from None
    return waveform


def check_speech(
    waveform: np.ndarray,
    *,
    sample_rate: int = 16_000,
    min_seconds: float = 0.5,
    silent_dbfs: float = -60.0,
    speech_seconds: float = 6.0,
    min_dynamics_db: float = 13.0,
    min_voiced_fraction: float = 0.07,
) -> None:
    """Refuse a sound in which nobody can be heard: DroppedClip too_short or silent (undecodable if not
    finite).

    Silent is judged in the first `speech_seconds`, which is all that the model hears: below `silent_dbfs`, or
    noise that neither changes as syllables do nor has a pitch (`speech_signs`; both must be missing). Of 113
    clips and utterances with noise 10 dB below the voice none is refused, at 5 dB about one in fifteen.
    """
    seconds = waveform.size / sample_rate
    if seconds < min_seconds:
        raise DroppedClip(DropReason.too_short, f"{seconds:.2f} s of sound, {min_seconds:g} s are needed")
    if not np.isfinite(waveform).all():
        raise DroppedClip(DropReason.undecodable, "the sound has samples that are not finite numbers")
    heard = waveform[: int(speech_seconds * sample_rate)]
    level = level_dbfs(heard)
    if level < silent_dbfs:
        raise DroppedClip(DropReason.silent, f"level {level:.0f} dBFS in the first {speech_seconds:g} s")
    signs = speech_signs(heard, sample_rate=sample_rate)
    if signs.dynamics_db < min_dynamics_db and signs.voiced_fraction < min_voiced_fraction:
        raise DroppedClip(
            DropReason.silent,
            f"noise without speech: its level varies by {signs.dynamics_db:.0f} dB and "
            f"{signs.voiced_fraction:.0%} of it has a pitch",
        )


@dataclass(frozen=True)
class _Limits:
    max_seconds: float
    max_pixels: int
    sample_rate: int


@contextmanager
def _opened(source: Source) -> Iterator[BinaryIO]:
    """An open binary file of a path, URI, bytes or open file (the last is rewound, and left open)."""
    if isinstance(source, bytes):
        yield io.BytesIO(source)
    elif not isinstance(source, (str, os.PathLike)):
        source.seek(0)
        yield source
    else:
        with ExitStack() as held:
            try:
                # The whole of a remote file first: FFmpeg takes a read that fails amid the file for a broken clip.
                path = held.enter_context(storage.local_copy(str(source))) if "://" in str(source) else source
                kind = os.stat(path).st_mode
                if not stat.S_ISREG(kind):  # a pipe might be waited for without an end, and a device be read so
                    what = "a folder" if stat.S_ISDIR(kind) else "a pipe or a device"
                    raise DroppedClip(DropReason.undecodable, f"{what}, not a file")
                opened = held.enter_context(open(path, "rb"))
            except FileNotFoundError:
                raise DroppedClip(DropReason.missing_file, "no such file") from None
            except IsADirectoryError:
                raise DroppedClip(DropReason.undecodable, "a folder, not a file") from None
            except ValueError as error:
                raise DroppedClip(DropReason.missing_file, f"not the name of a file: {error}") from None
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENAMETOOLONG):
                    raise
                raise DroppedClip(DropReason.missing_file, f"no such file: {error.strerror}") from None
            yield opened


@contextmanager
def _container(file: BinaryIO, containers: str) -> Iterator[InputContainer]:
    """FFmpeg's view of an open file; whatever breaks inside the block is DroppedClip(undecodable)."""
    try:
        with av.open(file, "r", options={"format_whitelist": containers}, metadata_errors="ignore") as container:
            yield container
    except BROKEN as error:
        what = error.strerror if isinstance(error, av.error.FFmpegError) else str(error).split("\n")[0]
        raise DroppedClip(DropReason.undecodable, f"cannot be decoded: {what or type(error).__name__}") from None
    except OSError as error:
        if error.errno != errno.EINVAL:  # a fault of the storage
            raise
        raise DroppedClip(
            DropReason.undecodable, "cannot be decoded: it sends the reader before its beginning"
        ) from None


def _decode(
    container: InputContainer, limits: _Limits, num_frames: int, cut: bool
) -> tuple[list[np.ndarray], np.ndarray]:
    """Frames and waveform in one pass over the file. cut: stop at the limit of seconds instead of refusing.

    A packet that FFmpeg refuses is left out, as its own program does, up to a tenth of them.
    """
    video, sound = _streams(container, limits, want_video=num_frames > 0, cut=cut)
    resampler = av.AudioResampler(format="fltp", rate=limits.sample_rate)
    even: _EvenlySpaced[av.VideoFrame] = _EvenlySpaced(num_frames)
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
                _check_pixels(frame.width, frame.height, limits.max_pixels)
                if not frame.is_corrupt:
                    even.add(frame)
            elif isinstance(frame, av.AudioFrame):
                _check_sound(frame)
                add_sound(frame)
        too_long = num_decoded > MAX_FRAMES_PER_SECOND * limits.max_seconds
        if num_samples > limits.max_seconds * limits.sample_rate or too_long:
            if cut:
                break
            raise _too_long(limits)
    if num_refused * 10 > num_packets:
        raise DroppedClip(DropReason.undecodable, f"{num_refused} of {num_packets} packets cannot be decoded")
    if pieces:
        add_sound(None)
    waveform = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    if cut:
        waveform = waveform[: int(limits.max_seconds * limits.sample_rate)]
    aspect = float(video.sample_aspect_ratio or 1) if video is not None else 1.0
    return [_to_rgb(frame, aspect) for frame in even.frames()], waveform


def _streams(container: InputContainer, limits: _Limits, want_video: bool, cut: bool) -> tuple[Any, Any]:
    """The video stream (None if not wanted) and the sound stream, within the limits as far as the headers
    tell.
    """
    pictures = [s for s in container.streams.video if s.disposition & av.stream.Disposition.attached_pic]
    video = next((s for s in container.streams.video if s not in pictures), None) if want_video else None
    sound = next(iter(container.streams.audio), None)
    if want_video and video is None:
        raise DroppedClip(DropReason.no_video, "no video in the file")
    if sound is None:
        raise DroppedClip(DropReason.no_sound, "no sound in the file")
    for stream in (video, sound):
        if stream is not None and stream.codec_context is None:
            raise DroppedClip(DropReason.undecodable, f"no decoder for its {stream.type}")
    if not cut and container.duration is not None and container.duration / av.time_base > limits.max_seconds:
        raise _too_long(limits)
    _check_sound(sound.codec_context)
    if video is not None:
        _check_pixels(video.codec_context.width, video.codec_context.height, limits.max_pixels)
        video.codec_context.thread_count = 1  # clips are decoded side by side, one to a core
        video.codec_context.skip_frame = "NONREF"  # every second frame of most H.264, at half the time
    return video, sound


def evenly_spaced(num_seen: int, num_frames: int) -> list[int]:
    """The numbers of the frames that `decode_clip` keeps of a video of `num_seen`."""
    even: _EvenlySpaced[int] = _EvenlySpaced(num_frames)
    for number in range(num_seen):
        even.add(number)
    return even.frames()


class _EvenlySpaced(Generic[T]):
    """Keeps evenly spaced frames of a stream of unknown length: every 1st, 2nd, 4th, ..., never 2 *
    num_frames.
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
        wanted = min(self.num_frames, len(self.kept))
        return [self.kept[int((i + 0.5) * len(self.kept) / wanted)] for i in range(wanted)]


def _to_rgb(frame: av.VideoFrame, aspect: float) -> np.ndarray:
    """uint8 (height, width, 3) with square pixels, turned as the file's display matrix asks."""
    width = max(1, round(frame.width * aspect)) if 0.25 <= aspect <= 4 else frame.width
    rgb = frame.to_ndarray(format="rgb24", width=width, height=frame.height)
    return np.ascontiguousarray(np.rot90(rgb, k=round(frame.rotation / 90) % 4))  # both counter-clockwise


def read_picture(source: Source, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A JPEG or PNG as uint8 RGB (height, width, 3), turned as its EXIF asks. FFmpeg reads the size first, so that no
    bomb is unpacked. Raises DroppedClip.
    """
    try:
        with _opened(source) as file:
            data = file.read(MAX_PICTURE_BYTES + 1)
        if len(data) > MAX_PICTURE_BYTES:
            raise DroppedClip(DropReason.undecodable, f"more than {MAX_PICTURE_BYTES >> 20} MiB")
        # Bytes without a name: by a name that ends in .jpg FFmpeg takes a file for one of a numbered series.
        with _container(io.BytesIO(data), PICTURE_CONTAINERS) as container:
            header = container.streams.video[0].codec_context
            _check_pixels(header.width, header.height, max_pixels)
    except DroppedClip as drop:
        raise DroppedClip(drop.reason, f"picture: {drop.detail}") from None
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        bgr = None
    if bgr is None:
        raise DroppedClip(DropReason.undecodable, "picture: cannot be decoded")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise DroppedClip(DropReason.undecodable, f"{width}x{height} pixels, more than the limit of {max_pixels}")


def _check_sound(sound: Any) -> None:
    """sound: a stream's codec context or a frame."""
    rate, channels = sound.sample_rate, sound.layout.nb_channels
    if not (RATES_HZ[0] <= rate <= RATES_HZ[1] and 1 <= channels <= MAX_CHANNELS):
        raise DroppedClip(DropReason.undecodable, f"sound of {rate} Hz in {channels} channels")


def _too_long(limits: _Limits) -> DroppedClip:
    return DroppedClip(DropReason.undecodable, f"longer than the limit of {limits.max_seconds:g} s")

"""Media files as FFmpeg containers, within limits. A file that cannot be used is DroppedClip, never a crash.

Only a storage failure (network down, no permission) is raised as OSError: it is not the clip's fault, and a retry may
help.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from typing import Any, BinaryIO, TypeAlias

import av
from av.container import InputContainer

from arspm import storage
from arspm.corpus.schema import DropReason
from arspm.media.dropped import DroppedClip

# Formats that FFmpeg may open. Playlists (concat, hls, dash, ...) are excluded: such a "video" names other files and
# URLs, which FFmpeg would read.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,asf,flv,wav,w64,flac,mp3,aac,ogg"
PICTURE_CONTAINERS = "jpeg_pipe,png_pipe,webp_pipe,gif,bmp_pipe,mov"  # mov: AVIF
MAX_PIXELS = 4096 * 4096
# Limits on sound, wide enough for all real recordings. Beyond them libswresample runs out of memory or crashes.
RATES_HZ = (4_000, 768_000)
MAX_CHANNELS = 64
# The exceptions that the libraries raise for a broken file.
BROKEN = (av.error.FFmpegError, ValueError, RuntimeError)

Source: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO"  # a path or URI, a file's bytes, or an open file


@contextmanager
def open_source(source: Source) -> Iterator[BinaryIO]:
    """Yield an open binary file. A source that is an open file is rewound, and is not closed.

    Raises DroppedClip for a file that does not exist or is not a regular file, OSError for a storage failure.
    """
    if isinstance(source, bytes):
        yield io.BytesIO(source)
    elif not isinstance(source, (str, os.PathLike)):
        source.seek(0)
        yield source
    else:
        with ExitStack() as stack:
            try:
                # Copy a remote file first: FFmpeg treats a failed read in the middle of a file as a broken clip.
                path = stack.enter_context(storage.local_copy(str(source))) if "://" in str(source) else source
                mode = os.stat(path).st_mode
                if not stat.S_ISREG(mode):  # reading a pipe or a device might never end
                    kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
                    raise DroppedClip(DropReason.undecodable, f"{kind}, not a file")
                file = stack.enter_context(open(path, "rb"))
            except FileNotFoundError:
                raise DroppedClip(DropReason.missing_file, "no such file") from None
            except IsADirectoryError:
                raise DroppedClip(DropReason.undecodable, "a folder, not a file") from None
            except ValueError as error:
                raise DroppedClip(DropReason.missing_file, f"not a valid file name: {error}") from None
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENAMETOOLONG):
                    raise
                raise DroppedClip(DropReason.missing_file, f"no such file: {error.strerror}") from None
            yield file


# How files begin that are no media files, in lower case.
_OTHER_FILES = {
    b"<!doctype html": "a web page",
    b"<html": "a web page",
    b"<?xml": "an XML file",
    b"%pdf": "a PDF file",
    b"pk\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"version https://git-lfs": "a Git LFS pointer",
    b"#extm3u": "a playlist",
    b"ffconcat": "a playlist",
    b"\x89png": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"gif8": "a GIF picture",
}


def require_media(file: BinaryIO) -> None:
    """Raise DroppedClip(undecodable) for an empty file, and for one that is clearly something else."""
    file.seek(0)
    head = file.read(512).lower()
    file.seek(0)
    if not head:
        raise DroppedClip(DropReason.undecodable, "an empty file")
    for beginning, kind in _OTHER_FILES.items():
        if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(beginning):
            raise DroppedClip(DropReason.undecodable, f"{kind}, not a recording")
    if head[8:12] == b"webp" or head[4:12] in (b"ftypavif", b"ftypheic"):
        raise DroppedClip(DropReason.undecodable, "a picture, not a recording")


@contextmanager
def open_container(file: BinaryIO, formats: str) -> Iterator[InputContainer]:
    """Yield FFmpeg's container of an open file. A decoding error inside the block becomes DroppedClip(undecodable)."""
    # Frames have times, so their rate is not needed. To find it, FFmpeg may read the first twenty, 0.4 MB of a film.
    options = {"format_whitelist": formats, "fpsprobesize": "0"}
    try:
        with av.open(file, "r", options=options, metadata_errors="ignore") as container:
            yield container
    except BROKEN as error:
        message = error.strerror if isinstance(error, av.error.FFmpegError) else str(error).split("\n")[0]
        raise DroppedClip(DropReason.undecodable, f"cannot be decoded: {message or type(error).__name__}") from None
    except OSError as error:
        if error.errno != errno.EINVAL:  # a storage failure
            raise
        raise DroppedClip(
            DropReason.undecodable, "cannot be decoded: it points to a position before the start of the file"
        ) from None


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raise DroppedClip(undecodable) for an image of more than `max_pixels`."""
    if width * height > max_pixels:
        raise DroppedClip(DropReason.undecodable, f"{width}x{height} pixels, more than the limit of {max_pixels}")


def check_sound_format(sound: Any) -> None:
    """Raise DroppedClip(undecodable) for an unusual sample rate or channel count of a codec context or a frame."""
    rate, channels = sound.sample_rate, sound.layout.nb_channels
    if not (RATES_HZ[0] <= rate <= RATES_HZ[1] and 1 <= channels <= MAX_CHANNELS):
        raise DroppedClip(DropReason.undecodable, f"sound of {rate} Hz in {channels} channels")


def choose_streams(
    container: InputContainer, *, want_video: bool, want_sound: bool = True, max_pixels: int = MAX_PIXELS
) -> tuple[Any, Any]:
    """Return the video stream and the sound stream that FFmpeg would choose, each None if it is not wanted.

    Raises DroppedClip: no_video, no_sound, undecodable.
    """
    video = best_stream(container.streams.video) if want_video else None
    sound = best_stream(container.streams.audio) if want_sound else None
    if want_video and video is None:
        raise DroppedClip(DropReason.no_video, "no video in the file")
    if want_sound and sound is None:
        raise DroppedClip(DropReason.no_sound, "no sound in the file")
    if sound is not None and sound.codec_context.sample_rate:  # else the header does not say
        check_sound_format(sound.codec_context)
    if video is not None:
        check_pixels(video.codec_context.width, video.codec_context.height, max_pixels)
        video.codec_context.thread_count = 1  # clips are decoded in parallel, one per core
        # Frames to which no other refers are left out, so all others are what they are in a full decoding. These are
        # half of most H.264, HEVC and AV1. VP9's decoder ignores it, and most of its frames refer to the last one.
        video.codec_context.skip_frame = "NONREF"
    return video, sound


def seconds(timestamp: int, time_base: Fraction) -> float:
    """Return a timestamp in seconds. Same as float(timestamp * time_base), which takes ten times as long."""
    return timestamp * time_base.numerator / time_base.denominator


def best_stream(streams: Iterable[Any]) -> Any:
    """Return which of several streams of a kind FFmpeg would choose, None if there is none. Cover art is no video.

    That is one with the default flag, then the one with the most pixels or channels. Raises DroppedClip(undecodable).
    """
    flags = av.stream.Disposition

    def rank(stream: Any) -> tuple[bool, int]:
        codec = stream.codec_context
        size = codec.width * codec.height if stream.type == "video" else codec.layout.nb_channels
        return bool(stream.disposition & flags.default), size

    every = [each for each in streams if not each.disposition & flags.attached_pic]
    usable = [each for each in every if each.codec_context is not None]
    if every and not usable:
        raise DroppedClip(DropReason.undecodable, f"no decoder for its {every[0].type}")
    return max(usable, key=rank, default=None)

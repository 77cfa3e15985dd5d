"""The files that a corpus is made from, by the extension of their names."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

VIDEO_EXTENSIONS = (
    *("mp4", "webm", "mkv", "mov", "avi", "m4v", "mpg", "mpeg"),
    *("3gp", "3g2", "ts", "mts", "m2ts", "wmv", "asf", "flv", "ogv", "vob"),
)
SOUND_EXTENSIONS = ("wav", "flac", "m4a", "mp3", "ogg", "opus", "aac", "wma", "mka", "oga", "weba", "w64")
PICTURE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "avif", "gif", "bmp")
CLIP_EXTENSIONS = (*VIDEO_EXTENSIONS, *SOUND_EXTENSIONS)
MEDIA_EXTENSIONS = (*CLIP_EXTENSIONS, *PICTURE_EXTENSIONS)


def extension(path: str) -> str:
    """Return the extension in lower case; "" for hidden files, such as the `._x.wav` that macOS writes beside x.wav."""
    name = posixpath.basename(path)
    return "" if name.startswith(".") else posixpath.splitext(name)[1][1:].lower()


def have_extension(paths: pa.ChunkedArray, extensions: Sequence[str]) -> pa.ChunkedArray:
    """Return whether the `extension` of each path is one of these."""
    anycase = ("".join(f"[{c}{c.upper()}]" if c.isalpha() else c for c in each) for each in extensions)
    return pc.match_substring_regex(paths, rf"(?:^|/)[^./][^/]*\.(?:{'|'.join(anycase)})$")


def stem(path: str) -> str:
    return posixpath.splitext(posixpath.basename(path))[0]

"""The media files of a clips folder, looked up in one listing.

Files are never looked up one by one: in object storage that would be a request for each of millions of rows.
"""

from __future__ import annotations

import posixpath
import re

from arspm import storage
from arspm.corpus.schema import DropReason
from arspm.media.csv_tables import quoted
from arspm.media.dropped import DroppedClip

VIDEO_EXTENSIONS = ("mp4", "webm", "mkv", "mov", "avi", "m4v", "mpg", "mpeg")
SOUND_EXTENSIONS = ("wav", "flac", "m4a", "mp3", "ogg", "opus", "aac")
PICTURE_EXTENSIONS = ("jpg", "jpeg", "png")


class ClipFolder:
    """A listing of a clips folder. Its subfolders are listed when the first row names a file in one.

    Raises FileNotFoundError if there is no folder at this path or URI.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.fs, self.root = storage.filesystem(folder)
        self.is_local = "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))
        try:
            listing = storage.retried(folder, lambda: self.fs.ls(self.root, detail=False, refresh=True))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(f"no clips folder at {folder}") from error
        if listing == [self.root]:  # fsspec lists a file as itself
            raise FileNotFoundError(f"no clips folder at {folder}, but a file")
        self.paths = {posixpath.basename(path.rstrip("/")): path for path in listing}
        self.by_stem: dict[str, dict[str, str]] = {}  # stem -> extension in lower case -> path
        for name in sorted(self.paths):
            stem, _, extension = name.rpartition(".")
            self.by_stem.setdefault(stem, {})[extension.lower()] = self.paths[name]
        self.subfolders_listed = False

    def with_stem(self, stem: str) -> tuple[str, str | None]:
        """Return the media file with this stem, and the picture beside it if it is a sound file.

        Raises DroppedClip(missing_file).
        """
        files = self.by_stem.get(stem, {})
        for extension in VIDEO_EXTENSIONS:
            if extension in files:
                return self._uri(files[extension]), None
        for extension in SOUND_EXTENSIONS:
            if extension in files:
                return self._uri(files[extension]), self._picture(files)
        raise DroppedClip(DropReason.missing_file, f"no {stem}.mp4 (or .webm, .mkv, ...) in the clips folder")

    def named(self, name: str) -> tuple[str, str | None]:
        """Return the file with this relative path, and the picture beside it if it is a sound file.

        Raises DroppedClip: bad_row for a path that leads out of the folder, missing_file.
        """
        path = posixpath.normpath(name)
        if name.startswith("/") or path.split("/")[0] in ("..", ".") or re.search(r"[\\\x00-\x1f]|://", name):
            raise DroppedClip(DropReason.bad_row, f"file {quoted(name)} is not a path inside the clips folder")
        if "/" in path and not self.subfolders_listed:
            root = self.root.rstrip("/") + "/"
            below = storage.retried(self.folder, lambda: self.fs.find(self.root))
            self.paths.update({each.removeprefix(root): each for each in below})
            self.subfolders_listed = True
        if path not in self.paths:
            raise DroppedClip(DropReason.missing_file, f"no {quoted(path)} in the clips folder")
        stem, _, extension = path.rpartition(".")
        picture = None
        if extension.lower() in SOUND_EXTENSIONS:
            beside = {e: self.paths[f"{stem}.{e}"] for e in PICTURE_EXTENSIONS if f"{stem}.{e}" in self.paths}
            picture = self._picture(beside)
        return self._uri(self.paths[path]), picture

    def _picture(self, files: dict[str, str]) -> str | None:
        return next((self._uri(files[e]) for e in PICTURE_EXTENSIONS if e in files), None)

    def _uri(self, path: str) -> str:
        return path if self.is_local else self.fs.unstrip_protocol(path)

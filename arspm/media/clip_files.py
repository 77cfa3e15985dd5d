"""The media files of a clips folder, and which of them belongs to a row of a CSV.

Names are compared by value: `a_12_18.5.mp4`, `a_012.000-018.500.mp4` and `a/a_12.0_18.500_video.mkv` are the same
clip. The folder is listed once, because in object storage a lookup would be a request for each of millions of rows.
"""

from __future__ import annotations

import difflib
import os
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from arspm import storage
from arspm.corpus.media_types import (
    CLIP_EXTENSIONS,
    PICTURE_EXTENSIONS,
    SOUND_EXTENSIONS,
    VIDEO_EXTENSIONS,
    extension,
    stem,
)
from arspm.corpus.schema import DropReason
from arspm.media.csv_tables import quoted
from arspm.media.dropped import DroppedClip

_NUMBER = r"\d+(?:\.\d+)?"
_GAP = r"[\s_\-~,+@]+(?:to[\s_\-]+)?"  # between the parts of a file name
# What downloaders append: a kind of content, a picture size, a frame rate, a format number of yt-dlp.
_SUFFIX = r"(?:[\s_.\-]+(?:video|clip|av|audio|cut|crop|cropped|trim|trimmed|segment|\d{3,4}p|\d+fps|f\d+))*"
_CUT = re.compile(rf"(?:(?P<video>.+?){_GAP})?(?P<start>{_NUMBER})s?{_GAP}(?P<end>{_NUMBER})s?{_SUFFIX}", re.ASCII)
_WHOLE = re.compile(rf"(?P<video>.+?){_SUFFIX}")
_IN_BRACKETS = re.compile(r"\[([^\[\]]+)\]$")  # yt-dlp's default name is `<title> [<video id>].<ext>`
_TOLERANCE = 0.0005  # seconds: numbers that differ by less are the same; AVSpeech's are multiples of a frame


class _Cut(NamedTuple):
    """A file that is named as a part of a video. `decimals`: of the number in the name with the fewest."""

    start: float
    end: float
    decimals: int
    path: str

    def distance(self, start: float, end: float) -> float:
        """Return by how many seconds the numbers differ, infinity if they differ by more than rounding explains."""
        distance = max(abs(self.start - start), abs(self.end - end))
        if distance <= _TOLERANCE or (self.decimals and distance <= 0.5001 * 10**-self.decimals):
            return distance
        if not self.decimals and max(abs(self.start / 1000 - start), abs(self.end / 1000 - end)) <= _TOLERANCE:
            return 0.0  # milliseconds
        return float("inf")


class ClipFolder:
    """The media files below a folder, from one listing. Raises FileNotFoundError if there are no files."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = str(folder)
        paths = storage.files_below(self.folder)
        if not paths:
            raise FileNotFoundError(f"no clips folder at {self.folder}, or it is empty")
        self.paths = {unicodedata.normalize("NFC", path): path for path in sorted(paths)}
        self.media = [path for path in self.paths if extension(path) in CLIP_EXTENSIONS]
        self._cuts: dict[str, list[_Cut]] = defaultdict(list)  # video id -> files
        self._wholes: dict[str, list[str]] = defaultdict(list)
        for path in self.media:
            self._index(path)

    def _index(self, path: str) -> None:
        name = stem(path)
        if found := _CUT.fullmatch(name):
            decimals = min(len(number.partition(".")[2]) for number in found.group("start", "end"))
            cut = _Cut(float(found["start"]), float(found["end"]), decimals, path)
            video = found["video"] or posixpath.basename(posixpath.dirname(path))
            self._cuts[video].append(cut)
            # A video id may itself end with separators, as three in a hundred of YouTube's do: `a-_1_2` is of `a-`.
            gap = name[found.end("video") : found.start("start")] if found["video"] else ""
            for length in range(1, len(gap)):
                self._cuts[video + gap[:length]].append(cut)
        names = {name}
        if found := _WHOLE.fullmatch(name):
            names.add(found["video"])
        if found := _IN_BRACKETS.search(name):
            names.add(found[1])
        if len(name) > 12 and name[-12] == "-":  # youtube-dl's default name is `<title>-<video id>.<ext>`
            names.add(name[-11:])
        for each in names:
            self._wholes[each].append(path)

    def find(self, video_id: str, start: float, end: float) -> str:
        """Return the path of a row's file: a part of the video from start to end, or else the whole video.

        Raises DroppedClip(missing_file), and ValueError if several files fit.
        """
        video_id = unicodedata.normalize("NFC", video_id)
        cuts = self._cuts.get(video_id, ())
        distances = [(cut.distance(start, end), cut.path) for cut in cuts]
        nearest = min(distances, default=(float("inf"), ""))[0]
        fitting = [path for distance, path in distances if distance == nearest < float("inf")]
        fitting = fitting or self._wholes.get(video_id, [])
        fitting = [path for path in fitting if extension(path) in VIDEO_EXTENSIONS] or fitting
        if not fitting:
            others = f"; there are others of this video, such as {quoted(cuts[0].path)}" if cuts else ""
            raise DroppedClip(DropReason.missing_file, f"no file of {video_id} from {start:g} to {end:g} s{others}")
        if len(fitting) > 1:
            raise ValueError(
                f"{self.folder}: both {quoted(fitting[0])} and {quoted(fitting[1])} are {video_id} from {start:g} to "
                f"{end:g} s; remove one, or name one in a sixth column"
            )
        return fitting[0]

    def named(self, name: str) -> str:
        """Return the path that a sixth column names. Raises DroppedClip: missing_file, or bad_row if it leads out."""
        path = posixpath.normpath(unicodedata.normalize("NFC", name))
        if name.startswith("/") or path.split("/")[0] in ("..", ".") or re.search(r"[\\\x00-\x1f]|://", name):
            raise DroppedClip(DropReason.bad_row, f"file {quoted(name)} is not a path inside the clips folder")
        if path not in self.paths:
            raise DroppedClip(DropReason.missing_file, f"no {quoted(path)} in the clips folder")
        return path

    def picture_beside(self, path: str) -> str | None:
        """Return the path of the picture with the same name as a sound file; None if there is none, or for a video."""
        if extension(path) not in SOUND_EXTENSIONS:
            return None
        base = posixpath.splitext(path)[0]
        return next((f"{base}.{each}" for each in PICTURE_EXTENSIONS if f"{base}.{each}" in self.paths), None)

    def uri(self, path: str) -> str:
        """Return the URI of a path, as the storage spells it."""
        return storage.join(self.folder, self.paths[path])


def most_similar(names: Sequence[str], files: Iterable[str]) -> tuple[str, str] | None:
    """Return which of the names is most like the name of which file; None if there are no files."""
    pairs = ((difflib.SequenceMatcher(None, name, stem(file)).ratio(), name, file) for file in files for name in names)
    best = max(pairs, default=None)
    return None if best is None else best[1:]

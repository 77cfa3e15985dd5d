"""The media files of a clips folder, and which of them belongs to a row of a CSV.

Names are compared by value: `a_12_18.5.mp4`, `a_012.000-018.500.mp4` and `a/a_12.0_18.500_video.mkv` are the same
clip. The folder is listed once, because in object storage a lookup would be a request for each of millions of rows.
Files and rows are matched as arrays, because there may be millions of both.
"""

from __future__ import annotations

import difflib
import os
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from arspm import storage
from arspm.corpus.media_types import (
    CLIP_EXTENSIONS,
    PICTURE_EXTENSIONS,
    SOUND_EXTENSIONS,
    VIDEO_EXTENSIONS,
    have_extension,
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


class Located(NamedTuple):
    """What `ClipFolder.locate` returns for rows. Both fields: (rows,) numbers of files, -1 for none."""

    file: np.ndarray
    other: np.ndarray  # another part of the same video, which helps to understand why there is no file


class ClipFolder:
    """The media files below a folder, from one listing. A file is known by its number in `paths`.

    files: the listing, a table of `storage.FILES` (default: list the folder now). Raises FileNotFoundError if there are
    no files.
    """

    def __init__(self, folder: str | os.PathLike[str], files: pa.Table | None = None) -> None:
        self.folder = str(folder)
        files = storage.list_files(self.folder) if files is None else files
        if not len(files):
            raise FileNotFoundError(f"no clips folder at {self.folder}, or it is empty")
        self.paths: pa.Array = files["path"].combine_chunks()
        self.sizes = files["bytes"].to_numpy()  # bytes
        media, self._is_video, self.is_sound = (
            have_extension(self.paths, extensions).to_numpy(zero_copy_only=False)
            for extensions in (CLIP_EXTENSIONS, VIDEO_EXTENSIONS, SOUND_EXTENSIONS)
        )
        self.media = np.flatnonzero(media)
        cut_ids, cuts, whole_ids, wholes = [], [], [], []
        paths = _nfc(self.paths.filter(pa.array(media))).to_pylist()
        for number, path in zip(self.media.tolist(), paths, strict=True):
            name = stem(path)
            if found := _CUT.fullmatch(name):
                places = min(len(text.partition(".")[2]) for text in found.group("start", "end"))
                cut = (float(found["start"]), float(found["end"]), places, number)
                video = found["video"] or posixpath.basename(posixpath.dirname(path))
                # A video id may itself end with separators, as three in a hundred of YouTube's do: `a-_1_2` is of `a-`.
                gap = name[found.end("video") : found.start("start")] if found["video"] else ""
                for length in range(max(1, len(gap))):
                    cut_ids.append(video + gap[:length])
                    cuts.append(cut)
            for video_id in _ids_of_whole(name):
                whole_ids.append(video_id)
                wholes.append(number)
        self._cuts = _ByVideo(cut_ids, range(len(cuts)))
        self._starts, self._ends, self._decimals, files_of_cuts = np.array(cuts, np.float64).reshape(-1, 4).T
        self._files_of_cuts = files_of_cuts.astype(np.int64)
        self._wholes = _ByVideo(whole_ids, wholes)

    def locate(self, video_ids: pa.Array, starts: np.ndarray, ends: np.ndarray) -> Located:
        """Return each row's file: a part of the video from start to end, or else the whole video.

        starts, ends: (rows,) seconds. Raises ValueError if several files fit a row.
        """
        num_rows = len(video_ids)
        video_ids = _nfc(video_ids)
        rows, cuts = self._cuts.pairs(video_ids)
        first = np.flatnonzero(np.diff(rows, prepend=-1))  # each row's first pair
        other = np.full(num_rows, -1)
        other[rows[first]] = self._files_of_cuts[cuts[first]]
        distances = self._distances(cuts, starts[rows], ends[rows])
        nearest = np.full(num_rows, np.inf)
        if len(first):
            nearest[rows[first]] = np.minimum.reduceat(distances, first)
        fits = np.isfinite(distances) & (distances == nearest[rows])
        rows, files = rows[fits], self._files_of_cuts[cuts[fits]]

        without_cut = np.ones(num_rows, bool)
        without_cut[rows] = False
        others = np.flatnonzero(without_cut)
        whole_rows, wholes = self._wholes.pairs(video_ids.take(pa.array(others)))
        rows, files = np.concatenate([rows, others[whole_rows]]), np.concatenate([files, wholes])

        has_video = np.zeros(num_rows, bool)
        has_video[rows[self._is_video[files]]] = True
        kept = self._is_video[files] | ~has_video[rows]  # a video precedes the sound that was made from it
        rows, files = rows[kept], files[kept]
        several = np.flatnonzero(np.bincount(rows, minlength=num_rows) > 1)
        if len(several):
            row = several[0]
            which = f"{video_ids[row].as_py()} from {starts[row]:g} to {ends[row]:g} s"
            raise self._ambiguous(files[rows == row], f"are {which}; remove one, or name one in a sixth column")
        file = np.full(num_rows, -1)
        file[rows] = files
        return Located(file, other)

    def _distances(self, cuts: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Return by how many seconds the numbers of a part and a row differ; infinity for more than rounding explains.

        All arrays: (pairs,).
        """

        def differ(unit: float) -> np.ndarray:
            return np.maximum(abs(self._starts[cuts] * unit - starts), abs(self._ends[cuts] * unit - ends))

        decimals, distances = self._decimals[cuts], differ(1.0)  # decimals: of the number in the name with the fewest
        rounded = (decimals > 0) & (distances <= 0.5001 * 10.0**-decimals)
        milliseconds = np.where((decimals == 0) & (differ(0.001) <= _TOLERANCE), 0.0, np.inf)
        return np.where((distances <= _TOLERANCE) | rounded, distances, milliseconds)

    def named(self, name: str) -> int:
        """Return the file that a sixth column names. Raises DroppedClip: missing_file, or bad_row if it leads out."""
        path = posixpath.normpath(name)
        if name.startswith("/") or path.split("/")[0] in ("..", ".") or re.search(r"[\\\x00-\x1f]|://", name):
            raise DroppedClip(DropReason.bad_row, f"file {quoted(name)} is not a path inside the clips folder")
        file = self._at(path)
        if file is None:
            raise DroppedClip(DropReason.missing_file, f"no {quoted(path)} in the clips folder")
        return file

    def spelled(self, names: pa.Array) -> np.ndarray:
        """Return the files whose paths are exactly these, -1 where there is none or the name needs `named`."""
        files = pc.fill_null(pc.index_in(names, self.paths), -1)
        odd = pc.match_substring_regex(names, r"^[/.]|/[/.]|/$|[\\:\x00-\x1f]")
        return pc.if_else(odd, -1, files).to_numpy(zero_copy_only=False)

    def picture_beside(self, file: int) -> int | None:
        """Return the picture with the same name as a sound file, None if there is none."""
        base = posixpath.splitext(self.paths[file].as_py())[0]
        return next((found for each in PICTURE_EXTENSIONS if (found := self._at(f"{base}.{each}")) is not None), None)

    def uris(self, files: np.ndarray) -> pa.Array:
        """Return the URIs of files, as the storage spells them; null for -1."""
        paths = self.paths.take(pa.array(files, mask=files < 0))
        return pc.binary_join_element_wise(self.folder.rstrip("/"), pc.utf8_trim(paths, "/"), "/")

    def _at(self, path: str) -> int | None:
        """Return the file at a path: spelled exactly so, or else in another Unicode form. Raises ValueError for two."""
        spelled, by_nfc = self._by_path
        if (file := spelled.get(path)) is not None:
            return file
        files = by_nfc.get(unicodedata.normalize("NFC", path), [])
        if len(files) > 1:
            raise self._ambiguous(files, f"are {quoted(path)} in different Unicode forms; remove one")
        return files[0] if files else None

    @cached_property
    def _by_path(self) -> tuple[dict[str, int], dict[str, list[int]]]:
        """The files by path; and by path in NFC, those whose path is not ASCII."""
        spelled = {path: number for number, path in enumerate(self.paths.to_pylist())}
        by_nfc: dict[str, list[int]] = defaultdict(list)
        for path, number in spelled.items():
            if not path.isascii():
                by_nfc[unicodedata.normalize("NFC", path)].append(number)
        return spelled, by_nfc

    def _ambiguous(self, files: Sequence[int] | np.ndarray, problem: str) -> ValueError:
        first, second = (self.paths[int(file)].as_py() for file in files[:2])
        if unicodedata.normalize("NFC", first) == unicodedata.normalize("NFC", second):
            first, second = ascii(first), ascii(second)  # otherwise they look the same
        else:
            first, second = quoted(first), quoted(second)
        return ValueError(f"{self.folder}: both {first} and {second} {problem}")


class _ByVideo:
    """Numbers by video id, in the order in which they were added."""

    def __init__(self, video_ids: Sequence[str], numbers: Sequence[int]) -> None:
        encoded = pa.array(video_ids, pa.string()).dictionary_encode()
        codes = encoded.indices.to_numpy()
        order = np.argsort(codes, kind="stable")
        self._ids = encoded.dictionary
        self._numbers = np.array(numbers, np.int64)[order]
        begins = np.searchsorted(codes[order], np.arange(len(self._ids) + 1))
        self._begins = np.append(begins, begins[-1])  # an id that is not here has the last code, and no numbers

    def pairs(self, video_ids: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """Return each pair of a row and a number of its video, as two arrays, in order of the rows."""
        codes = pc.fill_null(pc.index_in(video_ids, self._ids), len(self._ids)).to_numpy()
        counts = self._begins[codes + 1] - self._begins[codes]
        rows = np.repeat(np.arange(len(codes)), counts)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        return rows, self._numbers[np.repeat(self._begins[codes], counts) + within]


def _nfc(names: pa.Array) -> pa.Array:
    """Return strings in Unicode's form NFC. Few are not ASCII, and pyarrow 25's `utf8_normalize` decomposes them."""
    odd = pc.invert(pc.string_is_ascii(names))
    composed = [unicodedata.normalize("NFC", name) for name in names.filter(odd).to_pylist()]
    return pc.replace_with_mask(names, odd, pa.array(composed, names.type))


def _ids_of_whole(name: str) -> set[str]:
    """Return the video ids that a file may have which is not a part of a video. name: without its extension."""
    ids = {name}
    if found := _WHOLE.fullmatch(name):
        ids.add(found["video"])
    if found := _IN_BRACKETS.search(name):
        ids.add(found[1])
    if len(name) > 12 and name[-12] == "-":  # youtube-dl's default name is `<title>-<video id>.<ext>`
        ids.add(name[-11:])
    return ids


def most_similar(names: Sequence[str], files: Iterable[str]) -> tuple[str, str] | None:
    """Return which of the names is most like the name of which file; None if there are no files."""
    pairs = ((difflib.SequenceMatcher(None, name, stem(file)).ratio(), name, file) for file in files for name in names)
    best = max(pairs, default=None)
    return None if best is None else best[1:]

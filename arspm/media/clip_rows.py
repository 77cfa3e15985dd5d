"""The rows of an AVSpeech CSV with their media files, and labels.csv. A row without a clip says why.

Number texts in file names are as the CSV writes them. The folder is listed once; files are never looked up
one by one, which in object storage would be a request for each of millions of rows.
"""

from __future__ import annotations

import csv
import itertools
import math
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO, cast

from arspm import storage
from arspm.corpus.schema import GENDERS, DropReason
from arspm.media.clips import DroppedClip

VIDEO_EXTENSIONS = ("mp4", "webm", "mkv", "mov", "avi", "m4v", "mpg", "mpeg")
SOUND_EXTENSIONS = ("wav", "flac", "m4a", "mp3", "ogg", "opus", "aac")
PICTURE_EXTENSIONS = ("jpg", "jpeg", "png")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
# Control characters, and what stands for bytes that are not UTF-8; in names of files path separators too.
UNREADABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufffd\ud800-\udfff]")
UNSAFE = re.compile(rf"[/\\]|{UNREADABLE.pattern}")
MAX_ID_BYTES = 200  # a file's name may have 255, and ids get an ending
# A line is read up to here, and refused then: the `csv` module takes no cell beyond 131,072 characters, so there is
# one of those in it or there are more cells than a table has columns.
MAX_LINE = 1 << 21
_TOLD_PROBLEMS = 10


@dataclass(frozen=True, slots=True)
class ClipRow:
    """A usable row. `path` (and `image`, beside a sound file) is a local path or a URI; x, y in [0, 1] of
    the frame. `line` is the row's number where there is no CSV; start and end are then 0.
    """

    line: int
    clip_id: str
    video_id: str
    start_seconds: float
    end_seconds: float
    x: float | None
    y: float | None
    path: str
    image: str | None = None


@dataclass(frozen=True, slots=True)
class DroppedRow:
    """A row that gives no clip. `clip_id` and `video_id` are empty where the row is too broken to tell."""

    line: int
    clip_id: str
    video_id: str
    reason: DropReason
    detail: str


@dataclass(frozen=True, slots=True)
class Labels:
    """What labels.csv says of a speaker; None where it is silent. Age in years."""

    gender: str | None = None
    age: float | None = None
    identity: str | None = None


def read_clip_rows(
    csv_file: str | os.PathLike[str] | TextIO, clips_dir: str | os.PathLike[str]
) -> list[ClipRow | DroppedRow]:
    """Match each row of an AVSpeech CSV with its media file: an item for every line, blank ones left out.

    csv_file: `video id, start, end, x, y[, file]` without a header (one is skipped), a path, a URI or an open
    text file. x and y may be empty. clips_dir: a folder or URI, listed once. The file is `<video
    id>_<start>_<end>.<ext>` or what the sixth column names inside the folder. A sound file counts together
    with a picture of the same stem. Raises FileNotFoundError where the CSV or the folder is missing.
    """
    files = _FolderFiles(str(clips_dir))
    seen: dict[str, int] = {}
    rows: list[ClipRow | DroppedRow] = []
    for line, text in numbered_lines(csv_file):
        try:
            cells = read_cells(text)
        except csv.Error as error:
            rows.append(DroppedRow(line, "", "", DropReason.bad_row, f"line {line}: {error}"))
            continue
        if not (line == 1 and _is_header(cells)):
            rows.append(_read_row(line, cells, files, seen))
    return rows


def _read_row(line: int, cells: list[str], files: _FolderFiles, seen: dict[str, int]) -> ClipRow | DroppedRow:
    clip_id = video_id = ""
    try:
        start, end, x, y = _check_cells(cells)
        video_id = cells[0]
        check_id("_".join(cells[:3]), "a clip id")
        clip_id = "_".join(cells[:3])
        if clip_id in seen:
            raise DroppedClip(DropReason.duplicate_key, f"line {line}: {clip_id} is on line {seen[clip_id]} already")
        seen[clip_id] = line
        path, image = files.named(cells[5]) if len(cells) == 6 and cells[5] else files.of_stem(clip_id)
    except DroppedClip as drop:
        prefix = "" if drop.detail.startswith("line ") else f"line {line}: "
        return DroppedRow(line, clip_id, video_id, drop.reason, prefix + drop.detail)
    return ClipRow(line, clip_id, video_id, start, end, x, y, path, image)


def _check_cells(cells: list[str]) -> tuple[float, float, float | None, float | None]:
    """Start, end, x and y of a row; DroppedClip(bad_row) for anything that AVSpeech would not write."""

    def bad(what: str) -> DroppedClip:
        return DroppedClip(DropReason.bad_row, what)

    if len(cells) not in (5, 6):
        raise bad(f"{len(cells)} columns where 'video id, start, end, x, y[, file]' is expected")
    video_id, *numbers = cells[:5]
    check_id(video_id, "a video id")
    values: list[float | None] = []
    for name, text in zip(("start", "end", "x", "y"), numbers, strict=True):
        if not text and name in ("x", "y"):
            values.append(None)
        elif NUMBER.fullmatch(text) and math.isfinite(float(text)):
            values.append(float(text))
        else:
            raise bad(f"{name} is {shown(text)}, not a finite number")
    start, end, x, y = cast("tuple[float, float, float | None, float | None]", tuple(values))
    if not 0 <= start < end:
        raise bad(f"start {shown(numbers[0])} and end {shown(numbers[1])}: 0 <= start < end is expected")
    if (x is None) != (y is None):
        raise bad("x and y: one is given and the other is empty")
    if x is not None and y is not None and not (0 <= x <= 1 and 0 <= y <= 1):
        raise bad(f"x {shown(numbers[2])} and y {shown(numbers[3])} are not both in [0, 1]")
    return start, end, x, y


def check_id(text: str, what: str) -> None:
    """Refuse an id that is not safe in a file name: DroppedClip(bad_row)."""
    if text in ("", ".", "..") or UNSAFE.search(text) or len(text.encode()) > MAX_ID_BYTES:
        raise DroppedClip(
            DropReason.bad_row,
            f"{shown(text)} cannot be {what}: empty, over {MAX_ID_BYTES} bytes, or not safe in a file name",
        )


class _FolderFiles:
    """The media files of a folder, from one listing (and one of its subfolders, if a row names one)."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.fs, self.root = storage.filesystem(folder)
        self.is_local = "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))
        try:
            listing = storage.retried(folder, lambda: self.fs.ls(self.root, detail=False, refresh=True))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(f"no clips folder at {folder}") from error
        if listing == [self.root]:  # what fsspec says of a file
            raise FileNotFoundError(f"no clips folder at {folder}, but a file")
        self.paths = {posixpath.basename(path.rstrip("/")): path for path in listing}
        self.by_stem: dict[str, dict[str, str]] = {}  # stem -> extension in lower case -> path
        for name in sorted(self.paths):
            stem, _, extension = name.rpartition(".")
            self.by_stem.setdefault(stem, {})[extension.lower()] = self.paths[name]
        self.subfolders_listed = False

    def of_stem(self, stem: str) -> tuple[str, str | None]:
        """The media file of a stem, and its picture where the file is sound only."""
        found = self.by_stem.get(stem, {})
        for extension in VIDEO_EXTENSIONS:
            if extension in found:
                return self._uri(found[extension]), None
        for extension in SOUND_EXTENSIONS:
            if extension in found:
                return self._uri(found[extension]), self._picture(found)
        raise DroppedClip(DropReason.missing_file, f"no {stem}.mp4 (or .webm, .mkv, ...) in the clips folder")

    def named(self, name: str) -> tuple[str, str | None]:
        """The file that the sixth column names; it must lie inside the folder."""
        clean = posixpath.normpath(name)
        if name.startswith("/") or clean.split("/")[0] in ("..", ".") or re.search(r"[\\\x00-\x1f]|://", name):
            raise DroppedClip(DropReason.bad_row, f"file {shown(name)} is not a name inside the clips folder")
        if "/" in clean and not self.subfolders_listed:
            root = self.root.rstrip("/") + "/"
            below = storage.retried(self.folder, lambda: self.fs.find(self.root))
            self.paths.update({path.removeprefix(root): path for path in below})
            self.subfolders_listed = True
        if clean not in self.paths:
            raise DroppedClip(DropReason.missing_file, f"no {shown(clean)} in the clips folder")
        stem, _, extension = clean.rpartition(".")
        image = None
        if extension.lower() in SOUND_EXTENSIONS:
            image = self._picture(
                {e: self.paths[f"{stem}.{e}"] for e in PICTURE_EXTENSIONS if f"{stem}.{e}" in self.paths}
            )
        return self._uri(self.paths[clean]), image

    def _picture(self, found: dict[str, str]) -> str | None:
        return next((self._uri(found[e]) for e in PICTURE_EXTENSIONS if e in found), None)

    def _uri(self, path: str) -> str:
        return path if self.is_local else self.fs.unstrip_protocol(path)


def shown(text: str) -> str:
    """A text that anybody may have chosen, in a line."""
    return repr(text if len(text) <= 120 else "..." + text[-117:])


def plain(text: str) -> str:
    """A text as it is, where it is short and printable, else as `shown`."""
    return text if text.isprintable() and len(text) <= 120 else shown(text)


def numbered_lines(file: str | os.PathLike[str] | TextIO) -> Iterator[tuple[int, str]]:
    """(line number from 1, text) of every line that is not blank. Bytes that are not UTF-8 become U+FFFD.

    Of a line of more than `MAX_LINE` characters there is the beginning. Raises FileNotFoundError.
    """
    if isinstance(file, (str, os.PathLike)):
        try:
            with (
                storage.local_copy(str(file)) as path,
                open(path, encoding="utf-8-sig", errors="replace") as opened,
            ):
                yield from numbered_lines(opened)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"no CSV file at {file}") from error
        return
    for line in itertools.count(1):
        text = file.readline(MAX_LINE)
        more = text
        while more and not more.endswith("\n"):
            more = file.readline(MAX_LINE)
        if not text:
            return
        if text.strip():
            yield line, text.rstrip("\r\n").replace("\x00", "\ufffd")


def read_cells(text: str, delimiter: str = ",") -> list[str]:
    """The cells of a line, without the blanks around them. Raises csv.Error."""
    return [cell.strip() for cell in next(csv.reader([text], delimiter=delimiter))]


def read_table(
    file: str | os.PathLike[str] | TextIO, what: str, tabs: bool = False
) -> tuple[str, list[tuple[int, list[str]]], list[str]]:
    """A table that must be right in every line: what to call it in errors, (line, cells), and the problems so far.

    what: its name if it is no path. tabs: its first line tells whether tabs or commas are between cells. Lines whose
    cells cannot be read are among the problems alone.
    """
    name = str(file) if isinstance(file, (str, os.PathLike)) else what
    table: list[tuple[int, list[str]]] = []
    problems: list[str] = []
    delimiter = ","
    for line, text in numbered_lines(file):
        if tabs and not table and not problems and "," not in text:
            delimiter = "\t"
        try:
            cells = read_cells(text, delimiter)
        except csv.Error as error:
            problems.append(f"line {line}: {error}")
            continue
        if strange := next((cell for cell in cells if UNREADABLE.search(cell)), None):
            problems.append(f"line {line}: {shown(strange)} is not plain text in UTF-8")
        else:
            table.append((line, cells))
    return name, table, problems


def refuse(name: str, problems: Sequence[str]) -> None:
    """Raise ValueError with a table's problems, if there are any; the first of them where there are many."""
    if problems:
        more = len(problems) - _TOLD_PROBLEMS
        told = [*problems[:_TOLD_PROBLEMS], *([f"and {more} more"] if more > 0 else [])]
        raise ValueError(f"{name}: {'; '.join(told)}")


def _is_header(cells: list[str]) -> bool:
    names = [cell.lower().replace(" ", "_") for cell in cells[:3]]
    return len(names) == 3 and names[0] in ("video_id", "youtube_id") and names[1].startswith("start")


def read_labels(file: str | os.PathLike[str] | TextIO) -> dict[str, Labels]:
    """labels.csv by video id: a header with video_id and any of gender, age, identity; any cell may be empty.

    gender is female, male, f or m (any case), age a number of years from 0 to 120. Raises ValueError with
    every problem and its line number at once, up to ten.
    """
    name, table, problems = read_table(file, "labels")
    header = [cell.lower() for cell in table[0][1]] if table else []
    unknown = sorted(set(header) - {"video_id", "gender", "age", "identity"})
    if "video_id" not in header or unknown or len(set(header)) < len(header):
        first = f"the header must be video_id,gender,age,identity (or fewer), not {shown(','.join(header))}"
        refuse(name, [first, *problems])
    labels: dict[str, Labels] = {}
    for line, cells in table[1:]:
        if len(cells) != len(header):
            problems.append(f"line {line}: {len(cells)} columns, the header has {len(header)}")
            continue
        row = dict(zip(header, cells, strict=True))
        gender = {"f": "female", "m": "male"}.get(row.get("gender", "").lower(), row.get("gender", "").lower())
        age = row.get("age", "")
        if not row["video_id"]:
            problems.append(f"line {line}: no video_id")
        if row["video_id"] in labels:
            problems.append(f"line {line}: {plain(row['video_id'])} a second time")
        if gender and gender not in GENDERS:
            problems.append(f"line {line}: gender {shown(row['gender'])} is not female, male, f or m")
        if age and not (NUMBER.fullmatch(age) and 0 <= float(age) <= 120):
            problems.append(f"line {line}: age {shown(age)} is not a number of years")
            age = ""
        labels[row["video_id"]] = Labels(gender or None, float(age) if age else None, row.get("identity") or None)
    refuse(name, problems)
    return labels

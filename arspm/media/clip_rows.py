"""The rows of an AVSpeech CSV, each with its media file or with the reason why it is dropped."""

from __future__ import annotations

import csv
import math
import os
import re
from dataclasses import dataclass
from typing import TextIO, cast

from arspm.corpus.schema import DropReason
from arspm.media.clip_files import ClipFolder
from arspm.media.csv_tables import NUMBER, UNREADABLE, numbered_lines, quoted, read_cells
from arspm.media.dropped import DroppedClip

UNSAFE = re.compile(rf"[/\\]|{UNREADABLE.pattern}")  # in an id, which becomes part of file names
MAX_ID_BYTES = 200  # a file name may have 255, and an extension is added to ids


@dataclass(frozen=True, slots=True)
class ClipRow:
    """A usable row.

    `path`, and `image` beside a sound file, are local paths or URIs; x and y are in [0, 1] of the frame. `line` is the
    line number in the CSV; in formats without a CSV it is the row's number, and start and end are 0.
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
    """A row that yields no clip. `clip_id` and `video_id` are empty if they cannot be determined."""

    line: int
    clip_id: str
    video_id: str
    reason: DropReason
    detail: str


def read_clip_rows(
    csv_file: str | os.PathLike[str] | TextIO, clips_dir: str | os.PathLike[str]
) -> list[ClipRow | DroppedRow]:
    """Return a row for each line of an AVSpeech CSV that is not blank, with the clip's media file.

    csv_file: a path, a URI or an open text file with `video id, start, end, x, y[, file]`. It has no header; if there
    is one, it is skipped. x and y may be empty. clips_dir: a folder or URI. The media file is `<video
    id>_<start>_<end>.<ext>`, with the numbers exactly as the CSV writes them, or the path inside the folder in the
    sixth column. A sound file needs a picture with the same stem. Raises FileNotFoundError if the CSV or the folder
    does not exist.
    """
    folder = ClipFolder(str(clips_dir))
    seen: dict[str, int] = {}  # clip id -> line
    rows: list[ClipRow | DroppedRow] = []
    for line, text in numbered_lines(csv_file):
        try:
            cells = read_cells(text)
        except csv.Error as error:
            rows.append(DroppedRow(line, "", "", DropReason.bad_row, f"line {line}: {error}"))
            continue
        if not (line == 1 and _is_header(cells)):
            rows.append(_read_row(line, cells, folder, seen))
    return rows


def _read_row(line: int, cells: list[str], folder: ClipFolder, seen: dict[str, int]) -> ClipRow | DroppedRow:
    clip_id = video_id = ""
    try:
        start, end, x, y = _check_cells(cells)
        video_id = cells[0]
        check_id("_".join(cells[:3]), "a clip id")
        clip_id = "_".join(cells[:3])
        if clip_id in seen:
            raise DroppedClip(DropReason.duplicate_key, f"{clip_id} is already on line {seen[clip_id]}")
        seen[clip_id] = line
        path, image = folder.named(cells[5]) if len(cells) == 6 and cells[5] else folder.with_stem(clip_id)
    except DroppedClip as drop:
        return DroppedRow(line, clip_id, video_id, drop.reason, f"line {line}: {drop.detail}")
    return ClipRow(line, clip_id, video_id, start, end, x, y, path, image)


def _check_cells(cells: list[str]) -> tuple[float, float, float | None, float | None]:
    """Return start, end, x and y of a row. Raises DroppedClip(bad_row) for anything that is not AVSpeech's format."""

    def bad(detail: str) -> DroppedClip:
        return DroppedClip(DropReason.bad_row, detail)

    if len(cells) not in (5, 6):
        raise bad(f"{len(cells)} columns; expected 'video id, start, end, x, y[, file]'")
    video_id, *numbers = cells[:5]
    check_id(video_id, "a video id")
    values: list[float | None] = []
    for name, text in zip(("start", "end", "x", "y"), numbers, strict=True):
        if not text and name in ("x", "y"):
            values.append(None)
        elif NUMBER.fullmatch(text) and math.isfinite(float(text)):
            values.append(float(text))
        else:
            raise bad(f"{name} is {quoted(text)}, not a finite number")
    start, end, x, y = cast("tuple[float, float, float | None, float | None]", tuple(values))
    if not 0 <= start < end:
        raise bad(f"start {quoted(numbers[0])} and end {quoted(numbers[1])}: expected 0 <= start < end")
    if (x is None) != (y is None):
        raise bad("one of x and y is empty; fill both or neither")
    if x is not None and y is not None and not (0 <= x <= 1 and 0 <= y <= 1):
        raise bad(f"x {quoted(numbers[2])} and y {quoted(numbers[3])} are not both in [0, 1]")
    return start, end, x, y


def _is_header(cells: list[str]) -> bool:
    names = [cell.lower().replace(" ", "_") for cell in cells[:3]]
    return len(names) == 3 and names[0] in ("video_id", "youtube_id") and names[1].startswith("start")


def check_id(text: str, kind: str) -> None:
    """Raise DroppedClip(bad_row) for an id that is not safe in a file name. kind: what the id is, for the message."""
    if text in ("", ".", "..") or UNSAFE.search(text) or len(text.encode()) > MAX_ID_BYTES:
        raise DroppedClip(
            DropReason.bad_row,
            f"{quoted(text)} cannot be {kind}: empty, over {MAX_ID_BYTES} bytes, or not safe in a file name",
        )

"""The rows of an AVSpeech CSV, each with its media file or with the reason why it is dropped.

There may be millions of rows, so they are kept as columns. Only a shard's rows become objects.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from arspm.corpus.schema import DropReason
from arspm.media.clip_files import ClipFolder
from arspm.media.csv_tables import UNREADABLE, find_separator, number, numbered_lines, quoted, read_cells
from arspm.media.dropped import DroppedClip

UNSAFE = re.compile(rf"[/\\]|{UNREADABLE.pattern}")  # in an id, which becomes part of file names
MAX_ID_BYTES = 200  # a file name may have 255, and an extension is added to ids
_CHUNK = 65_536  # rows that are Python objects at a time


@dataclass(frozen=True, slots=True)
class ClipRow:
    """A usable row.

    `path`, and `image` for a sound file, are local paths or URIs; x and y are in [0, 1] of the frame. `line` is the
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
    other_images: tuple[str, ...] = ()  # to try if no usable face is in `image`


@dataclass(frozen=True, slots=True)
class DroppedRow:
    """A row that yields no clip. `clip_id` and `video_id` are empty if they cannot be determined."""

    line: int
    clip_id: str
    video_id: str
    reason: DropReason
    detail: str


Row = ClipRow | DroppedRow
# A row is dropped if it has a reason; then `detail` says more.
COLUMNS = pa.schema(
    [
        ("line", pa.int64()),
        ("clip_id", pa.string()),
        ("video_id", pa.string()),
        *((name, pa.float64()) for name in ("start_seconds", "end_seconds", "x", "y")),
        *((name, pa.string()) for name in ("path", "image", "reason", "detail")),
        ("other_images", pa.list_(pa.string())),
    ]
)


class Rows(Sequence[Row]):
    """Rows as a table of COLUMNS, and as a sequence of `ClipRow` and `DroppedRow`."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Rows:
        """Return rows that are objects as a table."""
        return cls(pa.Table.from_pylist([asdict(row) for row in rows], COLUMNS))

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [*self][index]
        return next(iter(Rows(self.table.slice(range(len(self))[index], 1))))

    def __iter__(self) -> Iterator[Row]:
        for batch in self.table.to_batches(_CHUNK):
            for cells in batch.to_pylist():
                reason, detail = cells.pop("reason"), cells.pop("detail")
                if reason is None:
                    yield ClipRow(**cells | {"other_images": tuple(cells["other_images"] or ())})
                else:
                    ids = {name: cells[name] for name in ("line", "clip_id", "video_id")}
                    yield DroppedRow(**ids, reason=DropReason[reason], detail=detail)

    def usable(self) -> Rows:
        return Rows(self.table.filter(pc.is_null(self.table["reason"])))

    def dropped(self) -> Rows:
        return Rows(self.table.filter(pc.is_valid(self.table["reason"])))

    def drop(self, mask: np.ndarray, reason: DropReason, details: Iterable[str]) -> Rows:
        """Return the rows with those dropped for which `mask`, (rows,), is true. details: one for each of these."""
        which, detail = pa.array(mask), self.table["detail"].combine_chunks()
        columns = {
            "reason": pc.if_else(which, reason.value, self.table["reason"]),
            "detail": pc.replace_with_mask(detail, which, pa.array(details, pa.string())),
        }
        return Rows(with_columns(self.table, columns))


class _Fields(NamedTuple):
    """The cells of a usable line of the CSV, checked."""

    video_id: str
    start: float
    end: float
    x: float | None
    y: float | None
    file: str


def read_clip_rows(csv_file: str | os.PathLike[str] | TextIO, clips: ClipFolder) -> Rows:
    """Return a row for each line of an AVSpeech CSV that is not blank, with the clip's media file.

    csv_file: a path, a URI or an open text file with `video id, start, end, x, y[, file]`. It has no header; if there
    is one, it is skipped. x and y may be empty. The sixth column is a path inside the folder; without it, the file is
    found by its name (`ClipFolder.find`). A sound file needs a picture with the same name. Raises FileNotFoundError if
    the CSV does not exist, ValueError if two files fit one row.
    """
    rows = _drop_duplicates(_read_lines(csv_file))
    table = rows.table
    chunks = [_find_files(batch, clips) for batch in table.to_batches(_CHUNK)]
    return Rows(pa.Table.from_batches(chunks, COLUMNS))


def _read_lines(csv_file: str | os.PathLike[str] | TextIO) -> Rows:
    """Return a row for each line. `path` has the sixth column, empty if there is none."""
    chunks: list[pa.Table] = []
    lines: list[tuple[Any, ...]] = []
    separator = ""

    def flush() -> None:
        columns = zip(*lines, strict=True) if lines else [()] * len(COLUMNS)
        arrays = [pa.array(values, field.type) for values, field in zip(columns, COLUMNS, strict=True)]
        chunks.append(pa.Table.from_arrays(arrays, schema=COLUMNS))
        lines.clear()

    for line, text in numbered_lines(csv_file):
        separator = separator or find_separator(text)
        clip_id = video_id = ""
        try:
            cells = read_cells(text, separator)
            if line == 1 and _is_header(cells):
                continue
            fields = _check_cells(cells)
            video_id = fields.video_id
            check_id("_".join(cells[:3]), "a clip id")
            clip_id = "_".join(cells[:3])
            lines.append((line, clip_id, *fields[:5], fields.file, None, None, None, None))
        except csv.Error as error:
            lines.append((line, "", "", *[None] * 6, DropReason.bad_row.value, f"line {line}: {error}", None))
        except DroppedClip as drop:
            detail = f"line {line}: {drop.detail}"
            lines.append((line, clip_id, video_id, *[None] * 6, drop.reason.value, detail, None))
        if len(lines) == _CHUNK:
            flush()
    flush()
    return Rows(pa.concat_tables(chunks))


def _drop_duplicates(rows: Rows) -> Rows:
    """Drop each row with the video, start and end of an earlier one, compared as numbers."""
    table = rows.table
    videos = table["video_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    start, end = (table[name].to_numpy() for name in ("start_seconds", "end_seconds"))
    order = np.lexsort((end, start, videos))  # stable, so the first of equal rows is the earliest
    first = np.ones(len(rows), bool)  # whether a row in that order differs from the one before; NaN differs from NaN
    for values in (videos, start, end):
        first[1:] &= values[order][1:] == values[order][:-1]
    first[1:] = ~first[1:]
    duplicate = np.zeros(len(rows), bool)
    duplicate[order] = ~first
    if not duplicate.any():
        return rows
    original = np.empty(len(rows), np.int64)
    original[order] = order[np.maximum.accumulate(np.where(first, np.arange(len(rows)), 0))]
    where = np.flatnonzero(duplicate)
    lines, firsts = table["line"].to_numpy()[where], table.take(original[where])
    earlier = zip(lines, firsts["clip_id"].to_pylist(), firsts["line"].to_pylist(), strict=True)
    details = [f"line {line}: {clip} is already on line {known}" for line, clip, known in earlier]
    return rows.drop(duplicate, DropReason.duplicate_key, details)


def _find_files(batch: pa.RecordBatch, clips: ClipFolder) -> pa.RecordBatch:
    """Return the rows with the URIs of their files, or dropped because they have none."""
    found: dict[str, list[str | None]] = {name: [] for name in ("path", "image", "reason", "detail")}
    names = ("line", "video_id", "start_seconds", "end_seconds", *found)
    cells = zip(*(batch[name].to_pylist() for name in names), strict=True)
    for line, video_id, start, end, file, image, reason, detail in cells:
        path = None
        if reason is None:
            try:
                path = clips.named(file) if file else clips.find(video_id, start, end)
                beside = clips.picture_beside(path)
                path, image = clips.uri(path), None if beside is None else clips.uri(beside)
            except DroppedClip as drop:
                reason, detail = drop.reason.value, f"line {line}: {drop.detail}"
        for column, value in zip(found.values(), (path, image, reason, detail), strict=True):
            column.append(value)
    return with_columns(batch, {name: pa.array(values, pa.string()) for name, values in found.items()})


def _check_cells(cells: list[str]) -> _Fields:
    """Return a row's fields. Raises DroppedClip(bad_row) for anything that is not AVSpeech's format."""

    def bad(detail: str) -> DroppedClip:
        return DroppedClip(DropReason.bad_row, detail)

    if len(cells) not in (5, 6):
        raise bad(f"{len(cells)} columns; expected 'video id, start, end, x, y[, file]'")
    video_id, *numbers = cells[:5]
    check_id(video_id, "a video id")
    start, end, x, y = values = [number(text) for text in numbers]
    for name, text, value in zip(("start", "end", "x", "y"), numbers, values, strict=True):
        if value is None and (text or name in ("start", "end")):
            raise bad(f"{name} is {quoted(text)}, not a finite number")
    if start is None or end is None or not 0 <= start < end:
        raise bad(f"start {quoted(numbers[0])} and end {quoted(numbers[1])}: expected 0 <= start < end")
    if (x is None) != (y is None):
        raise bad("one of x and y is empty; fill both or neither")
    if x is not None and y is not None and not (0 <= x <= 1 and 0 <= y <= 1):
        raise bad(f"x {quoted(numbers[2])} and y {quoted(numbers[3])} are not both in [0, 1]")
    return _Fields(video_id, start, end, x, y, cells[5] if len(cells) == 6 else "")


def _is_header(cells: list[str]) -> bool:
    names = [cell.lower().replace(" ", "_") for cell in cells[:3]]
    return len(names) == 3 and names[0] in ("video_id", "youtube_id") and names[1].startswith("start")


def read_csv(csv_file: str | os.PathLike[str] | TextIO) -> Rows:
    """Return a row for each line of an AVSpeech CSV that is not blank, before any file is looked for.

    `path` has the sixth column, empty if there is none. Raises FileNotFoundError.
    """
    return _drop_duplicates(_read_lines(csv_file))


def check_id(text: str, kind: str) -> None:
    """Raise DroppedClip(bad_row) for an id that is not safe in a file name. kind: what the id is, for the message."""
    if text in ("", ".", "..") or UNSAFE.search(text) or len(text.encode()) > MAX_ID_BYTES:
        raise DroppedClip(
            DropReason.bad_row,
            f"{quoted(text)} cannot be {kind}: empty, over {MAX_ID_BYTES} bytes, or not safe in a file name",
        )


def with_columns(table: Any, columns: dict[str, Any]) -> Any:
    """Return a table, or a batch, of COLUMNS with some columns replaced."""
    arrays = [columns.get(name, table[name]) for name in COLUMNS.names]
    return type(table).from_arrays(arrays, schema=COLUMNS)

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
_LINES, _CHARACTERS = 262_144, 1 << 26  # lines that are read and matched at a time, and about their characters


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
    sound: str | None = None  # the file with the sound, if `path` is a video without sound
    sizes: tuple[int, ...] = ()  # in bytes, of path, image, other_images and sound


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
        ("sound", pa.string()),
        ("sizes", pa.list_(pa.int64())),
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
                    lists = {name: tuple(cells[name] or ()) for name in ("other_images", "sizes")}
                    yield ClipRow(**cells | lists)
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
    found by its name (`ClipFolder.locate`). A sound file needs a picture with the same name. Raises FileNotFoundError
    if the CSV does not exist, ValueError if two files fit one row.
    """
    table = _drop_duplicates(_read_lines(csv_file)).table
    chunks = [_find_files(pa.Table.from_batches([batch]), clips) for batch in table.to_batches(_LINES)]
    return Rows(pa.concat_tables([COLUMNS.empty_table(), *chunks]))


def _read_lines(csv_file: str | os.PathLike[str] | TextIO) -> Rows:
    """Return a row for each line. `path` has the sixth column, empty if there is none."""
    chunks = [COLUMNS.empty_table()]
    separator = ""
    for lines in _parts(numbered_lines(csv_file)):
        separator = separator or find_separator(lines[0][1])
        usual, table = _read_usual_lines(lines, separator)
        others = _read_each_line([line for line, is_usual in zip(lines, usual, strict=True) if not is_usual], separator)
        chunks.append(pa.concat_tables([table, others]).sort_by("line") if len(others) else table)
    return Rows(pa.concat_tables(chunks))


def _parts(numbered: Iterable[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """Yield the lines in lists of up to _LINES, shorter ones if the lines are long."""
    part, num_characters = [], 0
    for line in numbered:
        part.append(line)
        num_characters += len(line[1])
        if len(part) == _LINES or num_characters >= _CHARACTERS:
            yield part
            part, num_characters = [], 0
    if part:
        yield part


def _read_usual_lines(lines: Sequence[tuple[int, str]], separator: str) -> tuple[np.ndarray, pa.Table]:
    """Return which lines can be read as columns, (lines,), and their rows. `_read_each_line` gives the same rows.

    Among millions of lines these are nearly all: ids of plain letters, numbers without a sign or an exponent, no
    quotes, no blanks around cells, and no mistakes.
    """
    try:
        texts = pa.array([text for _, text in lines], pa.string())
    except UnicodeEncodeError:  # half of a surrogate pair
        return np.zeros(len(lines), bool), COLUMNS.empty_table()
    amount, visible = r"\d{1,12}(?:\.\d{1,12})?", rf'[^\x00-\x20"\x7f-\x{{10ffff}}{separator}]'
    file = rf"(?:{visible}(?:(?:{visible}| )*{visible})?)?"
    cells = [r"[A-Za-z0-9_-]+", amount, amount, f"(?:{amount})?", f"(?:{amount})?"]
    matched = pc.match_substring_regex(texts, rf"\A{separator.join(cells)}(?:{separator}{file})?\z")
    split = pc.split_pattern(texts.filter(matched), separator)
    flat, begins = split.flatten(), split.offsets.to_numpy()
    video, start_text, end_text, x_text, y_text = (flat.take(pa.array(begins[:-1] + column)) for column in range(5))
    sixth = flat.take(pa.array(begins[:-1] + 5, mask=np.diff(begins) < 6))
    clip = pc.binary_join_element_wise(video, start_text, end_text, "_")
    start, end, x, y = (
        pc.cast(pc.if_else(pc.equal(text, ""), None, text), pa.float64())
        for text in (start_text, end_text, x_text, y_text)
    )
    valid = pc.and_(pc.less(start, end), pc.less_equal(pc.binary_length(clip), MAX_ID_BYTES))
    valid = pc.and_(valid, pc.equal(pc.is_null(x), pc.is_null(y)))
    valid = pc.and_(valid, pc.fill_null(pc.and_(pc.less_equal(x, 1), pc.less_equal(y, 1)), True))
    usual = matched.to_numpy(zero_copy_only=False).copy()
    usual[usual] = valid.to_numpy(zero_copy_only=False)
    numbers = pa.array([line for line, _ in lines], pa.int64()).filter(pa.array(usual))
    known = [clip, video, start, end, x, y, pc.fill_null(sixth, "")]
    columns = dict(zip(COLUMNS.names, [numbers, *(column.filter(valid) for column in known)], strict=False))
    empty = {field.name: pa.nulls(len(numbers), field.type) for field in COLUMNS}
    return usual, pa.table(empty | columns, COLUMNS)


def _read_each_line(lines: Iterable[tuple[int, str]], separator: str) -> pa.Table:
    """Return a row for each line, except for a header, in Python."""
    rows: list[tuple[Any, ...]] = []
    for line, text in lines:
        clip_id = video_id = ""
        fields: tuple[Any, ...] = (None,) * 5
        reason = detail = None
        try:
            cells = read_cells(text, separator)
            if line == 1 and _is_header(cells):
                continue
            checked = _check_cells(cells)
            video_id = checked.video_id
            check_id("_".join(cells[:3]), "a clip id")
            clip_id, fields = "_".join(cells[:3]), checked[1:]
        except csv.Error as error:
            reason, detail = DropReason.bad_row.value, f"line {line}: {error}"
        except DroppedClip as drop:
            reason, detail = drop.reason.value, f"line {line}: {drop.detail}"
        rows.append((line, clip_id, video_id, *fields, None, reason, detail, None, None, None))
    columns = zip(*rows, strict=True) if rows else [()] * len(COLUMNS)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, COLUMNS, strict=True)]
    return pa.Table.from_arrays(arrays, schema=COLUMNS)


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


def _find_files(table: pa.Table, clips: ClipFolder) -> pa.Table:
    """Return the rows with the URIs and sizes of their files, or dropped because they have none."""
    usable = pc.is_null(table["reason"]).to_numpy()
    names = pc.fill_null(table["path"], "").combine_chunks()
    named = usable & pc.not_equal(names, "").to_numpy(zero_copy_only=False)
    lines, starts, ends = (table[name].to_numpy() for name in ("line", "start_seconds", "end_seconds"))
    files = np.full(len(table), -1)
    dropped: dict[DropReason, dict[int, str]] = {DropReason.missing_file: {}, DropReason.bad_row: {}}  # row -> detail

    where = np.flatnonzero(usable & ~named)
    video_ids = table["video_id"].combine_chunks().take(pa.array(where))
    located = clips.locate(video_ids, starts[where], ends[where])
    files[where] = located.file
    without = located.file < 0
    missing, others = where[without], located.other[without]
    known = clips.paths.take(pa.array(others, mask=others < 0)).to_pylist()
    cells = (lines[missing].tolist(), video_ids.filter(pa.array(without)).to_pylist())
    for row, line, video, start, end, other in zip(
        missing.tolist(), *cells, starts[missing].tolist(), ends[missing].tolist(), known, strict=True
    ):
        more = "" if other is None else f"; there are others of this video, such as {quoted(other)}"
        dropped[DropReason.missing_file][row] = f"line {line}: no file of {video} from {start:g} to {end:g} s{more}"

    where = np.flatnonzero(named)
    files[where] = clips.spelled(names.take(pa.array(where)))
    for row in where[files[where] < 0].tolist():
        try:
            files[row] = clips.named(names[row].as_py())
        except DroppedClip as drop:
            dropped[drop.reason][row] = f"line {lines[row]}: {drop.detail}"

    images = np.full(len(table), -1)
    for row in np.flatnonzero((files >= 0) & clips.is_sound[files]).tolist():
        found = clips.picture_beside(files[row])
        images[row] = -1 if found is None else found
    both = np.stack([files, images], axis=1)  # (rows, 2)
    ends_of_lists = np.cumsum(np.sum(both >= 0, axis=1))
    sizes = pa.ListArray.from_arrays(
        pa.array(np.append(0, ends_of_lists), pa.int32()), pa.array(clips.sizes[both[both >= 0]], pa.int64())
    )
    columns = {"path": clips.uris(files), "image": clips.uris(images), "sizes": sizes}
    rows = Rows(with_columns(table, columns))
    for reason, details in dropped.items():
        mask = np.zeros(len(table), bool)
        mask[[*details]] = True
        rows = rows.drop(mask, reason, [details[row] for row in sorted(details)])
    return rows.table


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

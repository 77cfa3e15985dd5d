"""The lines of an AVSpeech CSV as columns: checked, and not yet matched with files."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from arspm.corpus.schema import DropReason
from arspm.media.csv_tables import UNREADABLE, find_separator, number, numbered_lines, quoted, read_cells
from arspm.media.dropped import DroppedClip

UNSAFE = re.compile(rf"[/\\]|{UNREADABLE.pattern}")  # in an id, which becomes part of file names
MAX_ID_BYTES = 200  # a file name may have 255, and an extension is added to ids
_LINES, _CHARACTERS = 262_144, 1 << 26  # lines that are Python objects at a time, and about their characters
# `file` is the sixth column, empty if there is none. A line is dropped if it has a reason; then `detail` says more.
LINES = pa.schema(
    [
        ("line", pa.int64()),
        ("clip_id", pa.string()),
        ("video_id", pa.string()),
        *((name, pa.float64()) for name in ("start_seconds", "end_seconds", "x", "y")),
        *((name, pa.string()) for name in ("file", "reason", "detail")),
    ]
)


class _Fields(NamedTuple):
    """The cells of a usable line of the CSV, checked."""

    video_id: str
    start: float
    end: float
    x: float | None
    y: float | None
    file: str


def read_lines(csv_file: str | os.PathLike[str] | TextIO) -> pa.Table:
    """Return a row of LINES for each line that is not blank and no header. Raises FileNotFoundError."""
    chunks = [LINES.empty_table()]
    separator = ""
    for lines in _parts(numbered_lines(csv_file)):
        separator = separator or find_separator(lines[0][1])
        usual, table = read_usual_lines(lines, separator)
        others = read_each_line([line for line, is_usual in zip(lines, usual, strict=True) if not is_usual], separator)
        chunks.append(pa.concat_tables([table, others]).sort_by("line") if len(others) else table)
    return pa.concat_tables(chunks)


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


def read_usual_lines(lines: Sequence[tuple[int, str]], separator: str) -> tuple[np.ndarray, pa.Table]:
    """Return which lines can be read as columns, (lines,), and their rows. `read_each_line` gives the same rows.

    Among millions of lines these are nearly all: ids of plain letters, numbers without a sign or an exponent, no
    quotes, no blanks around cells, and no mistakes.
    """
    try:
        texts = pa.array([text for _, text in lines], pa.string())
    except UnicodeEncodeError:  # half of a surrogate pair
        return np.zeros(len(lines), bool), LINES.empty_table()
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
    columns = dict(zip(LINES.names, [numbers, *(column.filter(valid) for column in known)], strict=False))
    empty = {field.name: pa.nulls(len(numbers), field.type) for field in LINES}
    return usual, pa.table(empty | columns, LINES)


def read_each_line(lines: Iterable[tuple[int, str]], separator: str) -> pa.Table:
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
        rows.append((line, clip_id, video_id, *fields, reason, detail))
    columns = zip(*rows, strict=True) if rows else [()] * len(LINES)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, LINES, strict=True)]
    return pa.Table.from_arrays(arrays, schema=LINES)


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

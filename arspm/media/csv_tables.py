"""Tables that users and dataset authors write. Every problem in them is reported with its line number.

The separator is a comma, a semicolon or a tab; the encoding is UTF-8, UTF-16 or UTF-32. Both are found out.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import itertools
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TextIO

from arspm import storage
from arspm.corpus.schema import GENDERS

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
SEPARATORS = "\t;,"  # of these, the one that makes most cells; the first of several
# The byte order marks that begin a file. UTF-32's comes first, because UTF-16's is its beginning.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Control characters, and the characters that replace bytes which are not UTF-8.
UNREADABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufffd\ud800-\udfff]")
# Characters read of one line. A longer line is refused anyway: the `csv` module refuses cells of more than 131,072
# characters, so the line contains one of those or has more cells than any table has columns.
MAX_LINE = 1 << 21
_MAX_PROBLEMS = 20  # in one error message


class Row(NamedTuple):
    """One row of a table: all cells by column, and the columns `gender` and `age` (years) as values, None if empty."""

    cells: dict[str, str]
    gender: str | None
    age: float | None


def read_rows(
    file: str | os.PathLike[str] | TextIO,
    name: str,
    columns: Callable[[list[str]], list[str]],
    key: Sequence[str],
    *,
    strict: bool = False,
) -> list[Row]:
    """Return the rows of a table with a header. The `key` columns must be filled and unique.

    name: the table's name in errors if `file` has no path. columns: returns the names of the columns for the cells of
    the header, or raises ValueError. strict: refuse unbalanced quotes. A gender is female, male, f or m in any case; an
    age is 0 to 120 years.

    Raises FileNotFoundError, and ValueError with one line per problem, each with the file and the line number.
    """
    if isinstance(file, (str, os.PathLike)):
        name = str(file)
    problems: list[str] = []
    lines = _readable_lines(file, strict, problems)
    _, header = next(lines, (0, []))
    try:
        names = columns(header)
    except ValueError as error:
        raise _table_error(name, [str(error), *problems]) from None
    rows: list[Row] = []
    seen: set[tuple[str, ...]] = set()
    for line, texts in lines:
        if len(texts) != len(names):
            problems.append(f"line {line}: {len(texts)} columns, the header has {len(names)}")
            continue
        cells = dict(zip(names, texts, strict=True))
        identity = tuple(cells[column] for column in key)
        if not all(identity):
            problems.append(f"line {line}: {' and '.join(key)} must not be empty")
        elif identity in seen:
            problems.append(f"line {line}: second row for {' of '.join(map(quoted_if_odd, identity))}; remove one")
        seen.add(identity)
        gender, age = cells.get("gender", ""), cells.get("age", "")
        sex = {"f": "female", "m": "male"}.get(gender.lower(), gender.lower())
        if sex not in ("", *GENDERS):
            problems.append(f"line {line}: gender {quoted(gender)} is not female, male, f or m")
        years = number(age) if age else None
        if age and (years is None or not 0 <= years <= 120):
            problems.append(f"line {line}: age {quoted(age)} is not a number from 0 to 120")
        rows.append(Row(cells, sex or None, years))
    if problems:
        raise _table_error(name, problems)
    return rows


def _readable_lines(
    file: str | os.PathLike[str] | TextIO, strict: bool, problems: list[str]
) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of every readable line; `problems` gets a message for each other line."""
    separator = ""
    for line, text in numbered_lines(file):
        separator = separator or find_separator(text)
        try:
            cells = read_cells(text, separator, strict)
        except csv.Error as error:
            problems.append(f"not a table in UTF-8 or UTF-16: line {line}: {error}")
            continue
        if unreadable := next((cell for cell in cells if UNREADABLE.search(cell)), None):
            problems.append(
                f"not a table in UTF-8 or UTF-16: line {line}: {quoted(unreadable)} has unreadable characters"
            )
        else:
            yield line, cells


def _table_error(name: str, problems: Sequence[str]) -> ValueError:
    """Return the error that lists a table's problems, at most _MAX_PROBLEMS of them."""
    more = len(problems) - _MAX_PROBLEMS
    listed = [*problems[:_MAX_PROBLEMS], *([f"and {more} more problems"] if more > 0 else [])]
    return ValueError("\n".join(f"{name}: {problem}" for problem in listed))


def numbered_lines(file: str | os.PathLike[str] | TextIO) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text) of every line that is not blank. Undecodable bytes become U+FFFD.

    Only the first MAX_LINE characters of a line are returned. Raises FileNotFoundError.
    """
    if isinstance(file, (str, os.PathLike)):
        try:
            with storage.local_copy(str(file)) as path:
                with open(path, "rb") as binary:
                    encoding = find_encoding(binary.read(4096))
                with open(path, encoding=encoding, errors="replace") as opened:
                    yield from numbered_lines(opened)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"no CSV file at {file}") from error
        return
    for line in itertools.count(1):
        text = file.readline(MAX_LINE)
        rest = text
        while rest and not rest.endswith("\n"):
            rest = file.readline(MAX_LINE)
        if not text:
            return
        if text.strip():
            yield line, text.rstrip("\r\n").replace("\x00", "\ufffd")


def find_encoding(data: bytes) -> str:
    """Return the encoding of a text that begins with these bytes: UTF-16 or UTF-32 if marked, or if it looks so."""
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            return encoding
    # Latin letters, digits and separators have a zero byte in UTF-16, and none in UTF-8.
    for encoding, high in (("utf-16-le", data[1::2]), ("utf-16-be", data[::2])):
        if high.count(0) * 2 > len(high):
            return encoding
    return "utf-8-sig"


def find_separator(text: str) -> str:
    """Return what separates the cells of a table whose first line is `text`."""

    def num_cells(separator: str) -> int:
        with contextlib.suppress(csv.Error):
            return len(next(csv.reader([text[:4096]], delimiter=separator)))
        return 0

    return max(SEPARATORS, key=num_cells)


def read_cells(text: str, separator: str = ",", strict: bool = False) -> list[str]:
    """Return the cells of a line without surrounding blanks. Raises csv.Error."""
    if '"' not in text and len(text) < csv.field_size_limit():
        return [cell.strip() for cell in text.split(separator)]  # the same, in a fifth of the time
    return [cell.strip() for cell in next(csv.reader([text], delimiter=separator, strict=strict))]


def number(text: str) -> float | None:
    """Return the finite number that a cell contains, None if it contains none. The decimal sign may be a comma."""
    text = text.replace(",", ".", 1)
    value = float(text) if NUMBER.fullmatch(text) else math.inf
    return value if math.isfinite(value) else None


# Unlike `config.quote_value`, which keeps the beginning of a text and hides credentials: of a long file name the end
# matters, and cells and file names are not URIs.
def quoted(text: str) -> str:
    """Return any text as one printable line, in quotes; of a long text the last 117 characters."""
    return repr(text if len(text) <= 120 else "..." + text[-117:])


def quoted_if_odd(text: str) -> str:
    """Return a text unchanged if it is short and printable, otherwise `quoted`."""
    return text if text.isprintable() and len(text) <= 120 else quoted(text)

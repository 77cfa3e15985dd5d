"""CSV tables that users and dataset authors write. Every problem in them is reported with its line number."""

from __future__ import annotations

import csv
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TextIO

from arspm import storage
from arspm.corpus.schema import GENDERS

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
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
    tabs: bool = False,
    strict: bool = False,
) -> list[Row]:
    """Return the rows of a table with a header. The `key` columns must be filled and unique.

    name: the table's name in errors if `file` has no path. columns: returns the names of the columns for the cells of
    the header, or raises ValueError. tabs: cells are separated by tabs if the header contains no comma. strict: refuse
    unbalanced quotes. A gender is female, male, f or m in any case; an age is 0 to 120 years.

    Raises FileNotFoundError, and ValueError with one line per problem, each with the file and the line number.
    """
    if isinstance(file, (str, os.PathLike)):
        name = str(file)
    problems: list[str] = []
    lines = _readable_lines(file, tabs, strict, problems)
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
        if age and not (NUMBER.fullmatch(age) and 0 <= float(age) <= 120):
            problems.append(f"line {line}: age {quoted(age)} is not a number from 0 to 120")
            age = ""
        rows.append(Row(cells, sex or None, float(age) if age else None))
    if problems:
        raise _table_error(name, problems)
    return rows


def _readable_lines(
    file: str | os.PathLike[str] | TextIO, tabs: bool, strict: bool, problems: list[str]
) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of every readable line; `problems` gets a message for each other line."""
    delimiter = ","
    for number, (line, text) in enumerate(numbered_lines(file)):
        if tabs and number == 0 and "," not in text:
            delimiter = "\t"
        try:
            cells = read_cells(text, delimiter, strict)
        except csv.Error as error:
            problems.append(f"not a CSV file in UTF-8: line {line}: {error}")
            continue
        if unreadable := next((cell for cell in cells if UNREADABLE.search(cell)), None):
            problems.append(f"not a CSV file in UTF-8: line {line}: {quoted(unreadable)} has unreadable characters")
        else:
            yield line, cells


def _table_error(name: str, problems: Sequence[str]) -> ValueError:
    """Return the error that lists a table's problems, at most _MAX_PROBLEMS of them."""
    more = len(problems) - _MAX_PROBLEMS
    listed = [*problems[:_MAX_PROBLEMS], *([f"and {more} more problems"] if more > 0 else [])]
    return ValueError("\n".join(f"{name}: {problem}" for problem in listed))


def numbered_lines(file: str | os.PathLike[str] | TextIO) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text) of every line that is not blank. Bytes that are not UTF-8 become U+FFFD.

    Only the first MAX_LINE characters of a line are returned. Raises FileNotFoundError.
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
        rest = text
        while rest and not rest.endswith("\n"):
            rest = file.readline(MAX_LINE)
        if not text:
            return
        if text.strip():
            yield line, text.rstrip("\r\n").replace("\x00", "\ufffd")


def read_cells(text: str, delimiter: str = ",", strict: bool = False) -> list[str]:
    """Return the cells of a line without surrounding blanks. Raises csv.Error."""
    return [cell.strip() for cell in next(csv.reader([text], delimiter=delimiter, strict=strict))]


# Unlike `config.quote_value`, which keeps the beginning of a text and hides credentials: of a long file name the end
# matters, and cells and file names are not URIs.
def quoted(text: str) -> str:
    """Return any text as one printable line, in quotes; of a long text the last 117 characters."""
    return repr(text if len(text) <= 120 else "..." + text[-117:])


def quoted_if_odd(text: str) -> str:
    """Return a text unchanged if it is short and printable, otherwise `quoted`."""
    return text if text.isprintable() and len(text) <= 120 else quoted(text)

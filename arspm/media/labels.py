"""labels.csv: gender, age and identity of speakers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TextIO

from arspm.media.csv_tables import quoted, read_rows


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of a speaker; None if unknown. `age` in years."""

    gender: str | None = None
    age: float | None = None
    identity: str | None = None


def read_labels(file: str | os.PathLike[str] | TextIO) -> dict[str, Labels]:
    """Return labels.csv by video id. Its header has video_id and any of gender, age, identity; cells may be empty.

    Raises FileNotFoundError and ValueError as `csv_tables.read_rows`.
    """
    return {
        row.cells["video_id"]: Labels(row.gender, row.age, row.cells.get("identity") or None)
        for row in read_rows(file, "labels", _columns, ["video_id"])
    }


def _columns(header: list[str]) -> list[str]:
    names = [cell.lower() for cell in header]
    unknown = set(names) - {"video_id", "gender", "age", "identity"}
    if "video_id" not in names or unknown or len(set(names)) < len(names):
        raise ValueError(
            f"the header must be video_id,gender,age,identity (or fewer columns), not {quoted(','.join(names))}"
        )
    return names

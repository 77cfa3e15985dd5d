"""`data.filter`: its syntax, its result against Python's own evaluation, and what it refuses."""

import random
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from arspm.corpus import filters, schema, tables

NUM_ROWS = 50
COLUMNS = ("face_score", "voiced_seconds", "num_faces", "gender", "audio_codec")


@pytest.fixture
def rows() -> list[dict[str, object]]:
    """Rows of the columns in COLUMNS; some have no value."""
    generator = random.Random(3)
    return [
        {
            "face_score": generator.random(),
            "voiced_seconds": generator.uniform(0, 6),
            "num_faces": generator.randint(1, 3),
            "gender": generator.choice(["female", "male", None]),
            "audio_codec": generator.choice(["aac", "opus"]),
        }
        for _ in range(NUM_ROWS)
    ]


@pytest.fixture
def split(rows: list[dict[str, object]], tmp_path: Path) -> tables.Split:
    """A split of two shards with those rows, in the families that have the columns."""
    for family, names in (("measures", COLUMNS[:3] + COLUMNS[4:]), ("faces", COLUMNS[3:4])):
        (tmp_path / family).mkdir()
        for number, (begin, end) in enumerate(((0, 20), (20, NUM_ROWS))):
            table = pa.table({name: [row[name] for row in rows[begin:end]] for name in names})
            pq.write_table(table, tmp_path / family / f"shard-{number}.parquet")
    return tables.Split(str(tmp_path), ("shard-0", "shard-1"), (20, NUM_ROWS - 20), 64)


@pytest.mark.parametrize(
    "text",
    [
        "face_score > 0.5",
        "face_score >= 0.5 and voiced_seconds < 3",
        "0.2 < face_score <= 0.8",
        "num_faces == 1 or voiced_seconds > 5",
        "not (num_faces != 1) and face_score > -1",
        "audio_codec == 'aac' and 3 < voiced_seconds",
        "voiced_seconds > face_score",
    ],
)
def test_a_filter_keeps_what_python_says(rows: list[dict[str, object]], split: tables.Split, text: str) -> None:
    selection = filters.select_rows(split, text)
    expected = [bool(eval(text, {}, row)) for row in rows]
    assert selection.keep.tolist() == expected
    assert 0 < sum(expected) < NUM_ROWS


def test_each_condition_has_its_own_count(rows: list[dict[str, object]], split: tables.Split) -> None:
    selection = filters.select_rows(split, "face_score > 0.5 and (num_faces == 1 or num_faces == 2)")
    low, many = (
        sum(not true for true in each)
        for each in zip(*((r["face_score"] > 0.5, r["num_faces"] < 3) for r in rows), strict=True)
    )
    assert selection.removed == {"face_score > 0.5": low, "num_faces == 1 or num_faces == 2": many}
    assert selection.figures["filter"] == {
        "clips": NUM_ROWS,
        "kept": int(selection.keep.sum()),
        "removed": selection.removed,
    }
    assert filters.describe(selection.figures).startswith(
        f"data.filter keeps {selection.keep.sum()} of 50 training clips: "
    )


def test_a_comparison_with_a_missing_value_is_not_true(rows: list[dict[str, object]], split: tables.Split) -> None:
    for text in ("gender == 'female'", "not (gender == 'male')"):
        kept = [row["gender"] for row, keep in zip(rows, filters.select_rows(split, text).keep, strict=True) if keep]
        assert set(kept) == {"female"}


def test_no_filter_keeps_all_and_reads_nothing(split: tables.Split) -> None:
    selection = filters.select_rows(split._replace(uri="/none"), " ")
    assert selection == (pytest.approx(np.ones(NUM_ROWS, bool)), {})
    assert selection.figures == {}


def test_a_filter_that_keeps_nothing_is_an_error_with_the_counts(split: tables.Split) -> None:
    with pytest.raises(ValueError, match=r"^data.filter keeps 0 of 50 training clips: face_score > 2 removes 50$"):
        filters.select_rows(split, "face_score > 2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("face_scor > 0.5", "there is no column face_scor; there are age, "),
        ("face_landmarks > 0.5", "there is no column face_landmarks"),
        ("face_score > 'a'", "compares a number with a text"),
        ("gender == 1", "compares a number with a text"),
        ("1 < 2", "has no column"),
        ("face_score", "is not a comparison"),
        ("face_score + 1 > 2", "'face_score + 1' is no column, number or text"),
        ("__import__('os').system('true') == 0", "is no column"),
        ("face_score > 0.5 and exit()", "'exit()' is not a comparison"),
        ("face_score in [1]", "is not a comparison"),
        ("face_score > True", "'True' is no column"),
        ("face_score >", "cannot be read; write comparisons such as"),
        ("face_score > 0.5; import os", "cannot be read"),
        ("(" * 500 + "face_score > 0" + ")" * 500, "cannot be read"),
    ],
)
def test_anything_else_is_refused_in_one_line(split: tables.Split, text: str, message: str) -> None:
    for check in (filters.check_filter, lambda text: filters.select_rows(split, text)):
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            check(text)
        assert "\n" not in str(caught.value)


def test_every_measure_with_one_value_can_be_used() -> None:
    names = [field.name for field in schema.measures_schema() if not pa.types.is_list(field.type)]
    for name in names:
        text = pa.types.is_string(schema.measures_schema().field(name).type)
        filters.check_filter(f"{name} == {'x'!r}" if text else f"{name} == 1")

"""speakers.parquet, the true attributes of synthetic speakers: damaged files, and columns of other types."""

from __future__ import annotations

import io
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from arspm.corpus import schema
from arspm.distributed.data.oracle import true_causes
from arspm.synthetic.people import sample_speakers
from tests.fuzz.entry_points import Mutated, num_inputs, try_inputs
from tests.fuzz.mutations import BYTES, ODD_VALUES, Mutation

pytestmark = pytest.mark.slow  # thousands of inputs, each in a child process

WANTED = ("test0002", "test0000", "test0002")
PEOPLE = [asdict(replace(each, video_id=f"test{at:04d}")) for at, each in enumerate(sample_speakers(4, seed=3))]
NAMES = ("video_id", "sex", "age", "body_size", "hair_colour", "glasses", "f0_hz")
COLUMNS = {name: [person[name] for person in PEOPLE] for name in NAMES}


def parquet(columns: dict[str, Any] | pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), sink, **options)
    return sink.getvalue()


SEEDS = (parquet(COLUMNS), parquet(COLUMNS, compression="none", use_dictionary=False))


def cell(rng: Random, data: bytes, _: bytes) -> bytes:
    """Change a value or a column's type, add or remove a column, or repeat rows."""
    try:
        return parquet(_changed(rng, pq.read_table(io.BytesIO(data))))
    except (pa.ArrowException, OSError, TypeError, OverflowError) as error:
        raise ValueError(error) from None  # no column, or too damaged for this mutation


def _changed(rng: Random, table: pa.Table) -> pa.Table:
    at = rng.randrange(table.num_columns)
    name, values = table.column_names[at], table.column(at).to_pylist()
    odd = rng.choice(ODD_VALUES)
    values[rng.randrange(len(values))] = odd
    wrapped = [[each] for each in values], [{"a": each} for each in values], [odd] * len(values)
    kinds = (pa.large_string(), pa.binary(), pa.float16(), pa.int8(), pa.uint64(), pa.decimal128(9, 2), pa.bool_())
    kinds += (pa.dictionary(pa.int8(), pa.string()), pa.timestamp("ns"), pa.null(), pa.float32(), pa.string_view())
    what = rng.randrange(8)
    if what < 3:
        return table.set_column(at, name, pa.array(rng.choice((values, values, *wrapped))))
    if what < 5:
        return table.set_column(at, name, table.column(at).cast(rng.choice(kinds), safe=False))
    if what == 5:
        return table.append_column(rng.choice((name, "x" * 5000, "", "a\n\x1b[31m")), table.column(at))
    return rng.choice((table.remove_column(at), pa.concat_tables([table, table]), table.slice(0, rng.randrange(5))))


MUTATIONS: tuple[Mutation, ...] = (*BYTES, *[cell] * 20)


def speakers(path: Path) -> None:
    found = true_causes(str(path), WANTED)
    assert set(found) == {schema.SEX, schema.AGE, schema.BODY_SIZE, schema.HAIR_COLOUR, schema.GLASSES}
    assert all(len(values) == len(WANTED) for values in found.values())
    assert found[schema.AGE].dtype == found[schema.BODY_SIZE].dtype == np.float64


def test_true_causes() -> None:
    tally = try_inputs(speakers, Mutated(SEEDS, MUTATIONS, num_inputs(200)), name="speakers.parquet")
    assert min(tally["refused"], tally["accepted"]) > tally.total() // 10


def test_other_columns_are_refused() -> None:
    table = pa.table(COLUMNS)
    inputs = [
        parquet(table.append_column("age", table["age"])),
        parquet(table.append_column("x", table["age"]).rename_columns([*COLUMNS, "video_id"])),
        parquet(COLUMNS | {"age": [{"x" * 5000: 1}] * 4}),
        parquet(COLUMNS | {"age": ["\x1b[31m\n"] * 4}),
        parquet(COLUMNS | {"body_size": pa.array([2**64 - 1] * 4, pa.uint64())}),
        parquet(COLUMNS | {"video_id": [None] * 4}),
        parquet({name: pa.nulls(0, pa.array(values).type) for name, values in COLUMNS.items()}),
        parquet({}),
        parquet({f"x{n}": [1] for n in range(5000)}),
    ]
    tally = try_inputs(speakers, inputs, name="speakers.parquet")
    assert tally["refused"] == len(inputs)

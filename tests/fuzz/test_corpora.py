"""A corpus: its manifest, and the Parquet shards of its families."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from arspm.corpus import schema, tables
from tests.fuzz.entry_points import Mutated, num_inputs, try_inputs
from tests.fuzz.mutations import BYTES, DEEP, JSON

pytestmark = pytest.mark.slow  # thousands of inputs, each in a child process


@pytest.fixture
def made(write_corpus) -> Path:
    """A corpus with two shards of training rows."""
    return Path(write_corpus({"train": (6, 4), "val": (2,), "test": (2,)})[0])


def corpus_manifest(path: Path, made: Path) -> None:
    folder = path.parent / "corpus"
    if not folder.exists():
        folder.mkdir()
        (folder / "train").symlink_to(made / "train")
    (folder / tables.MANIFEST).write_bytes(path.read_bytes())
    for subset in (None, 3):
        split = tables.open_split(str(folder), "train", subset)
        assert 0 < split.num_rows <= 10
        read_all(split)


def read_all(split: tables.Split) -> None:
    wanted = {"speech": (schema.WAVEFORM,), "faces": (schema.FACE_JPEG, schema.AGE), "features": (schema.FACE_FEATURE,)}
    rows = tables.read_rows(split, wanted, np.arange(split.num_rows)[::-1])
    assert rows[schema.WAVEFORM].shape == (split.num_rows, *schema.WAVEFORM_SHAPE)
    assert rows[schema.WAVEFORM].dtype == np.int16
    assert rows[schema.FACE_FEATURE].shape == (split.num_rows, 16)
    assert len(rows[schema.FACE_JPEG]) == len(rows[schema.CLIP_ID]) == split.num_rows
    table = tables.read_columns(split, "faces", [schema.CLIP_ID, schema.VIDEO_ID, schema.IDENTITY])
    assert len(tables.speakers(table)) == split.num_rows


def shard(path: Path, made: Path, family: str) -> None:
    """Read a corpus in which one family's shard is mutated."""
    folder = path.parent / "corpus"
    for name in schema.FAMILIES:
        (folder / "train" / name).mkdir(parents=True, exist_ok=True)
        source = path if name == family else made / "train" / name / path.name
        (folder / "train" / name / path.name).write_bytes(source.read_bytes())
    (folder / tables.MANIFEST).write_bytes((made / tables.MANIFEST).read_bytes())
    read_all(tables.open_split(str(folder), "train").only(0))


def test_manifests_of_a_corpus(made: Path) -> None:
    seeds = ((made / tables.MANIFEST).read_bytes(),)
    tally = try_inputs(
        corpus_manifest, Mutated(seeds, JSON, num_inputs(125)), name=tables.MANIFEST, mentions="corpus", made=made
    )
    assert tally["refused"] > tally.total() // 10
    huge = json.loads(seeds[0])
    huge["splits"]["train"]["shards"][0]["rows"] = 10**15
    many = json.loads(seeds[0]) | {"rows_per_group": 10**18}
    inputs = [
        DEEP,
        json.dumps(huge).encode(),
        json.dumps(many).encode(),
        json.dumps(many | {"rows_per_group": 0}).encode(),
    ]
    for name in ("../../../etc/passwd", "/etc/passwd", "x" * 5000, "a\0b", ".."):
        lost = json.loads(seeds[0])
        lost["splits"]["train"]["shards"][0]["name"] = name
        inputs.append(json.dumps(lost).encode())
    tally = try_inputs(corpus_manifest, inputs, name=tables.MANIFEST, mentions="corpus", made=made)
    assert tally["refused"] == len(inputs)


@pytest.mark.parametrize("family", schema.FAMILIES)
def test_shards(made: Path, family: str) -> None:
    name = "shard-00000.parquet"
    seeds = ((made / "train" / family / name).read_bytes(),)
    seeds += (footer_first(seeds[0]),)
    inputs = Mutated(seeds, BYTES, num_inputs(60))
    tally = try_inputs(shard, inputs, name=name, mentions="corpus/train", made=made, family=family)
    assert tally["refused"] > tally.total() // 10


def footer_first(parquet: bytes) -> bytes:
    """Return the same table compressed, so that the footer is a large part of the file and gets mutated more often."""
    table = pq.read_table(io.BytesIO(parquet))
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=4)
    return sink.getvalue()


def test_shards_with_wrong_types_shapes_or_rows_are_refused(made: Path) -> None:
    """Wrong types and shapes, fewer rows, empty cells, and a cell repeated until it fills the memory."""
    name = "shard-00000.parquet"
    table = pq.read_table(made / "train" / "features" / name)
    feature = table.schema.field(schema.FACE_FEATURE)
    cells = table[schema.FACE_FEATURE]

    def written(column: Any, field: pa.Field, ids: Any = None) -> bytes:
        ids = table[schema.CLIP_ID] if ids is None else ids
        sink = io.BytesIO()
        pq.write_table(
            pa.table([ids, column], pa.schema([pa.field(schema.CLIP_ID, ids.type), field])),
            sink,
            compression="zstd",
            row_group_size=4,
        )
        return sink.getvalue()

    def feature_field(**metadata: str) -> pa.Field:
        return pa.field(schema.FACE_FEATURE, pa.binary(), metadata=metadata)

    inputs = [
        written(cells, feature_field()),
        written(cells, feature_field(dtype="object", shape="[8]")),
        written(cells, feature_field(dtype="O", shape="[16]")),
        written(cells, feature_field(dtype="<f4", shape="[-16]")),
        written(cells, feature_field(dtype="<f4", shape="[1000000000000]")),
        written(cells, feature_field(dtype="<f4", shape="null")),
        written(cells, feature_field(dtype="<f4", shape="[")),
        written(cells, feature_field(dtype="<f4", shape='["16"]')),
        written(cells, feature_field(dtype="<f4", shape="[" * 10_000)),
        written(cells, feature_field(dtype="V64", shape="[1]")),
        written(cells, feature_field(dtype="\u20ac", shape="[16]")),
        written(cells, feature_field(dtype="<f4,<f4", shape="[8]")),
        written(pa.array([None] * len(table), pa.binary()), feature_field(dtype="<f4", shape="[16]")),
        written(pa.array([b"x"] * len(table)), feature_field(dtype="<f4", shape="[16]")),
        written(pa.array([1] * len(table)), pa.field(schema.FACE_FEATURE, pa.int64())),
        written(cells, feature, pa.array(range(len(table)))),
        written(cells, feature, pa.array(["other"] * len(table))),
        written(cells.slice(0, 3), feature, table[schema.CLIP_ID].slice(0, 3)),
        written(pa.array([bytes(50_000_000)] * len(table)), feature_field(dtype="<f4", shape="[16]")),
    ]
    assert max(map(len, inputs)) < 1_000_000
    tally = try_inputs(shard, inputs, name=name, mentions="corpus/train", made=made, family="features")
    assert tally["refused"] == len(inputs)

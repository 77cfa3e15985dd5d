from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arspm.corpus import schema, tables

WANTED = {
    "speech": (schema.VIDEO_ID, schema.WAVEFORM),
    "faces": (schema.FACE_JPEG, schema.GENDER, schema.AGE),
    "features": (schema.FACE_FEATURE,),
}


def check_rows(found: dict, expected: dict, rows: list[int]) -> None:
    assert set(found) == {schema.CLIP_ID, *(column for columns in WANTED.values() for column in columns)}
    for name, values in found.items():
        if isinstance(values, np.ndarray):
            np.testing.assert_array_equal(values, expected[name][rows])
        else:
            assert isinstance(values, pa.Array)
            assert values.to_pylist() == [expected[name][row] for row in rows]


def rewrite(uri: str, change) -> None:
    path = Path(uri)
    table = pq.read_table(path)
    pq.write_table(change(table), path, row_group_size=4)


@pytest.fixture
def small(write_corpus):
    return write_corpus({"train": (9, 4, 6), "val": (3,), "test": (2, 2)})


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(rows=st.lists(st.integers(0, 18), min_size=1, max_size=30))
def test_rows_in_any_order_are_those_of_a_naive_read(small, rows):
    uri, expected = small
    split = tables.open_split(uri, "train")
    check_rows(tables.read_rows(split, WANTED, np.array(rows)), expected["train"], rows)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(rows=st.sets(st.integers(0, 18), min_size=1))
def test_pieces_are_the_same_rows(small, rows):
    uri, expected = small
    split, ascending = tables.open_split(uri, "train"), sorted(rows)
    found = tables.read_pieces(split, WANTED, np.array(ascending))
    joined = {name: np.concatenate(own) if isinstance(own, list) else own for name, own in found.items()}
    check_rows(joined, expected["train"], ascending)


def test_pieces_are_views_unless_most_of_a_row_group_is_not_wanted(small):
    """A view keeps its whole row group in memory."""
    uri, _ = small
    split, wanted = tables.open_split(uri, "train"), {"features": (schema.FACE_FEATURE,)}
    groups = {(0, 1, 2, 3): True, (4, 5): True, (2, 3): True, (5,): False, (4, 6): False, (8,): True}
    for rows, is_view in groups.items():
        [piece] = tables.read_pieces(split, wanted, np.array(rows))[schema.FACE_FEATURE]
        assert piece.flags.owndata != is_view, rows
    pieces = tables.read_pieces(split, wanted, np.array([2, 3, 4, 5, 6, 9, 18]))[schema.FACE_FEATURE]
    assert [len(piece) for piece in pieces] == [2, 3, 1, 1]


def test_each_split_has_its_own_rows(small):
    uri, expected = small
    for name, rows in (("train", 19), ("val", 3), ("test", 4)):
        split = tables.open_split(uri, name)
        assert split.num_rows == rows == sum(split.group_sizes())
        check_rows(tables.read_rows(split, WANTED, np.arange(rows)), expected[name], list(range(rows)))
    assert tables.open_split(uri, "train").group_sizes() == [4, 4, 1, 4, 4, 2]


def test_only_the_needed_row_groups_are_read(small, monkeypatch):
    uri, _ = small
    read = []
    original = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_group",
        lambda self, group, columns, **options: (
            read.append((group, columns)) or original(self, group, columns=columns, **options)
        ),
    )
    split = tables.open_split(uri, "train")
    tables.read_rows(split, {"features": (schema.FACE_FEATURE,)}, np.array([18, 5, 4, 18]))
    assert read == [(1, [schema.CLIP_ID, schema.FACE_FEATURE])] * 2  # once in the first and once in the last shard


def test_scattered_rows_take_the_memory_of_a_few_shards(write_corpus, monkeypatch):
    """Otherwise a random thousandth of a large corpus would load all of it into memory."""
    uri, _ = write_corpus({"train": (8,) * 12}, feature_dim=4096)
    split, held = tables.open_split(uri, "train"), []
    original, before = tables._read_groups, pa.total_allocated_bytes()
    monkeypatch.setattr(
        tables, "_read_groups", lambda *args: held.append(pa.total_allocated_bytes() - before) or original(*args)
    )
    tables.read_rows(split, {"features": (schema.FACE_FEATURE,)}, np.arange(1, 96, 4))
    assert len(held) == 12
    assert max(held) < (tables._THREADS + 1) * 8 * 4096 * 4, "of twelve"


@pytest.mark.parametrize("subset", [1, 3, 4, 8, 9, 10, 13, 14, 19])
def test_a_subset_is_the_first_rows(small, subset):
    uri, expected = small
    split = tables.open_split(uri, "train", subset)
    assert split.num_rows == subset
    rows = list(range(subset))[::-1]
    check_rows(tables.read_rows(split, WANTED, np.array(rows)), expected["train"], rows)
    ids = tables.read_columns(split, "speech", (schema.CLIP_ID,))[schema.CLIP_ID].to_pylist()
    assert ids == expected["train"][schema.CLIP_ID][:subset]


def test_subsets_nest_and_read_only_the_needed_shards(small):
    uri, _ = small
    sizes = {subset: tables.open_split(uri, "train", subset).shard_rows for subset in (5, 9, 11, 100)}
    assert sizes == {5: (5,), 9: (9,), 11: (9, 2), 100: (9, 4, 6)}


@pytest.mark.parametrize(("shard", "begin"), [(0, 0), (1, 9), (2, 13)])
def test_rows_of_a_single_shard_are_numbered_from_zero(small, shard, begin):
    uri, expected = small
    alone = tables.open_split(uri, "train").only(shard)
    rows = np.arange(alone.num_rows)[::-1]
    check_rows(tables.read_rows(alone, WANTED, rows), expected["train"], (rows + begin).tolist())


def test_families_that_are_not_aligned_are_refused(small):
    uri, _ = small
    split = tables.open_split(uri, "train")
    rewrite(split.path("features", 1), lambda table: table.take([1, 0, 2, 3]))
    with pytest.raises(ValueError, match="features has other clip ids than the other families"):
        tables.read_rows(split, WANTED, np.array([9]))
    tables.read_rows(split, WANTED, np.array([11]))  # this row is aligned
    tables.read_rows(split, {"features": WANTED["features"]}, np.array([9]))


@pytest.mark.parametrize(("rows", "row"), [(7, 8), (7, 7), (3, 5)])
def test_a_family_with_fewer_rows_is_refused(small, rows, row):
    uri, _ = small
    split = tables.open_split(uri, "train")
    rewrite(split.path("features", 0), lambda table: table.slice(0, rows))
    with pytest.raises(ValueError, match="fewer rows than the manifest says"):
        tables.read_rows(split, {"features": WANTED["features"]}, np.array([row]))


@pytest.mark.parametrize("rows", [[19], [-1], [0, 19]])
def test_row_numbers_out_of_range_are_refused(small, rows):
    uri, _ = small
    with pytest.raises((IndexError, ValueError)):
        tables.read_rows(tables.open_split(uri, "train"), WANTED, np.array(rows))


def test_an_empty_split_and_a_missing_corpus_are_named(small, tmp_path):
    uri, _ = small
    manifest = json.loads(Path(uri, tables.MANIFEST).read_text())
    manifest["splits"]["val"]["shards"] = []
    Path(uri, tables.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="the val split is empty"):
        tables.open_split(uri, "val")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        tables.open_split(f"{tmp_path}/nowhere", "train")


def test_columns_of_a_complete_split_keep_their_order(small):
    uri, expected = small
    table = tables.read_columns(tables.open_split(uri, "train"), "faces", (schema.GENDER, schema.CLIP_ID))
    assert table[schema.CLIP_ID].to_pylist() == expected["train"][schema.CLIP_ID]
    assert table[schema.GENDER].to_pylist() == expected["train"][schema.GENDER]


def test_the_same_table_gives_the_same_bytes(tmp_path):
    values = np.random.default_rng(0).standard_normal((10, 8)).astype(np.float32)

    def table(pieces: int) -> pa.Table:
        parts = np.array_split(values, pieces)
        kind = schema.features_schema(8, "float32")
        return pa.concat_tables(
            pa.Table.from_arrays([pa.array([str(v) for v in part[:, 0]]), schema.tensor_column(part)], schema=kind)
            for part in parts
        )

    described = [tables.write_table(f"{tmp_path}/{n}.parquet", table(n), rows_per_group=4) for n in (1, 3)]
    assert described[0] == described[1]
    file = pq.ParquetFile(tmp_path / "1.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [4, 4, 2]
    file.close()


@pytest.mark.parametrize("family", WANTED)
def test_flipped_bits_are_noticed(tmp_path, family):
    column = {"speech": schema.WAVEFORM, "faces": schema.FACE_JPEG, "features": schema.FACE_FEATURE}[family]
    kinds = {
        "speech": schema.speech_schema(schema.WAVEFORM),
        "faces": schema.faces_schema(),
        "features": schema.features_schema(64, "float32"),
    }
    field = kinds[family].field(column)
    size = 1000 if family == "faces" else schema.tensor_type(field).num_bytes
    cells = [np.random.default_rng(row).bytes(size) for row in range(8)]
    table = pa.table({schema.CLIP_ID: [f"c{row}" for row in range(8)], column: pa.array(cells, pa.binary())})
    table = table.cast(pa.schema([table.schema.field(0), field]))
    path = tmp_path / "shard-00000.parquet"
    tables.write_table(str(path), table, 4)
    assert tables.read_table(str(path), [column])[column].to_pylist() == cells
    data = bytearray(path.read_bytes())
    middle = slice(len(data) // 2 - 32, len(data) // 2 + 32)
    data[middle] = bytes(byte ^ 1 for byte in data[middle])
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"shard-00000\.parquet: not an intact Parquet file .*CRC.*; delete it and"):
        tables.read_table(str(path), [column])


def test_a_local_row_group_is_verified_when_a_process_reads_it_first_or_again_after_a_change(write_corpus, monkeypatch):
    uri, _ = write_corpus({"train": (8,)})
    split, wanted, verified = tables.open_split(uri, "train"), {"features": (schema.FACE_FEATURE,)}, []
    path = Path(split.path("features", 0))
    tables.write_table(str(path), pq.read_table(path), 4)
    original = pq.ParquetFile.__init__

    def opening(self, source, **options):
        verified.append(options["page_checksum_verification"])
        assert isinstance(source, pa.MemoryMappedFile) is not verified[-1]
        original(self, source, **options)

    monkeypatch.setattr(pq.ParquetFile, "__init__", opening)
    for rows in ([0], [1], [0, 4], [0, 4], [5]):  # of the third, only the second group is new
        tables.read_rows(split, wanted, np.array(rows))
    assert verified == [True, False, False, True, False, False]
    monkeypatch.undo()
    data = bytearray(path.read_bytes())
    cells = pq.read_metadata(path).row_group(0).column(1)
    data[cells.data_page_offset + cells.total_compressed_size - 1] ^= 1
    path.write_bytes(data)
    for _ in range(2):  # what is damaged is verified again
        with pytest.raises(ValueError, match="not an intact Parquet file"):
            tables.read_rows(split, wanted, np.array([0]))


def test_the_ids_hash_depends_on_the_order():
    assert tables.ids_hash(["a", "b"]) == tables.ids_hash(("a", "b"))
    assert len({tables.ids_hash(ids) for ids in (["a", "b"], ["b", "a"], ["ab"], ["a"], [])}) == 5


def test_a_speaker_is_an_identity_or_otherwise_a_video():
    table = pa.table({schema.VIDEO_ID: ["a", "b", "c"], schema.IDENTITY: ["ann", None, "ann"]})
    assert tables.speakers(table) == ["ann", "b", "ann"]

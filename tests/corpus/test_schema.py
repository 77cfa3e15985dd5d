from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arspm.corpus import schema
from arspm.media.measures import Measures

DTYPES = ["float16", "float32", "float64", "int16", "uint8", "int64", "bool"]


def example(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2 if dtype == "bool" else 100, shape).astype(dtype)


@given(
    dtype=st.sampled_from(DTYPES),
    rows=st.integers(0, 6),
    shape=st.lists(st.integers(1, 4), max_size=3).map(tuple),
    data=st.data(),
)
def test_arrays_round_trip_complete_sliced_and_chunked(dtype, rows, shape, data):
    values = example(dtype, (rows, *shape))
    kind = schema.tensor_type(schema.tensor_field("x", dtype, shape))
    assert (kind.dtype, kind.shape) == (np.dtype(dtype).str, shape)
    column = schema.tensor_column(values)
    whole = schema.tensors(column, kind)
    assert whole.dtype == values.dtype
    assert whole.shape == values.shape
    np.testing.assert_array_equal(whole, values)
    begin = data.draw(st.integers(0, rows))
    end = data.draw(st.integers(begin, rows))
    np.testing.assert_array_equal(schema.tensors(column.slice(begin, end - begin), kind), values[begin:end])
    chunks = pa.chunked_array([column.slice(begin), column.slice(0, end)], pa.binary())
    np.testing.assert_array_equal(schema.tensors(chunks, kind), np.concatenate([values[begin:], values[:end]]))


def test_large_binary_columns_are_read_too():
    values = example("float32", (5, 3))
    column = schema.tensor_column(values).cast(pa.large_binary())
    kind = schema.TensorType("<f4", (3,))
    np.testing.assert_array_equal(schema.tensors(column.slice(1, 3), kind), values[1:4])


def test_one_chunk_is_viewed_and_not_copied():
    column = schema.tensor_column(example("float32", (4, 2)))
    view = schema.tensors(column, schema.TensorType("<f4", (2,)))
    assert view.ctypes.data == column.buffers()[2].address


@pytest.mark.parametrize("values", [example("int16", (3, 8)).astype(">i2"), example("float32", (8, 3)).T])
def test_cells_are_little_endian_rows_for_any_array(values):
    cells = schema.tensor_column(values).to_pylist()
    expected = [np.array(row, values.dtype.newbyteorder("<")).tobytes() for row in values]
    assert cells == expected


def test_a_big_endian_dtype_is_declared_little_endian():
    assert schema.tensor_type(schema.tensor_field("x", ">f4", (2,))).dtype == "<f4"


@pytest.mark.parametrize("cell", [b"", b"12345678901", b"1234567890123", None])
def test_a_cell_of_the_wrong_size_is_refused(cell):
    column = pa.array([bytes(12), cell, bytes(12)], pa.binary())
    with pytest.raises(ValueError, match="does not hold the 12 bytes"):
        schema.tensors(column, schema.TensorType("<f4", (3,)))
    # cells outside the slice are not checked
    assert schema.tensors(column.slice(2), schema.TensorType("<f4", (3,))).shape == (1, 3)


def test_cells_of_wrong_sizes_with_the_right_sum_are_refused():
    column = pa.array([bytes(8), bytes(16)], pa.binary())
    with pytest.raises(ValueError, match="does not hold the 12 bytes"):
        schema.tensors(column, schema.TensorType("<f4", (3,)))


def test_a_plain_column_is_not_a_tensor_column():
    with pytest.raises(ValueError, match="face_jpeg"):
        schema.tensor_type(schema.faces_schema().field(schema.FACE_JPEG))


@pytest.mark.parametrize(
    ("kind", "column", "dtype", "shape"),
    [
        (schema.speech_schema("spectrogram"), "spectrogram", "float16", (2, 257, 598)),
        (schema.speech_schema("waveform"), "waveform", "int16", (96_000,)),
        (schema.features_schema(4096, "float32"), "face_feature", "float32", (4096,)),
        (schema.features_schema(64, "float16"), "face_feature", "float16", (64,)),
    ],
)
def test_files_are_read_with_pyarrow_and_numpy_alone(kind, column, dtype, shape):
    """Without this project's code, from the file's metadata alone."""
    values = np.random.default_rng(0).integers(-9, 9, (3, *shape)).astype(dtype)
    texts = {field.name: ["a", "b", "c"] for field in kind if field.name != column}
    arrays = [schema.tensor_column(values) if field.name == column else pa.array(texts[field.name]) for field in kind]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=kind), file)

    table = pq.read_table(io.BytesIO(file.getvalue()))
    metadata = table.schema.field(column).metadata
    assert metadata[b"dtype"].decode() == np.dtype(dtype).newbyteorder("<").str
    assert tuple(json.loads(metadata[b"shape"])) == shape
    for row, cell in enumerate(table[column].to_pylist()):
        read = np.frombuffer(cell, metadata[b"dtype"].decode()).reshape(shape)
        np.testing.assert_array_equal(read, values[row])
    assert not any(isinstance(field.type, pa.BaseExtensionType) for field in table.schema)


def test_every_family_is_keyed_by_the_clip():
    families = [schema.speech_schema("waveform"), schema.faces_schema(), schema.measures_schema()]
    for kind in (*families, schema.features_schema(8, "float32")):
        assert kind.field(0) == pa.field("clip_id", pa.string(), False)
    assert [schema.faces_schema().field(name).nullable for name in (schema.GENDER, schema.AGE, schema.IDENTITY)] == [
        True
    ] * 3


def test_the_columns_of_the_measures_are_what_is_measured():
    measured = schema.measures_schema()
    assert measured.names == [schema.CLIP_ID, schema.VIDEO_ID, *Measures._fields]
    kinds = {"float": pa.float32(), "int": pa.int32(), "str": pa.string(), "list[float]": pa.list_(pa.float32())}
    for name, annotation in Measures.__annotations__.items():
        text, _, maybe = annotation.__forward_arg__.partition(" | ")
        expected = pa.int64() if name == "source_bytes" else kinds[text]
        assert measured.field(name) == pa.field(name, expected, maybe == "None")

"""The format of the corpus: column names, dtypes, shapes and ranges, shared by its writers and readers.

A corpus is a directory (a local path or `s3://`):

    <corpus>/manifest.json                                   counts, splits, configuration, hashes
    <corpus>/dropped.parquet                                 every clip that is not in the corpus, and why
    <corpus>/{train,val,test}/{speech,faces,measures,features,genders}/shard-00000.parquet

The families of a split have the same rows in the same order, keyed by `clip_id`. Tensors are raw little-endian
bytes in binary columns. Their dtype and shape are in the Parquet field's metadata (`dtype`, `shape`), so pyarrow and
numpy alone can read them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

SPLITS = ("train", "val", "test")
FAMILIES = ("speech", "faces", "features")  # that training reads; `measures` only selects rows

CLIP_ID = "clip_id"  # "<video id>_<start>_<end>", start and end as in the CSV; docs/data.md has the other formats
VIDEO_ID = "video_id"  # the unit of splitting: a video, or a speaker if the data identifies speakers
SPECTROGRAM = "spectrogram"  # float16 (2, 257, 598), reading N
WAVEFORM = "waveform"  # int16 (96000,), 16 kHz mono
FACE_JPEG = "face_jpeg"  # 224x224 RGB JPEG
GENDER = "gender"  # "female" | "male" | null
AGE = "age"  # years | null
IDENTITY = "identity"  # a person's name from labels.csv, or the name of the speaker's folder | null
SPEAKER = "speaker"  # in tables of results: the identity, or the video id if there is none
FACE_FEATURE = "face_feature"  # VGGFace fc7, float16 or float32 (feature_dim,), readings H and I
PREDICTED_GENDER = "predicted_gender"  # "female" | "male", by the gender classifier from the clip's speech
GENDER_CONFIDENCE = "gender_confidence"  # the classifier's probability of that, float32, 0.5 to 1

# Columns of speakers.parquet, the true attributes of synthetic speakers: the fields of `synthetic.people.Speaker`.
# VIDEO_ID and AGE are two of them.
SEX = "sex"  # "female" | "male"
BODY_SIZE = "body_size"  # standard deviations within the sex
HAIR_COLOUR = "hair_colour"
GLASSES = "glasses"  # true | false

# Further columns of a prediction. Features are float32 (feature_dim,).
SPEECH_FEATURE = "speech_feature"  # the encoder's output
PORTRAIT_FEATURE = "portrait_feature"  # VGGFace's feature of the portrait decoded from the speech feature
FACE_TO_FACE_FEATURE = "face_to_face_feature"  # VGGFace's feature of the portrait decoded from the real face feature
HEARD_GENDER = "heard_gender"  # the gender classifier's class, or -1 without a classifier
HEARD_CONFIDENCE = "heard_confidence"  # its probability of that class, float32, or NaN without a classifier
PORTRAIT_JPEG = "portrait_jpeg"  # RGB, of the decoder's output size
FACE_TO_FACE_JPEG = "face_to_face_jpeg"

# Further columns of the features that `arspm generate` writes.
SOURCE = "source"  # URI of the recording, or of the Parquet file with its row
SOURCE_STAMP = "source_stamp"  # changes when the source is written again; "" if it is to be drawn again anyway
PORTRAIT = "portrait"  # the portrait's path in the same folder

SAMPLE_RATE_HZ = 16_000
SPEECH_SECONDS = 6
WAVEFORM_SHAPE = (SAMPLE_RATE_HZ * SPEECH_SECONDS,)
SPECTROGRAM_SHAPE = (2, 257, 598)
FACE_SIZE = 224

GENDERS = ("female", "male")  # the index is the class number


class DropReason(str, Enum):
    """Every reason why a clip is not in the corpus: its name in `dropped.parquet`, and its text on a run's page."""

    _value_: str
    description: str

    def __new__(cls, value: str, description: str) -> DropReason:
        member = str.__new__(cls, value)
        member._value_, member.description = value, description
        return member

    bad_row = "bad_row", "wrong number of columns, or values out of range"  # or a file at an unexpected path
    missing_file = "missing_file", "no media file for this clip"
    duplicate_key = "duplicate_key", "same video id, start and end as an earlier row"
    undecodable = "undecodable", "corrupt file, or more pixels than the limit"
    wrong_length = "wrong_length", "the file is neither the clip nor a video that contains it"
    too_long = "too_long", "the clip is longer than data.max_seconds"
    no_video = "no_video", "the file has no video stream"  # and there is no separate picture
    no_sound = "no_sound", "the file has no audio stream"  # or the speaker has pictures only
    silent = "silent", "the audio is silent"
    no_speech = "no_speech", "the audio is no speech"  # but noise, a tone or music
    too_short = "too_short", "less than half a second of audio"
    no_face = "no_face", "no face was detected"
    several_faces = "several_faces", "several faces, and no (x, y) that selects the speaker's"
    face_too_small = "face_too_small", "the face has too few pixels"
    internal_error = "internal_error", "preparing the clip failed twice, for no fault of the clip"


class TensorType(NamedTuple):
    """Dtype and shape of the tensor in each cell of a binary column."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64))


def tensor_field(name: str, dtype: str, shape: tuple[int, ...]) -> pa.Field:
    """Return the Parquet field of a binary column whose cells are tensors of one dtype and shape."""
    little_endian = np.dtype(dtype).newbyteorder("<").str
    return pa.field(name, pa.binary(), False, {"dtype": little_endian, "shape": json.dumps(list(shape))})


def tensor_type(field: pa.Field) -> TensorType:
    """Return the tensor type that `tensor_field` wrote. Raises ValueError if the column is not a tensor column."""
    metadata = field.metadata or {}
    if b"dtype" not in metadata or b"shape" not in metadata:
        raise ValueError(f"column {field.name!r} has no dtype and shape in its metadata: not a tensor column")
    try:
        dtype, shape = np.dtype(metadata[b"dtype"].decode()), json.loads(metadata[b"shape"])
        valid = dtype.kind in "biuf" and all(type(side) is int and 0 <= side < 2**31 for side in shape)
        kind = TensorType(dtype.str, tuple(shape))
    except (ValueError, TypeError, SyntaxError, RecursionError):
        valid = False
    if not valid or kind.num_bytes >= 2**31:
        raise ValueError(f"column {field.name!r} has an invalid dtype or shape in its metadata")
    return kind


def speech_schema(storage: str) -> pa.Schema:
    """Return the columns of the speech family. `storage` is "spectrogram" or "waveform"."""
    tensor = {
        SPECTROGRAM: tensor_field(SPECTROGRAM, "float16", SPECTROGRAM_SHAPE),
        WAVEFORM: tensor_field(WAVEFORM, "int16", WAVEFORM_SHAPE),
    }[storage]
    return pa.schema([*_keys(), tensor])


def faces_schema() -> pa.Schema:
    """Return the columns of the faces family. Missing labels are null."""
    return pa.schema(
        [
            *_keys(),
            pa.field(FACE_JPEG, pa.binary(), False),
            pa.field(GENDER, pa.string()),
            pa.field(AGE, pa.float32()),
            pa.field(IDENTITY, pa.string()),
        ]
    )


def measures_schema() -> pa.Schema:
    """Return the columns of the measures family: what was measured of each clip. `docs/data.md` describes them."""

    def fields(kind: pa.DataType, *names: str, nullable: bool = False) -> list[pa.Field]:
        return [pa.field(name, kind, nullable) for name in names]

    return pa.schema(
        [
            *_keys(),
            *fields(pa.float32(), "face_x0", "face_y0", "face_x1", "face_y1"),
            *fields(pa.int32(), "frame_width", "frame_height"),
            *fields(pa.float32(), "face_score"),
            *fields(pa.float32(), "face_frontalness", nullable=True),
            *fields(pa.float32(), "face_sharpness"),
            *fields(pa.list_(pa.float32()), "face_landmarks", nullable=True),
            *fields(pa.float32(), "frame_seconds", nullable=True),
            *fields(pa.int32(), "num_faces", "num_face_frames", "num_frames"),
            *fields(pa.float32(), "level_dbfs", "gain_db", "voiced_seconds", "speech_seconds", "speech_start_seconds"),
            *fields(pa.string(), "source"),
            *fields(pa.int64(), "source_bytes"),
            *fields(pa.float32(), "source_seconds"),
            *fields(pa.string(), "video_codec", nullable=True),
            *fields(pa.string(), "audio_codec"),
            *fields(pa.string(), "picture", "sound", nullable=True),
        ]
    )


def features_schema(feature_dim: int, dtype: str) -> pa.Schema:
    """Return the columns of the features family."""
    return pa.schema([pa.field(CLIP_ID, pa.string(), False), tensor_field(FACE_FEATURE, dtype, (feature_dim,))])


def genders_schema() -> pa.Schema:
    """Return the columns of the genders family, which a run has if predictions replace missing labels."""
    return pa.schema(
        [
            pa.field(CLIP_ID, pa.string(), False),
            pa.field(PREDICTED_GENDER, pa.string(), False),
            pa.field(GENDER_CONFIDENCE, pa.float32(), False),
        ]
    )


def oracle_schema(feature_dim: int) -> pa.Schema:
    """Return the columns of `oracle.parquet`: a synthetic speaker and the best speech feature that the voice allows."""
    return pa.schema([pa.field(VIDEO_ID, pa.string(), False), tensor_field(FACE_FEATURE, "float32", (feature_dim,))])


def dropped_schema() -> pa.Schema:
    """Return the columns of `dropped.parquet`: row number (line of the CSV), clip id if known, reason, and details."""
    return pa.schema(
        [
            pa.field("row", pa.int64(), False),
            pa.field(CLIP_ID, pa.string()),
            pa.field("reason", pa.string(), False),
            pa.field("detail", pa.string(), False),
        ]
    )


def tensors(column: pa.ChunkedArray | pa.Array, kind: TensorType) -> np.ndarray:
    """Return a binary column as one array (rows, *shape), without a copy if the column is one chunk.

    Raises ValueError if a cell does not have the type's number of bytes.
    """
    array = one_array(column)
    if len(array) == 0:
        return np.empty((0, *kind.shape), kind.dtype)
    wide = pa.types.is_large_binary(array.type)
    offsets = np.frombuffer(array.buffers()[1], np.int64 if wide else np.int32)[
        array.offset : array.offset + len(array) + 1
    ]
    if array.null_count or (np.diff(offsets) != kind.num_bytes).any():
        raise ValueError(f"a cell does not hold the {kind.num_bytes} bytes of {kind.dtype} {kind.shape}")
    flat = np.frombuffer(array.buffers()[2], kind.dtype, len(array) * int(np.prod(kind.shape)), int(offsets[0]))
    return flat.reshape(len(array), *kind.shape)


def tensor_column(values: np.ndarray) -> pa.Array:
    """Return an array (rows, *shape) as a binary column, without a copy if possible. The inverse of `tensors`."""
    rows = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    width = rows.nbytes // max(1, len(rows))
    kind, offset = (pa.binary(), np.int32) if rows.nbytes < 2**31 else (pa.large_binary(), np.int64)
    offsets = np.arange(len(rows) + 1, dtype=offset) * width
    data = pa.py_buffer(rows.reshape(-1).view(np.uint8))
    return pa.Array.from_buffers(kind, len(rows), [None, pa.py_buffer(offsets), data])


def one_array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return a column as one array, without a copy if it is one chunk; combine_chunks copies even a single chunk."""
    if isinstance(column, pa.Array):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def table_of(columns: Mapping[str, Any]) -> pa.Table:
    """Return columns as a table: arrays of two or more dimensions as tensor columns, others as Arrow's own types.

    columns: arrays (rows, *shape), Arrow arrays, or lists. Copies no tensors if possible.
    """
    fields, arrays = [], []
    for name, values in columns.items():
        if isinstance(values, np.ndarray) and values.ndim > 1:
            arrays.append(tensor_column(values))
            fields.append(tensor_field(name, values.dtype.str, values.shape[1:]).with_type(arrays[-1].type))
        else:
            is_arrow = isinstance(values, (pa.Array, pa.ChunkedArray))
            arrays.append(one_array(values) if is_arrow else pa.array(values))
            fields.append(pa.field(name, arrays[-1].type))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def columns_of(table: pa.Table) -> dict[str, Any]:
    """Return a table's columns: tensor columns as arrays (rows, *shape), without a copy if they are one chunk."""
    return {
        field.name: tensors(table[field.name], tensor_type(field)) if field.metadata else table[field.name]
        for field in table.schema
    }


def _keys() -> list[pa.Field]:
    return [pa.field(CLIP_ID, pa.string(), False), pa.field(VIDEO_ID, pa.string(), False)]

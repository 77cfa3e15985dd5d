"""The corpus contract: names, dtypes, shapes and ranges, for whoever writes the corpus and whoever reads it.

A corpus is a directory (a local path or `s3://`):

    <corpus>/manifest.json                                   counts, splits, configuration, hashes
    <corpus>/dropped.parquet                                 every clip that did not make it, and why
    <corpus>/{train,val,test}/{speech,faces,features}/shard-00000.parquet

The three families of a split hold the same rows in the same order, keyed by `clip_id`. Tensors are raw little-endian
bytes in binary columns; their dtype and shape stand in the Parquet field's metadata (`dtype`, `shape`), so that plain
pyarrow and numpy read them.
"""

from __future__ import annotations

import json
from enum import Enum
from typing import NamedTuple

import numpy as np
import pyarrow as pa

SPLITS = ("train", "val", "test")
FAMILIES = ("speech", "faces", "features")

CLIP_ID = "clip_id"  # "<video id>_<start>_<end>", start and end as the CSV writes them; docs/data.md has the others
VIDEO_ID = "video_id"  # the unit of splitting: a video, or a speaker where the data tell them apart
SPECTROGRAM = "spectrogram"  # float16 (2, 257, 598), reading N
WAVEFORM = "waveform"  # int16 (96000,), 16 kHz mono
FACE_JPEG = "face_jpeg"  # 224x224 RGB JPEG
GENDER = "gender"  # "female" | "male" | null
AGE = "age"  # years | null
IDENTITY = "identity"  # a person's name in labels.csv, or the speaker's folder | null
SPEAKER = "speaker"  # in tables of results: the identity, or else the video id
FACE_FEATURE = "face_feature"  # VGGFace fc7, float16 or float32 (feature_dim,), readings H and I

# Of speakers.parquet, the truth about made-up speakers. Its columns are the fields of made_up_people.Speaker, VIDEO_ID
# and AGE among them.
SEX = "sex"  # "female" | "male"
BODY_SIZE = "body_size"  # standard deviations within the sex
HAIR_COLOUR = "hair_colour"
GLASSES = "glasses"  # true | false

# Of a prediction, beside those above. Features are float32 (feature_dim,).
SPEECH_FEATURE = "speech_feature"  # the encoder's, from speech
PORTRAIT_FEATURE = "portrait_feature"  # VGGFace's, from the portrait of the speech feature
FACE_TO_FACE_FEATURE = "face_to_face_feature"  # VGGFace's, from the decoder's picture of the real face feature
HEARD_GENDER = "heard_gender"  # the gender classifier's class, or -1 without one
PORTRAIT_JPEG = "portrait_jpeg"  # RGB, of the decoder's size
FACE_TO_FACE_JPEG = "face_to_face_jpeg"

SAMPLE_RATE_HZ = 16_000
SPEECH_SECONDS = 6
WAVEFORM_SHAPE = (SAMPLE_RATE_HZ * SPEECH_SECONDS,)
SPECTROGRAM_SHAPE = (2, 257, 598)
FACE_SIZE = 224

GENDERS = ("female", "male")  # the position is the class number


class DropReason(str, Enum):
    """Why a clip of the data is not in the corpus: the whole list, and the words that `dropped.parquet` uses."""

    bad_row = "bad_row"  # not AVSpeech's columns or ranges; a file that lies elsewhere than its format says
    missing_file = "missing_file"
    duplicate_key = "duplicate_key"  # an earlier row has this clip id
    undecodable = "undecodable"  # broken, or beyond the limits on pixels and seconds
    no_video = "no_video"  # nor a picture to a sound
    no_sound = "no_sound"  # or a speaker of whom there are pictures alone
    silent = "silent"
    too_short = "too_short"  # under half a second of sound
    no_face = "no_face"
    several_faces = "several_faces"  # and no (x, y) to tell the speaker's
    face_too_small = "face_too_small"


class TensorType(NamedTuple):
    """What the bytes of one binary cell are."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64))


def tensor_field(name: str, dtype: str, shape: tuple[int, ...]) -> pa.Field:
    """A binary column whose cells are tensors of one dtype and shape."""
    little_endian = np.dtype(dtype).newbyteorder("<").str
    return pa.field(name, pa.binary(), False, {"dtype": little_endian, "shape": json.dumps(list(shape))})


def tensor_type(field: pa.Field) -> TensorType:
    """Read back what `tensor_field` wrote. Raises ValueError for a column that is not a tensor column."""
    metadata = field.metadata or {}
    if b"dtype" not in metadata or b"shape" not in metadata:
        raise ValueError(f"column {field.name!r} has no dtype and shape in its metadata: not a tensor column")
    try:
        dtype, shape = np.dtype(metadata[b"dtype"].decode()), json.loads(metadata[b"shape"])
        plain = dtype.kind in "biuf" and all(type(side) is int and 0 <= side < 2**31 for side in shape)
        kind = TensorType(dtype.str, tuple(shape))
    except (ValueError, TypeError, SyntaxError, RecursionError):
        plain = False
    if not plain or kind.num_bytes >= 2**31:
        raise ValueError(f"column {field.name!r} has a dtype and a shape in its metadata that are none of a tensor")
    return kind


def speech_schema(storage: str) -> pa.Schema:
    """Columns of the speech family. `storage` is "spectrogram" or "waveform"."""
    tensor = {
        SPECTROGRAM: tensor_field(SPECTROGRAM, "float16", SPECTROGRAM_SHAPE),
        WAVEFORM: tensor_field(WAVEFORM, "int16", WAVEFORM_SHAPE),
    }[storage]
    return pa.schema([*_keys(), tensor])


def faces_schema() -> pa.Schema:
    """Columns of the faces family. A label that nobody gave is null."""
    return pa.schema(
        [
            *_keys(),
            pa.field(FACE_JPEG, pa.binary(), False),
            pa.field(GENDER, pa.string()),
            pa.field(AGE, pa.float32()),
            pa.field(IDENTITY, pa.string()),
        ]
    )


def features_schema(feature_dim: int, dtype: str) -> pa.Schema:
    """Columns of the features family."""
    return pa.schema([pa.field(CLIP_ID, pa.string(), False), tensor_field(FACE_FEATURE, dtype, (feature_dim,))])


def oracle_schema(feature_dim: int) -> pa.Schema:
    """Columns of `oracle.parquet`: a made-up speaker and the best answer to the speaker's voice."""
    return pa.schema([pa.field(VIDEO_ID, pa.string(), False), tensor_field(FACE_FEATURE, "float32", (feature_dim,))])


def dropped_schema() -> pa.Schema:
    """Columns of `dropped.parquet`: the row's number (the CSV's line), its key where it has one, the reason, and what
    was seen.
    """
    return pa.schema(
        [
            pa.field("row", pa.int64(), False),
            pa.field(CLIP_ID, pa.string()),
            pa.field("reason", pa.string(), False),
            pa.field("detail", pa.string(), False),
        ]
    )


def tensors(column: pa.ChunkedArray | pa.Array, kind: TensorType) -> np.ndarray:
    """View a binary column as one array (rows, *shape), without a copy where the column is one chunk.

    Raises ValueError when a cell has another number of bytes than its type says.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if len(array) == 0:
        return np.empty((0, *kind.shape), kind.dtype)
    wide = pa.types.is_large_binary(array.type)
    offsets = np.frombuffer(array.buffers()[1], np.int64 if wide else np.int32)[
        array.offset : array.offset + len(array) + 1
    ]
    if array.null_count or (np.diff(offsets) != kind.num_bytes).any():
        raise ValueError(f"a cell does not hold {kind.num_bytes} bytes, as {kind.dtype} {kind.shape} needs")
    flat = np.frombuffer(array.buffers()[2], kind.dtype, len(array) * int(np.prod(kind.shape)), int(offsets[0]))
    return flat.reshape(len(array), *kind.shape)


def tensor_column(values: np.ndarray) -> pa.Array:
    """The binary column of an array (rows, *shape), without a copy where possible: the inverse of `tensors`."""
    rows = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    width = rows.nbytes // max(1, len(rows))
    kind, offset = (pa.binary(), np.int32) if rows.nbytes < 2**31 else (pa.large_binary(), np.int64)
    offsets = np.arange(len(rows) + 1, dtype=offset) * width
    data = pa.py_buffer(rows.reshape(-1).view(np.uint8))
    return pa.Array.from_buffers(kind, len(rows), [None, pa.py_buffer(offsets), data])


def _keys() -> list[pa.Field]:
    return [pa.field(CLIP_ID, pa.string(), False), pa.field(VIDEO_ID, pa.string(), False)]

"""The oracle: the mean face feature of synthetic people who agree in everything that a voice can tell about them.

No prediction from speech can be expected to be better. It exists for synthetic speakers only, because only their true
causes are known. Ray Data actors draw the people of one speaker at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from arspm import config as configuration
from arspm import storage
from arspm.config import Config, quote_name
from arspm.corpus import schema, tables
from arspm.distributed.data.infer import device
from arspm.distributed.local import map_with_actors
from arspm.evaluation import metrics
from arspm.media.clip_rows import MAX_ID_BYTES
from arspm.media.faces import FaceDetector, decode_jpeg, make_detector
from arspm.model.vggface import VGGFace
from arspm.runs import stages
from arspm.runs.progress import print_progress
from arspm.synthetic.oracle_faces import alike_faces
from arspm.training import artifacts
from arspm.training.batch import FACE, to_batch

ORACLE = "oracle.parquet"
_HALF_DEGREES = "half_degrees"
_MAX_SPEAKERS, _MAX_BYTES = 1_000_000, 256 << 20


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


# The columns of speakers.parquet that are read: a check of the type, and the type's name in errors.
_TYPES = {
    schema.SEX: (_is_text, "text"),
    schema.AGE: (_is_number, "numbers"),
    schema.BODY_SIZE: (_is_number, "numbers"),
    schema.HAIR_COLOUR: (_is_text, "text"),
    schema.GLASSES: (pa.types.is_boolean, "true or false"),
}


def make_oracle(config: Config, run: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write `oracle/oracle.parquet`, one row per speaker (video id) of the test split. Returns files and figures.

    `half_degrees`: the angle between the means over even and over odd draws, averaged over speakers; None for a single
    draw. The mean over all draws is about half this angle away from the mean over infinitely many.
    Raises ValueError or FileNotFoundError, in one line, if `oracle.speakers` lacks one of these speakers.
    """
    split = tables.open_split(stages.corpus(run), "test")
    video_ids = list(dict.fromkeys(tables.read_columns(split, "faces", [schema.VIDEO_ID])[schema.VIDEO_ID].to_pylist()))
    causes = true_causes(config.oracle.speakers, video_ids)
    rows = [
        {
            schema.VIDEO_ID: video_id,
            schema.SEX: str(causes[schema.SEX][i]),
            schema.AGE: float(causes[schema.AGE][i]),
            schema.BODY_SIZE: float(causes[schema.BODY_SIZE][i]),
        }
        for i, video_id in enumerate(video_ids)
    ]
    arguments = (configuration.dump(config), run)
    results: list[dict[str, Any]] = []
    print_progress(0, len(rows), "speakers")
    for row in map_with_actors(_OracleActor, arguments, rows, config.resources.infer):
        results.append(row)
        print_progress(len(results), len(rows), "speakers")
    columns = [[row[name] for row in results] for name in (schema.VIDEO_ID, schema.FACE_FEATURE)]
    table = pa.Table.from_arrays(
        [pa.array(columns[0]), pa.array(columns[1], pa.binary())], schema=schema.oracle_schema(config.feature_dim)
    )
    described = tables.write_table(storage.join(stages.folder(run, "oracle"), ORACLE), table, len(table))
    halves = [row[_HALF_DEGREES] for row in results]
    return {f"oracle/{ORACLE}": described}, {
        "made": True,
        "num_speakers": len(results),
        "num_draws": config.oracle.num_draws,
        _HALF_DEGREES: float(np.mean(halves)) if config.oracle.num_draws > 1 else None,
    }


def oracle_features(run: str) -> dict[str, np.ndarray] | None:
    """Return the oracle's feature of each test speaker: video id -> float32 (feature_dim,). None without an oracle."""
    uri = storage.join(stages.folder(run, "oracle"), ORACLE)
    if not storage.exists(uri):
        return None
    table = pq.read_table(pa.BufferReader(storage.read_bytes(uri)))
    kind = schema.tensor_type(table.schema.field(schema.FACE_FEATURE))
    values = schema.tensors(table[schema.FACE_FEATURE], kind)
    return dict(zip(table[schema.VIDEO_ID].to_pylist(), values, strict=True))


def true_causes(uri: str, video_ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the true causes of these speakers from speakers.parquet, in their order: column -> array (speakers,).

    `sex`, `age` in years, `body_size` in standard deviations, `hair_colour` and `glasses`. Raises FileNotFoundError, or
    ValueError in one line if it is not a Parquet file, lacks a column or a speaker, or has an impossible value.
    """
    data = storage.read_bytes(uri)
    try:
        table = _read_causes(data)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{uri}: not a complete Parquet file ({quote_name((str(error).splitlines() or [''])[0])})"
        ) from None
    except ValueError as error:
        raise ValueError(f"{uri}: {error}") from None
    row_of = {video_id: row for row, video_id in enumerate(table[schema.VIDEO_ID].to_pylist())}
    if len(row_of) < len(table):
        raise ValueError(f"{uri}: a {schema.VIDEO_ID} occurs in two rows")
    missing = [video_id for video_id in video_ids if video_id not in row_of]
    if missing:
        raise ValueError(
            f"{uri}: no row for {len(missing)} of {len(video_ids)} speakers, such as {missing[0]}; "
            "is it the file of these clips?"
        )
    selected = table.take(pa.array([row_of[video_id] for video_id in video_ids], pa.int64()))
    causes = {name: selected[name].to_numpy() for name in _TYPES}
    _check_causes(uri, causes, video_ids)
    return causes


def _read_causes(data: bytes) -> pa.Table:
    """Return the required columns, checked for their types and for empty cells. Its errors do not name the file."""
    wanted = {schema.VIDEO_ID: (_is_text, "text"), **_TYPES}
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        columns, metadata = file.schema_arrow, file.metadata
    if missing := [name for name in wanted if name not in columns.names]:
        raise ValueError(f"no column {', '.join(missing)}; `arspm synth` writes such a file")
    if duplicates := [name for name in wanted if columns.names.count(name) > 1]:
        raise ValueError(f"column {duplicates[0]} occurs twice")
    # Check types before reading values: reading a column of another library's extension type may unpickle it.
    for name, (fits, type_name) in wanted.items():
        kind = columns.field(name).type
        if not fits(kind):
            raise ValueError(f"column {name} must be {type_name}, not {quote_name(str(kind))}")
    size = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    if metadata.num_rows > _MAX_SPEAKERS or size > _MAX_BYTES:
        raise ValueError(
            f"{metadata.num_rows} rows of {size >> 20} MiB; at most {_MAX_SPEAKERS} rows of {_MAX_BYTES >> 20} MiB"
        )
    texts = [name for name, (fits, _) in wanted.items() if fits is _is_text]
    # Read text as dictionaries: otherwise a few bytes could repeat a large cell until memory is full.
    with pq.ParquetFile(pa.BufferReader(data), read_dictionary=texts) as file:
        table = file.read(columns=list(wanted))
    table.validate(full=True)  # a damaged file may hold text that is not UTF-8
    for name in wanted:
        if table[name].null_count:
            raise ValueError(f"column {name} is empty in {table[name].null_count} rows")
    for name in texts:
        chunks = table[name].chunks
        longest = max((pc.max(pc.binary_length(chunk.dictionary)).as_py() or 0 for chunk in chunks), default=0)
        if longest > MAX_ID_BYTES:
            raise ValueError(f"column {name} has a text of {longest} bytes; at most {MAX_ID_BYTES} are allowed")
        table = table.set_column(table.column_names.index(name), name, table[name].cast(pa.string()))
    return table


def _check_causes(uri: str, causes: Mapping[str, np.ndarray], video_ids: Sequence[str]) -> None:
    age, body_size = (causes[name].astype(np.float64) for name in (schema.AGE, schema.BODY_SIZE))
    for name, valid, allowed in (
        (schema.SEX, np.isin(causes[schema.SEX].astype(str), schema.GENDERS), "female or male"),
        (schema.AGE, (age >= 20) & (age <= 80), "from 20 to 80 years"),
        (schema.BODY_SIZE, np.abs(body_size) <= 2, "from -2 to 2"),
    ):
        if not valid.all():
            row = int(np.argmin(valid))
            value = quote_name(str(causes[name][row]))
            raise ValueError(f"{uri}: {name} of {video_ids[row]} is {value}; it must be {allowed}")


class _OracleActor:
    """An actor that draws a speaker's people and averages their features.

    Its networks are loaded at first use, because Ray garbles a constructor's errors.
    """

    def __init__(self, config: str, run: str):
        self._config, self._run = configuration.load(config), run
        self._device = device(self._config)

    @functools.cached_property
    def _network(self) -> VGGFace:
        return artifacts.load_vggface(self._run, self._config).to(self._device)

    @functools.cached_property
    def _detector(self) -> FaceDetector:
        return make_detector(self._config.face.detector)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        face = self._config.face
        pictures = alike_faces(
            row[schema.VIDEO_ID],
            row[schema.SEX],
            row[schema.AGE],
            row[schema.BODY_SIZE],
            num_draws=self._config.oracle.num_draws,
            seed=self._config.seed,
            detector=self._detector,
            num_frames=face.num_frames,
            margin=face.margin,
            min_side=face.min_side_pixels,
            jpeg_quality=face.jpeg_quality,
        )
        features = self._features(pictures)
        half_degrees = None
        if len(features) > 1:
            means = [torch.from_numpy(features[begin::2].mean(axis=0, keepdims=True)) for begin in (0, 1)]
            half_degrees = float(metrics.cos_degrees(*means))
        mean = features.mean(axis=0).astype("<f4")
        return {schema.VIDEO_ID: row[schema.VIDEO_ID], schema.FACE_FEATURE: mean.tobytes(), _HALF_DEGREES: half_degrees}

    @torch.no_grad()
    def _features(self, pictures: Sequence[bytes]) -> np.ndarray:
        """Return VGGFace's features of JPEG faces, float64 (faces, feature_dim)."""
        features = []
        for begin in range(0, len(pictures), self._config.evaluate.batch_size):
            part = pictures[begin : begin + self._config.evaluate.batch_size]
            faces = np.stack([decode_jpeg(picture, self._config.image_size) for picture in part])
            batch = to_batch({schema.CLIP_ID: [""] * len(part), FACE: faces}, self._device)
            features.append(self._network.features(batch.face).double().cpu().numpy())
        return np.concatenate(features)

"""The best answer that a voice allows: the mean face feature of people who have in common all that a voice tells.

For made-up speakers alone, whose true causes are known. Actors of Ray Data draw a speaker's people at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray.data
import torch

from arspm import config as configuration
from arspm import storage
from arspm.config import Config, quote_name
from arspm.corpus import schema, tables
from arspm.distributed.data.infer import device
from arspm.distributed.data.ingest import plain_errors, quiet
from arspm.evaluation import metrics
from arspm.media.clip_rows import MAX_ID_BYTES
from arspm.media.faces import FaceDetector, decode_jpeg, make_detector
from arspm.model.vggface import VGGFace
from arspm.runs import stages
from arspm.runs.progress import progress
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


# Columns of speakers.parquet that are read: what their type must be, and the word for it.
_TYPES = {
    schema.SEX: (_is_text, "text"),
    schema.AGE: (_is_number, "numbers"),
    schema.BODY_SIZE: (_is_number, "numbers"),
    schema.HAIR_COLOUR: (_is_text, "text"),
    schema.GLASSES: (pa.types.is_boolean, "true or false"),
}


def make_oracle(config: Config, run: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write `oracle/oracle.parquet`, a row for each speaker (video id) of the test split. Returns files and figures.

    `half_degrees`: the angle between the mean over every second draw and that over the others, then the mean over
    speakers; None for a single draw. The mean of all draws is about half of it away from that of endless draws.
    Raises ValueError or FileNotFoundError, in one line, where `oracle.speakers` does not tell of them all.
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
    quiet()
    tasks = config.resources.infer
    actor: type = _Artist
    data = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        actor,
        fn_constructor_args=(configuration.dump(config), run),
        compute=ray.data.ActorPoolStrategy(size=min(tasks.num_tasks, len(rows))),
        **tasks.remote_options,
    )
    made: list[dict[str, Any]] = []
    progress(0, len(rows), "speakers")
    for row in plain_errors(data.iter_rows()):
        made.append(row)
        progress(len(made), len(rows), "speakers")
    columns = [[row[name] for row in made] for name in (schema.VIDEO_ID, schema.FACE_FEATURE)]
    table = pa.Table.from_arrays(
        [pa.array(columns[0]), pa.array(columns[1], pa.binary())], schema=schema.oracle_schema(config.feature_dim)
    )
    described = tables.write_table(storage.join(stages.folder(run, "oracle"), ORACLE), table, len(table))
    halves = [row[_HALF_DEGREES] for row in made]
    return {f"oracle/{ORACLE}": described}, {
        "made": True,
        "num_speakers": len(made),
        "num_draws": config.oracle.num_draws,
        _HALF_DEGREES: float(np.mean(halves)) if config.oracle.num_draws > 1 else None,
    }


def oracle_features(run: str) -> dict[str, np.ndarray] | None:
    """The oracle's feature of each test speaker: video id -> float32 (feature_dim,). None where none was made."""
    uri = storage.join(stages.folder(run, "oracle"), ORACLE)
    if not storage.exists(uri):
        return None
    table = pq.read_table(pa.BufferReader(storage.read_bytes(uri)))
    kind = schema.tensor_type(table.schema.field(schema.FACE_FEATURE))
    values = schema.tensors(table[schema.FACE_FEATURE], kind)
    return dict(zip(table[schema.VIDEO_ID].to_pylist(), values, strict=True))


def true_causes(uri: str, video_ids: Sequence[str]) -> dict[str, np.ndarray]:
    """What speakers.parquet says of these speakers, in their order: column -> array (speakers,).

    `sex`, `age` in years, `body_size` in standard deviations, `hair_colour` and `glasses`. Raises FileNotFoundError, or
    ValueError in one line for what is no Parquet file, lacks a column or a speaker, or has a value that cannot be.
    """
    data = storage.read_bytes(uri)
    try:
        table = _read_causes(data)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{uri}: not a whole Parquet file ({quote_name((str(error).splitlines() or [''])[0])})"
        ) from None
    except ValueError as error:
        raise ValueError(f"{uri}: {error}") from None
    known = {video_id: row for row, video_id in enumerate(table[schema.VIDEO_ID].to_pylist())}
    if len(known) < len(table):
        raise ValueError(f"{uri}: a {schema.VIDEO_ID} stands in two rows")
    unknown = [video_id for video_id in video_ids if video_id not in known]
    if unknown:
        raise ValueError(
            f"{uri}: nothing about {len(unknown)} of {len(video_ids)} speakers, {unknown[0]} among them; "
            "is it the file of these clips?"
        )
    chosen = table.take(pa.array([known[video_id] for video_id in video_ids], pa.int64()))
    found = {name: chosen[name].to_numpy() for name in _TYPES}
    _check_causes(uri, found, video_ids)
    return found


def _read_causes(data: bytes) -> pa.Table:
    """The columns that are read, of the right types and without an empty cell. Raises what does not name the file."""
    wanted = {schema.VIDEO_ID: (_is_text, "text"), **_TYPES}
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        there, about = file.schema_arrow, file.metadata
    if missing := [name for name in wanted if name not in there.names]:
        raise ValueError(f"no column {', '.join(missing)}; `arspm synth` writes such a file")
    if twice := [name for name in wanted if there.names.count(name) > 1]:
        raise ValueError(f"column {twice[0]} is there twice")
    # Types before values: a column of another library's type might be unpickled as it is read.
    for name, (fits, what) in wanted.items():
        kind = there.field(name).type
        if not fits(kind):
            raise ValueError(f"column {name} must be {what}, not {quote_name(str(kind))}")
    size = sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))
    if about.num_rows > _MAX_SPEAKERS or size > _MAX_BYTES:
        raise ValueError(
            f"{about.num_rows} rows of {size >> 20} MiB; at most {_MAX_SPEAKERS} of {_MAX_BYTES >> 20} MiB"
        )
    texts = [name for name, (fits, _) in wanted.items() if fits is _is_text]
    # As dictionaries: a few bytes repeat a large cell until it fills the memory.
    with pq.ParquetFile(pa.BufferReader(data), read_dictionary=texts) as file:
        table = file.read(columns=list(wanted))
    table.validate(full=True)  # of a damaged file, text is as it says
    for name in wanted:
        if table[name].null_count:
            raise ValueError(f"column {name} is empty in {table[name].null_count} rows")
    for name in texts:
        chunks = table[name].chunks
        longest = max((pc.max(pc.binary_length(chunk.dictionary)).as_py() or 0 for chunk in chunks), default=0)
        if longest > MAX_ID_BYTES:
            raise ValueError(f"column {name} has a text of {longest} bytes; at most {MAX_ID_BYTES}")
        table = table.set_column(table.column_names.index(name), name, table[name].cast(pa.string()))
    return table


def _check_causes(uri: str, found: Mapping[str, np.ndarray], video_ids: Sequence[str]) -> None:
    age, body_size = (found[name].astype(np.float64) for name in (schema.AGE, schema.BODY_SIZE))
    for name, right, what in (
        (schema.SEX, np.isin(found[schema.SEX].astype(str), schema.GENDERS), "female or male"),
        (schema.AGE, (age >= 20) & (age <= 80), "from 20 to 80 years"),
        (schema.BODY_SIZE, np.abs(body_size) <= 2, "from -2 to 2"),
    ):
        if not right.all():
            row = int(np.argmin(right))
            value = quote_name(str(found[name][row]))
            raise ValueError(f"{uri}: {name} of {video_ids[row]} is {value}; it must be {what}")


class _Artist:
    """An actor that draws a speaker's people and averages their features. What it needs is loaded when first used:
    Ray garbles a constructor's errors.
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
        half = None
        if len(features) > 1:
            means = [torch.from_numpy(features[begin::2].mean(axis=0, keepdims=True)) for begin in (0, 1)]
            half = float(metrics.cos_degrees(*means))
        mean = features.mean(axis=0).astype("<f4")
        return {schema.VIDEO_ID: row[schema.VIDEO_ID], schema.FACE_FEATURE: mean.tobytes(), _HALF_DEGREES: half}

    @torch.no_grad()
    def _features(self, pictures: Sequence[bytes]) -> np.ndarray:
        """VGGFace's features of JPEG faces, float64 (faces, feature_dim)."""
        found = []
        for begin in range(0, len(pictures), self._config.evaluate.batch_size):
            part = pictures[begin : begin + self._config.evaluate.batch_size]
            faces = np.stack([decode_jpeg(picture, self._config.image_size) for picture in part])
            batch = to_batch({schema.CLIP_ID: [""] * len(part), FACE: faces}, self._device)
            found.append(self._network.features(batch.face).double().cpu().numpy())
        return np.concatenate(found)

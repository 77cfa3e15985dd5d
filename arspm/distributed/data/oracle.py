"""The oracle: the mean face feature of synthetic people who agree in everything that a voice can tell about them.

No speech feature can be expected to be nearer to the true one. It bounds nothing else, such as portraits. It exists for
synthetic speakers only, because only their true causes are known. Ray Data actors draw the people of one speaker at a
time.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from arspm import config as configuration
from arspm import storage
from arspm.config import Config, quote_name
from arspm.corpus import schema, tables
from arspm.distributed.data.infer import device
from arspm.distributed.local import map_with_actors
from arspm.evaluation import metrics
from arspm.media.detectors import FaceDetector, make_detector
from arspm.media.jpeg import decode_jpeg
from arspm.model.vggface import VGGFace
from arspm.runs import stages
from arspm.runs.progress import print_progress
from arspm.synthetic.oracle_faces import faces_with_causes
from arspm.training import artifacts
from arspm.training.batch import to_batch
from arspm.training.columns import FACE

ORACLE = "oracle.parquet"
_HALF_DEGREES = "half_degrees"

# The columns of speakers.parquet that are read.
_SPEAKERS = pa.schema(
    [
        (schema.VIDEO_ID, pa.string()),
        (schema.SEX, pa.string()),
        (schema.AGE, pa.float64()),
        (schema.BODY_SIZE, pa.float64()),
        (schema.HAIR_COLOUR, pa.string()),
        (schema.GLASSES, pa.bool_()),
    ]
)


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
    ValueError in one line if it is not a Parquet file, lacks a column or a speaker, or a column has another type.
    """
    table = tables.read_table(uri, _SPEAKERS.names)
    try:
        table = table.cast(_SPEAKERS)
    except pa.ArrowException as error:
        line = quote_name((str(error).splitlines() or [""])[0])
        raise ValueError(f"{uri}: not a file of speakers as `arspm synth` writes it ({line})") from None
    row_of = {video_id: row for row, video_id in enumerate(table[schema.VIDEO_ID].to_pylist())}
    missing = [video_id for video_id in video_ids if video_id not in row_of]
    if missing:
        raise ValueError(
            f"{uri}: no row for {len(missing)} of {len(video_ids)} speakers, such as {missing[0]}; "
            "is it the file of these clips?"
        )
    selected = table.take(pa.array([row_of[video_id] for video_id in video_ids], pa.int64()))
    return {name: selected[name].to_numpy() for name in _SPEAKERS.names if name != schema.VIDEO_ID}


class _OracleActor:
    """An actor that draws a speaker's people and averages their features.

    Its device and networks are made at first use, because Ray garbles a constructor's errors.
    """

    def __init__(self, config: str, run: str):
        self._config, self._run = configuration.load(config), run

    @functools.cached_property
    def _device(self) -> torch.device:
        return device(self._config)

    @functools.cached_property
    def _network(self) -> VGGFace:
        return artifacts.load_vggface(self._run, self._config).to(self._device)

    @functools.cached_property
    def _detector(self) -> FaceDetector:
        return make_detector(self._config.face.detector)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        face = self._config.face
        pictures = faces_with_causes(
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
            aligned=face.crop == "aligned",
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

"""Trained networks over whole splits: actors of Ray Data, a shard at a time."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import torch

from arspm import config as configuration
from arspm import storage
from arspm.config import Config
from arspm.corpus import schema, tables
from arspm.distributed.data.ingest import plain_errors, quiet
from arspm.media import audio
from arspm.media.faces import decode_jpeg, encode_jpeg
from arspm.model.gender_classifier import GenderClassifier
from arspm.model.speech_portrait import SpeechPortrait
from arspm.model.vggface import VGGFace
from arspm.runs import stages
from arspm.runs.progress import progress
from arspm.training import artifacts
from arspm.training.batch import FACE, to_batch

PREDICTIONS = "predictions"
SHORTER_SECONDS = (1, 3)  # of speech, beside all that the corpus has


def shorter_feature(seconds: int) -> str:
    """The column of the encoder's feature from the first seconds of the speech."""
    return f"{schema.SPEECH_FEATURE}_{seconds}s"


def make_features(config: Config, run: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the features family of every split (VGGFace's fc7 of every face, once). Returns files and figures."""
    place = stages.corpus(run)
    splits = {name: tables.open_split(place, name) for name in schema.SPLITS}
    items = [(name, shard) for name, split in splits.items() for shard in range(len(split.shards))]
    results = _map_shards(_FeatureMaker, items, splits, config, run)
    return {path: described for each in results for path, described in each.items()}, {
        "num_faces": sum(split.num_rows for split in splits.values())
    }


def predict(config: Config, run: str, split_name: str = "test") -> tuple[pa.Table, dict[str, Any]]:
    """Features of a split's first `evaluate.num_clips` clips as the trained model gives them, and the files that hold
    them. Rows are in order of a hash, so the first are as good a sample as any.

    The table has `clip_id`, `video_id`, the labels, and the columns named above beside `face_feature`.
    """
    split = tables.open_split(stages.corpus(run), split_name, config.evaluate.num_clips)
    items = [(split_name, shard) for shard in range(len(split.shards))]
    results = _map_shards(_Predictor, items, {split_name: split}, config, run)
    files = {path: described for each in results for path, described in each.items()}
    return pa.concat_tables([tables.read_table(storage.join(run, path)) for path in files]), files


class _Actor:
    """What an actor of either kind knows. Networks are loaded when first used: Ray garbles a constructor's errors."""

    def __init__(self, splits: dict[str, tables.Split], config: str, run: str):
        self._splits, self._config, self._run = splits, configuration.load(config), run
        self._device = device(self._config)

    @functools.cached_property
    def _network(self) -> VGGFace:
        return artifacts.load_vggface(self._run, self._config).to(self._device)


class _FeatureMaker(_Actor):
    """An actor that turns shards of faces into shards of face features."""

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        split, shard = self._splits[item["split"]], item["shard"]
        dtype = self._config.vggface.feature_dtype
        table = tables.read_columns(split.only(shard), "faces", (schema.CLIP_ID, schema.FACE_JPEG))
        found = []
        for begin in range(0, len(table), self._config.evaluate.batch_size):
            part = table[schema.FACE_JPEG].slice(begin, self._config.evaluate.batch_size).to_pylist()
            faces = np.stack([decode_jpeg(picture, self._config.image_size) for picture in part])
            batch = to_batch({schema.CLIP_ID: [""] * len(part), FACE: faces}, self._device)
            with torch.no_grad():
                found.append(self._network.features(batch.face).float().cpu().numpy().astype(dtype))
        columns = [table[schema.CLIP_ID], schema.tensor_column(np.concatenate(found))]
        made = pa.Table.from_arrays(columns, schema=schema.features_schema(self._config.feature_dim, dtype))
        described = tables.write_table(split.path("features", shard), made, split.rows_per_group)
        path = f"{stages.CORPUS}/{item['split']}/features/{split.shards[shard]}.parquet"
        return {"path": path, **described, "rows": len(made)}


class _Predictor(_Actor):
    """An actor that turns shards of speech and face features into predictions."""

    @functools.cached_property
    def _model(self) -> SpeechPortrait:
        return artifacts.load_speech_portrait(self._run, self._config).to(self._device)

    @functools.cached_property
    def _classifier(self) -> GenderClassifier | None:
        classifier = artifacts.load_gender_classifier(self._run, self._config)
        return None if classifier is None else classifier.to(self._device)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        split, shard = self._splits[item["split"]], item["shard"]
        alone = split.only(shard)
        rows = np.arange(alone.num_rows)
        speech = schema.WAVEFORM if self._config.data.storage == "waveform" else schema.SPECTROGRAM
        wanted = {
            "speech": (schema.VIDEO_ID, speech),
            "features": (schema.FACE_FEATURE,),
            "faces": (schema.GENDER, schema.AGE, schema.IDENTITY),
        }
        columns: dict[str, list[Any]] = {}
        for begin in range(0, len(rows), self._config.evaluate.batch_size):
            part = tables.read_rows(alone, wanted, rows[begin : begin + self._config.evaluate.batch_size])
            for name, values in self._predict(part, speech).items():
                columns.setdefault(name, []).append(values)
        fields, arrays = [], []
        for name, pieces in columns.items():
            if isinstance(pieces[0], np.ndarray) and pieces[0].ndim == 2:
                fields.append(schema.tensor_field(name, "float32", pieces[0].shape[1:]))
                arrays.append(schema.tensor_column(np.concatenate(pieces)))
            else:
                values = pa.concat_arrays([_plain(piece) for piece in pieces])
                fields.append(pa.field(name, values.type))
                arrays.append(values)
        table = pa.Table.from_arrays(arrays, schema=pa.schema(fields))
        path = f"evaluate/{PREDICTIONS}/{item['split']}-{split.shards[shard]}.parquet"
        described = tables.write_table(storage.join(self._run, path), table, split.rows_per_group)
        return {"path": path, **described, "rows": len(table)}

    @torch.no_grad()
    def _predict(self, part: dict[str, Any], speech: str) -> dict[str, Any]:
        columns = {name: part[name] for name in (speech, schema.FACE_FEATURE)}
        batch = to_batch({schema.CLIP_ID: part[schema.CLIP_ID].to_pylist(), **columns}, self._device)
        feature = self._model.feature(batch.spectrogram).float()
        portrait, face_to_face = self._model.decoder(feature), self._model.decoder(batch.face_feature)
        heard = torch.full((len(feature),), -1)
        if self._classifier is not None:
            heard = self._classifier(batch.spectrogram).argmax(dim=1)
        found = {
            schema.FACE_FEATURE: batch.face_feature,
            schema.SPEECH_FEATURE: feature,
            schema.PORTRAIT_FEATURE: self._network.features(portrait),
            schema.FACE_TO_FACE_FEATURE: self._network.features(face_to_face),
        }
        for seconds in SHORTER_SECONDS:
            beginning = batch.spectrogram[..., : audio.num_frames(seconds * schema.SAMPLE_RATE_HZ)]
            found[shorter_feature(seconds)] = self._model.feature(beginning)
        plain = {
            name: part[name] for name in (schema.CLIP_ID, schema.VIDEO_ID, schema.GENDER, schema.AGE, schema.IDENTITY)
        }
        plain[schema.HEARD_GENDER] = heard.cpu().numpy()
        plain[schema.PORTRAIT_JPEG], plain[schema.FACE_TO_FACE_JPEG] = pictures(portrait), pictures(face_to_face)
        return plain | {name: values.float().cpu().numpy() for name, values in found.items()}


def pictures(images: torch.Tensor) -> list[bytes]:
    """JPEG files of images: (rows, 3, height, width), RGB in [0, 1]."""
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return [encode_jpeg(each) for each in pixels]


def _map_shards(
    actor: type, items: Sequence[tuple[str, int]], splits: dict[str, tables.Split], config: Config, run: str
) -> list[dict[str, Any]]:
    """Run an actor over (split, shard) items; what each wrote, {path: size and hash}, in the items' order."""
    quiet()
    tasks = config.resources.infer
    rows = [{"split": split, "shard": shard} for split, shard in items]
    data = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        actor,
        fn_constructor_args=(splits, configuration.dump(config), run),
        compute=ray.data.ActorPoolStrategy(size=min(tasks.num_tasks, len(rows))),
        **tasks.remote_options,
    )
    total = sum(splits[split].shard_rows[shard] for split, shard in items)
    done, results = 0, []
    progress(0, total, "clips")
    for row in plain_errors(data.iter_rows()):
        done += row["rows"]
        progress(done, total, "clips")
        results.append({row["path"]: {"bytes": row["bytes"], "sha256": row["sha256"]}})
    return results


def device(config: Config) -> torch.device:
    """Where an actor's network lies; it also keeps torch to the configured threads."""
    if config.resources.threads_per_worker:
        torch.set_num_threads(config.resources.threads_per_worker)
    return torch.device("cuda" if config.resources.infer.gpus else "cpu")


def _plain(values: Any) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        return values.combine_chunks()
    return values if isinstance(values, pa.Array) else pa.array(values)

"""Run trained networks over whole splits, one shard at a time, in Ray Data actors."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from arspm import config as configuration
from arspm import storage
from arspm.config import Config
from arspm.corpus import genders, schema, tables
from arspm.corpus.prune import RECEIPTS
from arspm.distributed import gpus
from arspm.distributed.local import map_with_actors
from arspm.media import audio
from arspm.media.jpeg import decode_jpeg, encode_jpeg
from arspm.model.gender_classifier import GenderClassifier
from arspm.model.speech_portrait import SpeechPortrait
from arspm.model.vggface import VGGFace
from arspm.runs import stages
from arspm.runs.progress import print_progress
from arspm.training import artifacts
from arspm.training.batch import FACE, to_batch

PREDICTIONS = "predictions"
SHORTER_SECONDS = (1, 3)  # excerpts of the speech that features are also predicted from


def shorter_feature(seconds: int) -> str:
    """Return the column of the speech features that were predicted from the first `seconds` only."""
    return f"{schema.SPEECH_FEATURE}_{seconds}s"


def make_features(config: Config, run: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the features family of every split (VGGFace's fc7 of every face, once). Returns files and figures.

    A shard with the same faces that was written with the same network and settings is used again.
    """
    network = stages.success(run, "vggface")
    settings = [stages.FORMAT, network and network.files, config.vggface.feature_dtype, config.image_size]
    files, num_faces, num_reused = make_family("features", _FeatureMaker, settings, config, run)
    return files, {"num_faces": num_faces, "num_reused": num_reused}


def make_family(
    family: str, actor: type[ShardActor], settings: Any, config: Config, run: str
) -> tuple[dict[str, Any], int, int]:
    """Let actors write a family of every split. Returns its files, the number of clips, and how many were reused.

    A shard of the same clips that was written with the same `settings`, JSON values, is used again.
    """
    corpus = stages.corpus(run)
    splits = {name: tables.open_split(corpus, name) for name in schema.SPLITS}
    there = storage.files_below(corpus)
    receipts = storage.read_folder(storage.join(corpus, RECEIPTS, family), ".json")
    files: dict[str, Any] = {}
    missing: list[dict[str, Any]] = []
    for name, split in splits.items():
        for shard, key in enumerate(split.keys):
            wanted = hashlib.sha256(json.dumps([settings, key]).encode()).hexdigest()
            receipt = _receipt(receipts.get(f"{name}-{split.shards[shard]}.json"), wanted)
            path = f"{name}/{family}/{split.shards[shard]}.parquet"
            if key and receipt and there.get(path) == receipt["bytes"]:
                files[f"{stages.CORPUS}/{path}"] = {"bytes": receipt["bytes"], "sha256": receipt["sha256"]}
            else:
                missing.append({"split": name, "shard": shard, "key": wanted})
    for each in map_shards(actor, missing, splits, config, run):
        files |= each
    num_clips = sum(split.num_rows for split in splits.values())
    num_made = sum(splits[item["split"]].shard_rows[item["shard"]] for item in missing)
    return files, num_clips, num_clips - num_made


def _receipt(data: bytes | None, key: str) -> dict[str, Any] | None:
    """Return the receipt of a shard of a family, or None if it is missing, invalid or has another key."""
    with contextlib.suppress(ValueError):
        receipt = json.loads(data or b"null")
        if isinstance(receipt, dict) and receipt.keys() == {"key", "bytes", "sha256"} and receipt["key"] == key:
            return receipt
    return None


def predict(config: Config, run: str, split_name: str = "test") -> tuple[pa.Table, dict[str, Any]]:
    """Return the trained model's predictions for a split's first `evaluate.num_clips` clips, and their files.

    Rows are in the order of a hash, so the first ones are a uniform sample. The table has `clip_id`, `video_id`, the
    labels, the real face's feature and JPEG files, and the predicted features.
    """
    split = tables.open_split(stages.corpus(run), split_name, config.evaluate.num_clips)
    items = [{"split": split_name, "shard": shard} for shard in range(len(split.shards))]
    results = map_shards(_Predictor, items, {split_name: split}, config, run)
    files = {path: described for each in results for path, described in each.items()}
    return pa.concat_tables([tables.read_table(storage.join(run, path)) for path in files]), files


class ShardActor:
    """Base of the actors. Device and networks are made at first use, because Ray garbles a constructor's errors.

    Calling an actor with an item writes one shard. It returns the file's "path" in the run, its "bytes" and "sha256",
    and the number of its "rows".
    """

    def __init__(self, splits: dict[str, tables.Split], config: str, run: str):
        self._splits, self._config, self._run = splits, configuration.load(config), run

    @functools.cached_property
    def _device(self) -> torch.device:
        return device(self._config)

    def write_family(self, family: str, item: dict[str, Any], table: pa.Table) -> dict[str, Any]:
        """Write a shard of a family and its receipt. Returns the result of the call."""
        split, shard = self._splits[item["split"]], item["shard"]
        described = tables.write_table(split.path(family, shard), table, split.rows_per_group)
        # Written last, so it proves that the shard is complete.
        receipt = storage.join(RECEIPTS, family, f"{item['split']}-{split.shards[shard]}.json")
        storage.write_json(storage.join(stages.corpus(self._run), receipt), {"key": item["key"], **described})
        path = f"{stages.CORPUS}/{item['split']}/{family}/{split.shards[shard]}.parquet"
        return {"path": path, **described, "rows": len(table)}

    @functools.cached_property
    def _network(self) -> VGGFace:
        return artifacts.load_vggface(self._run, self._config).to(self._device)


class _FeatureMaker(ShardActor):
    """An actor that writes a shard of face features for each shard of faces."""

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        split, shard = self._splits[item["split"]], item["shard"]
        dtype = self._config.vggface.feature_dtype
        table = tables.read_columns(split.only(shard), "faces", (schema.CLIP_ID, schema.FACE_JPEG))
        features = []
        for begin in range(0, len(table), self._config.evaluate.batch_size):
            part = table[schema.FACE_JPEG].slice(begin, self._config.evaluate.batch_size).to_pylist()
            faces = np.stack([decode_jpeg(picture, self._config.image_size) for picture in part])
            batch = to_batch({schema.CLIP_ID: [""] * len(part), FACE: faces}, self._device)
            with torch.no_grad():
                features.append(self._network.features(batch.face).float().cpu().numpy().astype(dtype))
        columns = [table[schema.CLIP_ID], schema.tensor_column(np.concatenate(features))]
        written = pa.Table.from_arrays(columns, schema=schema.features_schema(self._config.feature_dim, dtype))
        return self.write_family("features", item, written)


class _Predictor(ShardActor):
    """An actor that writes a shard of predictions for each shard of speech and face features."""

    @functools.cached_property
    def _model(self) -> SpeechPortrait:
        return artifacts.load_speech_portrait(self._run, self._config).to(self._device)

    @functools.cached_property
    def _classifier(self) -> GenderClassifier | None:
        classifier = artifacts.load_gender_classifier(self._run, self._config)
        return None if classifier is None else classifier.to(self._device)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        split, shard = self._splits[item["split"]], item["shard"]
        one_shard = split.only(shard)
        rows = np.arange(one_shard.num_rows)
        speech = schema.WAVEFORM if self._config.data.storage == "waveform" else schema.SPECTROGRAM
        wanted = {
            "speech": (schema.VIDEO_ID, speech),
            "features": (schema.FACE_FEATURE,),
            "faces": (schema.GENDER, schema.AGE, schema.IDENTITY),
        }
        columns: dict[str, list[Any]] = {}
        for begin in range(0, len(rows), self._config.evaluate.batch_size):
            part = tables.read_rows(one_shard, wanted, rows[begin : begin + self._config.evaluate.batch_size])
            for name, values in self._predict(part, speech).items():
                columns.setdefault(name, []).append(values)
        fields, arrays = [], []
        for name, pieces in columns.items():
            if isinstance(pieces[0], np.ndarray) and pieces[0].ndim == 2:
                fields.append(schema.tensor_field(name, "float32", pieces[0].shape[1:]))
                arrays.append(schema.tensor_column(np.concatenate(pieces)))
            else:
                values = pa.concat_arrays([_arrow_array(piece) for piece in pieces])
                fields.append(pa.field(name, values.type))
                arrays.append(values)
        table = pa.Table.from_arrays(arrays, schema=pa.schema(fields))
        path = f"evaluate/{PREDICTIONS}/{item['split']}-{split.shards[shard]}.parquet"
        described = tables.write_table(storage.join(self._run, path), table, split.rows_per_group)
        return {"path": path, **described, "rows": len(table)}

    @torch.no_grad()
    def _predict(self, part: dict[str, Any], speech: str) -> dict[str, Any]:
        inputs = {name: part[name] for name in (speech, schema.FACE_FEATURE)}
        batch = to_batch({schema.CLIP_ID: part[schema.CLIP_ID].to_pylist(), **inputs}, self._device)
        feature = self._model.feature(batch.spectrogram).float()
        portrait, face_to_face = self._model.decoder(feature), self._model.decoder(batch.face_feature)
        confidence, gender = torch.full((len(feature),), torch.nan), torch.full((len(feature),), genders.UNKNOWN)
        if self._classifier is not None:
            confidence, gender = self._classifier.predict(batch.spectrogram)
        features = {
            schema.FACE_FEATURE: batch.face_feature,
            schema.SPEECH_FEATURE: feature,
            schema.PORTRAIT_FEATURE: self._network.features(portrait),
            schema.FACE_TO_FACE_FEATURE: self._network.features(face_to_face),
        }
        for seconds in SHORTER_SECONDS:
            excerpt = batch.spectrogram[..., : audio.num_frames(seconds * schema.SAMPLE_RATE_HZ)]
            features[shorter_feature(seconds)] = self._model.feature(excerpt)
        columns = {
            name: part[name] for name in (schema.CLIP_ID, schema.VIDEO_ID, schema.GENDER, schema.AGE, schema.IDENTITY)
        }
        columns[schema.HEARD_GENDER] = gender.cpu().numpy()
        columns[schema.HEARD_CONFIDENCE] = confidence.cpu().numpy()
        columns[schema.PORTRAIT_JPEG], columns[schema.FACE_TO_FACE_JPEG] = to_jpegs(portrait), to_jpegs(face_to_face)
        return columns | {name: values.float().cpu().numpy() for name, values in features.items()}


def to_jpegs(images: torch.Tensor) -> list[bytes]:
    """Return images as JPEG files. images: (rows, 3, height, width), RGB in [0, 1]."""
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return [encode_jpeg(each) for each in pixels]


def map_shards(
    actor: type[ShardActor], items: Sequence[dict[str, Any]], splits: dict[str, tables.Split], config: Config, run: str
) -> list[dict[str, Any]]:
    """Run an actor over items with a `split` and the number of a `shard`.

    Returns what each wrote, {path: size and hash}, in the items' order.
    """
    if not items:
        return []
    arguments = (splits, configuration.dump(config), run)
    total = sum(splits[item["split"]].shard_rows[item["shard"]] for item in items)
    done, results = 0, []
    print_progress(0, total, "clips")
    for row in map_with_actors(actor, arguments, items, config.resources.infer):
        done += row["rows"]
        print_progress(done, total, "clips")
        results.append({row["path"]: {"bytes": row["bytes"], "sha256": row["sha256"]}})
    return results


def device(config: Config) -> torch.device:
    """Return the device of an actor's network. Also limits torch to the configured number of threads.

    Raises NoGpu, in one line, if the actor was promised a GPU and torch sees none.
    """
    if config.resources.threads_per_worker:
        torch.set_num_threads(config.resources.threads_per_worker)
    return gpus.device(config.resources.infer.gpus)


def _arrow_array(values: Any) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        return values.combine_chunks()
    return values if isinstance(values, pa.Array) else pa.array(values)

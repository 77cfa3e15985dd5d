"""Run trained networks over whole splits, one shard at a time, in Ray Data actors.

Each shard is read as a whole, so each of its row groups is read once, and the network sees it in batches of
`evaluate.batch_size`. With GPUs, Ray Data's tasks read and decode the shards for the
actors, and write what they return.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
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
from arspm.distributed.data.readings import decoded_kinds
from arspm.distributed.data.shard_tables import read_shard, write_family, write_predictions
from arspm.distributed.local import map_tables_with_actors
from arspm.media import audio
from arspm.media.jpeg import encode_jpeg
from arspm.model.gender_classifier import GenderClassifier
from arspm.model.speech_portrait import SpeechPortrait
from arspm.model.vggface import VGGFace
from arspm.portrait import to_pixels
from arspm.runs import stages
from arspm.runs.progress import print_progress
from arspm.training import artifacts
from arspm.training.batch import to_batch
from arspm.training.columns import FACE

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


class ShardActor(ABC):
    """Base of the actors. Device and networks are made at first use, because Ray garbles a constructor's errors.

    Calling an actor with the table of `read_shard` returns the table for `write`.
    """

    def __init__(self, config: str, run: str):
        self._config, self._run = configuration.load(config), run

    @functools.cached_property
    def _device(self) -> torch.device:
        return device(self._config)

    @staticmethod
    @abstractmethod
    def wanted(config: Config) -> Mapping[str, Sequence[str]]:
        """Return the columns to read, by family; the clip ids are always read."""

    @abstractmethod
    def __call__(self, rows: pa.Table) -> pa.Table: ...

    @staticmethod
    @abstractmethod
    def write(splits: dict[str, tables.Split], run: str, item: dict[str, Any], table: pa.Table) -> dict[str, Any]:
        """Write an item's shard. Returns the file's "path" in the run, "bytes", "sha256", and the number of "rows"."""

    def batches(self, rows: pa.Table) -> Iterator[dict[str, Any]]:
        """Yield the rows in batches of `evaluate.batch_size`: tensor columns as arrays, others as Arrow arrays."""
        columns, size = schema.columns_of(rows), self._config.evaluate.batch_size
        for begin in range(0, len(rows), size):
            yield {name: values[begin : begin + size] for name, values in columns.items()}

    @functools.cached_property
    def _network(self) -> VGGFace:
        return artifacts.load_vggface(self._run, self._config).to(self._device)


class _FeatureMaker(ShardActor):
    """An actor that writes a shard of face features for each shard of faces."""

    @staticmethod
    def wanted(config: Config) -> Mapping[str, Sequence[str]]:
        return {"faces": (schema.FACE_JPEG,)}

    def __call__(self, rows: pa.Table) -> pa.Table:
        dtype = self._config.vggface.feature_dtype
        features = []
        for part in self.batches(rows):
            batch = to_batch({schema.CLIP_ID: part[schema.CLIP_ID].to_pylist(), FACE: part[FACE]}, self._device)
            with torch.no_grad():
                features.append(self._network.features(batch.face).float().cpu().numpy().astype(dtype))
        columns = [rows[schema.CLIP_ID], schema.tensor_column(np.concatenate(features))]
        return pa.Table.from_arrays(columns, schema=schema.features_schema(self._config.feature_dim, dtype))

    write = staticmethod(functools.partial(write_family, "features"))


class _Predictor(ShardActor):
    """An actor that writes a shard of predictions for each shard of speech and face features."""

    @staticmethod
    def wanted(config: Config) -> Mapping[str, Sequence[str]]:
        return {
            "speech": (schema.VIDEO_ID, speech_column(config)),
            "features": (schema.FACE_FEATURE,),
            "faces": (schema.GENDER, schema.AGE, schema.IDENTITY),
        }

    @functools.cached_property
    def _model(self) -> SpeechPortrait:
        return artifacts.load_speech_portrait(self._run, self._config).to(self._device)

    @functools.cached_property
    def _classifier(self) -> GenderClassifier | None:
        classifier = artifacts.load_gender_classifier(self._run, self._config)
        return None if classifier is None else classifier.to(self._device)

    def __call__(self, rows: pa.Table) -> pa.Table:
        return pa.concat_tables([schema.table_of(self._predict(part)) for part in self.batches(rows)]).combine_chunks()

    @torch.no_grad()
    def _predict(self, part: dict[str, Any]) -> dict[str, Any]:
        inputs = {name: part[name] for name in (speech_column(self._config), schema.FACE_FEATURE)}
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
        # As pixels, which `write_predictions` encodes.
        columns[schema.PORTRAIT_JPEG], columns[schema.FACE_TO_FACE_JPEG] = to_pixels(portrait), to_pixels(face_to_face)
        return columns | {name: values.float().cpu().numpy() for name, values in features.items()}

    write = staticmethod(write_predictions)


def to_jpegs(images: torch.Tensor) -> list[bytes]:
    """Return images as JPEG files. images: (rows, 3, height, width), RGB in [0, 1]."""
    return [encode_jpeg(each) for each in to_pixels(images)]


def map_shards(
    actor: type[ShardActor], items: Sequence[dict[str, Any]], splits: dict[str, tables.Split], config: Config, run: str
) -> list[dict[str, Any]]:
    """Run an actor over items with a `split` and the number of a `shard`.

    Returns what each wrote, {path: size and hash}, in the items' order.
    """
    if not items:
        return []
    wanted = actor.wanted(config)
    kinds = decoded_kinds(splits[items[0]["split"]].only(items[0]["shard"]), wanted, config.image_size)
    largest = max(splits[item["split"]].shard_rows[item["shard"]] for item in items)
    made = map_tables_with_actors(
        actor,
        (configuration.dump(config), run),
        items,
        config.resources.infer,
        read=functools.partial(read_shard, splits, wanted, config.image_size),
        write=functools.partial(actor.write, splits, run),
        table_bytes=largest * sum(kind.num_bytes for kind in kinds.values()),
        helpers=config.resources.read if config.resources.infer.gpus else None,
    )
    total = sum(splits[item["split"]].shard_rows[item["shard"]] for item in items)
    done, results = 0, []
    print_progress(0, total, "clips")
    for row in made:
        done += row["rows"]
        print_progress(done, total, "clips")
        results.append({row["path"]: {"bytes": row["bytes"], "sha256": row["sha256"]}})
    return results


def speech_column(config: Config) -> str:
    """Return the column of the speech family."""
    return schema.WAVEFORM if config.data.storage == "waveform" else schema.SPECTROGRAM


def device(config: Config) -> torch.device:
    """Return the device of an actor's network. Also limits torch to the configured number of threads.

    Raises NoGpu, in one line, if the actor was promised a GPU and torch sees none.
    """
    if config.resources.infer.threads:
        torch.set_num_threads(config.resources.infer.threads)
    return gpus.device(config.resources.infer.gpus)

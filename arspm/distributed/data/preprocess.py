"""Turn clips into a corpus with Ray Data: one task per shard, which writes the shard and then its receipt.

`data.shards` plans the shards from the CSV, or from a listing of the files, before any clip is decoded.
"""

from __future__ import annotations

import functools
import json
import logging
import pickle
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from arspm import config as configuration
from arspm import storage
from arspm.config import Config, override
from arspm.corpus import drops, schema, tables
from arspm.corpus.schema import DropReason
from arspm.distributed.data.shards import RECEIPTS, Shard, assign_splits, plan_shards, read_receipts
from arspm.distributed.local import map_items
from arspm.media.clip_rows import ClipRow, Rows
from arspm.media.datasets import read_dataset
from arspm.media.dropped import DroppedClip
from arspm.media.labels import Labels
from arspm.media.models import model_file
from arspm.media.prepare import Prepared, Preparer
from arspm.runs import stages
from arspm.runs.progress import print_progress

log = logging.getLogger(__name__)


def preprocess(config: Config, run: str, fingerprint: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the corpus of a run. Returns its files (path relative to the run -> size and hash) and figures.

    Raises ValueError or FileNotFoundError, in one line, if the CSV, the labels or the fractions are unusable.
    """
    corpus = stages.corpus(run)
    rows, labels, notes, test_videos = read_dataset(config.data)
    clips, unusable = rows.usable(), rows.dropped()
    if not clips:
        table, _ = _write_dropped(corpus, unusable, [])
        where = config.data.csv if config.data.format == "avspeech" else config.data.clips
        raise ValueError(f"{where}: none of {len(rows)} rows is usable ({_counts(table)}); see `arspm drops {run}`")
    unit = "videos" if config.data.format == "avspeech" else "speakers"
    ids = clips.table["video_id"].unique().to_pylist()
    split_of, more = assign_splits(ids, config.data.val_fraction, config.data.test_fraction, unit, test_videos)
    notes = [*notes, *more]
    for note in notes:
        log.warning(note)
    shards = plan_shards(clips, split_of, config.data.rows_per_shard)
    receipts = _make_shards(shards, labels, _with_model_files(config, run), corpus, fingerprint)

    dropped: list[dict[str, Any]] = []
    splits: dict[str, Any] = {}
    videos: dict[str, set[str]] = {name: set() for name in schema.SPLITS}  # sets, because a video can be in two shards
    files: dict[str, Any] = {}
    for shard in shards:
        receipt = receipts[shard.split, shard.name]
        dropped += receipt["dropped"]
        entry = splits.setdefault(shard.split, {"rows": 0, "videos": 0, "shards": []})
        entry["rows"] += receipt["rows"]
        videos[shard.split].update(receipt["videos"])
        if receipt["rows"]:
            entry["shards"].append({"name": shard.name, "rows": receipt["rows"], "ids": receipt["ids"]})
        files |= {f"{stages.CORPUS}/{path}": described for path, described in receipt["files"].items()}
    for split, entry in splits.items():
        entry["videos"] = len(videos[split])
    table, files[f"{stages.CORPUS}/{drops.DROPPED}"] = _write_dropped(corpus, unusable, dropped)
    counts = Counter(table["reason"].to_pylist())
    _require_few_errors(counts[DropReason.internal_error], len(clips), config, dropped)
    empty = [name for name in schema.SPLITS if not splits[name]["rows"]]
    if empty:
        raise ValueError(
            f"every clip of the {' and '.join(empty)} split was dropped ({_counts(table)}); see `arspm drops {run}`"
        )

    manifest = {
        "num_rows": len(rows),
        "num_clips": sum(entry["rows"] for entry in splits.values()),
        "num_dropped": len(table),
        "dropped": dict(sorted(counts.items())),
        "notes": notes,
        "storage": config.data.storage,
        "rows_per_group": config.data.rows_per_group,
        "splits": splits,
        "config": {name: getattr(config, name).model_dump(mode="json") for name in ("data", "face")},
    }
    files[f"{stages.CORPUS}/{tables.MANIFEST}"] = storage.write_json(storage.join(corpus, tables.MANIFEST), manifest)
    return files, {name: manifest[name] for name in ("num_rows", "num_clips", "num_dropped", "dropped")}


def _with_model_files(config: Config, run: str) -> Config:
    """Return the configuration with the path of a copy of YuNet in the run: workers may have no connection."""
    if config.face.detector != "yunet":
        return config
    uri = storage.join(run, "preprocess", "yunet.onnx")
    storage.upload(model_file("yunet"), uri)
    return override(config, {"face.detector": uri})


def make_shard(
    shard: Shard, labels: dict[str, Labels], config: Config, corpus: str, fingerprint: str
) -> dict[str, Any]:
    """Decode a shard's clips, write its two families and then its receipt. Returns the receipt."""
    kept, speech, faces, dropped = [], [], [], []
    prepare = _preparer(configuration.dump(config))
    for row in shard.rows:
        assert isinstance(row, ClipRow)
        try:
            tensor, face_jpeg, _ = _twice(prepare, row)
        except DroppedClip as drop:
            dropped.append(
                {"row": row.line, "clip_id": row.clip_id, "reason": drop.reason.value, "detail": drop.detail}
            )
            continue
        kept.append(row)
        speech.append(tensor)
        faces.append(face_jpeg)
    receipt: dict[str, Any] = {
        "fingerprint": fingerprint,
        "rows": len(kept),
        "videos": sorted({row.video_id for row in kept}),
        "ids": tables.ids_hash([row.clip_id for row in kept]),
        "dropped": dropped,
        "files": {},
    }
    if kept:
        keys = [pa.array([row.clip_id for row in kept]), pa.array([row.video_id for row in kept])]
        labels_of_rows = [labels.get(row.video_id, Labels()) for row in kept]
        families = {
            "speech": pa.Table.from_arrays(
                [*keys, schema.tensor_column(np.stack(speech))], schema=schema.speech_schema(config.data.storage)
            ),
            "faces": pa.Table.from_arrays(
                [
                    *keys,
                    pa.array(faces, pa.binary()),
                    pa.array([label.gender for label in labels_of_rows], pa.string()),
                    pa.array([label.age for label in labels_of_rows], pa.float32()),
                    pa.array([label.identity for label in labels_of_rows], pa.string()),
                ],
                schema=schema.faces_schema(),
            ),
        }
        for family, table in families.items():
            path = f"{shard.split}/{family}/{shard.name}.parquet"
            uri = storage.join(corpus, path)
            receipt["files"][path] = tables.write_table(uri, table, config.data.rows_per_group)
    storage.write_json(storage.join(corpus, RECEIPTS, shard.receipt_name), receipt)
    return receipt


def _twice(prepare: Preparer, row: ClipRow) -> Prepared:
    """Return the prepared clip. An error that is neither the clip's fault nor the storage's is tried once more.

    Raises DroppedClip(internal_error) the second time: one clip of a million must not end the stage.
    """
    try:
        return prepare(row)
    except RuntimeError:
        log.warning("clip %s failed and is tried again", row.clip_id, exc_info=True)
    try:
        return prepare(row)
    except RuntimeError as error:
        log.warning("clip %s failed again and is dropped", row.clip_id, exc_info=True)
        raise DroppedClip(DropReason.internal_error, (str(error).strip().splitlines() or [""])[-1]) from error


@functools.lru_cache(maxsize=1)
def _preparer(config: str) -> Preparer:
    """Return the preparer that this process uses for all its shards: creating one takes as long as a dozen clips."""
    return Preparer(configuration.load(config))


def _make_shards(
    shards: Sequence[Shard], labels: dict[str, Labels], config: Config, corpus: str, fingerprint: str
) -> dict[tuple[str, str], dict[str, Any]]:
    """Make the shards that have no receipt yet. Returns every shard's receipt by (split, name)."""
    complete = read_receipts(corpus, fingerprint)
    receipts, missing = {}, []
    for shard in shards:
        if (receipt := complete.get(shard.receipt_name)) is not None:
            receipts[shard.split, shard.name] = receipt
        else:
            missing.append(shard)
    total = sum(len(shard.rows) for shard in shards)
    done = total - sum(len(shard.rows) for shard in missing)
    print_progress(done, total, "clips")
    if not missing:
        return receipts

    # A task gets the rows and labels of its own shard only: those of all shards would be gigabytes.
    def task(number: int, shard: Shard) -> dict[str, Any]:
        videos = shard.rows.table["video_id"].unique().to_pylist()
        shard_labels = {video: labels[video] for video in videos if video in labels}
        return {"id": number, "work": pickle.dumps((shard, shard_labels))}

    def make(item: dict[str, Any]) -> dict[str, Any]:
        shard, shard_labels = pickle.loads(item["work"])
        return {"id": item["id"], "receipt": json.dumps(make_shard(shard, shard_labels, config, corpus, fingerprint))}

    items = [task(number, shard) for number, shard in enumerate(missing)]
    for item in map_items(make, items, config.resources.preprocess):
        shard = missing[item["id"]]
        receipts[shard.split, shard.name] = json.loads(item["receipt"])
        done += len(shard.rows)
        print_progress(done, total, "clips")
    return receipts


def _require_few_errors(num_errors: int, num_clips: int, config: Config, dropped: list[dict[str, Any]]) -> None:
    """Raise ValueError if more clips failed for no fault of their own than `data.max_internal_errors` allows."""
    if num_errors > config.data.max_internal_errors * num_clips:
        first = next(drop for drop in dropped if drop["reason"] == DropReason.internal_error)
        raise ValueError(
            f"{num_errors} of {num_clips} clips failed for no fault of their own, more than "
            f"data.max_internal_errors={config.data.max_internal_errors:g} of them; the first: {first['clip_id']}: "
            f"{first['detail']}"
        )


def _write_dropped(corpus: str, unusable: Rows, dropped: list[dict[str, Any]]) -> tuple[pa.Table, dict[str, Any]]:
    """Write dropped.parquet: the rows that were dropped before decoding, and those that shards dropped.

    Returns the table, and the file's size and hash.
    """
    table = unusable.table
    ids = pc.if_else(pc.equal(table["clip_id"], ""), None, table["clip_id"])
    columns = [table["line"], ids, table["reason"], table["detail"]]
    before = pa.Table.from_arrays(columns, schema=schema.dropped_schema())
    every = pa.concat_tables([before, pa.Table.from_pylist(dropped, before.schema)]).sort_by("row")
    return every, tables.write_table(storage.join(corpus, drops.DROPPED), every, len(every) or 1)


def _counts(dropped: pa.Table) -> str:
    """Return how many rows each reason dropped, with the first row's detail, in one line."""
    reasons, details = dropped["reason"].to_pylist(), dropped["detail"].to_pylist()
    counts = sorted(Counter(reasons).items())
    return ", ".join(f"{reason} {count}: {details[reasons.index(reason)][:200]}" for reason, count in counts)

"""Clips to corpus, by Ray Data: a task a shard, each written whole with a receipt.

Which clips a shard is for follows from the CSV, or from a listing of the files, before any is decoded: rows in order
of a hash of the video id, cut into stretches. So shards do not depend on each other, a run that was killed goes on with
the shards that have no receipt, and the shards come out byte-identical however often that happens.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import pickle
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray.data
from pydantic import BaseModel, Field, ValidationError

from arspm import config as configuration
from arspm import storage
from arspm.config import Config
from arspm.corpus import schema, tables
from arspm.corpus.schema import DropReason
from arspm.distributed.data.ingest import plain_errors, quiet
from arspm.media.clip_rows import ClipRow, DroppedRow, Labels
from arspm.media.clips import DroppedClip
from arspm.media.datasets import read_dataset
from arspm.media.prepare import Preparer
from arspm.runs import stages
from arspm.runs.progress import progress

log = logging.getLogger(__name__)

RECEIPTS = "receipts"
DROPPED = "dropped.parquet"


class Shard(NamedTuple):
    """The rows of one shard, before any is decoded."""

    split: str
    name: str
    rows: tuple[ClipRow, ...]


class _Dropped(BaseModel):
    row: int
    clip_id: str | None
    reason: Annotated[str, Field(pattern=f"^({'|'.join(reason.value for reason in DropReason)})$")]
    detail: str


class _Receipt(BaseModel):
    """What a shard's task leaves last: what it made, of which clips."""

    fingerprint: str
    rows: Annotated[int, Field(ge=0)]
    videos: list[str]
    ids: str
    dropped: list[_Dropped]
    files: dict[str, dict[str, Any]]


def assign_splits(
    video_ids: Sequence[str],
    val_fraction: float,
    test_fraction: float,
    unit: str = "videos",
    test_videos: frozenset[str] = frozenset(),
) -> dict[str, str]:
    """Each video's split, by a hash of its id (reading S): the same everywhere, whatever else the corpus holds.

    Where the data tell the speakers apart, these are the ids of speakers, and `unit` says so in errors. Where they say
    which videos are the test split, those are, and no other. Raises ValueError, with fractions that would do, when a
    split would have no video.
    """
    places = {video: _hash("split", video) / 2**64 for video in video_ids if video not in test_videos}
    if test_videos:
        test_fraction = 0.0
    split = dict.fromkeys(test_videos, "test") | {
        video: "test" if place < test_fraction else "val" if place < test_fraction + val_fraction else "train"
        for video, place in places.items()
    }
    empty = [name for name in schema.SPLITS if name not in split.values()]
    if empty:
        advice = _enough(sorted(places.values()), unit, with_test=not test_videos)
        raise ValueError(f"{len(places)} {unit} leave the {' and '.join(empty)} split empty; {advice}")
    return split


def plan_shards(rows: Sequence[ClipRow], split_of: dict[str, str], rows_per_shard: int) -> list[Shard]:
    """The shards of each split: rows in order of a hash of the video id, then of their start."""
    shards = []
    for split in schema.SPLITS:
        own = [row for row in rows if split_of[row.video_id] == split]
        own.sort(key=lambda row: (_hash("order", row.video_id), row.video_id, row.start_seconds, row.clip_id))
        for number, begin in enumerate(range(0, len(own), rows_per_shard)):
            shards.append(Shard(split, f"shard-{number:05d}", tuple(own[begin : begin + rows_per_shard])))
    return shards


def preprocess(config: Config, run: str, fingerprint: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make the corpus of a run. Returns its files (path relative to the run -> size and hash) and figures.

    Raises ValueError or FileNotFoundError, in one line, for a CSV, labels or fractions that cannot be.
    """
    place = stages.corpus(run)
    rows, labels, notes, test_videos = read_dataset(config.data)
    for note in notes:
        log.warning(note)
    clips = [row for row in rows if isinstance(row, ClipRow)]
    if not clips:
        counts = Counter(row.reason.value for row in rows if isinstance(row, DroppedRow))
        where = config.data.csv if config.data.format == "avspeech" else config.data.clips
        raise ValueError(f"{where}: no usable row of {len(rows)} ({_counts(counts)})")
    unit = "videos" if config.data.format == "avspeech" else "speakers"
    ids = [row.video_id for row in clips]
    split_of = assign_splits(ids, config.data.val_fraction, config.data.test_fraction, unit, test_videos)
    shards = plan_shards(clips, split_of, config.data.rows_per_shard)
    receipts = _make_shards(shards, labels, config, place, fingerprint)

    dropped = [_drop(row, row.reason, row.detail) for row in rows if isinstance(row, DroppedRow)]
    splits: dict[str, Any] = {}
    videos: dict[str, set[str]] = {name: set() for name in schema.SPLITS}  # a video may lie in two shards
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
    counts = Counter(drop["reason"] for drop in dropped)
    empty = [name for name in schema.SPLITS if not splits[name]["rows"]]
    if empty:
        raise ValueError(f"every clip of the {' and '.join(empty)} split was dropped ({_counts(counts)})")

    manifest = {
        "num_rows": len(rows),
        "num_clips": sum(entry["rows"] for entry in splits.values()),
        "num_dropped": len(dropped),
        "dropped": dict(sorted(counts.items())),
        "notes": notes,
        "storage": config.data.storage,
        "rows_per_group": config.data.rows_per_group,
        "splits": splits,
        "config": {name: getattr(config, name).model_dump(mode="json") for name in ("data", "face")},
    }
    table = pa.Table.from_pylist(sorted(dropped, key=lambda drop: drop["row"]), schema.dropped_schema())
    files[f"{stages.CORPUS}/{DROPPED}"] = tables.write_table(storage.join(place, DROPPED), table, len(table) or 1)
    files[f"{stages.CORPUS}/{tables.MANIFEST}"] = storage.write_json(storage.join(place, tables.MANIFEST), manifest)
    return files, {name: manifest[name] for name in ("num_rows", "num_clips", "num_dropped", "dropped")}


def make_shard(shard: Shard, labels: dict[str, Labels], config: Config, place: str, fingerprint: str) -> dict[str, Any]:
    """Decode a shard's clips, write its two families and then its receipt; the receipt."""
    kept, speech, pictures, dropped = [], [], [], []
    prepare = _preparer(configuration.dump(config))
    for row in shard.rows:
        try:
            tensor, picture = prepare(row)
        except DroppedClip as drop:
            dropped.append(_drop(row, drop.reason, drop.detail))
            continue
        kept.append(row)
        speech.append(tensor)
        pictures.append(picture)
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
        known = [labels.get(row.video_id, Labels()) for row in kept]
        families = {
            "speech": pa.Table.from_arrays(
                [*keys, schema.tensor_column(np.stack(speech))], schema=schema.speech_schema(config.data.storage)
            ),
            "faces": pa.Table.from_arrays(
                [
                    *keys,
                    pa.array(pictures, pa.binary()),
                    pa.array([label.gender for label in known], pa.string()),
                    pa.array([label.age for label in known], pa.float32()),
                    pa.array([label.identity for label in known], pa.string()),
                ],
                schema=schema.faces_schema(),
            ),
        }
        for family, table in families.items():
            path = f"{shard.split}/{family}/{shard.name}.parquet"
            uri = storage.join(place, path)
            receipt["files"][path] = tables.write_table(uri, table, config.data.rows_per_group)
    storage.write_json(storage.join(place, RECEIPTS, _receipt_name(shard)), receipt)
    return receipt


@functools.lru_cache(maxsize=1)
def _preparer(config: str) -> Preparer:
    """One for all the shards that this process makes: its start takes as long as a dozen clips."""
    return Preparer(configuration.load(config))


def _make_shards(
    shards: Sequence[Shard], labels: dict[str, Labels], config: Config, place: str, fingerprint: str
) -> dict[tuple[str, str], dict[str, Any]]:
    """Every shard's receipt, making those that are not there."""
    made = kept(place, fingerprint)
    receipts, missing = {}, []
    for shard in shards:
        if (receipt := made.get(_receipt_name(shard))) is not None:
            receipts[shard.split, shard.name] = receipt
        else:
            missing.append(shard)
    total = sum(len(shard.rows) for shard in shards)
    done = total - sum(len(shard.rows) for shard in missing)
    progress(done, total, "clips")
    if not missing:
        return receipts

    def work(number: int, shard: Shard) -> dict[str, Any]:
        own = {row.video_id: labels[row.video_id] for row in shard.rows if row.video_id in labels}
        return {"id": number, "work": pickle.dumps((shard, own))}

    # A task is sent its own rows alone: those of all shards would be gigabytes.
    def make(item: dict[str, Any]) -> dict[str, Any]:
        shard, own = pickle.loads(item["work"])
        return {"id": item["id"], "receipt": json.dumps(make_shard(shard, own, config, place, fingerprint))}

    quiet()
    tasks = config.resources.preprocess
    items = [work(number, shard) for number, shard in enumerate(missing)]
    data = ray.data.from_items(items, override_num_blocks=len(items)).map(
        make, compute=ray.data.TaskPoolStrategy(size=tasks.num_tasks), **tasks.remote_options
    )
    for item in plain_errors(data.iter_rows()):
        shard = missing[item["id"]]
        receipts[shard.split, shard.name] = json.loads(item["receipt"])
        done += len(shard.rows)
        progress(done, total, "clips")
    return receipts


def kept(place: str, fingerprint: str) -> dict[str, dict[str, Any]]:
    """The receipts of shards that are made, by the receipt's file name; what is no receipt vouches for nothing.

    Another corpus than this fingerprint's is removed.
    """
    found = {}
    for name, data in storage.read_folder(storage.join(place, RECEIPTS), ".json").items():
        with contextlib.suppress(ValidationError):
            found[name] = _Receipt.model_validate_json(data, strict=True).model_dump()
    if {receipt["fingerprint"] for receipt in found.values()} != {fingerprint}:
        storage.remove(place)
        return {}
    return found


def _receipt_name(shard: Shard) -> str:
    return f"{shard.split}-{shard.name}.json"


def _drop(row: ClipRow | DroppedRow, reason: DropReason, detail: str) -> dict[str, Any]:
    return {"row": row.line, "clip_id": row.clip_id or None, "reason": reason.value, "detail": detail}


def _hash(purpose: str, video_id: str) -> int:
    """64 bits of a hash; independent ones for independent purposes."""
    return int.from_bytes(hashlib.sha256(f"{purpose}:{video_id}".encode()).digest()[:8], "big")


def _enough(places: list[float], unit: str, *, with_test: bool) -> str:
    """Fractions that give about a tenth of the videos each to test and val, and two to test if there are six."""
    num_splits = 2 + with_test
    if len(places) < num_splits:
        beside = "" if with_test else " beside those of data.test_csv"
        return f"a corpus needs at least {('two', 'three')[with_test]} {unit}{beside}, one for each split"
    num_val = max(1, len(places) // 10)
    num_test = max(num_val, 2 if len(places) >= 6 else 1) if with_test else 0

    def between(count: int) -> float:
        """A fraction with `count` videos below it, in as few digits as will do."""
        low, high = places[count - 1], places[count]
        return next(value for digits in range(1, 17) if low < (value := round((low + high) / 2, digits)) <= high)

    test = between(num_test) if with_test else 0.0
    val = round(between(num_test + num_val) - test, 16)
    told = f"--set data.test_fraction={test:.15g} " if with_test else ""
    return f"try {told}--set data.val_fraction={val:.15g}"


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{reason} {number}" for reason, number in sorted(counts.items())) or "nothing dropped"

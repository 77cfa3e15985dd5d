"""Turn clips into a corpus with Ray Data, one task per shard.

`data.shards` plans the shards before any clip is decoded, `data.receipts` says which of them the corpus already has.
"""

from __future__ import annotations

import logging
import pickle
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from arspm import storage
from arspm.config import Config, override
from arspm.corpus import drops, schema, tables
from arspm.corpus.schema import DropReason
from arspm.distributed.data.make_shard import make_shard, replace_labels
from arspm.distributed.data.receipts import (
    Known,
    Receipt,
    Receipts,
    Shard,
    ShardId,
    find_known,
    labels_key,
    name_shards,
    read_receipts,
)
from arspm.distributed.data.shards import content_keys, plan_shards, split_dataset
from arspm.distributed.local import map_items
from arspm.media.clip_rows import Rows
from arspm.media.datasets import read_dataset
from arspm.media.labels import Labels
from arspm.media.models import model_file
from arspm.runs import inventory, stages
from arspm.runs.progress import print_progress

log = logging.getLogger(__name__)

YUNET = "yunet.onnx"  # copy of the built-in YuNet in the stage's folder


def preprocess(config: Config, run: str, fingerprint: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the corpus of a run. Returns its files (path relative to the run -> size and hash) and figures.

    Shards and clips that the run's corpus already has are used again, whatever its fingerprint. Raises ValueError or
    FileNotFoundError, in one line, if the CSV, the labels or the fractions are unusable.
    """
    corpus = stages.corpus(run)
    trees = inventory.read_inventory(run, config.data, fingerprint)
    dataset = read_dataset(config.data, trees)
    rows, labels, notes, *_ = dataset
    clips, unusable = rows.usable(), rows.dropped()
    if not clips:
        table, _ = _write_dropped(corpus, unusable, [])
        where = config.data.csv if config.data.format == "avspeech" else config.data.clips
        raise ValueError(f"{where}: none of {len(rows)} rows is usable ({_counts(table)}); see `arspm drops {run}`")
    split_of, more = split_dataset(config.data, dataset)
    notes = [*notes, *more]
    for note in notes:
        log.warning(note)
    parts = plan_shards(clips, content_keys(clips, config), split_of, config.data.rows_per_shard)
    old = read_receipts(corpus)
    shards = name_shards(parts, old, config.data.rows_per_group)
    receipts, work = _make_shards(shards, labels, _with_model_files(config, run), corpus, old)

    drops_of_shards: list[pa.Table] = []
    splits: dict[str, Any] = {}
    videos: dict[str, set[str]] = {name: set() for name in schema.SPLITS}  # sets, because a video can be in two shards
    files: dict[str, Any] = {}
    for shard in shards:
        receipt = receipts[shard.id]
        drops_of_shards.append(_drops_table(shard, receipt))
        entry = splits.setdefault(shard.id.split, {"rows": 0, "videos": 0, "shards": []})
        entry["rows"] += receipt.num_rows
        videos[shard.id.split].update(receipt.videos)
        if receipt.num_rows:
            entry["shards"].append(
                {"name": shard.id.name, "rows": receipt.num_rows, "ids": receipt.ids, "key": shard.key}
            )
        files |= {f"{stages.CORPUS}/{path}": described for path, described in receipt.files.items()}
    for split, entry in splits.items():
        entry["videos"] = len(videos[split])
    table, files[f"{stages.CORPUS}/{drops.DROPPED}"] = _write_dropped(corpus, unusable, drops_of_shards)
    counts = Counter(table["reason"].to_pylist())
    _require_few_errors(table, len(clips), config)
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
    _report_work(run, receipts, old, work)
    return files, {name: manifest[name] for name in ("num_rows", "num_clips", "num_dropped", "dropped")} | {
        "work": work
    }


def _with_model_files(config: Config, run: str) -> Config:
    """Return the configuration with the path of a copy of YuNet in the run: workers may have no connection."""
    if config.face.detector != "yunet":
        return config
    uri = storage.join(run, "preprocess", YUNET)
    storage.upload(model_file("yunet"), uri)
    return override(config, {"face.detector": uri})


def _make_shards(
    shards: Sequence[Shard], labels: dict[str, Labels], config: Config, corpus: str, old: Receipts
) -> tuple[dict[ShardId, Receipt], dict[str, int]]:
    """Make the shards that the corpus does not have yet, and replace the labels of those that have others.

    Returns the receipt of every shard, and the number of clips by what was done for them.
    """
    receipts = {shard.id: old[shard.id] for shard in shards if shard.id in old}
    missing = [shard for shard in shards if shard.id not in old]
    relabelled = [
        shard for shard in shards if shard.id in old and old[shard.id].labels != labels_key(shard.rows, labels)
    ]
    total = sum(len(shard.rows) for shard in shards)
    done = total - sum(len(shard.rows) for shard in (*missing, *relabelled))
    work = {"reused": done, "relabelled": 0, "copied": 0, "decoded": 0}
    print_progress(done, total, "clips")
    if done == total:
        return receipts, work

    # A task gets the rows and labels of its own shard only: those of all shards would be gigabytes.
    def item(number: int, shard: Shard, known: Known | Receipt) -> dict[str, Any]:
        videos = shard.rows.table["video_id"].unique().to_pylist()
        return {"id": number, "work": pickle.dumps((shard, {v: labels[v] for v in videos if v in labels}, known))}

    def make(item: dict[str, Any]) -> dict[str, Any]:
        shard, shard_labels, known = pickle.loads(item["work"])
        if isinstance(known, Receipt):
            receipt, decoded = replace_labels(shard, shard_labels, known, config, corpus), 0
        else:
            receipt, decoded = make_shard(shard, shard_labels, known, config, corpus)
        return {"id": item["id"], "receipt": receipt.model_dump_json(), "decoded": decoded}

    todo = [*relabelled, *missing]
    known: list[Known | Receipt] = [*(old[shard.id] for shard in relabelled), *find_known(missing, old)]
    items = [item(number, shard, known[number]) for number, shard in enumerate(todo)]
    for result in map_items(make, items, config.resources.preprocess):
        shard = todo[result["id"]]
        receipts[shard.id] = Receipt.model_validate_json(result["receipt"])
        work["relabelled" if shard.id in old else "copied"] += len(shard.rows) - result["decoded"]
        work["decoded"] += result["decoded"]
        done += len(shard.rows)
        print_progress(done, total, "clips")
    return receipts, work


def _report_work(run: str, receipts: Receipts, old: Receipts, work: Mapping[str, int]) -> None:
    """Log what was done, and how much of the corpus belongs to earlier versions of it."""
    log.info("clips: %s", ", ".join(f"{count:,} {what}" for what, count in work.items()))
    unused = [receipt for shard, receipt in old.items() if shard not in receipts]
    if unused:
        num_bytes = sum(described["bytes"] for receipt in unused for described in receipt.files.values())
        log.info(
            "%d shards (%.1f GB) of earlier versions of the corpus are not used; `arspm prune %s` removes them",
            *(len(unused), num_bytes / 1e9, run),
        )


def _drops_table(shard: Shard, receipt: Receipt) -> pa.Table:
    """Return the clips that a shard dropped, with the lines that they have in the table now."""
    lines = dict(zip(shard.keys.tolist(), shard.rows.table["line"].to_pylist(), strict=True)) if receipt.dropped else {}
    dropped = [{"row": lines[int(drop.key, 16)], **drop.model_dump(exclude={"key"})} for drop in receipt.dropped]
    return pa.Table.from_pylist(dropped, schema.dropped_schema())


def _require_few_errors(dropped: pa.Table, num_clips: int, config: Config) -> None:
    """Raise ValueError if more clips failed for no fault of their own than `data.max_internal_errors` allows."""
    errors = dropped.filter(pc.equal(dropped["reason"], DropReason.internal_error.value))
    if len(errors) > config.data.max_internal_errors * num_clips:
        raise ValueError(
            f"{len(errors)} of {num_clips} clips failed for no fault of their own, more than "
            f"data.max_internal_errors={config.data.max_internal_errors:g} of them; the first: "
            f"{errors['clip_id'][0]}: {errors['detail'][0]}"
        )


def _write_dropped(corpus: str, unusable: Rows, of_shards: Sequence[pa.Table]) -> tuple[pa.Table, dict[str, Any]]:
    """Write dropped.parquet: the rows that were dropped before decoding, and those that shards dropped.

    Returns the table, and the file's size and hash.
    """
    table = unusable.table
    ids = pc.if_else(pc.equal(table["clip_id"], ""), None, table["clip_id"])
    columns = [table["line"], ids, table["reason"], table["detail"]]
    before = pa.Table.from_arrays(columns, schema=schema.dropped_schema())
    every = pa.concat_tables([before, *of_shards]).sort_by("row")
    return every, tables.write_table(storage.join(corpus, drops.DROPPED), every, len(every) or 1)


def _counts(dropped: pa.Table) -> str:
    """Return how many rows each reason dropped, with the first row's detail, in one line."""
    reasons, details = dropped["reason"].to_pylist(), dropped["detail"].to_pylist()
    counts = sorted(Counter(reasons).items())
    return ", ".join(f"{reason} {count}: {details[reasons.index(reason)][:200]}" for reason, count in counts)

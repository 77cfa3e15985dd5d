"""One task of preprocessing: write the files of one shard, and then its receipt."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from arspm import config as configuration
from arspm import storage
from arspm.config import Config
from arspm.corpus import schema, tables
from arspm.corpus.schema import DropReason
from arspm.distributed.data.receipts import Drop, Known, Receipt, Shard, ShardId, encode_keys, labels_key
from arspm.distributed.data.shards import path_below
from arspm.media.clip_rows import ClipRow
from arspm.media.dropped import DroppedClip
from arspm.media.labels import Labels
from arspm.media.preparer import Prepared, Preparer

log = logging.getLogger(__name__)

FAMILIES = ("speech", "faces", "measures")
_LABELS = (schema.GENDER, schema.AGE, schema.IDENTITY)
Cells = dict[str, pa.Table]  # family -> rows


def make_shard(
    shard: Shard, labels: Mapping[str, Labels], known: Known, config: Config, corpus: str
) -> tuple[Receipt, int]:
    """Write a shard's files and then its receipt. Returns the receipt, and how many clips were decoded.

    Clips that another shard has are copied from there; if its file is damaged, they are decoded.
    """
    dropped = dict(known.drops)
    pieces: list[Cells] = []
    positions: list[int] = []
    clip_ids = shard.rows.table["clip_id"]
    for source, (here, there) in known.cells.items():
        try:
            pieces.append(_copy(corpus, source, there, clip_ids.take(here).to_pylist(), config))
        except (ValueError, FileNotFoundError):
            log.warning("%s: damaged, so its clips are decoded", source.path("*"), exc_info=True)
            continue
        positions += here
    missing = sorted({*range(len(shard.keys))} - {*positions} - {*dropped})
    prepared: list[tuple[ClipRow, Prepared]] = []
    prepare = _preparer(configuration.dump(config))
    rows = [shard.rows[position] for position in missing]
    for position, row, following in zip(missing, rows, [*rows, None][1:], strict=True):
        try:
            prepared.append((row, _twice(prepare, row, following)))
            positions.append(position)
        except DroppedClip as drop:
            key = encode_keys(shard.keys[position : position + 1])
            dropped[position] = Drop(key=key, clip_id=row.clip_id, reason=drop.reason.value, detail=drop.detail)
    if prepared:
        pieces.append(_cells(prepared, config))
    kept = np.sort(np.array(positions, np.int64))
    files = {}
    for family in FAMILIES if pieces else ():
        table = pa.concat_tables([piece[family] for piece in pieces]).take(np.argsort(positions)).combine_chunks()
        if family == "faces":
            table = _with_labels(table, labels)
        path = shard.id.path(family)
        files[path] = tables.write_table(storage.join(corpus, path), table, config.data.rows_per_group)
    receipt = Receipt(
        key=shard.key,
        labels=labels_key(shard.rows, labels),
        clips=encode_keys(shard.keys[kept]),
        dropped=[drop for _, drop in sorted(dropped.items())],
        videos=shard.rows.table["video_id"].take(kept).unique().sort().to_pylist(),
        ids=tables.ids_hash(clip_ids.take(kept).to_pylist()),
        files=files,
    )
    _write(receipt, shard.id, corpus)
    return receipt, len(missing)


def replace_labels(
    shard: Shard, labels: Mapping[str, Labels], receipt: Receipt, config: Config, corpus: str
) -> Receipt:
    """Write a complete shard's labels anew, and then its receipt. Returns the receipt."""
    receipt = receipt.model_copy(update={"labels": ""})
    _write(receipt, shard.id, corpus)  # so that after an interruption, the labels are written again
    path = shard.id.path("faces")
    if path in receipt.files:
        uri = storage.join(corpus, path)
        described = tables.write_table(uri, _with_labels(tables.read_table(uri), labels), config.data.rows_per_group)
        receipt = receipt.model_copy(update={"files": receipt.files | {path: described}})
    receipt = receipt.model_copy(update={"labels": labels_key(shard.rows, labels)})
    _write(receipt, shard.id, corpus)
    return receipt


def _write(receipt: Receipt, shard: ShardId, corpus: str) -> None:
    storage.write_json(storage.join(corpus, shard.receipt_path), receipt.model_dump())


def _schemas(config: Config) -> dict[str, pa.Schema]:
    families = (schema.speech_schema(config.data.storage), schema.faces_schema(), schema.measures_schema())
    return dict(zip(FAMILIES, families, strict=True))


def _copy(corpus: str, shard: ShardId, rows: Sequence[int], clip_ids: Sequence[str], config: Config) -> Cells:
    """Return rows of another shard. Raises ValueError if its files are damaged or have other clips."""
    cells = {}
    for family, kind in _schemas(config).items():
        uri = storage.join(corpus, shard.path(family))
        cells[family] = tables.take_rows(uri, rows).cast(kind)  # reading added metadata, which must not be copied
        if cells[family][schema.CLIP_ID].to_pylist() != clip_ids:
            raise ValueError(f"{uri}: other clips than its receipt says")
    return cells


def _cells(prepared: Sequence[tuple[ClipRow, Prepared]], config: Config) -> Cells:
    """Return the rows of prepared clips. Labels are null."""
    rows = [row for row, _ in prepared]
    keys = [pa.array([row.clip_id for row in rows]), pa.array([row.video_id for row in rows])]
    speech = schema.tensor_column(np.stack([clip.speech for _, clip in prepared]))
    faces = [pa.array([clip.face_jpeg for _, clip in prepared], pa.binary())]
    faces += [pa.nulls(len(rows), schema.faces_schema().field(name).type) for name in _LABELS]
    measures = [_measures(clip, config) for _, clip in prepared]
    measured = [
        pa.array([each[field.name] for each in measures], field.type)
        for field in [*schema.measures_schema()][len(keys) :]
    ]
    arrays = {"speech": [*keys, speech], "faces": [*keys, *faces], "measures": [*keys, *measured]}
    return {family: pa.Table.from_arrays(arrays[family], schema=kind) for family, kind in _schemas(config).items()}


def _measures(clip: Prepared, config: Config) -> dict[str, Any]:
    """Return what was measured of a clip, with the paths below the folders of the data."""
    measures = clip.measures._asdict()
    return measures | {name: path_below(measures[name], config) for name in ("source", "picture", "sound")}


def _with_labels(faces: pa.Table, labels: Mapping[str, Labels]) -> pa.Table:
    """Return a table of faces with each row's labels."""
    of_rows = [labels.get(video, Labels()) for video in faces[schema.VIDEO_ID].to_pylist()]
    columns = {name: [getattr(label, name) for label in of_rows] for name in _LABELS}
    arrays = [
        pa.array(columns[field.name], field.type) if field.name in columns else faces[field.name]
        for field in schema.faces_schema()
    ]
    return pa.Table.from_arrays(arrays, schema=schema.faces_schema())


def _twice(prepare: Preparer, row: ClipRow, following: ClipRow | None) -> Prepared:
    """Return the prepared clip. An error that is neither the clip's fault nor the storage's is tried once more.

    Raises DroppedClip(internal_error) the second time: one clip of a million must not end the stage. following: the
    next row, as in `prepare`.
    """
    try:
        return prepare(row, following)
    except RuntimeError:
        log.warning("clip %s failed and is tried again", row.clip_id, exc_info=True)
    try:
        return prepare(row, following)
    except RuntimeError as error:
        log.warning("clip %s failed again and is dropped", row.clip_id, exc_info=True)
        raise DroppedClip(DropReason.internal_error, (str(error).strip().splitlines() or [""])[-1]) from error


@functools.lru_cache(maxsize=1)
def _preparer(config: str) -> Preparer:
    """Return the preparer that this process uses for all its shards: creating one takes as long as a dozen clips."""
    return Preparer(configuration.load(config))

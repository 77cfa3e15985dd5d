"""What an earlier command drew into a folder, so that the next one draws only what is left.

The parts of the features are the record: a part is written after its portraits, and names the stamp of each source.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa
import torch

from arspm import storage
from arspm.bulk.item_files import FEATURES
from arspm.bulk.recordings import Found
from arspm.config.tree import settings, uri_fields
from arspm.corpus import schema, tables
from arspm.portrait import SpeechPortrait

_FORMAT = 1  # increase it if the same model draws other portraits
_COLUMNS = (schema.CLIP_ID, schema.SOURCE, schema.SOURCE_STAMP, schema.PORTRAIT)
_PART = re.compile(r"\Apart-(\d{6,9})\.parquet\Z")
_THREADS = 16  # parts that are read at a time


class Drawn(NamedTuple):
    """What is kept of an earlier command.

    sources: (source, stamp) of the recordings and row groups whose portraits are there. portraits: paths in the folder.
    num_changed: portraits of inputs that have changed since, have another name now, or whose portrait is gone.
    num_others: portraits of what is no input now. next_part: number of the next part of the features.
    """

    sources: set[tuple[str, str]]
    portraits: list[str]
    num_changed: int
    num_others: int
    next_part: int


def fingerprint(model: SpeechPortrait) -> str:
    """Return a hash of what decides a model's portraits: its weights, prior and settings, but not where they lie."""
    places = uri_fields(model.config)
    kept = {name: value for name, value in settings(model.config).items() if name not in places}
    digest = hashlib.sha256(f"{_FORMAT} {json.dumps(kept)}".encode())
    for name, tensor in sorted(model.network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def keep(out: str, found: Found) -> Drawn:
    """Return what a folder already has of what was found, and remove everything else from its features.

    Call it only if the same model drew what is there. Portraits are never removed. Damaged parts, and those of an
    earlier version, count as not drawn.
    """
    folder = storage.join(out, FEATURES)
    parts = sorted(name for name in storage.files_below(folder) if _PART.match(name))
    there = {*storage.list_files(out)["path"].to_pylist()} if parts else set[str]()
    sources, portraits, num_changed, num_others = set[tuple[str, str]](), list[str](), 0, 0
    with ThreadPoolExecutor(_THREADS) as pool:
        rewritten = []
        for part, rows in zip(parts, pool.map(lambda part: _read(storage.join(folder, part)), parts), strict=True):
            keys = [(row[schema.SOURCE], row[schema.SOURCE_STAMP]) for row in rows]
            is_kept = [
                row[schema.PORTRAIT] in there and key not in sources and _is_current(row, found)
                for row, key in zip(rows, keys, strict=True)
            ]
            if any(source in found.tables for source, _ in keys):
                is_kept = [all(is_kept)] * len(rows)  # a row group is drawn as a whole
            if not rows or not all(is_kept):
                rewritten.append(pool.submit(_rewrite, storage.join(folder, part), is_kept))
            sources.update(itertools.compress(keys, is_kept))
            portraits += itertools.compress((row[schema.PORTRAIT] for row in rows), is_kept)
            is_input = [source in found.recordings or source in found.tables for source, _ in keys]
            num_changed += sum(is_input) - sum(is_kept)
            num_others += len(rows) - sum(is_input)
        for each in rewritten:
            each.result()
    last = max((int(_PART.sub(r"\1", part)) for part in parts), default=-1)
    return Drawn(sources, portraits, num_changed, num_others, last + 1)


def _read(uri: str) -> list[dict[str, str]]:
    """Return the rows of a part, without their features; none if it is damaged or of an earlier version."""
    try:
        table = tables.read_table(uri, _COLUMNS)
    except (ValueError, FileNotFoundError):
        return []
    is_text = all(pa.types.is_string(column.type) and not column.null_count for column in table.columns)
    return table.to_pylist() if is_text else []


def _is_current(row: Mapping[str, str], found: Found) -> bool:
    """Return whether a row's source is an input that has not changed, and gives its portrait the same name."""
    source, stamp = row[schema.SOURCE], row[schema.SOURCE_STAMP]
    if source in found.tables:
        stamp, _, _ = stamp.rpartition(" ")  # see `Found.group_stamp`
        name = storage.join(found.tables[source], row[schema.CLIP_ID])
    else:
        name = found.recordings.get(source, "")
    return stamp != "" and stamp == found.stamps.get(source) and row[schema.PORTRAIT] == f"{name}.png"


def _rewrite(uri: str, is_kept: Sequence[bool]) -> None:
    """Leave only some rows in a part, or remove it."""
    if not any(is_kept):
        storage.remove(uri)
        return
    rows = tables.read_table(uri).filter(pa.array(is_kept))
    tables.write_table(uri, rows, len(rows))

"""What preprocessing already did: a receipt for each complete shard, and the clips that its shards contain.

A receipt is written last, so it proves that its shard is complete. It has the content key of every clip. So a shard
with the same clips is used again, and a new shard copies the cells of clips that any shard has, in place of decoding.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from arspm import storage
from arspm.corpus import schema
from arspm.corpus.prune import RECEIPTS
from arspm.corpus.schema import DropReason
from arspm.distributed.data.shards import Part
from arspm.media.clip_rows import Rows
from arspm.media.labels import Labels

_KEY = np.dtype(">u8")


class Drop(BaseModel):
    """A clip of the shard that was dropped when it was prepared."""

    key: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    clip_id: str
    reason: Annotated[str, Field(pattern=f"^({'|'.join(reason.value for reason in DropReason)})$")]
    detail: str


class Receipt(BaseModel):
    """A complete shard. `key`: of its clips, in order. `labels`: hash of their labels; empty while they are replaced.

    `clips`: the content keys of its rows, in order, 16 hexadecimal digits each. `files`: path in the corpus -> size
    and hash.
    """

    key: str
    labels: str
    clips: Annotated[str, Field(pattern="^([0-9a-f]{16})*$")]
    dropped: list[Drop]
    videos: list[str]
    ids: str
    files: dict[str, dict[str, Any]]

    @property
    def num_rows(self) -> int:
        return len(self.clips) // 16

    @property
    def is_final(self) -> bool:
        """Whether no clip should be tried again."""
        return all(drop.reason != DropReason.internal_error for drop in self.dropped)


class ShardId(NamedTuple):
    """A split and the name of a shard in it."""

    split: str
    name: str

    @property
    def receipt_path(self) -> str:
        return storage.join(RECEIPTS, f"{self.split}-{self.name}.json")

    def path(self, family: str) -> str:
        """Return the path of the shard's file of a family, in the corpus."""
        return f"{self.split}/{family}/{self.name}.parquet"


Receipts = Mapping[ShardId, Receipt]


class Shard(NamedTuple):
    """The rows of one shard, and where it is or will be. `key`: of its clips; `keys`: the content key of each."""

    id: ShardId
    rows: Rows
    keys: np.ndarray
    key: str


class Known(NamedTuple):
    """What is known of a new shard's clips. Positions are indices into its rows.

    `cells`: a shard -> positions here and rows there, of clips to copy. `drops`: position -> the drop.
    """

    cells: dict[ShardId, tuple[list[int], list[int]]]
    drops: dict[int, Drop]

    @property
    def num_clips(self) -> int:
        return sum(len(positions) for positions, _ in self.cells.values()) + len(self.drops)


def read_receipts(corpus: str) -> dict[ShardId, Receipt]:
    """Return the receipts of a corpus's complete shards. Ignores invalid ones, and those whose files are missing."""
    there = storage.files_below(corpus)
    receipts = {}
    for name, data in storage.read_folder(storage.join(corpus, RECEIPTS), ".json").items():
        split, _, shard = name.removesuffix(".json").partition("-")
        with contextlib.suppress(ValidationError):
            receipt = Receipt.model_validate_json(data, strict=True)
            if all(there.get(path) == described.get("bytes") for path, described in receipt.files.items()):
                receipts[ShardId(split, shard)] = receipt
    return receipts


def name_shards(parts: Sequence[Part], receipts: Receipts, rows_per_group: int) -> list[Shard]:
    """Return the planned shards with their names: that of a complete shard with the same clips, or an unused one.

    Unused names are given in order. So they are the same whether or not a run was interrupted.
    """
    names: dict[tuple[str, str], ShardId] = {}
    for shard_id, receipt in sorted(receipts.items()):
        if receipt.is_final:
            names.setdefault((shard_id.split, receipt.key), shard_id)
    unused = {split: _unused_ids(split, receipts) for split in schema.SPLITS}
    shards = []
    for part in parts:
        key = shard_key(part.keys, rows_per_group)
        shards.append(Shard(names.get((part.split, key)) or next(unused[part.split]), part.rows, part.keys, key))
    return shards


def _unused_ids(split: str, receipts: Receipts) -> Iterator[ShardId]:
    every = (ShardId(split, f"shard-{number:05d}") for number in itertools.count())
    return (each for each in every if each not in receipts)


def shard_key(keys: np.ndarray, rows_per_group: int) -> str:
    """Return the key of a shard with these clips, uint64 (rows,), in this order."""
    return hashlib.sha256(b"%d:" % rows_per_group + keys.astype(_KEY).tobytes()).hexdigest()


def labels_key(rows: Rows, labels: Mapping[str, Labels]) -> str:
    """Return a hash of the labels of a shard's rows."""
    videos = rows.table["video_id"].unique().to_pylist()
    return hashlib.sha256(repr([labels.get(video, Labels()) for video in videos]).encode()).hexdigest()


def encode_keys(keys: np.ndarray) -> str:
    """Return content keys, uint64 (rows,), as a receipt has them."""
    return keys.astype(_KEY).tobytes().hex()


def find_known(shards: Sequence[Shard], receipts: Receipts) -> list[Known]:
    """Return what is known of the clips of each shard. A clip of several complete shards is taken from the first."""
    ids = sorted(receipts)
    kept = [_decode_keys(receipts[each].clips) for each in ids]
    starts = np.cumsum([0, *map(len, kept)])
    drops = {
        int(drop.key, 16): drop
        for each in ids
        for drop in receipts[each].dropped
        if drop.reason != DropReason.internal_error
    }
    every = np.concatenate([*kept, np.zeros(0, np.uint64)])
    order = np.argsort(every, kind="stable")
    ordered = every[order]
    result = []
    for shard in shards:
        cells: dict[ShardId, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        places = np.searchsorted(ordered, shard.keys)
        for position, (key, place) in enumerate(zip(shard.keys.tolist(), places.tolist(), strict=True)):
            if place < len(ordered) and ordered[place] == key:
                source = int(np.searchsorted(starts, order[place], side="right")) - 1
                positions, rows = cells[ids[source]]
                positions.append(position)
                rows.append(int(order[place] - starts[source]))
        dropped = {position: drops[key] for position, key in enumerate(shard.keys.tolist()) if key in drops}
        result.append(Known(dict(cells), dropped))
    return result


def _decode_keys(text: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(text), _KEY).astype(np.uint64)

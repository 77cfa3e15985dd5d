"""Plan a corpus before any clip is decoded: splits, shards, and which shards an interrupted run already wrote.

A hash of the video id decides a video's split and its position. Shards therefore do not depend on each other: an
interrupted run resumes with the shards that have no receipt, and the shards are byte-identical however often that
happens.
"""

from __future__ import annotations

import contextlib
import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, Field, ValidationError

from arspm import storage
from arspm.corpus import schema
from arspm.corpus.schema import DropReason
from arspm.media.clip_rows import Rows

RECEIPTS = "receipts"
MIN_VIDEOS = 10  # in val and in test of a corpus of a hundred videos or more


class Shard(NamedTuple):
    """The rows of one shard, all usable, before any is decoded."""

    split: str
    name: str
    rows: Rows

    @property
    def receipt_name(self) -> str:
        return f"{self.split}-{self.name}.json"


class _Dropped(BaseModel):
    row: int
    clip_id: str | None
    reason: Annotated[str, Field(pattern=f"^({'|'.join(reason.value for reason in DropReason)})$")]
    detail: str


class _Receipt(BaseModel):
    """What a task wrote for a shard. The receipt is written last, so it proves that the shard is complete."""

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
) -> tuple[dict[str, str], list[str]]:
    """Return each video's split, by a hash of its id (reading S), and a note if a split has more than its fraction.

    In a large corpus a video's split depends on its id only. In a small one, test and val get at least a tenth of the
    videos, up to MIN_VIDEOS each, and test at least two of six or more: those with the smallest hashes. For a dataset
    with known speakers, these are ids of speakers, and `unit` is "speakers" in messages. If `test_videos` is not empty,
    exactly these videos are the test split. Raises ValueError, with fractions that work, if train would have no video.
    """
    hashes = {video: hash64("split", video) / 2**64 for video in video_ids if video not in test_videos}  # in [0, 1)
    if test_videos:
        test_fraction = 0.0
    order = sorted(hashes, key=lambda video: (hashes[video], video))
    values = [hashes[video] for video in order]
    below = bisect_left(values, test_fraction)
    between = bisect_left(values, test_fraction + val_fraction) - below
    least_val, least_test = _least(len(order), with_test=not test_videos)
    num_test, num_val = max(below, least_test), max(between, least_val)
    if num_test + num_val >= len(order):
        advice = _working_fractions(values, unit, with_test=not test_videos)
        raise ValueError(f"{len(order)} {unit} leave the train split empty; {advice}")
    split = dict.fromkeys(test_videos, "test") | {
        video: "test" if rank < num_test else "val" if rank < num_test + num_val else "train"
        for rank, video in enumerate(order)
    }
    notes = []
    if (num_test, num_val) != (below, between):
        counts = f"{num_val} val" if test_videos else f"{num_test} test and {num_val} val"
        notes.append(f"a small corpus: {counts} {unit} of {len(order)}, more than the fractions say")
    return split, notes


def plan_shards(rows: Rows, split_of: dict[str, str], rows_per_shard: int) -> list[Shard]:
    """Return the shards of each split: usable rows in order of a hash of the video id, then of their start."""
    videos = rows.table["video_id"].unique().to_pylist()
    columns = {
        "video_id": videos,
        "split": [split_of[video] for video in videos],
        "order": pa.array([hash64("order", video) for video in videos], pa.uint64()),
    }
    table = rows.table.select(["video_id", "start_seconds", "clip_id"])
    table = table.append_column("row", pa.array(np.arange(len(rows))))
    table = table.join(pa.table(columns), "video_id").sort_by(
        [(name, "ascending") for name in ("order", "video_id", "start_seconds", "clip_id")]
    )
    shards = []
    for split in schema.SPLITS:
        selected = table.filter(pc.equal(table["split"], split))["row"]
        for number, begin in enumerate(range(0, len(selected), rows_per_shard)):
            part = rows.table.take(selected.slice(begin, rows_per_shard))
            shards.append(Shard(split, f"shard-{number:05d}", Rows(part)))
    return shards


def read_receipts(corpus: str, fingerprint: str) -> dict[str, dict[str, Any]]:
    """Return the receipts of complete shards by the receipt's file name. Invalid receipts are ignored.

    If the corpus belongs to another fingerprint, it is removed.
    """
    receipts = {}
    for name, data in storage.read_folder(storage.join(corpus, RECEIPTS), ".json").items():
        with contextlib.suppress(ValidationError):
            receipts[name] = _Receipt.model_validate_json(data, strict=True).model_dump()
    if {receipt["fingerprint"] for receipt in receipts.values()} != {fingerprint}:
        storage.remove(corpus)
        return {}
    return receipts


def hash64(purpose: str, text: str) -> int:
    """Return 64 bits of a hash of a text, independent for each purpose."""
    return int.from_bytes(hashlib.sha256(f"{purpose}:{text}".encode()).digest()[:8], "big")


def _least(num_videos: int, *, with_test: bool) -> tuple[int, int]:
    """Return how many videos val and test have at least."""
    num_val = max(1, min(MIN_VIDEOS, num_videos // 10))
    return num_val, max(num_val, 2 if num_videos >= 6 else 1) if with_test else 0


def _working_fractions(hashes: list[float], unit: str, *, with_test: bool) -> str:
    """Return advice with the smallest fractions that give test and val the least number of videos. hashes: sorted."""
    num_splits = 2 + with_test
    if len(hashes) < num_splits:
        besides = "" if with_test else " besides those of data.test_csv"
        return f"a corpus needs at least {('two', 'three')[with_test]} {unit}{besides}, one for each split"
    num_val, num_test = _least(len(hashes), with_test=with_test)

    def fraction_below(count: int) -> float:
        """Return a fraction that exactly `count` hashes are below, with as few digits as possible."""
        low, high = hashes[count - 1], hashes[count]
        return next(value for digits in range(1, 17) if low < (value := round((low + high) / 2, digits)) <= high)

    test = fraction_below(num_test) if with_test else 0.0
    val = round(fraction_below(num_test + num_val) - test, 16)
    test_option = f"--set data.test_fraction={test:.15g} " if with_test else ""
    return f"try {test_option}--set data.val_fraction={val:.15g}"

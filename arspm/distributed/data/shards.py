"""Plan a corpus before any clip is decoded: its splits, its shards, and a key of each clip's content.

A hash of the video id decides a video's split and its position, so a change of some rows changes few shards.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from arspm.config import Config, Data
from arspm.corpus import schema
from arspm.corpus.hashes import hash64, order_hash
from arspm.media.clip_rows import Rows
from arspm.media.datasets import Dataset
from arspm.runs import stages

MIN_VIDEOS = 10  # in val and in test of a corpus of a hundred videos or more
# The settings of `data` that decide what a clip becomes. All of `face` do.
_PREPARES = ("format", "storage", "seconds", "max_seconds", "tolerance_seconds", "min_speech_seconds")


class Part(NamedTuple):
    """The rows of one shard, all usable, before any is decoded. `keys`: their content keys, uint64 (rows,)."""

    split: str
    rows: Rows
    keys: np.ndarray


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


def split_dataset(data: Data, dataset: Dataset) -> tuple[dict[str, str], list[str]]:
    """Return the split of each video that has a usable row, and notes, as `assign_splits` does.

    Raises ValueError, in one line, if a split would have no video.
    """
    if data.test_csv and not dataset.test_videos:
        raise ValueError(f"data.test_csv: {data.test_csv} has no usable row, so the test split is empty")
    ids = dataset.rows.usable().table["video_id"].unique().to_pylist()
    if dataset.splits is not None:
        return protocol_splits(ids, dataset.splits, data.split), []
    unit = "videos" if data.format == "avspeech" else "speakers"
    return assign_splits(ids, data.val_fraction, data.test_fraction, unit, dataset.test_videos)


def protocol_splits(speakers: Sequence[str], protocol: Mapping[str, str], name: str) -> dict[str, str]:
    """Return each speaker's split by a named protocol. Raises ValueError if a split has no speaker."""
    splits = {speaker: protocol[speaker] for speaker in speakers}
    counts = Counter(splits.values())
    if missing := [split for split in schema.SPLITS if not counts[split]]:
        found = ", ".join(f"{counts[split]} in {split}" for split in schema.SPLITS)
        raise ValueError(
            f"data.split={name} leaves the {' and '.join(missing)} split empty: of the {len(splits)} speakers with "
            f"clips, it puts {found}; add speakers, or set data.split=hash"
        )
    return splits


def plan_shards(rows: Rows, keys: np.ndarray, split_of: dict[str, str], rows_per_shard: int) -> list[Part]:
    """Return the shards of each split: usable rows in order of a hash of the video id, then of their start.

    keys: each row's content key (`content_keys`), (rows,). The shards are the leaves of a binary tree over the bits of
    the hash, each with at most `rows_per_shard` rows. A row that is added or removed therefore changes its own leaf
    only. A video with more rows than a shard may have is divided by a hash of the clip id.
    """
    table = rows.table
    videos = table["video_id"].unique().to_pylist()
    columns = {
        "video_id": videos,
        "split": [split_of[video] for video in videos],
        "order": pa.array([order_hash(video) for video in videos], pa.uint64()),
    }
    clip_order = pa.array([hash64("clip", clip) for clip in table["clip_id"].to_pylist()], pa.uint64())
    table = table.select(["video_id", "start_seconds", "clip_id"])
    table = table.append_column("row", pa.array(np.arange(len(rows)))).append_column("clip_order", clip_order)
    table = table.join(pa.table(columns), "video_id")
    parts = []
    for split in schema.SPLITS:
        selected = table.filter(pc.equal(table["split"], split))
        selected = selected.sort_by([(name, "ascending") for name in ("order", "video_id", "clip_order", "clip_id")])
        hashes = [selected[name].to_numpy() for name in ("order", "clip_order")]
        for begin, end in _leaves(hashes, 0, len(selected), 0, rows_per_shard):
            leaf = selected.slice(begin, end - begin)
            names = ("order", "video_id", "start_seconds", "clip_id")
            index = leaf.sort_by([(name, "ascending") for name in names])["row"]
            parts.append(Part(split, Rows(rows.table.take(index)), keys[index.to_numpy()]))
    return parts


def _leaves(hashes: Sequence[np.ndarray], begin: int, end: int, bit: int, limit: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of rows with at most `limit` rows and a common prefix of their hashes, in order.

    hashes: two arrays, uint64 (rows,), sorted by the first and then by the second. The rows from begin to end have the
    first `bit` bits in common.
    """
    if end - begin <= limit or bit == 128:
        for first in range(begin, end, limit):
            yield first, min(first + limit, end)
        return
    values = hashes[bit // 64][begin:end]
    place = 63 - bit % 64
    boundary = ((int(values[0]) >> (place + 1) << 1) | 1) << place  # the smallest value with this bit set
    middle = begin + int(np.searchsorted(values, np.uint64(boundary)))
    yield from _leaves(hashes, begin, middle, bit + 1, limit)
    yield from _leaves(hashes, middle, end, bit + 1, limit)


def content_keys(rows: Rows, config: Config) -> np.ndarray:
    """Return a hash of all that decides what a row becomes in the corpus, uint64 (rows,).

    That is its ids, its times and position, the names below their folder and the sizes of its files, and the settings
    of preparing. Not its label, its split, its line in the table, or where the folder is.
    """
    data = {name: getattr(config.data, name) for name in _PREPARES}
    settings = json.dumps([stages.FORMAT, data, config.face.model_dump(mode="json")], sort_keys=True)
    keys = np.empty(len(rows), np.uint64)
    files = ("path", "image", "sound", "other_images")
    names = ("clip_id", "video_id", "start_seconds", "end_seconds", "x", "y", "sizes", *files)
    begin = 0
    for batch in rows.table.select(names).to_batches(65_536):
        for cells in zip(*(batch[name].to_pylist() for name in names), strict=True):
            *values, path, image, sound, others = cells
            below = [path_below(uri, config) for uri in (path, image, sound, *(others or ()))]
            keys[begin] = hash64(settings, repr((values, below)))
            begin += 1
    return keys


def path_below(uri: str | None, config: Config) -> str | None:
    """Return a file's path below data.clips or data.faces, which does not change when the folder is moved."""
    roots = (f"{root.rstrip('/')}/" for root in (config.data.clips, config.data.faces) if root)
    return next((uri[len(root) :] for root in roots if uri and uri.startswith(root)), uri)


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

"""The plan of a corpus, without Ray: its splits, its shards, and the keys of its clips."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arspm.config import Config, override
from arspm.corpus import schema
from arspm.distributed.data.shards import Part, assign_splits, content_keys, plan_shards, protocol_splits
from arspm.media.clip_rows import ClipRow, Rows

names = st.sets(st.integers(0, 10**9).map(lambda number: f"v{number}"), min_size=3, max_size=60).map(sorted)


@given(names)
def test_the_fractions_suggested_for_an_empty_split_work(videos: list[str]) -> None:
    with pytest.raises(ValueError, match="videos leave the train split empty; ") as caught:
        assign_splits(videos, 0.5, 0.5)
    assert "\n" not in str(caught.value)
    fields = dict(word.split("=") for word in str(caught.value).split() if "=" in word)
    config = override(Config(), fields)  # as --set does
    split, notes = assign_splits(videos, config.data.val_fraction, config.data.test_fraction)
    counts = Counter(split.values())
    assert counts["val"] == max(1, len(videos) // 10)
    assert counts["test"] == max(counts["val"], 2 if len(videos) >= 6 else 1)
    assert notes == []


@given(names, st.floats(0, 0.3), st.floats(0, 0.3))
def test_no_split_is_empty_and_the_smallest_hashes_decide(videos: list[str], val: float, test: float) -> None:
    def place(video: str) -> float:
        return int(hashlib.sha256(f"split:{video}".encode()).hexdigest()[:16], 16) / 2**64

    try:
        split, notes = assign_splits(videos, val, test)
    except ValueError:
        return  # nothing is left for training
    order = sorted(videos, key=place)
    names = [split[video] for video in order]
    assert names == sorted(names, key=["test", "val", "train"].index)
    least = max(1, len(videos) // 10)
    natural = {"test": sum(place(v) < test for v in videos), "val": sum(test <= place(v) < test + val for v in videos)}
    assert names.count("val") == max(least, natural["val"])
    assert names.count("test") == max(least, 2 if len(videos) >= 6 else 1, natural["test"])
    assert bool(notes) == any(names.count(name) > natural[name] for name in natural)


def test_twelve_speakers_have_splits_with_the_papers_fractions() -> None:
    split, (note,) = assign_splits([f"synth{n:06d}" for n in range(12)], 0.02, 0.02)
    assert Counter(split.values()) == {"train": 9, "test": 2, "val": 1}
    assert note == ("a small corpus: 2 test and 1 val videos of 12, more than the fractions say")


def test_a_large_corpus_is_split_by_the_ids_alone() -> None:
    videos = [f"v{number}" for number in range(5000)]
    splits, notes = assign_splits(videos, 0.02, 0.02)
    assert notes == []
    splits_of_fewer, _ = assign_splits(videos[::2], 0.02, 0.02)
    assert splits_of_fewer == {video: splits[video] for video in videos[::2]}


@given(names)
def test_the_test_split_is_exactly_the_videos_of_the_test_csv(videos: list[str]) -> None:
    """The test fraction is ignored. The other videos are split as without a test split."""
    held_out = frozenset(videos[::3])
    others = set(videos) - held_out
    if len(others) < 2:
        return
    split, _ = assign_splits(videos, 0.0, 0.9, test_videos=held_out)
    assert {video for video in videos if split[video] == "test"} == held_out
    assert sum(split[video] == "val" for video in others) == max(1, len(others) // 10)


def test_a_protocol_decides_the_splits_and_none_may_be_empty() -> None:
    protocol = {"ann": "train", "bob": "test", "cat": "val", "dan": "train"}
    assert protocol_splits(["cat", "ann", "bob"], protocol, "hq") == {"cat": "val", "ann": "train", "bob": "test"}
    message = "leaves the val and test split empty: of the 2 speakers with clips, it puts 2 in train, 0 in val, 0"
    with pytest.raises(ValueError, match=message):
        protocol_splits(["ann", "dan"], protocol, "hq")


def test_fewer_than_three_videos_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="at least three videos"):
        assign_splits(["a", "b", "a"], 0.3, 0.3)
    with pytest.raises(ValueError, match=r"^2 speakers leave .* at least three speakers"):
        assign_splits(["a", "b", "a"], 0.3, 0.3, "speakers")


# --- shards


def rows_of(videos: Sequence[int], clips_of: int = 1) -> Rows:
    return Rows.of(
        ClipRow(1, f"v{video}_{start}.0_9", f"v{video}", float(start), 9.0, 0.5, 0.5, f"/clips/v{video}.mp4")
        for video in videos
        for start in range(clips_of)
    )


def plan(rows: Rows, limit: int) -> list[Part]:
    ids = rows.table["video_id"].unique().to_pylist()
    return plan_shards(rows, np.arange(len(rows), dtype=np.uint64), dict.fromkeys(ids, "train"), limit)


def ids_of(parts: Sequence[Part]) -> list[tuple[str, ...]]:
    return [tuple(part.rows.table["clip_id"].to_pylist()) for part in parts]


numbers = st.sets(st.integers(0, 10**6), min_size=1, max_size=200).map(sorted)


@given(numbers, st.integers(1, 3), st.integers(1, 20))
def test_shards_have_all_rows_in_hash_order_and_no_more_than_the_limit(
    videos: list[int], clips_of: int, limit: int
) -> None:
    rows = rows_of(videos, clips_of)
    parts = plan(rows, limit)
    assert all(1 <= len(part.rows) <= limit for part in parts)
    clips = [clip for part in ids_of(parts) for clip in part]
    assert sorted(clips) == sorted(rows.table["clip_id"].to_pylist())
    digests = [hashlib.sha256(f"order:{clip.split('_')[0]}".encode()).digest() for clip in clips]
    assert digests == sorted(digests)
    by_key = {part.rows[i].clip_id: int(part.keys[i]) for part in parts for i in range(len(part.rows))}
    assert by_key == {clip: key for key, clip in enumerate(rows.table["clip_id"].to_pylist())}


@given(numbers, st.integers(0, 10**6), st.integers(1, 20), st.randoms())
def test_one_more_video_changes_one_shard_or_divides_it(videos: list[int], new: int, limit: int, random: Any) -> None:
    """The reverse too: with one row fewer, two shards may become one. The order of the table does not matter."""
    few = [video for video in videos if video != new] or [new + 1]
    grown = [*few, new]
    random.shuffle(grown)
    before, after = set(ids_of(plan(rows_of(few), limit))), set(ids_of(plan(rows_of(grown), limit)))
    removed, added = before - after, after - before
    assert len(removed) <= 1
    assert {clip for part in added for clip in part} == {clip for part in removed for clip in part} | {f"v{new}_0.0_9"}


def test_shards_are_filled_to_two_thirds_on_average() -> None:
    parts = plan(rows_of(range(20_000)), 64)
    assert 0.6 < 20_000 / len(parts) / 64 < 0.85


def test_a_speaker_with_more_clips_than_a_shard_has_rows_is_divided() -> None:
    rows = rows_of([1], 50)
    parts = plan(rows, 8)
    assert max(len(part.rows) for part in parts) <= 8
    assert sum(len(part.rows) for part in parts) == 50
    fewer = Rows(rows.table.slice(1))
    assert len(set(ids_of(parts)) - set(ids_of(plan(fewer, 8)))) <= 2


def test_rows_of_a_split_stay_in_it() -> None:
    rows = rows_of(range(50), 2)
    split_of = {f"v{video}": schema.SPLITS[video % 3] for video in range(50)}
    parts = plan_shards(rows, np.zeros(len(rows), np.uint64), split_of, 7)
    assert all(split_of[row.video_id] == part.split for part in parts for row in part.rows)


# --- content keys


def keys(row: dict[str, Any], **settings: Any) -> int:
    fields = {"line": 1, "clip_id": "a_0_9", "video_id": "a", "start_seconds": 0.0, "end_seconds": 9.0}
    fields |= {"x": 0.5, "y": 0.5, "path": "/clips/a.mp4", "sizes": (100,)}
    config = override(Config(), {"data.clips": "/clips"} | {key.replace("__", "."): v for key, v in settings.items()})
    return int(content_keys(Rows.of([ClipRow(**fields | row)]), config)[0])


def test_a_key_changes_with_all_that_decides_what_a_clip_becomes() -> None:
    changed = [
        *(
            {"clip_id": "a_0.0_9"},
            {"video_id": "b"},
            {"start_seconds": 1.0},
            {"end_seconds": 8.0},
            {"x": None, "y": None},
        ),
        *(
            {"path": "/clips/b.mp4"},
            {"image": "/clips/a.jpg"},
            {"other_images": ("/clips/b.jpg",)},
            {"sizes": (101,)},
            {"sound": "/clips/a.m4a"},
        ),
    ]
    settings = [
        *({"data__storage": "spectrogram"}, {"data__seconds": "speech"}, {"data__max_seconds": 8}),
        *({"data__tolerance_seconds": 0.1}, {"data__min_speech_seconds": 1}, {"face__min_score": 0.5}),
    ]
    every = [keys({}), *(keys(row) for row in changed), *(keys({}, **each) for each in settings)]
    assert len(set(every)) == len(every)


def test_a_key_does_not_change_with_the_line_the_folder_or_the_splits() -> None:
    same = [
        keys({"line": 7}),
        keys({"path": "s3://bucket/other/a.mp4"}, data__clips="s3://bucket/other/"),
        keys({}, data__labels="/labels.csv", data__test_fraction=0.3, data__rows_per_shard=5),
    ]
    assert set(same) == {keys({})}

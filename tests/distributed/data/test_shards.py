"""The plan of a corpus, without Ray: its splits, and the receipts of an interrupted run."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arspm.config import Config, override
from arspm.distributed.data.shards import assign_splits, read_receipts
from tests.distributed.conftest import FINGERPRINT

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


def test_fewer_than_three_videos_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="at least three videos"):
        assign_splits(["a", "b", "a"], 0.3, 0.3)
    with pytest.raises(ValueError, match=r"^2 speakers leave .* at least three speakers"):
        assign_splits(["a", "b", "a"], 0.3, 0.3, "speakers")


def test_invalid_receipts_are_ignored(tmp_path: Path) -> None:
    """If one receipt belongs to another corpus, nothing is kept."""
    folder = tmp_path / "corpus" / "receipts"
    folder.mkdir(parents=True)
    good: dict[str, Any] = {
        "fingerprint": FINGERPRINT,
        "rows": 1,
        "videos": ["a"],
        "ids": "0",
        "dropped": [],
        "files": {},
    }
    invalid = [[], None, "text", {}, good | {"rows": -1}, good | {"dropped": [{"reason": "boredom"}]}]
    for number, value in enumerate([good, *invalid]):
        (folder / f"train-shard-{number:05d}.json").write_text(json.dumps(value))
    (folder / "train-shard-00100.json").write_text(json.dumps(good)[:-1])
    assert read_receipts(f"{tmp_path}/corpus", FINGERPRINT) == {"train-shard-00000.json": good}
    (folder / "val-shard-00000.json").write_text(json.dumps(good | {"fingerprint": "0" * 64}))
    assert read_receipts(f"{tmp_path}/corpus", FINGERPRINT) == {}
    assert not folder.exists()

"""Which recordings are found in files, folders and corpora, and what their portraits are called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arspm import storage
from arspm.bulk.recordings import PER_ITEM, find


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def names(root: Path, *inputs: str) -> dict[str, str]:
    """Path below the root -> name."""
    found = find([str(root / each) for each in inputs])
    assert found.failures == []
    return {source.removeprefix(f"{root}/"): name for source, name in found.recordings.items()}


def test_files_in_one_folder_are_named_by_their_stems(tmp_path: Path):
    touch(tmp_path, "in/a.wav", "in/b.mp4", "in/c")
    assert names(tmp_path, "in/a.wav", "in/b.mp4", "in/c") == {"in/a.wav": "a", "in/b.mp4": "b", "in/c": "c"}


def test_equal_stems_in_different_folders_stay_apart(tmp_path: Path):
    touch(tmp_path, "x/a.wav", "y/a.wav", "y/deep/a.wav")
    assert names(tmp_path, "x/a.wav", "y") == {"x/a.wav": "x/a", "y/a.wav": "y/a", "y/deep/a.wav": "y/deep/a"}
    assert names(tmp_path, "y") == {"y/a.wav": "a", "y/deep/a.wav": "deep/a"}


def test_equal_stems_in_one_folder_keep_their_extensions(tmp_path: Path):
    touch(tmp_path, "a.wav", "a.mp3", "a.wav.flac", "b.wav")
    found = names(tmp_path, "")
    assert found == {"a.wav": "a.wav", "a.mp3": "a.mp3", "a.wav.flac": "a.wav.flac", "b.wav": "b"}
    assert len({*found.values()}) == len(found)


def test_a_folder_has_its_recordings_only_and_says_what_else(tmp_path: Path):
    touch(tmp_path, "in/a.WAV", "in/._a.wav", "in/labels.csv", "in/more/notes.txt", "in/more/b.flac", "in/LICENSE")
    found = find([str(tmp_path / "in")])
    assert sorted(found.recordings.values()) == ["a", "more/b"]
    assert found.left_out == {"other": 2, "csv": 1, "txt": 1}


def test_what_is_given_twice_is_drawn_once(tmp_path: Path):
    touch(tmp_path, "in/a.wav", "in/b.wav")
    found = find([str(tmp_path / each) for each in ("in", "in/a.wav", "in/a.wav")])
    assert (sorted(found.recordings.values()), found.num_repeated) == (["a", "b"], 2)


def test_inputs_without_recordings_are_failures_and_the_rest_is_found(tmp_path: Path):
    touch(tmp_path, "in/a.wav", "text/notes.txt")
    (tmp_path / "empty").mkdir()
    inputs = [str(tmp_path / each) for each in ("in", "empty", "text", "gone.wav")]
    found = find(inputs)
    assert found.failures == [(inputs[1], "no recordings in it"), (inputs[2], "no recordings in it")]
    assert [*found.recordings] == [f"{tmp_path}/in/a.wav", inputs[3]]  # that it is gone is said when it is read


def test_a_manifest_alone_makes_no_corpus(tmp_path: Path):
    touch(tmp_path, "in/a.wav", "in/manifest.json")
    assert names(tmp_path, "in") == {"in/a.wav": "a"}


def test_items_are_small_and_cover_everything(tmp_path: Path):
    touch(tmp_path, *(f"in/{number:04d}.wav" for number in range(PER_ITEM + 3)))
    items = [*find([str(tmp_path / "in")]).items()]
    assert [len(item["sources"]) for item in items] == [PER_ITEM, 3]
    assert [item["number"] for item in items] == [0, 1]


def test_a_corpus_gives_the_shards_that_its_manifest_lists(write_corpus: Callable[..., Any], tmp_path: Path):
    corpus, _ = write_corpus({"train": (6, 5), "test": (3,)})
    stale = tmp_path / "corpus" / "train" / "speech" / "shard-00009.parquet"
    stale.write_bytes(b"of an earlier version")
    for given in (corpus, str(tmp_path)):  # a run has its corpus in this folder
        found = find([given])
        shards = {source.rpartition("corpus/")[2]: name for source, name in found.tables.items()}
        assert shards == {
            "train/speech/shard-00000.parquet": "train",
            "train/speech/shard-00001.parquet": "train",
            "test/speech/shard-00000.parquet": "test",
        }
        assert found.recordings == {}
    assert [*find([corpus], ["test"]).tables.values()] == ["test"]
    groups = [(item["table"].rpartition("corpus/")[2], item["group"]) for item in find([corpus], ["train"]).items()]
    assert groups == [(f"train/speech/shard-0000{shard}.parquet", group) for shard in (0, 1) for group in (0, 1)]


def test_a_bucket_is_read_like_a_folder(s3: str):
    for key in ("in/a.wav", "in/deep/a.wav", "in/b.wav/c.wav", "other/x.wav"):
        storage.write_bytes(f"{s3}/bulk/{key}", b"x")
    found = find([f"{s3}/bulk/in"])
    assert sorted(found.recordings.values()) == ["a", "b.wav/c", "deep/a"]
    mixed = find([f"{s3}/bulk/in/a.wav", "/tmp/none/a.wav"])
    assert len({*mixed.recordings.values()}) == 2
    assert all(name and not name.startswith("/") and ":" not in name for name in mixed.recordings.values())
    assert find([f"{s3}/bulk/nothing"]).recordings == {f"{s3}/bulk/nothing": "nothing"}


@pytest.mark.parametrize("name", ["s3://bucket/a?versionId=1", "s3://user:secret@bucket/folder", "https://x/folder"])
def test_an_invalid_uri_is_a_failure(name: str):
    found = find([name])
    assert [source for source, _ in found.failures] == [name]
    assert "secret" not in found.failures[0][1]

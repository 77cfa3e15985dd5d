"""A corpus that grows, shrinks, and gets other labels and splits: the work is proportional to the change.

Without Ray: the tasks run in this process.
"""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from arspm import storage
from arspm.config import Config, override
from arspm.corpus import tables
from arspm.corpus.prune import unused_files
from arspm.distributed.data import make_shard as making
from arspm.distributed.data.preprocess import preprocess
from arspm.distributed.data.receipts import ShardId, read_receipts
from arspm.distributed.local import in_process
from arspm.runs import stages
from jobs.cli import commands
from tests.distributed.conftest import FINGERPRINT, Clips


class Growing:
    """A run whose table, files and labels change between calls of `make`."""

    def __init__(self, clips: Clips, config: Config, folder: Path) -> None:
        self.run, self.clips, self.rows = folder / "run", folder / "clips", clips.good
        self._source, self._labels = clips.folder, clips.labels.read_text().splitlines()
        self.clips.mkdir()
        names = {"data.csv": folder / "clips.csv", "data.clips": self.clips, "data.labels": folder / "labels.csv"}
        self.config = override(config, {name: str(path) for name, path in names.items()})

    def make(self, rows: list[list[str]], run: str = "", male: bool = False, **settings: Any) -> dict[str, int]:
        """Write the tables, copy the rows' files, make the corpus. Returns the number of clips by what was done."""
        folder = self.clips.parent
        with (folder / "clips.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        for row in rows:
            name = "_".join(row[:3]) + ".mp4"
            if (self._source / name).exists():
                shutil.copy(self._source / name, self.clips / name)
        labels = [line.replace(",female,", ",male,") if male else line for line in self._labels]
        (folder / "labels.csv").write_text("\n".join(labels))
        config = override(self.config, {name.replace("__", "."): value for name, value in settings.items()})
        with in_process():
            _, figures = preprocess(config, str(folder / run) if run else str(self.run), FINGERPRINT)
        assert sum(figures["work"].values()) == figures["num_clips"] + figures["num_dropped"]
        return {what: count for what, count in figures["work"].items() if count}

    def corpus(self, run: str = "run") -> dict[str, list[tuple[str, list[bytes]]]]:
        """Return the current shards of each split, in order: their keys and the bytes of their files."""
        corpus = self.run.parent / run / "corpus"
        manifest = json.loads((corpus / "manifest.json").read_text())
        found = {}
        for split, entry in manifest["splits"].items():
            found[split] = [(shard["key"], self._files(corpus / split, shard["name"])) for shard in entry["shards"]]
        return found

    @staticmethod
    def _files(folder: Path, name: str) -> list[bytes]:
        return [(folder / family / f"{name}.parquet").read_bytes() for family in making.FAMILIES]


@pytest.fixture
def growing(clips: Clips, config: Config, tmp_path: Path) -> Growing:
    return Growing(clips, config, tmp_path)


def test_a_corpus_grows_and_shrinks_and_equals_one_made_afresh(growing: Growing) -> None:
    rows = [row for row in growing.rows if row[0] != growing.rows[-1][0]]  # without the last speaker
    assert growing.make(rows) == {"decoded": len(rows)}
    before = {path: path.stat().st_mtime_ns for path in growing.run.rglob("shard-*")}
    assert growing.make(rows) == {"reused": len(rows)}

    more = growing.make(growing.rows)
    assert more["decoded"] == len(growing.rows) - len(rows)
    assert more["reused"] > len(rows) / 2
    assert {path: path.stat().st_mtime_ns for path in before} == before  # nothing was removed or written again
    grown = growing.corpus()
    assert growing.make(growing.rows, run="afresh") == {"decoded": len(growing.rows)}
    assert growing.corpus("afresh") == grown

    assert "decoded" not in growing.make(rows)  # the old shards are still there
    assert growing.make(rows[1:]).get("decoded", 0) == 0


def test_labels_and_splits_change_without_decoding(growing: Growing) -> None:
    rows = growing.rows
    growing.make(rows)
    speech = {path: path.stat().st_mtime_ns for path in growing.run.rglob("speech/*")}
    relabelled = growing.make(rows, male=True)
    assert set(relabelled) <= {"reused", "relabelled"}
    assert relabelled["relabelled"]
    genders = [pq.read_table(path)["gender"].to_pylist() for path in growing.run.rglob("faces/*")]
    assert {gender for each in genders for gender in each} == {"male"}
    assert {path: path.stat().st_mtime_ns for path in speech} == speech
    male = growing.corpus()
    growing.make(rows, run="afresh", male=True)
    assert growing.corpus("afresh") == male

    work = growing.make(rows, data__test_fraction=0.2, data__val_fraction=0.3)
    assert "decoded" not in work
    other = growing.corpus()
    growing.make(rows, run="other", data__test_fraction=0.2, data__val_fraction=0.3)
    assert growing.corpus("other") == other
    assert "decoded" not in growing.make(rows, data__rows_per_group=3)


def test_another_file_or_setting_decodes_what_it_concerns(growing: Growing) -> None:
    rows = growing.rows
    growing.make(rows)
    (growing.clips / "README.txt").write_text("not a clip")
    assert growing.make(rows) == {"reused": len(rows)}
    first, second = ("_".join(row[:3]) + ".mp4" for row in rows[:2])
    work = growing.make([[*row, second if row == rows[0] else ""] for row in rows])  # another file for the first row
    assert work["decoded"] == 1
    assert first != second
    assert growing.make(rows, face__margin=0.3) == {"decoded": len(rows)}


def test_dropped_clips_are_known_and_keep_their_lines(growing: Growing, clips: Clips) -> None:
    with clips.csv.open() as file:
        silent = next(row for row in csv.reader(file) if row[0] == "silent")
    growing.make([*growing.rows, silent])
    assert "decoded" not in growing.make([silent, *growing.rows])
    dropped = pq.read_table(growing.run / "corpus" / "dropped.parquet").to_pylist()
    assert [(row["row"], row["clip_id"], row["reason"]) for row in dropped] == [(1, "_".join(silent[:3]), "silent")]


def test_a_shard_without_its_file_or_with_a_damaged_one_is_made_again(growing: Growing) -> None:
    growing.make(growing.rows)
    expected = growing.corpus()
    corpus = growing.run / "corpus"
    shard = next(corpus.glob("train/speech/*"))
    rows = pq.read_metadata(shard).num_rows
    shard.unlink()
    assert growing.make(growing.rows)["decoded"] == rows
    assert growing.corpus() == expected

    data = bytearray(shard.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    shard.write_bytes(data)
    work = growing.make(growing.rows, data__rows_per_group=3)  # which copies all clips
    assert work["decoded"] == rows


def test_clips_that_failed_for_no_fault_of_their_own_are_tried_again(growing: Growing) -> None:
    growing.make(growing.rows)
    corpus = str(growing.run / "corpus")
    shard_id, receipt = min(read_receipts(corpus).items())
    last = receipt.clips[-16:]
    drop = {"key": last, "clip_id": "x", "reason": "internal_error", "detail": "killed"}
    files = {}
    for path in receipt.files:
        table = tables.read_table(storage.join(corpus, path))
        files[path] = tables.write_table(storage.join(corpus, path), table.slice(0, len(table) - 1), 2)
    failed = receipt.model_dump() | {"clips": receipt.clips[:-16], "dropped": [drop], "files": files}
    storage.write_json(storage.join(corpus, shard_id.receipt_path), failed)
    assert growing.make(growing.rows)["decoded"] == 1
    assert growing.make(growing.rows) == {"reused": len(growing.rows)}


def test_prune_says_what_it_removes_and_leaves_the_current_corpus(growing: Growing) -> None:
    growing.make(growing.rows)
    growing.make(growing.rows[2:])
    corpus, run = str(growing.run / "corpus"), str(growing.run)
    unused = unused_files(corpus)
    assert unused
    expected = growing.corpus()
    result = CliRunner().invoke(commands, ["prune", run], input="n\n")
    assert result.exit_code == 1
    assert "preprocess is not done" in str(result.exception)
    stages.commit(run, "preprocess", fingerprint=FINGERPRINT, config=growing.config, files={}, seconds=0, figures={})
    result = CliRunner().invoke(commands, ["prune", run], input="n\n")
    assert (result.exit_code, unused_files(corpus)) == (1, unused)
    assert f"{len(unused)} files" in result.output
    result = CliRunner().invoke(commands, ["prune", run, "--yes"])
    assert (result.exit_code, unused_files(corpus)) == (0, {})
    assert growing.corpus() == expected
    result = CliRunner().invoke(commands, ["prune", run])
    assert result.exit_code == 0
    assert "nothing to remove" in result.output


# --- receipts


def test_invalid_receipts_are_ignored(tmp_path: Path) -> None:
    folder = tmp_path / "corpus" / "receipts"
    folder.mkdir(parents=True)
    good: dict[str, Any] = {"key": "k", "labels": "l", "clips": "0" * 32, "dropped": [], "videos": ["a"], "ids": "0"}
    good["files"] = {}
    there = {"train/speech/shard-00000.parquet": {"bytes": 1, "sha256": "0"}}
    bad_drop = [{"key": "0" * 16, "clip_id": "a", "reason": "boredom", "detail": ""}]
    invalid = [[], None, "text", {}, good | {"clips": "0"}, good | {"dropped": bad_drop}, good | {"files": there}]
    for number, value in enumerate([good, *invalid]):
        (folder / f"train-shard-{number:05d}.json").write_text(json.dumps(value))
    (folder / "train-shard-00100.json").write_text(json.dumps(good)[:-1])
    receipts = read_receipts(f"{tmp_path}/corpus")
    assert {shard: receipt.model_dump() for shard, receipt in receipts.items()} == {
        ShardId("train", "shard-00000"): good
    }
    assert receipts[ShardId("train", "shard-00000")].num_rows == 2

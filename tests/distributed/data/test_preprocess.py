"""Preprocessing on a real cluster: the corpus contract, dropped clips, killed runs and unusable settings."""

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from arspm import config as configuration
from arspm.config import Config, override
from arspm.corpus import schema, tables
from arspm.distributed.data import make_shard as making
from arspm.distributed.data import preprocess as preprocessing
from arspm.distributed.data.preprocess import preprocess
from arspm.media.clip_rows import ClipRow
from arspm.media.dropped import DroppedClip
from arspm.runs import stages
from arspm.training.batch import to_batch
from tests.distributed.conftest import FINGERPRINT, REPO, Clips, Prepared, busy_workers

on_ray = pytest.mark.ray
# The reasons for which a clip is dropped when it is decoded; the others are known before.
DECODED = {reason.value for reason in schema.DropReason} - {"bad_row", "missing_file", "duplicate_key"}


def table(prepared: Prepared, split: str, family: str) -> list[dict[str, Any]]:
    """Return all rows of a family, read with pyarrow only, in the order of the manifest's shards."""
    folder = prepared.run / "corpus" / split / family
    manifest = json.loads((prepared.run / "corpus" / "manifest.json").read_text())
    names = [shard["name"] for shard in manifest["splits"][split]["shards"]]
    assert {path.stem for path in folder.glob("*")} == set(names)
    return [row for name in names for row in pq.read_table(folder / f"{name}.parquet").to_pylist()]


def shard_hashes(run: Path) -> dict[str, str]:
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in run.rglob("*")
        if path.suffix in (".parquet", ".json") and path.parent.name != "inventory"  # it has the time of the listing
    }


# --- the contract


@on_ray
def test_the_families_hold_the_same_rows_in_hash_order(prepared: Prepared, clips: Clips) -> None:
    manifest = json.loads((prepared.run / "corpus" / "manifest.json").read_text())
    seen = []
    for split in schema.SPLITS:
        speech, faces = table(prepared, split, "speech"), table(prepared, split, "faces")
        ids = [row["clip_id"] for row in speech]
        assert [row["clip_id"] for row in faces] == ids
        assert [row["video_id"] for row in speech] == [clip.split("_")[0] for clip in ids]
        order = [hashlib.sha256(f"order:{row['video_id']}".encode()).digest() for row in speech]
        assert order == sorted(order)
        summary = manifest["splits"][split]
        assert (summary["rows"], summary["videos"]) == (len(ids), len({row["video_id"] for row in speech}))
        assert sum(shard["rows"] for shard in summary["shards"]) == len(ids)
        for shard in summary["shards"]:
            shard_ids, ids = ids[: shard["rows"]], ids[shard["rows"] :]
            assert shard["ids"] == hashlib.sha256("\n".join(shard_ids).encode()).hexdigest()
            seen += shard_ids
    assert len(manifest["splits"]["train"]["shards"]) > 1
    assert sorted(seen) == sorted("_".join(row[:3]) for row in clips.good)


@on_ray
def test_a_hash_of_the_video_id_decides_the_split(prepared: Prepared) -> None:
    edges = {"test": (0, 0.35), "val": (0.35, 0.55), "train": (0.55, 1)}
    for split, (low, high) in edges.items():
        for row in table(prepared, split, "speech"):
            digest = hashlib.sha256(f"split:{row['video_id']}".encode()).hexdigest()
            assert low <= int(digest[:16], 16) / 2**64 < high


@on_ray
def test_cells_are_what_the_schema_says_and_labels_are_joined(prepared: Prepared, clips: Clips) -> None:
    labels = {
        name: (gender, float(age), identity)
        for name, gender, age, identity in (line.split(",") for line in clips.labels.read_text().split()[1:])
    }
    for split in schema.SPLITS:
        for row in table(prepared, split, "speech"):
            spectrogram = np.frombuffer(row["spectrogram"], "<f2").reshape(schema.SPECTROGRAM_SHAPE)
            assert np.isfinite(spectrogram).all()
            assert spectrogram.any()
        for row in table(prepared, split, "faces"):
            assert row["face_jpeg"][:2] == b"\xff\xd8"
            assert (row["gender"], row["age"], row["identity"]) == labels[row["video_id"]]
    field = pq.read_schema(prepared.run / "corpus/train/speech/shard-00000.parquet").field("spectrogram")
    assert field.metadata == {b"dtype": b"<f2", b"shape": b"[2, 257, 598]"}


@on_ray
def test_what_was_measured_is_kept(prepared: Prepared, clips: Clips) -> None:
    kind = schema.measures_schema()
    for split in schema.SPLITS:
        rows = table(prepared, split, "measures")
        assert [row["clip_id"] for row in rows] == [row["clip_id"] for row in table(prepared, split, "speech")]
        for row in rows:
            assert list(row) == kind.names
            assert 0.4 <= row["face_score"] <= 1
            assert 0 <= row["face_x0"] < row["face_x1"] <= row["frame_width"] == 256
            assert row["level_dbfs"] + row["gain_db"] == pytest.approx(-26, abs=0.01)
            assert 0.3 <= row["voiced_seconds"] <= row["speech_seconds"] + 0.032
            assert row["source"] == f"{row['clip_id']}.mp4"
            assert row["source_bytes"] == (clips.folder / row["source"]).stat().st_size
            assert (row["video_codec"], row["audio_codec"]) == ("h264", "aac")
            assert row["face_landmarks"] is row["picture"] is row["sound"] is None  # a video, and HOG
    measured = pq.read_schema(prepared.run / "corpus/train/measures/shard-00000.parquet")
    assert measured.equals(kind)


@on_ray
def test_every_row_of_the_csv_is_in_the_corpus_or_dropped_with_its_reason(prepared: Prepared, clips: Clips) -> None:
    dropped = pq.read_table(prepared.run / "corpus" / "dropped.parquet").to_pylist()
    assert {row["row"]: row["reason"] for row in dropped} == clips.dropped
    assert set(clips.dropped.values()) == {reason.value for reason in schema.DropReason} - {"internal_error"}
    assert [row["row"] for row in dropped] == sorted(clips.dropped)
    assert all(row["detail"] for row in dropped)
    assert {row["clip_id"] for row in dropped if row["reason"] == "bad_row"} == {None}
    manifest = json.loads((prepared.run / "corpus" / "manifest.json").read_text())
    assert manifest["num_rows"] == len(clips.good) + len(clips.dropped)
    assert manifest["num_rows"] == manifest["num_clips"] + manifest["num_dropped"]
    assert manifest["dropped"] == dict(Counter(clips.dropped.values()))
    figures = {name: manifest[name] for name in ("num_rows", "num_clips", "num_dropped", "dropped")}
    num_decoded = sum(reason in DECODED for reason in clips.dropped.values()) + len(clips.good)
    work = {"reused": 0, "relabelled": 0, "copied": 0, "decoded": num_decoded}
    assert prepared.figures == figures | {"work": work}


@on_ray
def test_every_file_is_listed_with_its_size_and_hash(prepared: Prepared) -> None:
    found = {
        str(path.relative_to(prepared.run)): {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in prepared.run.rglob("*")
        if path.is_file() and path.parent.name not in ("receipts", "inventory")
    }
    assert prepared.files == found


@on_ray
def test_subsets_nest(prepared: Prepared) -> None:
    corpus = str(prepared.run / "corpus")
    expected = [row["clip_id"] for row in table(prepared, "train", "speech")]
    for rows in range(1, len(expected) + 1):
        split = tables.open_split(corpus, "train", rows)
        assert tables.read_columns(split, "faces", ["clip_id"])["clip_id"].to_pylist() == expected[:rows]
        assert sum(split.shard_rows[:-1]) < rows  # reads no more shards than necessary


# --- resumed and repeated runs


def start_program(run: Path, config: Config, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    run.mkdir(exist_ok=True)
    (run / "config.json").write_text(configuration.dump(config))
    command = [sys.executable, "-m", "jobs.preprocess", "--run", str(run), "--config", str(run / "config.json")]
    with (run.parent / "stderr").open("w") as stderr:
        return subprocess.Popen(command, env=env, cwd=REPO, stdout=subprocess.DEVNULL, stderr=stderr)


@pytest.mark.slow
@on_ray
def test_a_killed_run_resumes_and_ends_with_the_same_bytes(
    head: Any, prepared: Prepared, program_env: dict[str, str], tmp_path: Path
) -> None:
    """The driver is killed, then a worker of the resumed run, which has one task at a time and another hash seed."""
    run = tmp_path / "run"
    receipts = run / "corpus" / "receipts"
    first = start_program(run, prepared.config, program_env)
    while len(list(receipts.glob("*.json"))) < 2:
        assert first.poll() is None
        time.sleep(0.01)
    first.kill()
    first.wait()
    time.sleep(1)  # until its workers have ended
    there = {path: path.stat().st_mtime_ns for path in run.rglob("*.parquet")}
    done = [path.stem for path in receipts.glob("*.json")]
    expected = shard_hashes(prepared.run)
    assert 2 <= len(done) < len([name for name in expected if "receipts" in name])

    one_task = override(prepared.config, {"resources.preprocess.num_tasks": 1})
    again = start_program(run, one_task, program_env | {"PYTHONHASHSEED": "7"})
    killed = None
    while again.poll() is None:
        if killed is None and len(list(receipts.glob("*.json"))) > len(done):
            for worker in busy_workers(head, "ray::Map(make)"):
                worker.kill()
                killed = worker.pid
        time.sleep(0.01)
    assert (again.returncode, killed is not None) == (0, True), (tmp_path / "stderr").read_text()

    reused = {path for path in there if "-".join((path.parts[-3], path.stem)) in done}
    assert reused
    assert {path: path.stat().st_mtime_ns for path in reused} == {path: there[path] for path in reused}
    made = shard_hashes(run)
    assert {name: made[name] for name in expected} == expected
    done_now = stages.done(str(run), "preprocess", prepared.fingerprint)
    assert done_now is not None
    assert done_now.files == prepared.files


@on_ray
def test_another_configuration_decodes_all_clips_and_a_stored_waveform_gives_the_same_spectrogram(
    prepared: Prepared, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(prepared.run, run)
    waveforms = override(prepared.config, {"data.storage": "waveform"})
    preprocess(waveforms, str(run), "e" * 64)
    batches = []
    for folder, column in ((prepared.run, schema.SPECTROGRAM), (run, schema.WAVEFORM)):
        split = tables.open_split(str(folder / "corpus"), "train")
        found = tables.read_rows(split, {"speech": (column,)}, np.arange(split.num_rows))
        batches.append(to_batch(found | {"clip_id": found["clip_id"].to_pylist()}, torch.device("cpu")))
    assert batches[0].clip_ids == batches[1].clip_ids
    # The power law amplifies small values, so the int16 rounding shows there. Compare the values before it.
    stored, computed = (batch.spectrogram.sign() * batch.spectrogram.abs() ** (1 / 0.3) for batch in batches)
    assert torch.allclose(stored, computed, rtol=5e-3, atol=1e-3 * float(stored.abs().max()))
    assert not torch.equal(stored, computed)


# --- errors that are not the clip's fault


class Failing:
    """Prepares clips, but fails the first `times`."""

    def __init__(self, times: int) -> None:
        self.times, self.calls = times, 0

    def __call__(self, row: ClipRow, following: ClipRow | None) -> str:
        self.calls += 1
        if self.calls <= self.times:
            raise RuntimeError("Traceback ...\nthe process that decodes clips ended with -9")
        return "prepared"


def test_a_clip_that_fails_for_no_fault_of_its_own_is_tried_twice() -> None:
    row = ClipRow(1, "a_1_2", "a", 1.0, 2.0, None, None, "a.mp4")
    assert making._twice(once := Failing(1), row, None) == "prepared"
    assert once.calls == 2
    with pytest.raises(DroppedClip) as caught:
        making._twice(twice := Failing(2), row, None)
    assert twice.calls == 2
    assert caught.value.reason is schema.DropReason.internal_error
    assert caught.value.detail == "the process that decodes clips ended with -9"


def test_too_many_such_clips_end_the_stage(config: Config) -> None:
    drop = {"row": 1, "clip_id": "a_1_2", "reason": "internal_error", "detail": "killed"}
    silent = drop | {"reason": "silent"}
    one, two = (pa.Table.from_pylist([silent, *drops], schema.dropped_schema()) for drops in ([drop], [drop, drop]))
    preprocessing._require_few_errors(one, 100, config)
    with pytest.raises(
        ValueError, match=r"^2 of 100 clips failed for no fault of their own, more than .*a_1_2: killed$"
    ):
        preprocessing._require_few_errors(two, 100, config)


# --- unusable settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.csv": "{tmp}/none.csv"}, "no CSV file at {tmp}/none.csv"),
        ({"data.clips": "{tmp}/none"}, "no clips folder at {tmp}/none"),
        ({"data.labels": "{tmp}/none.csv"}, "no CSV file at {tmp}/none.csv"),
        ({"data.csv": "{tmp}/broken.csv"}, "{tmp}/broken.csv: none of 2 rows is usable (bad_row 2: line 1: "),
        (
            {"data.test_fraction": "0.9", "data.val_fraction": "0.09"},
            "train split empty; try --set data.",
        ),
        (
            {"data.format": "folder", "data.clips": "{tmp}"},
            "{tmp}: none of 1 rows is usable (bad_row 1: ",
        ),
        ({"data.format": "folder", "data.clips": "{tmp}/none"}, "no speakers' folders below {tmp}/none"),
    ],
)
def test_unusable_settings_are_reported_in_one_line_before_decoding(
    config: Config, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    (tmp_path / "broken.csv").write_text("a,b\nc,2,1,0.5,0.5\n")
    (tmp_path / "loose.mp4").write_bytes(b"")
    bad = override(config, {name: value.format(tmp=tmp_path) for name, value in changes.items()})
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        preprocess(bad, str(tmp_path / "run"), FINGERPRINT)
    assert message.format(tmp=tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "corpus" / "train").exists()
    assert (tmp_path / "run" / "corpus" / "dropped.parquet").exists() == ("arspm drops" in str(caught.value))

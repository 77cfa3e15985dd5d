"""Untrusted tables (clips, labels, VoxCeleb's metadata, a judge's predictions) and names of files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from arspm.corpus.schema import GENDERS, DropReason
from arspm.evaluation.judges import CsvJudge
from arspm.media.clip_files import ClipFolder
from arspm.media.clip_lines import MAX_ID_BYTES, UNSAFE
from arspm.media.clip_rows import ClipRow, DroppedRow, read_clip_rows
from arspm.media.clips import decode_clip
from arspm.media.csv_tables import UNREADABLE
from arspm.media.dropped import DroppedClip
from arspm.media.frames import read_picture
from arspm.media.labels import read_labels
from arspm.media.speaker_trees import folder_rows
from arspm.media.voxceleb import read_voxceleb_metadata, voxceleb_rows
from tests.fuzz.entry_points import LONGEST_LINE, Mutated, num_inputs, try_inputs
from tests.fuzz.mutations import ODD_TEXTS, TABLE

pytestmark = pytest.mark.slow  # thousands of inputs, each in a child process

CLIPS = (
    b"video_id,start,end,x,y\nabc,1.0,2.5,0.5,0.25\nabc,2.5,4,,\nd-_f,0,9.5,0.1,0.9,more/one.wav\nlast,1e1,2e1,1,0\n"
)
LABELS = b'video_id,gender,age,identity\nabc,f,30,"Ann, the first"\nd-_f,Male,41.5,\nlast,,,\n'
METADATA = b"VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\nid1\tAnn_B.\tf\tEire\tdev\nid2\tC\tm\tNorway\ttest\n"
PREDICTIONS = b"clip_id,pictures,gender,age\nabc_1.0_2.5,real,female,30\nabc_1.0_2.5,portrait,m,\nx,real,,61.5\n"
NAMES = ("abc_1.0_2.5.mp4", "abc_2.5_4.wav", "abc_2.5_4.jpg", "more/one.wav", "more/one.png", "last_1e1_2e1.webm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clips folder beside a file that no row may reach."""
    root = tmp_path_factory.mktemp("clips") / "inside"
    (root / "more").mkdir(parents=True)
    for name in NAMES:
        (root / name).write_bytes(b"")
    (root.parent / "x.mp4").write_bytes(b"")
    return root


def check_rows(rows: list[ClipRow | DroppedRow], root: Path) -> None:
    kept = [row for row in rows if isinstance(row, ClipRow)]
    assert len({row.clip_id for row in kept}) == len(kept)
    for row in kept:
        assert 0 <= row.start_seconds <= row.end_seconds < np.inf
        for name in (row.video_id, row.clip_id):
            assert not UNSAFE.search(name)
            assert name not in ("", ".", "..")
            assert len(row.video_id.encode()) <= MAX_ID_BYTES
        for path in (row.path, row.image):
            assert path is None or os.path.realpath(path).startswith(f"{root}/"), path
    for row in rows:
        if isinstance(row, DroppedRow):
            assert row.reason in DropReason
            assert 0 < len(row.detail) < LONGEST_LINE
            assert len(row.clip_id) < LONGEST_LINE


def clip_table(path: Path, root: Path) -> None:
    rows = read_clip_rows(path, ClipFolder(root))
    check_rows(rows, root)


def label_table(path: Path) -> None:
    for video_id, label in read_labels(path).items():
        assert not UNREADABLE.search(video_id)
        assert label.gender in (None, *GENDERS)
        assert label.age is None or 0 <= label.age <= 120
        assert not UNREADABLE.search(label.identity or "")


def metadata_table(path: Path) -> None:
    for speaker, person in read_voxceleb_metadata(path).items():
        assert not UNREADABLE.search(speaker)
        assert person.gender in (None, *GENDERS)


def prediction_table(path: Path) -> None:
    for gender, age in CsvJudge(path).predictions.values():
        assert gender in (-1, 0, 1)
        assert np.isnan(age) or 0 <= age <= 120


def test_clip_rows(folder: Path) -> None:
    tally = try_inputs(clip_table, Mutated((CLIPS,), TABLE, num_inputs(250)), name="clips.csv", root=folder)
    assert tally["accepted"] == tally.total()  # a row is dropped; a table is never refused


@pytest.mark.parametrize(
    ("entry_point", "seed"), [(label_table, LABELS), (metadata_table, METADATA), (prediction_table, PREDICTIONS)]
)
def test_tables(entry_point, seed: bytes) -> None:
    tally = try_inputs(entry_point, Mutated((seed,), TABLE, num_inputs(200)), name="table.csv")
    assert tally["refused"] > tally["accepted"] > 0


@pytest.mark.parametrize("table", [clip_table, label_table, metadata_table, prediction_table])
def test_a_cell_of_100_megabytes_and_a_table_without_line_ends(table, folder: Path) -> None:
    arguments = {"root": folder} if table is clip_table else {}
    header = b"" if table is clip_table else {label_table: LABELS, metadata_table: METADATA}.get(table, PREDICTIONS)
    header = header[: header.find(b"\n") + 1]
    wide = b"a" * 100_000_000
    tally = try_inputs(
        table, [header + wide, header + b'"' + wide, wide + b"\n" + header], name="wide.csv", **arguments
    )
    assert tally.total() == 3
    assert tally["accepted"] == (3 if arguments else 0)  # in a clips table, the line is a dropped row


def test_a_line_that_is_too_long_drops_only_itself(tmp_path: Path, folder: Path) -> None:
    table = tmp_path / "clips.csv"
    table.write_bytes(b"long," + b"0" * 3_000_000 + b"\nabc,1.0,2.5,0.5,0.25\n")
    rows = read_clip_rows(table, ClipFolder(folder))
    assert [(row.line, type(row)) for row in rows] == [(1, DroppedRow), (2, ClipRow)]


def file_names(path: Path) -> None:
    """Create a tree of files with the names in the input, one per line, and list its clips."""
    root = path.parent / "tree"
    root.mkdir()
    try:
        for name in path.read_bytes().split(b"\n"):
            parts = [part for part in name.split(b"/") if part not in (b".", b"..")]
            target = os.path.join(os.fsencode(root), *parts[-8:])
            try:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with open(target, "wb"):
                    pass
            except (OSError, ValueError):
                continue  # not a valid file name
        for rows, _ in (folder_rows(str(root)), voxceleb_rows(str(root), str(root), {})):
            check_rows(rows, root)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path.name}: {error}") from None  # the message names the folder instead
    finally:
        shutil.rmtree(root)


def test_names_of_files() -> None:
    odd = [name.encode("utf-8", "surrogateescape") for name in ODD_TEXTS if len(name) < 200]
    seeds = (b"\n".join(f"s{n % 3}/v/{name}".encode() for n, name in enumerate(NAMES)),)
    seeds += (b"\n".join(b"s/%b.wav\ns/%b.jpg\n%b/v/1.wav" % (name, name, name) for name in odd),)
    seeds += (b"s/http://host/x.wav\ns/a::b.wav\ns/simplecache::x.wav\n\xff\xfe/v/x.wav\ns/\xe2\x80\xae.wav",)
    tally = try_inputs(file_names, Mutated(seeds, TABLE, num_inputs(75)), name="names")
    assert tally["accepted"] > tally.total() // 10


@pytest.mark.parametrize(
    "video_id", ["../../x", "/etc/passwd", "..", "a\0b", "a/b", "a\\b", "x" * 5000, "\u2028", "\x85"]
)
def test_a_video_id_that_is_not_a_safe_name_is_a_bad_row(tmp_path: Path, folder: Path, video_id: str) -> None:
    (tmp_path / "clips.csv").write_text(f"{video_id},1,2,0.5,0.5\n", newline="")
    rows = read_clip_rows(tmp_path / "clips.csv", ClipFolder(folder))
    assert {row.reason for row in rows if isinstance(row, DroppedRow)} == {DropReason.bad_row}
    assert not any(isinstance(row, ClipRow) for row in rows)
    (tmp_path / "clips.csv").write_text(f"abc,1,2,0.5,0.5,{video_id}.mp4\n", newline="")
    for row in read_clip_rows(tmp_path / "clips.csv", ClipFolder(folder)):
        assert isinstance(row, DroppedRow)


def test_pipes_devices_and_broken_links_are_dropped(tmp_path: Path) -> None:
    """Reading a pipe without a writer would block, and a device has no end."""
    os.mkfifo(tmp_path / "pipe.mp4")
    os.symlink("/dev/zero", tmp_path / "zero.jpg")
    os.symlink(tmp_path / "loop.mp4", tmp_path / "loop.mp4")
    os.symlink("/nowhere", tmp_path / "gone.mp4")
    for name in ("pipe.mp4", "zero.jpg", "loop.mp4", "gone.mp4"):
        with pytest.raises(DroppedClip, match=r"file|links"):
            decode_clip(tmp_path / name)
        with pytest.raises(DroppedClip, match=r"file|links"):
            read_picture(tmp_path / name)

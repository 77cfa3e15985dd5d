"""AVSpeech's CSV, labels and test CSV as one data set."""

from pathlib import Path

import pyarrow as pa

from arspm import storage
from arspm.config import Data
from arspm.corpus.schema import DropReason
from arspm.media.clip_rows import ClipRow, DroppedRow
from arspm.media.datasets import read_dataset
from arspm.media.labels import Labels
from tests.media.folder_trees import write_files


def test_avspeech_has_labels_by_video(tmp_path):
    (tmp_path / "clips.csv").write_text("a,0,1,,\nb,0,1,,\n")
    (tmp_path / "labels.csv").write_text("video_id,gender\na,f\nz,m\n")
    write_files(tmp_path / "clips", "a_0_1.mp4")
    data = Data(csv=f"{tmp_path}/clips.csv", clips=f"{tmp_path}/clips", labels=f"{tmp_path}/labels.csv")
    rows, labels, notes, *_ = read_dataset(data)
    assert [type(row) for row in rows] == [ClipRow, DroppedRow]
    assert (labels, notes) == ({"a": Labels("female"), "z": Labels("male")}, [])


def test_rows_of_the_test_csv_are_the_test_split_and_never_trained_on(tmp_path: Path) -> None:
    clips = write_files(tmp_path / "clips", "a_0_3.mp4", "a_5_8.mp4", "b_0_3.mp4", "c_0_3.mp4")
    (tmp_path / "train.csv").write_text("a,0,3,0.5,0.5\nb,0,3,0.5,0.5\na,5,8,0.5,0.5\n")
    (tmp_path / "test.csv").write_text("b,0,3,0.5,0.5\nc,0,3,0.5,0.5\nc,9,12,0.5,0.5\n")
    found = read_dataset(Data(csv=str(tmp_path / "train.csv"), test_csv=str(tmp_path / "test.csv"), clips=clips))
    assert found.test_videos == {"b", "c"}
    kept = [(row.line, row.clip_id) for row in found.rows if isinstance(row, ClipRow)]
    assert kept == [(1, "a_0_3"), (3, "a_5_8"), (4, "b_0_3"), (5, "c_0_3")]
    dropped = [(row.line, row.reason, row.detail) for row in found.rows if isinstance(row, DroppedRow)]
    assert [each[:2] for each in dropped] == [(2, DropReason.duplicate_key), (6, DropReason.missing_file)]
    assert dropped[0][2] == "line 2: video b is in the test CSV"
    assert dropped[1][2].startswith("test CSV, line 3: ")


def test_the_listings_of_an_inventory_are_used_by_each_format(tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text("a,0,1,,\n")
    (tmp_path / "meta.csv").write_text("VoxCeleb1 ID,Gender\nid1,f\n")
    clips, faces = f"{tmp_path}/clips", f"{tmp_path}/faces"  # neither exists
    cases = {
        "avspeech": ({"csv": f"{tmp_path}/clips.csv"}, "a_0_1.mp4"),
        "folder": ({}, "ann/a.mp4"),
        "voxceleb": ({"csv": f"{tmp_path}/meta.csv", "faces": faces}, "id1/v/a.wav"),
    }
    for name, (settings, path) in cases.items():
        trees = {
            "clips": pa.table([[path], [5]], storage.FILES),
            "faces": pa.table([["id1/v/b.jpg"], [6]], storage.FILES),
        }
        rows = read_dataset(Data(format=name, clips=clips, **settings), trees).rows
        (row,) = rows
        assert row.path == f"{clips}/{path}"
        assert row.sizes == ((5, 6) if name == "voxceleb" else (5,))

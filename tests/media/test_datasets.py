"""Trees of files as VoxCeleb and people lay them, and the rows, labels and notes that they give. Nothing is decoded."""

import hashlib
import io
import os
from collections import Counter
from pathlib import Path

import fsspec
import pytest

from arspm.config import Data
from arspm.corpus.schema import DropReason
from arspm.media.clip_rows import ClipRow, DroppedRow, Labels
from arspm.media.datasets import Dataset, folder_rows, read_dataset, read_voxceleb_metadata, voxceleb_rows

VOX1_META = """VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet
id10001\tDrawn_A._One\tm\tIreland\tdev
id10002\tDrawn_Two_Jr.\tf\tIndia\ttest
id10003\tDrawn_Three\tF\tNew Zealand\tdev
"""
VOX2_META = "VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set \nid00012 ,n000012 ,m ,dev \nid00017 ,n000017 ,f ,test \n"


def lay(root: Path, *names: str) -> str:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return str(root)


def summary(rows: list[ClipRow | DroppedRow], root: Path) -> list[tuple[str, ...]]:
    """Each row in short: a clip's ids and files below the root, or why and of whom there is none."""
    found: list[tuple[str, ...]] = []
    for row in rows:
        if isinstance(row, ClipRow):
            files = [path[len(str(root)) + 1 :] for path in (row.path, row.image) if path]
            found.append((row.video_id, row.clip_id, *files))
        else:
            found.append((row.reason.value, row.video_id, row.clip_id))
    return found


def voxceleb(tmp_path: Path, meta: str = VOX1_META, **more: str) -> Dataset:
    (tmp_path / "meta.csv").write_text(meta)
    return read_dataset(
        Data(format="voxceleb", csv=f"{tmp_path}/meta.csv", clips=f"{tmp_path}/wav", faces=f"{tmp_path}/faces", **more)
    )


# --- a folder of speakers' folders


def test_a_folders_videos_and_sounds_with_pictures(tmp_path):
    root = lay(
        tmp_path,
        "Chloé/hello.MP4",
        "Chloé/hello.jpg",  # belongs to the video, which needs none
        "ann/b c.webm",
        "bob/one.wav",
        "bob/one.png",
        "bob/two.flac",
        "bob/face.jpeg",
        "bob/.DS_Store",
        "bob/._two.flac",  # macOS's, no sound
        "labels.csv",
        "notes.txt",
    )
    rows, notes = folder_rows(root)
    assert summary(rows, tmp_path) == [
        ("Chloé", "Chloé_hello", "Chloé/hello.MP4"),
        ("ann", "ann_b c", "ann/b c.webm"),
        ("bob", "bob_one", "bob/one.wav", "bob/one.png"),
        ("bob", "bob_two", "bob/two.flac", "bob/face.jpeg"),
    ]
    assert [row.line for row in rows] == [1, 2, 3, 4]
    assert {(row.start_seconds, row.end_seconds, row.x, row.y) for row in rows} == {(0.0, 0.0, None, None)}
    (note,) = notes
    assert note == f"{root}: 3 files ('bob/.DS_Store', 'bob/._two.flac', 'notes.txt') of another kind, not looked at"


def test_what_does_not_fit_a_folder_is_dropped_with_its_reason(tmp_path):
    root = lay(
        tmp_path,
        "ann/deep/in.mp4",
        "loose.wav",
        "ann/a.wav",
        "ann/a.mp4",  # the clip, before the sound
        "ann/a.mov",
        "bob/one.wav",
        "bob/one.jpg",
        "bob/two.wav",  # the one picture belongs to the other
        "eve/1.jpg",
        "eve/2.jpg",
        "fay/x.wav",
        "a_b/c.mp4",
        "a/b_c.mp4",
    )
    rows, notes = folder_rows(root)
    assert summary(rows, tmp_path) == [
        ("bad_row", "", ""),
        ("bad_row", "", ""),
        ("a", "a_b_c", "a/b_c.mp4"),
        ("duplicate_key", "a_b", "a_b_c"),
        ("ann", "ann_a", "ann/a.mp4"),
        ("duplicate_key", "ann", "ann_a"),
        ("duplicate_key", "ann", "ann_a"),
        ("bob", "bob_one", "bob/one.wav", "bob/one.jpg"),
        ("no_video", "bob", "bob_two"),
        ("no_video", "fay", "fay_x"),
        ("no_sound", "eve", ""),
    ]
    assert notes == []
    assert [row.line for row in rows] == list(range(1, 12))
    details = [row.detail for row in rows if isinstance(row, DroppedRow)]
    assert details[0] == "'ann/deep/in.mp4': <speaker>/<file> is expected"
    assert details[2] == "'a_b/c.mp4': a_b_c is 'a/b_c.mp4' already"
    assert details[5] == "'bob/two.wav': a sound, and no picture of bob"
    assert details[7] == "'eve': pictures (2), and no sound"


def test_each_sound_takes_a_picture_by_the_hash_of_its_clip_id(tmp_path):
    sounds = [f"ann/{number}.wav" for number in range(40)]
    pictures = sorted(f"ann/p{number}.jpg" for number in range(7))
    root = lay(tmp_path, *reversed(pictures), *sounds)
    rows, _ = folder_rows(root)
    for row in rows:
        digest = hashlib.sha256(f"picture:{row.clip_id}".encode()).hexdigest()
        assert row.image == f"{root}/{pictures[int(digest[:16], 16) % 7]}"
    assert len({row.image for row in rows}) == 7
    lay(tmp_path, "ann/40.wav", "bob/1.wav", "bob/p.jpg")  # others change nothing
    again = {row.clip_id: row for row in folder_rows(root)[0]}
    assert {row.clip_id: row.image for row in rows} == {row.clip_id: again[row.clip_id].image for row in rows}


@pytest.mark.parametrize(
    "name",
    [
        *(b"a\x01b/x.mp4", b"a\xffb/x.mp4", b"a\nb/x.mp4", b"a/x\x1b[2J.mp4", b"a/\xe2\x80\xa8.mp4", b"a\\b/x.mp4"),
        *(b"s" * 200 + b"/x.mp4", b"a/" + b"x" * 240 + b".mp4", b"a::memory:/x.mp4", b"a/\xff.mp4"),
    ],
)
def test_names_that_are_not_safe_in_a_file_name_are_dropped(tmp_path, name):
    root = lay(tmp_path, "bob/1.mp4")
    path = os.path.join(os.fsencode(root), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(os.fsdecode(path)).write_bytes(b"")
    dropped = [row for row in folder_rows(root)[0] if isinstance(row, DroppedRow)]
    assert [(row.reason, row.clip_id) for row in dropped] == [(DropReason.bad_row, "")]
    assert len(dropped[0].detail) < 700
    assert dropped[0].detail.isprintable()  # so that it can be stored and shown
    assert [row.clip_id for row in folder_rows(root)[0] if isinstance(row, ClipRow)] == ["bob_1"]


# --- VoxCeleb


def test_voxceleb1_by_names_and_voxceleb2_by_ids(tmp_path):
    lay(
        tmp_path / "wav",
        "id10001/-8_ytid_one1/00001.wav",
        "id10001/-8_ytid_one1/00001.txt",
        "id10001/ytid_two/00001.wav",
        "id10002/ytid_two/00007.wav",
        "id10003/ytid_six/00002.wav",
    )
    lay(
        tmp_path / "faces",
        "Drawn_A._One/1.6/-8_ytid_one1/0000025.jpg",
        "Drawn_A._One/1.6/ytid_two/0000075.jpg",
        "Drawn_Two_Jr/1.6/ytid_two/0000050.jpg",  # unpacked on Windows
        "id10003/ytid_six/0000001.jpg",
        "Drawn_Two_Jr./1.6/ytid_six/0000001.jpg",  # of another video
    )
    rows, labels, notes, _ = voxceleb(tmp_path)
    assert summary(rows, tmp_path) == [
        (
            "id10001",
            "id10001_-8_ytid_one1_00001",
            "wav/id10001/-8_ytid_one1/00001.wav",
            "faces/Drawn_A._One/1.6/-8_ytid_one1/0000025.jpg",
        ),
        (
            "id10001",
            "id10001_ytid_two_00001",
            "wav/id10001/ytid_two/00001.wav",
            "faces/Drawn_A._One/1.6/ytid_two/0000075.jpg",
        ),
        (
            "id10002",
            "id10002_ytid_two_00007",
            "wav/id10002/ytid_two/00007.wav",
            "faces/Drawn_Two_Jr/1.6/ytid_two/0000050.jpg",
        ),
        (
            "id10003",
            "id10003_ytid_six_00002",
            "wav/id10003/ytid_six/00002.wav",
            "faces/id10003/ytid_six/0000001.jpg",
        ),
        ("no_sound", "id10002", ""),
    ]
    assert (rows[4].reason, rows[4].video_id) == (DropReason.no_sound, "id10002")
    assert labels == {
        "id10001": Labels("male", None, "id10001"),
        "id10002": Labels("female", None, "id10002"),
        "id10003": Labels("female", None, "id10003"),
    }
    assert notes == [f"{tmp_path}/wav: 1 file ('id10001/-8_ytid_one1/00001.txt') of another kind, not looked at"]


def test_voxceleb2_below_dev_and_test_with_what_is_missing(tmp_path):
    lay(
        tmp_path / "wav",
        "dev/aac/id00012/ytid_a/00001.m4a",
        "dev/aac/id00012/ytid_a/00002.m4a",
        "dev/aac/id00012/ytid_b/00001.m4a",  # no picture of this video
        "test/aac/id00017/ytid_c/00001.m4a",
        "copy/id00017/ytid_c/00001.wav",
        "dev/mp4/id00012/ytid_a/00001.mp4",
        "id00012/00001.m4a",
        "test/aac/id00099/ytid_d/00001.m4a",
    )
    lay(
        tmp_path / "faces",
        "n000012/ytid_a/1.jpg",
        "n000012/ytid_z/1.jpg",
        "id00017/1.6/ytid_c/1.jpg",
        "id00099/ytid_d/1.jpg",
        "Drawn_Nobody/1.6/ytid_e/1.jpg",
        "Drawn_Nobody/1.6/ytid_e/2.jpg",
        "1.6/ytid_c/1.jpg",
        "1.jpg",
    )
    rows, labels, notes, _ = voxceleb(tmp_path, VOX2_META)
    found = summary(rows, tmp_path)
    assert [row[1] for row in found if row[0].startswith("id")] == [
        "id00012_ytid_a_00001",
        "id00012_ytid_a_00002",
        "id00017_ytid_c_00001",
        "id00099_ytid_d_00001",
    ]
    copy = ("id00017", "id00017_ytid_c_00001", "wav/copy/id00017/ytid_c/00001.wav", "faces/id00017/1.6/ytid_c/1.jpg")
    assert copy in found
    dropped = {row.detail: row.reason.value for row in rows if isinstance(row, DroppedRow)}
    assert dropped == {
        "'dev/mp4/id00012/ytid_a/00001.mp4': a video, where sounds are expected (--format folder takes videos)": (
            "bad_row"
        ),
        "'id00012/00001.m4a': <speaker>/<video>/<utterance> is expected": "bad_row",
        "'1.jpg': <speaker>/[1.6/]<video>/<image> is expected": "bad_row",
        "'dev/aac/id00012/ytid_b/00001.m4a': a sound, and no picture of id00012/ytid_b": "no_video",
        "'test/aac/id00017/ytid_c/00001.m4a': id00017_ytid_c_00001 is 'copy/id00017/ytid_c/00001.wav' already": (
            "duplicate_key"
        ),
        "'1.6/ytid_c': pictures (1), and no sound": "no_sound",
        "'Drawn_Nobody/ytid_e': pictures (2), and no sound": "no_sound",
        "'id00012/ytid_z': pictures (1), and no sound": "no_sound",
    }
    assert len(rows) == 4 + len(dropped)
    assert [row.line for row in rows] == list(range(1, len(rows) + 1))
    assert labels["id00099"] == Labels(None, None, "id00099")
    assert notes == [f"1 speaker ('id00099') not in {tmp_path}/meta.csv: gender unknown"]


def test_labels_override_and_add_cell_by_cell(tmp_path):
    lay(tmp_path / "wav", "id10001/v/1.wav", "id10002/v/1.wav")
    lay(tmp_path / "faces", "id10001/v/1.jpg", "id10002/v/2.jpg")
    (tmp_path / "labels.csv").write_text("video_id,gender,age,identity\nid10001,,41,\nid10002,m,,two\nid10009,f,,\n")
    found = voxceleb(tmp_path, labels=f"{tmp_path}/labels.csv")
    assert found.labels == {"id10001": Labels("male", 41, "id10001"), "id10002": Labels("male", None, "two")}
    assert found.notes == [f"{tmp_path}/labels.csv: 1 speaker ('id10009') of whom there is no clip"]
    found = read_dataset(Data(format="folder", clips=lay(tmp_path / "own", "ann/1.mp4")))
    assert found.labels == {"ann": Labels(None, None, "ann")}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (VOX1_META, {"id10001": ("male", "Drawn_A._One"), "id10002": ("female", "Drawn_Two_Jr.")}),
        (VOX2_META, {"id00012": ("male", "n000012"), "id00017": ("female", "n000017")}),
        (VOX2_META.replace(",", "\t"), {"id00012": ("male", "n000012"), "id00017": ("female", "n000017")}),
        ("VoxCeleb2ID,VGGFace2ID,Gender,Set\r\nid00012,n000012,m,dev\r\n", {"id00012": ("male", "n000012")}),
        ("ID,VGGFace1,Gender,Nationality,Set\nid10001,A_B,m,Ireland,dev\n", {"id10001": ("male", "A_B")}),
        ("Name\tGender\tVoxCeleb2 ID \nDrawn Two\t\tid00012 \n", {"id00012": (None, "Drawn Two")}),
    ],
)
def test_metadata_as_they_are_published_and_passed_on(text, names):
    people = read_voxceleb_metadata(io.StringIO(text))
    assert {speaker: (people[speaker].gender, *people[speaker].names) for speaker in names} == names


def test_metadata_tell_all_problems_at_once():
    text = "VoxCeleb1 ID\tGender\nid1\tm\nid1\tf\nid2\twoman\n\tm\nid3\n"
    with pytest.raises(ValueError, match="metadata: line 3: id1 a second time; line 4: gender 'woman'") as caught:
        read_voxceleb_metadata(io.StringIO(text))
    assert [f"line {line}: " in str(caught.value) for line in range(2, 7)] == [False, True, True, True, True]


@pytest.mark.parametrize("text", ["", "id10001\tA_B\tm\tIreland\tdev\n", "VoxCeleb1 ID\tNationality\n", "a,b\n"])
def test_metadata_need_their_header(text):
    with pytest.raises(ValueError, match=r"^metadata: .*(expected|empty)") as caught:
        read_voxceleb_metadata(io.StringIO(text))
    assert "\n" not in str(caught.value)


# --- trees


def test_a_tree_in_object_storage_is_listed_once(monkeypatch):
    memory = fsspec.filesystem("memory")
    for name in ("wav/id1/v/1.wav", "wav/id1/v/2.wav", "faces/id1/v/1.jpg", "wav/x::y/v/1.wav", "wav/./v/1.wav"):
        memory.pipe(f"/datasets-test/{name}", b"")
    calls: Counter[str] = Counter()
    for name in ("find", "ls", "info", "exists", "open", "cat_file"):
        original = getattr(type(memory), name)

        def spy(self, *args, _original=original, _name=name, **options):
            calls[_name] += 1
            return _original(self, *args, **options)

        monkeypatch.setattr(type(memory), name, spy)
    rows, notes = voxceleb_rows("memory://datasets-test/wav", "memory://datasets-test/faces", {})
    assert calls["find"] == 2  # one a tree
    assert calls["info"] + calls["exists"] + calls["open"] + calls["cat_file"] <= 2
    dot, bad, first, second = rows
    assert (first.path, first.image) == (
        "memory://datasets-test/wav/id1/v/1.wav",
        "memory://datasets-test/faces/id1/v/1.jpg",
    )
    assert second.clip_id == "id1_v_2"
    assert dot.detail.startswith("'./v/1.wav': '.' cannot be a speaker: ")
    assert (bad.reason, bad.detail) == (DropReason.bad_row, "'x::y/v/1.wav': '::' and '//' cannot stand in a path")
    assert notes == []


@pytest.mark.parametrize("what", ["missing", "empty", "file"])
def test_a_tree_without_a_file_is_one_line(tmp_path, what):
    (tmp_path / "empty" / "ann").mkdir(parents=True)
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(FileNotFoundError, match=f"no speakers' folders below {tmp_path}/{what}: no such folder, or"):
        folder_rows(f"{tmp_path}/{what}")
    sounds = lay(tmp_path / "wav", "id1/v/1.wav")
    with pytest.raises(FileNotFoundError, match=f"no face images below {tmp_path}/{what}: "):
        voxceleb_rows(sounds, f"{tmp_path}/{what}", {})


def test_a_linked_root_is_followed(tmp_path):
    lay(tmp_path / "real", "ann/1.mp4")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (row,) = folder_rows(f"{tmp_path}/link")[0]
    assert row.path == f"{tmp_path}/link/ann/1.mp4"


def test_avspeech_is_read_as_ever(tmp_path):
    (tmp_path / "clips.csv").write_text("a,0,1,,\nb,0,1,,\n")
    (tmp_path / "labels.csv").write_text("video_id,gender\na,f\nz,m\n")
    lay(tmp_path / "clips", "a_0_1.mp4")
    data = Data(csv=f"{tmp_path}/clips.csv", clips=f"{tmp_path}/clips", labels=f"{tmp_path}/labels.csv")
    rows, labels, notes, _ = read_dataset(data)
    assert [type(row) for row in rows] == [ClipRow, DroppedRow]
    assert (labels, notes) == ({"a": Labels("female"), "z": Labels("male")}, [])


# --- AVSpeech's own test CSV


def test_the_rows_of_the_test_csv_are_the_test_split_and_are_trained_on_nowhere(tmp_path: Path) -> None:
    clips = lay(tmp_path / "clips", "a_0_3.mp4", "a_5_8.mp4", "b_0_3.mp4", "c_0_3.mp4")
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

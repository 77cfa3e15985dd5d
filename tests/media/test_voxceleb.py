"""VoxCeleb's trees and metadata: the rows, labels and notes that they give."""

import io
from collections import Counter
from pathlib import Path

import fsspec
import pytest

from arspm.config import Data
from arspm.corpus.schema import DropReason
from arspm.media.clip_rows import ClipRow, DroppedRow, Rows
from arspm.media.datasets import Dataset, read_dataset
from arspm.media.labels import Labels
from arspm.media.voxceleb import Person, hq_voxceleb_splits, read_voxceleb_metadata, voxceleb_rows
from tests.media.folder_trees import summary, write_files

VOX1_META = """VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet
id10001\tDrawn_A._One\tm\tIreland\tdev
id10002\tDrawn_Two_Jr.\tf\tIndia\ttest
id10003\tDrawn_Three\tF\tNew Zealand\tdev
"""
VOX2_META = "VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set \nid00012 ,n000012 ,m ,dev \nid00017 ,n000017 ,f ,test \n"


def voxceleb(tmp_path: Path, meta: str = VOX1_META, **more: str) -> Dataset:
    (tmp_path / "meta.csv").write_text(meta)
    return read_dataset(
        Data(format="voxceleb", csv=f"{tmp_path}/meta.csv", clips=f"{tmp_path}/wav", faces=f"{tmp_path}/faces", **more)
    )


def test_face_folders_are_found_by_name_or_id(tmp_path):
    write_files(
        tmp_path / "wav",
        "id10001/-8_ytid_one1/00001.wav",
        "id10001/-8_ytid_one1/00001.txt",
        "id10001/ytid_two/00001.wav",
        "id10002/ytid_two/00007.wav",
        "id10003/ytid_six/00002.wav",
    )
    write_files(
        tmp_path / "faces",
        "Drawn_A._One/1.6/-8_ytid_one1/0000025.jpg",
        "Drawn_A._One/1.6/ytid_two/0000075.jpg",
        "Drawn_Two_Jr/1.6/ytid_two/0000050.jpg",  # unpacked on Windows
        "id10003/ytid_six/0000001.jpg",
        "Drawn_Two_Jr./1.6/ytid_six/0000001.jpg",  # of another video
    )
    rows, labels, notes, *_ = voxceleb(tmp_path)
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
    assert notes == [f"{tmp_path}/wav: 1 file ('id10001/-8_ytid_one1/00001.txt') of another type, ignored"]


def test_voxceleb2s_face_tracks_need_no_pictures(tmp_path):
    root = write_files(tmp_path, "dev/mp4/id00012/ytid_a/00001.mp4", "dev/mp4/id00012/ytid_a/00002.mp4")
    rows, _ = voxceleb_rows(root, "", {})
    assert [(row.clip_id, row.path, row.image) for row in rows] == [
        (f"id00012_ytid_a_0000{n}", f"{root}/dev/mp4/id00012/ytid_a/0000{n}.mp4", None) for n in (1, 2)
    ]


def test_the_sound_beside_a_face_track_is_used_if_the_track_has_none(tmp_path):
    root = write_files(
        tmp_path,
        "dev/mp4/id00012/ytid_a/00001.mp4",
        "dev/aac/id00012/ytid_a/00001.m4a",
        "dev/mp4/id00012/ytid_a/00002.mp4",
        "dev/aac/id00012/ytid_a/00003.m4a",
    )
    rows, notes = voxceleb_rows(root, "", {})
    first, second, third = rows
    folders = {kind: f"{root}/dev/{kind}/id00012/ytid_a" for kind in ("mp4", "aac")}
    assert (first.path, first.sound) == (f"{folders['mp4']}/00001.mp4", f"{folders['aac']}/00001.m4a")
    assert (second.path, second.sound) == (f"{folders['mp4']}/00002.mp4", None)
    assert third.reason is DropReason.no_video
    counted = "1 sound ('dev/aac/id00012/ytid_a/00001.m4a')"
    assert notes == [f"{root}: {counted} beside a video of the same name, used if the video has no sound"]
    assert Rows.of(rows)[0] == first


def test_hq_voxceleb_has_pictures_of_speakers_and_not_of_videos(tmp_path):
    """Every utterance gets the speaker's pictures, beginning with one that its id decides."""
    sounds = write_files(tmp_path / "wav", "id10001/v/00001.wav", "id10001/w/00001.wav", "id10002/v/00001.wav")
    names = ["A.J._One", "A.J._One", "A.J._One", "Two", "Nobody"]
    faces = write_files(tmp_path, *(f"vox1/masked_faces/{name}/{n}.jpg" for n, name in enumerate(names)))
    people = {"id10001": Person("male", ("A.J._One",)), "id10002": Person("female", ("Two",))}
    rows, _ = voxceleb_rows(sounds, faces, people)
    images = {row.clip_id: (row.image, *row.other_images) for row in rows if isinstance(row, ClipRow)}
    own = {f"{faces}/vox1/masked_faces/A.J._One/{n}.jpg" for n in range(3)}
    assert {*images["id10001_v_00001"]} == {*images["id10001_w_00001"]} == own
    assert images["id10002_v_00001"] == (f"{faces}/vox1/masked_faces/Two/3.jpg",)
    assert [row.reason for row in rows if isinstance(row, DroppedRow)] == [DropReason.no_sound]  # of Nobody


def test_voxceleb2_with_missing_and_misplaced_files(tmp_path):
    write_files(
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
    write_files(
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
    rows, labels, notes, *_ = voxceleb(tmp_path, VOX2_META)
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
        "'id00012/00001.m4a': expected <speaker>/<video>/<utterance>": "bad_row",
        "'1.jpg': expected <speaker>/[1.6/]<video>/<image> or <known speaker>/<image>": "bad_row",
        "'dev/aac/id00012/ytid_b/00001.m4a': a sound file, but no picture of id00012/ytid_b": "no_video",
        (
            "'test/aac/id00017/ytid_c/00001.m4a': "
            "'copy/id00017/ytid_c/00001.wav' already has the id id00017_ytid_c_00001"
        ): "duplicate_key",
        "'1.6/ytid_c': pictures (1), but no sound file": "no_sound",
        "'Drawn_Nobody/ytid_e': pictures (2), but no sound file": "no_sound",
        "'id00012/ytid_z': pictures (1), but no sound file": "no_sound",
    }
    assert len(rows) == 4 + len(dropped)
    assert [row.line for row in rows] == list(range(1, len(rows) + 1))
    assert labels["id00099"] == Labels(None, None, "id00099")
    assert notes[0].startswith(f"{tmp_path}/wav: 1 sound ('dev/aac/id00012/ytid_a/00001.m4a') beside a video")
    assert notes[1:] == [f"1 speaker ('id00099') not in {tmp_path}/meta.csv: gender unknown"]


def test_each_filled_label_overrides_the_format(tmp_path):
    write_files(tmp_path / "wav", "id10001/v/1.wav", "id10002/v/1.wav")
    write_files(tmp_path / "faces", "id10001/v/1.jpg", "id10002/v/2.jpg")
    (tmp_path / "labels.csv").write_text("video_id,gender,age,identity\nid10001,,41,\nid10002,m,,two\nid10009,f,,\n")
    found = voxceleb(tmp_path, labels=f"{tmp_path}/labels.csv")
    assert found.labels == {"id10001": Labels("male", 41, "id10001"), "id10002": Labels("male", None, "two")}
    assert found.notes == [f"{tmp_path}/labels.csv: 1 speaker ('id10009') without a clip"]
    found = read_dataset(Data(format="folder", clips=write_files(tmp_path / "own", "ann/1.mp4")))
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
def test_metadata_in_all_forms_in_circulation(text, names):
    people = read_voxceleb_metadata(io.StringIO(text))
    assert {speaker: (people[speaker].gender, *people[speaker].names) for speaker in names} == names


def test_every_problem_of_the_metadata_has_its_line():
    text = "VoxCeleb1 ID\tGender\nid1\tm\nid1\tf\nid2\twoman\n\tm\nid3\n"
    with pytest.raises(
        ValueError, match="metadata: line 3: second row for id1; remove one\nmetadata: line 4: gender 'woman'"
    ) as caught:
        read_voxceleb_metadata(io.StringIO(text))
    assert [f"line {line}: " in str(caught.value) for line in range(2, 7)] == [False, True, True, True, True]


@pytest.mark.parametrize("text", ["", "id10001\tA_B\tm\tIreland\tdev\n", "VoxCeleb1 ID\tNationality\n", "a,b\n"])
def test_an_invalid_header_of_the_metadata_is_an_error(text):
    with pytest.raises(ValueError, match=r"^metadata: .*(expected|empty)") as caught:
        read_voxceleb_metadata(io.StringIO(text))
    assert "\n" not in str(caught.value)


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
    assert calls["find"] == 2  # one per tree
    assert calls["info"] + calls["exists"] + calls["open"] + calls["cat_file"] <= 2
    dot, bad, first, second = rows
    assert (first.path, first.image) == (
        "memory://datasets-test/wav/id1/v/1.wav",
        "memory://datasets-test/faces/id1/v/1.jpg",
    )
    assert second.clip_id == "id1_v_2"
    assert dot.detail.startswith("'./v/1.wav': '.' cannot be a speaker: ")
    assert (bad.reason, bad.detail) == (DropReason.bad_row, "'x::y/v/1.wav': a path must not contain '::' or '//'")
    assert notes == []


# --- the protocol of HQ-VoxCeleb


def people(first: int, count: int, width: int = 5) -> list[str]:
    return [f"id{number:0{width}d}" for number in range(first, first + count)]


def test_every_ninth_of_ten_rows_is_tested_and_every_tenth_validated() -> None:
    speakers = people(10001, 25)
    splits = hq_voxceleb_splits(dict.fromkeys(speakers, Person(None, ())))
    assert [speakers.index(speaker) for speaker, split in splits.items() if split == "test"] == [8, 18]
    assert [speakers.index(speaker) for speaker, split in splits.items() if split == "val"] == [9, 19]
    assert set(splits.values()) == {"train", "val", "test"}


def test_the_rows_of_the_two_voxcelebs_are_counted_separately() -> None:
    """VoxCeleb1 has 1,251 speakers, so rows counted through would shift those of VoxCeleb2."""
    both = [*people(10001, 1251), *people(12, 30)]
    splits = hq_voxceleb_splits(dict.fromkeys(both, Person(None, ())))
    for part in (both[:1251], both[1251:]):
        assert hq_voxceleb_splits(dict.fromkeys(part, Person(None, ()))) == {each: splits[each] for each in part}
    assert splits["id00020"] == "test"  # the ninth row


def hq_voxceleb(tmp_path: Path, speakers: list[str], **more: str) -> Dataset:
    rows = [f"{speaker}\tDrawn_{number}\tm\tIreland\tdev" for number, speaker in enumerate(people(10001, 12))]
    meta = "\n".join([VOX1_META.splitlines()[0], *rows, ""])
    for speaker in speakers:
        write_files(tmp_path / "wav", f"{speaker}/video/00001.wav")
        write_files(tmp_path / "faces", f"{speaker}/video/1.jpg")
    return voxceleb(tmp_path, meta, split="hq-voxceleb", **more)


def test_the_split_follows_the_table_and_not_the_clips(tmp_path: Path) -> None:
    found = hq_voxceleb(tmp_path, ["id10002", "id10009", "id10010"])
    assert found.splits == {"id10002": "train", "id10009": "test", "id10010": "val"}
    assert voxceleb(tmp_path).splits is None  # data.split=hash


def test_speakers_that_are_not_in_the_table_have_no_split(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"meta\.csv: data\.split=hq-voxceleb .* lacks 1 speaker \('id10999'\)"
    ) as caught:
        hq_voxceleb(tmp_path, ["id10002", "id10999"])
    assert "\n" not in str(caught.value)

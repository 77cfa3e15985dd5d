"""Clips in folders of speakers: rows, notes and dropped files. Nothing is decoded."""

import hashlib
import os
from pathlib import Path

import pyarrow as pa
import pytest

from arspm import storage
from arspm.corpus.schema import DropReason
from arspm.media.clip_rows import ClipRow, DroppedRow
from arspm.media.speaker_trees import folder_rows
from arspm.media.voxceleb import voxceleb_rows
from tests.media.folder_trees import summary, write_files


def test_a_folder_gives_videos_and_sounds_with_pictures(tmp_path):
    root = write_files(
        tmp_path,
        "Chloé/hello.MP4",
        "Chloé/hello.jpg",  # the video needs no picture
        "ann/b c.webm",
        "bob/one.wav",
        "bob/one.png",
        "bob/two.flac",
        "bob/face.jpeg",
        "bob/.DS_Store",
        "bob/._two.flac",  # written by macOS, not a sound
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
    assert note == f"{root}: 3 files ('bob/.DS_Store', 'bob/._two.flac', 'notes.txt') of another type, ignored"


def test_unusable_files_are_dropped_with_a_reason(tmp_path):
    root = write_files(
        tmp_path,
        "ann/deep/in.mp4",
        "loose.wav",
        "ann/a.wav",
        "ann/a.mp4",  # the sound with the same stem belongs to it
        "ann/a.mov",
        "bob/one.wav",
        "bob/one.jpg",
        "bob/two.wav",  # the only picture belongs to the other sound
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
        ("bob", "bob_one", "bob/one.wav", "bob/one.jpg"),
        ("no_video", "bob", "bob_two"),
        ("no_video", "fay", "fay_x"),
        ("no_sound", "eve", ""),
    ]
    assert rows[4].sound == f"{root}/ann/a.wav"
    assert notes == [f"{root}: 1 sound ('ann/a.wav') beside a video of the same name, used if the video has no sound"]
    assert [row.line for row in rows] == list(range(1, 11))
    details = [row.detail for row in rows if isinstance(row, DroppedRow)]
    assert details[0] == "'ann/deep/in.mp4': expected <speaker>/<file>"
    assert details[2] == "'a_b/c.mp4': 'a/b_c.mp4' already has the id a_b_c"
    assert details[4] == "'bob/two.wav': a sound file, but no picture of bob"
    assert details[6] == "'eve': pictures (2), but no sound file"


def test_the_hash_of_the_clip_id_chooses_the_picture_of_a_sound(tmp_path):
    sounds = [f"ann/{number}.wav" for number in range(40)]
    pictures = sorted(f"ann/p{number}.jpg" for number in range(7))
    root = write_files(tmp_path, *reversed(pictures), *sounds)
    rows, _ = folder_rows(root)
    for row in rows:
        digest = hashlib.sha256(f"picture:{row.clip_id}".encode()).hexdigest()
        assert row.image == f"{root}/{pictures[int(digest[:16], 16) % 7]}"
    assert len({row.image for row in rows}) == 7
    write_files(tmp_path, "ann/40.wav", "bob/1.wav", "bob/p.jpg")  # other files do not change the choice
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
    root = write_files(tmp_path, "bob/1.mp4")
    path = os.path.join(os.fsencode(root), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(os.fsdecode(path)).write_bytes(b"")
    dropped = [row for row in folder_rows(root)[0] if isinstance(row, DroppedRow)]
    assert [(row.reason, row.clip_id) for row in dropped] == [(DropReason.bad_row, "")]
    assert len(dropped[0].detail) < 700
    assert dropped[0].detail.isprintable()  # so that it can be stored and printed
    assert [row.clip_id for row in folder_rows(root)[0] if isinstance(row, ClipRow)] == ["bob_1"]


@pytest.mark.parametrize("what", ["missing", "empty", "file"])
def test_a_tree_without_files_is_an_error(tmp_path, what):
    (tmp_path / "empty" / "ann").mkdir(parents=True)
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(FileNotFoundError, match=f"no speakers' folders below {tmp_path}/{what}: no such folder, or"):
        folder_rows(f"{tmp_path}/{what}")
    sounds = write_files(tmp_path / "wav", "id1/v/1.wav")
    with pytest.raises(FileNotFoundError, match=f"no face images below {tmp_path}/{what}: "):
        voxceleb_rows(sounds, f"{tmp_path}/{what}", {})


def test_a_symbolic_link_as_root_is_followed(tmp_path):
    write_files(tmp_path / "real", "ann/1.mp4")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (row,) = folder_rows(f"{tmp_path}/link")[0]
    assert row.path == f"{tmp_path}/link/ann/1.mp4"


def test_rows_have_the_sizes_of_their_files(tmp_path):
    root = write_files(tmp_path, "ann/1.wav", "ann/1.jpg", "ann/2.mp4", "bob/1.wav", "bob/p.jpg", "bob/q.jpg")
    for size, name in enumerate(("ann/1.wav", "ann/1.jpg", "ann/2.mp4", "bob/1.wav", "bob/p.jpg", "bob/q.jpg")):
        (tmp_path / name).write_bytes(b"x" * size)
    first, second, third = folder_rows(root)[0]
    assert (first.sizes, second.sizes) == ((0, 1), (2,))
    pictures = [third.image, *third.other_images]
    assert third.sizes == (3, *(4 if path.endswith("p.jpg") else 5 for path in pictures))
    assert len(third.sizes) == 3
    sounds = write_files(tmp_path / "wav", "id1/v/1.wav")
    faces = pa.table([["id1/v/1.jpg"], [9]], storage.FILES)
    (row,) = voxceleb_rows(sounds, "s3://bucket/faces", {}, None, faces)[0]  # from listings
    assert (row.image, row.sizes) == ("s3://bucket/faces/id1/v/1.jpg", (0, 9))

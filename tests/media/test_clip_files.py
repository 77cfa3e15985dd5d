"""Which file of a clips folder belongs to a row, by the names that downloaders give."""

import unicodedata

import pytest

from arspm.corpus.schema import DropReason
from arspm.media.clip_files import ClipFolder
from arspm.media.dropped import DroppedClip
from tests.media.folder_trees import write_files

VIDEO = "_x-Y3_4-5z"  # video ids contain what separates the parts of a file name, and digits


@pytest.mark.parametrize(
    "name",
    [
        "ID_12.345_18.102.mp4",
        "ID_12.345000_18.102000.webm",
        "ID_012.345000-018.102000.mp4",  # padded
        "ID-12.345-18.102.mkv",
        "ID 12.345 18.102.MOV",
        "ID_12.345s_to_18.102s.mp4",
        "ID_12.35_18.1.mp4",  # rounded
        "ID_12.345_18.102_video.mp4",
        "ID_12.345_18.102_720p_25fps.mp4",
        "ID_12345_18102.mp4",  # milliseconds
        "ID/ID_12.345_18.102_video.mp4",
        "ID/12.345_18.102.mp4",
        "deep/er/ID_12.345_18.102.ts",
        "ID_12.345_18.102.wav",
    ],
)
def test_a_part_of_a_video_is_found_by_value(tmp_path, name):
    name = name.replace("ID", VIDEO)
    others = (f"{VIDEO}_12.9_18.102.mp4", f"{VIDEO}_12.345_19.mp4", f"{VIDEO}.mp4", "x_12.345_18.102.mp4")
    folder = ClipFolder(write_files(tmp_path, name, *others))
    assert folder.find(VIDEO, 12.345, 18.102) == name
    assert folder.uri(name) == str(tmp_path / name)


@pytest.mark.parametrize(("start", "end"), [(30, 33.33), (30.0001, 33.3299), (29.96, 33.334)])
def test_numbers_are_compared_with_the_accuracy_of_a_frame(tmp_path, start, end):
    folder = ClipFolder(write_files(tmp_path, "abc_30.0_33.33.mp4", "abc_30.0_33.4.mp4", "abc_30_34.mp4"))
    assert folder.find("abc", start, end) == "abc_30.0_33.33.mp4"
    with pytest.raises(DroppedClip, match=r"no file of abc from 30\.2 to 33\.33 s; there are others of this video"):
        folder.find("abc", 30.2, 33.33)
    with pytest.raises(DroppedClip):
        folder.find("abc", 30.3, 34.3)  # 30 and 34 are not rounded


@pytest.mark.parametrize(
    "name",
    [
        "ID.mp4",
        "sub/folder/ID.MKV",
        "A title, with [brackets] [ID].webm",
        "A title-ID.mp4",
        "ID_video.mp4",
        "ID.f137.mp4",
        "ID_1080p.3gp",
    ],
)
def test_a_whole_video_is_found_for_any_part_of_it(tmp_path, name):
    video = "dQw4w9_gX-Q"
    folder = ClipFolder(write_files(tmp_path, name.replace("ID", video), "other.mp4"))
    assert folder.find(video, 1, 2) == folder.find(video, 100, 105.5) == name.replace("ID", video)
    with pytest.raises(DroppedClip) as caught:
        folder.find(video[1:], 1, 2)
    assert caught.value.reason is DropReason.missing_file


@pytest.mark.parametrize("video", ["abcdefghij-", "abcdefghij_", "abcdefgh-_-", "a_12-3.4-"])
def test_a_video_id_may_end_with_what_separates_the_parts_of_a_name(tmp_path, video):
    names = (f"{video}_1.5_20.123.mp4", f"{video}-1.5-30.mkv", f"{video[:-2]}xy_1.5_20.123.mp4")
    folder = ClipFolder(write_files(tmp_path, *names))
    assert folder.find(video, 1.5, 20.123) == names[0]
    assert folder.find(video, 1.5, 30) == names[1]


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC"])
def test_unicode_is_compared_in_one_form(tmp_path, form):
    name = unicodedata.normalize("NFD", "Zoë_1_2.mp4")
    other = unicodedata.normalize("NFC", "è/ü.mp4")
    folder = ClipFolder(write_files(tmp_path, name, other))
    assert folder.uri(folder.find(unicodedata.normalize(form, "Zoë"), 1, 2)) == str(tmp_path / name)
    assert folder.uri(folder.named(unicodedata.normalize(form, other))) == str(tmp_path / other)


@pytest.mark.parametrize(
    "names",
    [
        ("a_1_2.mp4", "a_1.0_2.0.mp4"),
        ("a_1_2.mp4", "a_1_2.mkv"),
        ("a_1_2.mp4", "new/a_1_2.mp4"),
        ("a.mp4", "a/a.mp4"),
        ("a_1_2.wav", "a_1_2.flac"),
    ],
)
def test_two_files_for_one_row_are_an_error_that_names_both(tmp_path, names):
    with pytest.raises(ValueError, match="are a from 1 to 2 s; remove one") as caught:
        ClipFolder(write_files(tmp_path, *names)).find("a", 1, 2)
    assert all(repr(name) in str(caught.value) for name in names)
    assert "\n" not in str(caught.value)


def test_a_video_precedes_the_sound_made_from_it_and_a_part_precedes_the_whole(tmp_path):
    folder = ClipFolder(write_files(tmp_path, "a_1_2.wav", "a_1_2.mp4", "a_1_2.jpg", "a.mp4", "a.jpg", "._a_1_2.mp4"))
    assert folder.find("a", 1, 2) == "a_1_2.mp4"
    assert folder.find("a", 1, 3) == "a.mp4"
    assert folder.picture_beside("a_1_2.wav") == "a_1_2.jpg"
    assert folder.picture_beside("a.mp4") is None

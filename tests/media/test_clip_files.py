"""Which file of a clips folder belongs to a row, by the names that downloaders give."""

import time
import unicodedata

import numpy as np
import pyarrow as pa
import pytest

from arspm import storage
from arspm.media.clip_files import ClipFolder
from tests.media.folder_trees import write_files


def located(folder, video, start, end):
    """Return the path of the file that belongs to a row, and of another part of its video; None if there is none."""
    found = folder.locate(pa.array([video]), np.array([start], float), np.array([end], float))
    return tuple(path_of(folder, number[0]) for number in found)


def path_of(folder, number):
    return None if number < 0 else folder.paths[int(number)].as_py()


def find(folder, video, start, end):
    return located(folder, video, start, end)[0]


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
    assert find(folder, VIDEO, 12.345, 18.102) == name
    assert folder.uris(np.array([folder.named(name), -1])).to_pylist() == [str(tmp_path / name), None]


@pytest.mark.parametrize(("start", "end"), [(30, 33.33), (30.0001, 33.3299), (29.96, 33.334)])
def test_numbers_are_compared_with_the_accuracy_of_a_frame(tmp_path, start, end):
    folder = ClipFolder(write_files(tmp_path, "abc_30.0_33.33.mp4", "abc_30.0_33.4.mp4", "abc_30_34.mp4"))
    assert find(folder, "abc", start, end) == "abc_30.0_33.33.mp4"
    assert located(folder, "abc", 30.2, 33.33) == (None, "abc_30.0_33.33.mp4")
    assert find(folder, "abc", 30.3, 34.3) is None  # 30 and 34 are not rounded


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
    assert find(folder, video, 1, 2) == find(folder, video, 100, 105.5) == name.replace("ID", video)
    assert located(folder, video[1:], 1, 2) == (None, None)


@pytest.mark.parametrize("video", ["abcdefghij-", "abcdefghij_", "abcdefgh-_-", "a_12-3.4-"])
def test_a_video_id_may_end_with_what_separates_the_parts_of_a_name(tmp_path, video):
    names = (f"{video}_1.5_20.123.mp4", f"{video}-1.5-30.mkv", f"{video[:-2]}xy_1.5_20.123.mp4")
    folder = ClipFolder(write_files(tmp_path, *names))
    assert find(folder, video, 1.5, 20.123) == names[0]
    assert find(folder, video, 1.5, 30) == names[1]


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC"])
def test_unicode_is_compared_in_one_form(tmp_path, form):
    name = unicodedata.normalize("NFD", "Zoë_1_2.mp4")
    other = unicodedata.normalize("NFC", "è/ü.mp4")
    folder = ClipFolder(write_files(tmp_path, name, other))
    assert find(folder, unicodedata.normalize(form, "Zoë"), 1, 2) == name
    assert path_of(folder, folder.named(unicodedata.normalize(form, other))) == other


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
        find(ClipFolder(write_files(tmp_path, *names)), "a", 1, 2)
    assert all(repr(name) in str(caught.value) for name in names)
    assert "\n" not in str(caught.value)


def test_a_video_precedes_the_sound_made_from_it_and_a_part_precedes_the_whole(tmp_path):
    folder = ClipFolder(write_files(tmp_path, "a_1_2.wav", "a_1_2.mp4", "a_1_2.jpg", "a.mp4", "a.jpg", "._a_1_2.mp4"))
    assert find(folder, "a", 1, 2) == "a_1_2.mp4"
    assert find(folder, "a", 1, 3) == "a.mp4"
    assert path_of(folder, folder.picture_beside(folder.named("a_1_2.wav"))) == "a_1_2.jpg"


@pytest.mark.parametrize(("one", "other"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_two_names_that_differ_in_their_unicode_form_are_an_error_if_a_row_needs_one(tmp_path, one, other):
    name, twin = (unicodedata.normalize(form, "Zoë_1_2.wav") for form in (one, other))
    picture, both = unicodedata.normalize(one, "Zoë_1_2.jpg"), unicodedata.normalize(other, "Zoë_1_2.jpg")
    folder = ClipFolder(write_files(tmp_path, name, twin, picture, both, "a_1_2.mp4"))
    assert find(folder, "a", 1, 2) == "a_1_2.mp4"
    with pytest.raises(ValueError, match="are Zoë from 1 to 2 s; remove one, or name one in a sixth column") as caught:
        find(folder, "Zoë", 1, 2)
    assert all(ascii(each) in str(caught.value) for each in (name, twin))
    # A sixth column that is spelled like one of them names it, and the picture is the one that is spelled alike.
    file = folder.named(name)
    assert path_of(folder, file) == name
    assert path_of(folder, folder.picture_beside(file)) == picture
    assert path_of(folder, folder.spelled(pa.array([twin]))[0]) == twin


def test_a_sixth_column_in_a_third_unicode_form_fits_two_names(tmp_path):
    mixed = "è_" + unicodedata.normalize("NFD", "è.mp4")
    names = [unicodedata.normalize(form, mixed) for form in ("NFC", "NFD")]
    folder = ClipFolder(write_files(tmp_path, *names))
    with pytest.raises(ValueError, match="in different Unicode forms; remove one") as caught:
        folder.named(mixed)
    assert all(ascii(name) in str(caught.value) for name in names)


def test_rows_are_matched_together_as_they_are_one_by_one():
    """Against arrays that are shifted by a row or a file: some rows have no video, some several parts."""
    rng = np.random.default_rng(0)
    names = set()
    for _ in range(400):
        start, length, suffix = rng.integers(0, 8), rng.integers(1, 4), rng.choice([".mp4", ".jpg"], p=[0.9, 0.1])
        is_part = rng.random() < 0.8
        part = f"_{start}.0_{start + length}.0" if is_part else ""
        names.add(f"v{rng.integers(0, 60 if is_part else 70)}{part}{suffix}")
    files = pa.table([sorted(names), range(len(names))], storage.FILES)
    folder = ClipFolder("s3://bucket/clips", files)
    videos = [f"v{number}" for number in rng.integers(0, 80, 1000)]
    starts = rng.integers(0, 8, 1000).astype(float)
    ends = starts + rng.integers(1, 4, 1000)
    together = folder.locate(pa.array(videos), starts, ends)
    kinds = set()
    for row, video in enumerate(videos):
        found = located(folder, video, starts[row], ends[row])
        assert found == tuple(path_of(folder, number[row]) for number in together)
        part = f"{video}_{starts[row]:.1f}_{ends[row]:.1f}.mp4"
        expected = next((name for name in (part, f"{video}.mp4") if name in names), None)
        assert found[0] == expected
        kinds.add((expected is None, expected == part, found[1] is None))
    assert len(kinds) == 5


def test_a_million_rows_find_their_files_in_a_listing_in_seconds():
    paths = [f"v{number % 1000}/{number:011d}_1.500_4.500.mp4" for number in range(100_000)]
    table = pa.table([paths, range(100_000)], storage.FILES)
    started = time.monotonic()
    folder = ClipFolder("s3://bucket/clips", table)
    videos = pa.array([f"{number:011d}" for number in range(0, 1_000_000)])
    found = folder.locate(videos, np.full(1_000_000, 1.5), np.full(1_000_000, 4.5))
    np.testing.assert_array_equal(found.file[:100_000], np.arange(100_000))
    assert (found.file[100_000:] == -1).all()
    assert time.monotonic() - started < 30  # usually 3; a lookup in Python for each row would be minutes

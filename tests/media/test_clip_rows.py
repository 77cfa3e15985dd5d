"""Rows of an AVSpeech CSV: the file that each one finds, or the reason why it is dropped."""

import io
import random
import shutil

import fsspec
import pytest

from arspm import storage
from arspm.corpus.schema import DropReason
from arspm.media import clip_lines
from arspm.media.clip_files import ClipFolder
from arspm.media.clip_rows import ClipRow, DroppedRow, Rows, read_clip_rows


@pytest.fixture
def folder(tmp_path):
    names = ("a_0.000_3.000.mp4", "a_3.000_6.000.MPG", "-b_c_1_2.5.webm", "s_0_1.wav", "s_0_1.png", "notes.txt")
    for name in (*names, "own name.mov", "sub/deep.mkv", "sub/talk.flac", "sub/talk.jpg"):
        path = tmp_path / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "outside.mp4").write_bytes(b"")
    return tmp_path / "clips"


def read(text, folder):
    return read_clip_rows(io.StringIO(text), ClipFolder(folder))


def test_a_row_finds_its_file(folder):
    rows = read("a,0.000,3.000,0.25,0.5\r\na,3.000,6.000,,\r\n\r\n-b_c,1,2.5,0,1\r\n", folder)
    first = ClipRow(1, "a_0.000_3.000", "a", 0.0, 3.0, 0.25, 0.5, str(folder / "a_0.000_3.000.mp4"), sizes=(0,))
    assert rows[0] == first
    assert [row.line for row in rows] == [1, 2, 4]
    assert (rows[1].x, rows[1].y, rows[1].path) == (None, None, str(folder / "a_3.000_6.000.MPG"))
    assert (rows[2].clip_id, rows[2].video_id) == ("-b_c_1_2.5", "-b_c")


def test_the_sixth_column_names_a_file_in_the_folder_or_a_subfolder(folder):
    rows = read("v,1,2,,,own name.mov\nv,2,3,,,sub/deep.mkv\nv,3,4,,,sub/talk.flac\na,0.000,3.000,,,\n", folder)
    assert [row.path for row in rows[:2]] == [str(folder / "own name.mov"), str(folder / "sub/deep.mkv")]
    assert rows[2].image == str(folder / "sub/talk.jpg")
    assert rows[3].path == str(folder / "a_0.000_3.000.mp4")


def test_sound_with_a_picture_of_the_same_stem_is_a_clip(folder):
    (row,) = read("s,0,1,,", folder)
    assert (row.path, row.image) == (str(folder / "s_0_1.wav"), str(folder / "s_0_1.png"))


@pytest.mark.parametrize(
    "text",
    [
        "a,0,1",
        "a,0,1,0.5,0.5,f,g",
        ",0,1,,",
        "../a,0,1,,",
        "..,0,1,,",
        "a/b,0,1,,",
        "a\\b,0,1,,",
        "a\x00b,0,1,,",
        "a\x9bb,0,1,,",
        "a\ud800b,0,1,,",
        "a" * 201 + ",0,1,,",
        "a,nan,1,,",
        "a,0,inf,,",
        "a,0,1e999,,",
        "a,1_0,20,,",
        "a,x,1,,",
        "a,,1,,",
        "a,2,2,,",
        "a,3,2,,",
        "a,-1,2,,",
        "a,0,1,1.01,0.5",
        "a,0,1,0.5,-0.01",
        "a,0,1,0.5,",
        "a,0,1,,,../outside.mp4",
        "a,0,1,,,sub/../../outside.mp4",
        "a,0,1,,,/etc/passwd",
        "a,0,1,,,s3://bucket/key.mp4",
        '"a,0,1,,',
    ],
)
def test_a_bad_row_is_dropped_with_its_line(folder, text):
    rows = read(f"-b_c,1,2.5,,\n{text}\na,0.000,3.000,,\n", folder)
    assert len(rows) == 3
    assert isinstance(rows[1], DroppedRow)
    assert rows[1].reason is DropReason.bad_row
    assert rows[1].detail.startswith("line 2: ")
    assert isinstance(rows[2], ClipRow)  # the next row is read all the same


def test_the_second_row_with_the_same_clip_id_is_dropped(folder):
    rows = read("a,0.000,3.000,,\na,3.000,6.000,,\na,0.000,3.000,0.1,0.1\n", folder)
    assert [type(row) for row in rows] == [ClipRow, ClipRow, DroppedRow]
    assert rows[2].reason is DropReason.duplicate_key
    assert rows[2].detail == "line 3: a_0.000_3.000 is already on line 1"


@pytest.mark.parametrize("text", ["gone,0,1,,", "a,0,2,,", "v,1,2,,,gone.mp4", "v,1,2,,,sub/gone.mp4", "notes,0,1,,"])
def test_a_row_without_its_file_is_dropped(folder, text):
    (row,) = read(text, folder)
    assert (row.reason, row.video_id) == (DropReason.missing_file, text.split(",")[0])


def test_header_byte_order_mark_and_broken_utf8(folder, tmp_path):
    file = tmp_path / "rows.csv"
    file.write_bytes(b"\xef\xbb\xbfvideo_id,start,end,x,y\na,0.000,3.000,,\n\xff,0,1,,\n")
    rows = read_clip_rows(file, ClipFolder(folder))
    assert [row.line for row in rows] == [2, 3]
    assert rows[0].clip_id == "a_0.000_3.000"
    assert rows[1].reason is DropReason.bad_row


def test_the_folder_is_listed_once_instead_of_a_request_for_each_row(folder, monkeypatch):
    calls = []
    original = storage.list_files
    monkeypatch.setattr(storage, "list_files", lambda uri: (calls.append(uri), original(uri))[1])
    local = type(fsspec.filesystem("file"))
    for name in ("exists", "isfile", "open"):
        monkeypatch.setattr(local, name, lambda self, *args, _name=name, **options: pytest.fail(_name))
    assert len(read("".join(f"a,{i},{i + 1},,\n" for i in range(50)), folder)) == 50
    assert calls == [str(folder)]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_table_may_have_any_separator_and_unicode_encoding(folder, tmp_path, separator, encoding):
    (folder / "Zoë_0_1.mp4").write_bytes(b"")
    lines = ["video_id,start,end,x,y", "a,0.000,3.000,.25,0.5", "", "Zoë,0,1,,", "b,3,6,,,a_3.000_6.000.MPG"]
    file = tmp_path / "rows.csv"
    file.write_bytes("\r\n".join(lines).replace(",", separator).encode(encoding))
    rows = read_clip_rows(file, ClipFolder(folder))
    assert [(row.line, row.clip_id) for row in rows] == [(2, "a_0.000_3.000"), (4, "Zoë_0_1"), (5, "b_3_6")]
    assert [type(row) for row in rows] == [ClipRow] * 3
    assert (rows[0].x, rows[0].y) == (0.25, 0.5)


def test_numbers_may_have_a_decimal_comma_between_semicolons(folder):
    (row,) = read("-b_c;1;2,5;0,25;0,75", folder)
    assert (row.start_seconds, row.end_seconds, row.x, row.y) == (1.0, 2.5, 0.25, 0.75)
    (row,) = read('-b_c,1,"2,5",,', folder)
    assert row.end_seconds == 2.5


def test_the_same_part_of_a_video_is_a_duplicate_however_its_numbers_are_written(folder):
    rows = read("a,0.000,3.000,,\nb,0,3,,\na,0,3.0,,\na,00.0,3e0,0.1,0.1\n", folder)
    assert [(row.line, row.reason, row.detail) for row in rows.dropped() if row.line != 2] == [
        (3, DropReason.duplicate_key, "line 3: a_0.000_3.000 is already on line 1"),
        (4, DropReason.duplicate_key, "line 4: a_0.000_3.000 is already on line 1"),
    ]


def test_columns_and_objects_are_the_same_rows(folder):
    rows = read("a,0.000,3.000,0.5,0.5\ngone,0,1,,\ns,0,1,,\nx,1\n", folder)
    assert [*Rows.of(rows)] == [*rows]
    assert rows[-1] == [*rows][3]
    assert rows[1:3] == [*rows][1:3]
    assert [len(rows.usable()), len(rows.dropped())] == [2, 2]


def test_a_row_has_the_sizes_of_its_files(folder):
    for name, size in (("a_0.000_3.000.mp4", 7), ("s_0_1.wav", 5), ("s_0_1.png", 3), ("sub/talk.flac", 2)):
        (folder / name).write_bytes(b"x" * size)
    rows = read("s,0,1,,\ngone,0,1,,\na,0.000,3.000,,\nx\nv,1,2,,,sub/talk.flac\n-b_c,1,2.5,,\n", folder)
    assert [row.sizes for row in rows if isinstance(row, ClipRow)] == [(5, 3), (7,), (2, 0), (0,)]
    assert [*Rows.of(rows)] == [*rows]
    assert ClipRow(1, "a_0_1", "a", 0.0, 1.0, None, None, "a.mp4").sizes == ()


def test_a_listing_is_used_instead_of_the_folder(folder):
    files = storage.list_files(str(folder))
    shutil.rmtree(folder)
    rows = read_clip_rows(io.StringIO("a,0.000,3.000,,\n"), ClipFolder(folder, files))
    assert [row.path for row in rows] == [f"{folder}/a_0.000_3.000.mp4"]


PIECES = ("a", "0", "1", "2.5", "0.5", ".", "-", "+1", "1e3", ",", ";", "\t", " ", '"', "'", "\\", "/", "é", "\x7f")
PIECES += (
    "\u2028",
    "\ufffd",
    "_",
    "nan",
    "3,5",
    "00012.50",
    "1234567890123",
    "a" * 150,
    "..",
    "x y.mp4",
    "\x1b",
    "\ud800",
)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_lines_that_are_read_as_columns_give_the_rows_that_python_gives(separator):
    """Lines like AVSpeech's, with random changes: most of a third are read as columns, the others are not."""
    rng = random.Random(separator)
    lines = []
    for number in range(6000):
        cells = [rng.choice(("abc", "-_x9", "a" * 180)), rng.choice(("0", "1.5", "12.345678")), "20.25", "0.5", "0.25"]
        cells += [rng.choice(("", "sub/own name.mp4", "b.wav"))] * rng.randrange(2)
        for _ in range(rng.randrange(3)):
            place = rng.randrange(len(cells))
            cells[place] = rng.choice((cells[place], "")) + rng.choice(("", *PIECES))
        lines.append((number + 2, separator.join(cells)))
    usual, table = clip_lines.read_usual_lines(lines, separator)
    assert not usual.any()  # a half of a surrogate pair is in no column, so the whole part is read in Python
    assert not len(table)
    lines = [(number, text) for number, text in lines if "\ud800" not in text]
    usual, table = clip_lines.read_usual_lines(lines, separator)
    chosen = [line for line, is_usual in zip(lines, usual, strict=True) if is_usual]
    assert table.equals(clip_lines.read_each_line(chosen, separator))
    assert table["reason"].null_count == len(chosen)
    others = clip_lines.read_each_line([line for line, each in zip(lines, usual, strict=True) if not each], separator)
    assert 0.3 < len(chosen) / len(lines) < 0.9
    assert others["reason"].null_count < len(others)


@pytest.mark.parametrize("limit", ["_LINES", "_CHARACTERS"])
def test_rows_keep_the_order_of_their_lines_however_they_are_read(folder, monkeypatch, limit):
    monkeypatch.setattr(clip_lines, limit, 7)
    text = "".join(f"a,{n},{n + 1},,\n" if n % 3 else f"a, {n},{n + 1}e0,,\nbad\n\n" for n in range(40))
    rows = read("video_id,start,end\n" + text, folder)
    lines = text.splitlines()
    assert [row.line for row in rows] == [n + 2 for n, line in enumerate(lines) if line]
    assert [row.clip_id for row in rows if row.clip_id] == [
        "_".join(line.replace(" ", "").split(",")[:3]) for line in lines if line.startswith("a")
    ]


def test_csv_and_clips_in_object_storage():
    memory = fsspec.filesystem("memory")
    memory.pipe("/rows-test/rows.csv", b"v,0,1,0.5,0.5\nw,0,1,,\n")
    memory.pipe("/rows-test/clips/v_0_1.mp4", b"")
    rows = read_clip_rows("memory://rows-test/rows.csv", ClipFolder("memory://rows-test/clips"))
    assert rows[0].path == "memory://rows-test/clips/v_0_1.mp4"
    assert rows[1].reason is DropReason.missing_file


def test_a_missing_csv_or_folder_is_an_error(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no CSV file at"):
        read_clip_rows(tmp_path / "no.csv", ClipFolder(folder))
    with pytest.raises(FileNotFoundError, match="no clips folder at"):
        read("", tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no clips folder at"):
        read("", tmp_path / "outside.mp4")

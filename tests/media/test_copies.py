"""Remote files: the next clip's are downloaded during the current one, and nothing is left behind."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest

from arspm.config import override
from arspm.config.presets import preset
from arspm.corpus.schema import DropReason
from arspm.media.clip_rows import ClipRow
from arspm.media.copies import Copies
from arspm.media.dropped import DroppedClip
from arspm.media.prepare import prepare
from arspm.synthetic.face import draw_face
from arspm.synthetic.films import write_clip
from arspm.synthetic.people import sample_speakers
from arspm.synthetic.voice import speak

REMOTE = fsspec.filesystem("memory")
FOLDER = "memory://copies-test"


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the copies are made."""
    (folder := tmp_path / "copied").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def put(name: str, data: bytes) -> str:
    REMOTE.pipe(f"/copies-test/{name}", data)
    return f"{FOLDER}/{name}"


def wait_for(folder: Path, names: list[str]) -> None:
    """Wait until these files, and no others, are in the folder."""
    deadline = time.monotonic() + 20
    while sorted(path.name for path in folder.rglob("*") if path.is_file()) != names:
        assert time.monotonic() < deadline, [*folder.rglob("*")]
        time.sleep(0.01)


def test_only_the_wanted_files_are_kept(copied: Path) -> None:
    copies, uris = Copies(), [put(name, name.encode()) for name in "abc"]
    copies.keep(uris[:2])
    wait_for(copied, ["a", "b"])
    path = copies(uris[1])
    copies.keep([uris[1], "/local/file", uris[2]])
    wait_for(copied, ["b", "c"])
    assert copies(uris[1]) == path, "the next row may be of the same video"
    assert Path(copies(uris[2])).read_bytes() == b"c"
    assert copies("/local/file") == "/local/file"
    copies.close()
    assert not [*copied.iterdir()]


def test_a_missing_file_is_dropped_when_it_is_asked_for_and_found_later(copied: Path) -> None:
    copies, uris = Copies(), [put("there", b"1"), f"{FOLDER}/late"]
    copies.keep(uris)
    assert Path(copies(uris[0])).read_bytes() == b"1"
    with pytest.raises(DroppedClip) as caught:
        copies(uris[1])
    assert caught.value.reason is DropReason.missing_file
    put("late", b"2")
    assert Path(copies(uris[1])).read_bytes() == b"2"
    copies.close()


def test_the_next_clip_is_downloaded_while_one_is_prepared(tmp_path: Path, copied: Path) -> None:
    rows = []
    for number, person in enumerate(sample_speakers(2, seed=3)):
        path = tmp_path / f"{number}.mp4"
        write_clip(path, [draw_face(person)] * 15, speak(person, 3.0, np.random.default_rng(number)), 5)
        rows.append(ClipRow(1, "a", "a", 0.0, 0.0, None, None, put(path.name, path.read_bytes())))
    config = override(preset("smoke"), {"data.storage": "waveform"})
    first = prepare(rows[0], config, rows[1])
    wait_for(copied, ["0.mp4", "1.mp4"])
    REMOTE.rm("/copies-test/1.mp4")
    second = prepare(rows[1], config)
    wait_for(copied, ["1.mp4"])
    for number, found in enumerate((first, second)):
        expected = prepare(ClipRow(1, "a", "a", 0.0, 0.0, None, None, str(tmp_path / f"{number}.mp4")), config)
        assert found.face_jpeg == expected.face_jpeg
        np.testing.assert_array_equal(found.speech, expected.speech)
    wait_for(copied, [])

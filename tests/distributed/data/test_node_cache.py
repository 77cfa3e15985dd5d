"""Decoded rows on a node's disk: what is found there, what crashes leave behind, and how much there may be."""

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arspm.corpus import schema
from arspm.distributed.data import node_cache
from arspm.distributed.data.readings import Reading, kinds
from arspm.media.jpeg import decode_jpeg
from arspm.training.columns import FACE
from tests.distributed.data.test_readings import FACE_SIZE, Columns, readings

Train = tuple[Reading, dict[str, Any]]
WRITTEN = {"speech": "s1", "faces": "f1", "features": "x1"}
PLENTY = 2.0**30


@pytest.fixture
def train(write_corpus: Callable[..., tuple[str, Columns]]) -> Train:
    corpus, columns = write_corpus({"train": (9, 4, 6), "val": (5, 4)})
    return readings(corpus, columns)[0]._replace(written=WRITTEN), columns["train"]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def open_arrays() -> Iterator[Callable[[Reading, Path, float], node_cache.Arrays]]:
    """node_cache.open_arrays, whose results are closed when the test ends."""
    with contextlib.ExitStack() as opened:

        def open_and_close(*arguments: Any) -> node_cache.Arrays:
            return opened.enter_context(contextlib.closing(node_cache.open_arrays(*arguments)))

        yield open_and_close


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir()}


def test_rows_are_those_of_the_corpus_and_are_written_once(train: Train, cache: Path, open_arrays: Any) -> None:
    reading, columns = train
    first = open_arrays(reading, cache, PLENTY)
    assert first.clip_ids.to_pylist() == columns[schema.CLIP_ID]
    np.testing.assert_array_equal(first.columns[schema.WAVEFORM], columns[schema.WAVEFORM])
    faces = np.stack([decode_jpeg(jpeg, FACE_SIZE) for jpeg in columns[schema.FACE_JPEG]])
    np.testing.assert_array_equal(first.columns[FACE], faces)
    assert not first.columns[FACE].flags.writeable
    assert sum(values.nbytes for values in first.columns.values()) == node_cache.num_bytes(reading)
    for shard in range(3):  # from here on, only the cache has the rows
        Path(reading.split.path("faces", shard)).write_bytes(Path(reading.split.path("faces", shard)).read_bytes()[:-9])
    again = open_arrays(reading._replace(wanted={"speech": (schema.WAVEFORM,)}), cache, PLENTY)
    np.testing.assert_array_equal(again.columns[schema.WAVEFORM], columns[schema.WAVEFORM])
    assert len(entries(cache)) == 2  # a family each


@pytest.mark.parametrize("changed", ["written", "face_size", "subset"])
def test_other_rows_are_another_entry(train: Train, cache: Path, open_arrays: Any, changed: str) -> None:
    reading, _ = train
    faces = reading._replace(wanted={"faces": (schema.FACE_JPEG,)})
    before = open_arrays(faces, cache, PLENTY)
    other = {
        "written": faces._replace(written={"faces": "f2"}),
        "face_size": faces._replace(face_size=64),
        "subset": faces._replace(split=faces.split._replace(shard_rows=(9, 4, 5))),
    }[changed]
    after = open_arrays(other, cache, PLENTY)
    assert len(entries(cache)) == 2
    assert (after.columns[FACE].shape == before.columns[FACE].shape) == (changed == "written")


def test_families_with_other_clips_are_refused(
    train: Train, write_corpus: Callable[..., tuple[str, Columns]], cache: Path, open_arrays: Any
) -> None:
    reading, _ = train
    open_arrays(reading._replace(wanted={"speech": (schema.WAVEFORM,)}), cache, PLENTY)
    os.rename(reading.split.path("faces", 1), reading.split.path("faces", 1) + ".kept")
    os.rename(reading.split.path("faces", 2), reading.split.path("faces", 1))
    os.rename(reading.split.path("faces", 1) + ".kept", reading.split.path("faces", 2))
    swapped = reading._replace(split=reading.split._replace(shard_rows=(9, 4, 4)))
    with pytest.raises(ValueError, match="have other clip ids"):
        open_arrays(swapped, cache, PLENTY)


@pytest.mark.parametrize("damage", ["shorter", "no_meta", "other_boot", "partial"])
def test_what_a_crash_leaves_is_written_anew(train: Train, cache: Path, open_arrays: Any, damage: str) -> None:
    reading, columns = train
    speech = reading._replace(wanted={"speech": (schema.WAVEFORM,)})
    open_arrays(speech, cache, PLENTY)
    [name] = entries(cache)
    entry, meta = cache / name, cache / name / "entry.json"
    if damage == "shorter":
        os.truncate(entry / f"{schema.WAVEFORM}.npy", 1000)
    elif damage == "no_meta":
        meta.unlink()
    elif damage == "other_boot":
        meta.write_text(json.dumps(json.loads(meta.read_text()) | {"boot": "another"}))
        (entry / f"{schema.WAVEFORM}.npy").write_bytes(bytes((entry / f"{schema.WAVEFORM}.npy").stat().st_size))
    else:
        entry.rename(cache / f"{name}.partial")
    again = open_arrays(speech, cache, PLENTY)
    np.testing.assert_array_equal(again.columns[schema.WAVEFORM], columns[schema.WAVEFORM])
    assert entries(cache) == {name}


WRITER = """
import sys, time
from pathlib import Path
from arspm.distributed.data import node_cache
import pickle
reading, folder = pickle.load(open(sys.argv[1], "rb"))
fill = node_cache._fill
def slow(reading, columns):
    ids = fill(reading, columns)
    print("filled", flush=True)
    time.sleep(60)
    return ids
node_cache._fill = slow
node_cache.open_arrays(reading, Path(folder), 2.0**30)
"""


def test_a_killed_writer_leaves_no_entry_and_no_lock(
    train: Train, cache: Path, open_arrays: Any, tmp_path: Path
) -> None:
    reading, columns = train
    speech = reading._replace(wanted={"speech": (schema.WAVEFORM,)})
    (tmp_path / "told").write_bytes(pickle.dumps((speech, str(cache))))
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "told")], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "filled\n"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    [partial] = entries(cache)
    assert partial.endswith(".partial")
    begun = time.monotonic()
    found = open_arrays(speech, cache, PLENTY)
    assert time.monotonic() - begun < 20
    np.testing.assert_array_equal(found.columns[schema.WAVEFORM], columns[schema.WAVEFORM])
    assert len(entries(cache)) == 1


def test_the_least_recently_used_entry_that_is_not_in_use_makes_room(
    train: Train, cache: Path, open_arrays: Any
) -> None:
    reading, _ = train
    speech = reading._replace(wanted={"speech": (schema.WAVEFORM,)})
    size = node_cache.num_bytes(speech)

    def open_as(name: str) -> node_cache.Arrays:
        return open_arrays(speech._replace(written={"speech": name}), cache, 2.5 * size)

    def made(name: str) -> str:
        return node_cache._key(speech._replace(written={"speech": name}), kinds(speech))

    in_use = open_as("a")
    for name in ("b", "c"):
        arrays = open_as(name)
        arrays.close()
    assert entries(cache) == {made("a"), made("c")}  # b made room for c, because a is in use
    others = open_as("c")
    with pytest.raises(ValueError, match=r"do not fit: other rows that are in use take .* set ingest\.path=stream"):
        open_as("d")
    assert entries(cache) == {made("a"), made("c")}
    for arrays in (in_use, others):
        arrays.close()
    open_as("d")
    assert made("d") in entries(cache)


def test_an_entry_that_nobody_used_for_a_week_is_removed(train: Train, cache: Path, open_arrays: Any) -> None:
    reading, _ = train
    speech = reading._replace(wanted={"speech": (schema.WAVEFORM,)})
    open_arrays(speech, cache, PLENTY).close()
    [old] = entries(cache)
    week = time.time() - (node_cache.MAX_DAYS * 86400 + 60)
    os.utime(cache / old / "entry.json", (week, week))
    open_arrays(speech._replace(written={"speech": "other"}), cache, PLENTY)
    assert old not in entries(cache)

"""Keep decoded rows on a node's disk as memory-mapped arrays, which the node's workers and later stages share.

An *entry* is a directory with the columns of one family of a split. Its name is a hash of everything that the rows
depend on. It is written beside its place and then moved there, so a killed process leaves no incomplete entry. A crash
of the machine can lose what was not yet on the disk, so an entry counts only until the next boot.

Who reads an entry holds a shared lock on a file beside it, and one process at a time writes entries or removes those
that nobody holds. Locks end with their process, so nothing has to be cleaned up by hand.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from arspm.corpus import schema
from arspm.distributed.data.readings import Reading, kinds, load
from arspm.runs.processes import boot_id

MAX_DAYS = 7  # after which an entry that nobody used is removed
_FORMAT = 1  # of entries; an entry of another format has another name
_META, _IDS = "entry.json", "clip_ids.parquet"
_THREADS = 4  # shards read at once
_PARTIAL = ".partial"

Types = Mapping[str, schema.TensorType]  # of a reading's columns, by name


class Arrays(NamedTuple):
    """All rows of a reading's split. `columns`: column -> array (rows, *shape), read-only.

    `locks`: while they are open, the cache keeps the rows; see `close`.
    """

    columns: Mapping[str, Any]
    clip_ids: pa.Array
    locks: tuple[IO[str], ...] = ()

    def close(self) -> None:
        """Let the cache remove the rows when it needs room. Arrays that are still open stay valid."""
        for lock in self.locks:
            lock.close()


def num_bytes(reading: Reading) -> int:
    """Return the size of a reading's rows, decoded."""
    return _num_bytes(reading, kinds(reading))


def _num_bytes(reading: Reading, types: Types) -> int:
    return reading.split.num_rows * sum(kind.num_bytes for kind in types.values())


def default_folder() -> Path:
    """Return the folder of this user's cache on this node: $ARSPM_CACHE, or one in the folder for temporary files."""
    return Path(os.environ.get("ARSPM_CACHE") or Path(tempfile.gettempdir(), f"arspm-cache-{os.getuid()}"))


def has_room(folder: Path, needed: int) -> bool:
    """Return whether the folder's disk has this many free bytes, or the cache's own entries could make room."""
    existing = folder if folder.is_dir() else next(parent for parent in folder.parents if parent.is_dir())
    return needed <= _free_bytes(existing) + sum(path.stat().st_size for path in folder.glob("*/*.npy"))


def open_arrays(reading: Reading, folder: Path, max_bytes: float) -> Arrays:
    """Return a reading's rows from the node's cache, after writing those that it lacks.

    folder: of the cache. max_bytes: of all entries; those that were used least recently and are not in use make room.
    Raises ValueError if the cache is too small, or the clip ids of two families differ.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user: set ingest.cache_folder")
    columns: dict[str, Any] = {}
    ids: dict[str, pa.Array] = {}
    with contextlib.ExitStack() as opened:
        locks = []
        for family, names in reading.wanted.items():
            part = reading._replace(wanted={family: names})
            types = kinds(part)  # read from storage
            entry = folder / _key(part, types)
            locks.append(opened.enter_context((folder / f"{entry.name}.lock").open("a")))
            fcntl.flock(locks[-1], fcntl.LOCK_SH)  # in use
            own, ids[family] = _open_entry(part, types, entry, max_bytes)
            columns |= own
        first, *others = ids.values()
        if not all(first.equals(other) for other in others):
            raise ValueError(f"{reading.split.uri}: {' and '.join(ids)} have other clip ids; submit again")
        opened.pop_all()
    return Arrays(columns, first, tuple(locks))


def read_arrays(reading: Reading) -> Arrays:
    """Return a reading's rows in memory, read from storage."""
    size = reading.split.num_rows
    columns = {name: np.empty((size, *kind.shape), kind.dtype) for name, kind in kinds(reading).items()}
    return Arrays(columns, _fill(reading, columns))


def _open_entry(reading: Reading, types: Types, entry: Path, max_bytes: float) -> tuple[dict[str, Any], pa.Array]:
    """Return the columns and clip ids of a one-family reading, whose lock is held."""
    if not _is_complete(entry):
        with (entry.parent / "writing.lock").open("a") as writing:
            fcntl.flock(writing, fcntl.LOCK_EX)
            if not _is_complete(entry):  # no other process wrote it in between
                _make_room(entry, _num_bytes(reading, types), max_bytes)
                _write(reading, types, entry)
    meta = entry / _META
    os.utime(meta)  # the time of its last use
    names = json.loads(meta.read_text())["columns"]
    columns = {name: np.load(entry / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names}
    return columns, pq.read_table(entry / _IDS)[schema.CLIP_ID].combine_chunks()


def _key(reading: Reading, types: Types) -> str:
    """Return the name of a one-family reading's entry."""
    [(family, columns)] = reading.wanted.items()
    split = reading.split
    parts = {
        "format": _FORMAT,
        "written": reading.written[family],
        "split": [split.uri, split.shards, split.shard_rows],
        "columns": {name: list(kind) for name, kind in types.items()},
        "family": [family, list(columns)],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _is_complete(entry: Path) -> bool:
    """Return whether an entry is there, written since the machine's last boot, with all its bytes."""
    try:
        meta = json.loads((entry / _META).read_text())
        sizes = meta["bytes"].items()
        return meta["boot"] == boot_id() and all((entry / name).stat().st_size == size for name, size in sizes)
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def _write(reading: Reading, types: Types, entry: Path) -> None:
    """Write an entry beside its place, then move it there."""
    partial = entry.with_name(entry.name + _PARTIAL)
    shutil.rmtree(entry, ignore_errors=True)
    partial.mkdir()
    try:
        columns = {
            name: np.lib.format.open_memmap(
                partial / f"{name}.npy", "w+", np.dtype(kind.dtype), (reading.split.num_rows, *kind.shape)
            )
            for name, kind in types.items()
        }
        for name in columns:
            _reserve(partial / f"{name}.npy")
        clip_ids = _fill(reading, columns)
        pq.write_table(pa.table({schema.CLIP_ID: clip_ids}), partial / _IDS)
        sizes = {path.name: path.stat().st_size for path in partial.iterdir()}
        (partial / _META).write_text(json.dumps({"boot": boot_id(), "columns": list(columns), "bytes": sizes}))
        partial.rename(entry)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _fill(reading: Reading, columns: Mapping[str, np.ndarray]) -> pa.Array:
    """Copy all rows of a reading's split to arrays, a shard at a time, and return their clip ids."""
    split = reading.split
    begins = np.cumsum([0, *split.shard_rows])

    def copy(shard: int) -> pa.Array:
        loaded = load(reading._replace(split=split.only(shard)), np.arange(split.shard_rows[shard]))
        for name, pieces in loaded.columns.items():
            begin = begins[shard]
            for piece in pieces:
                columns[name][begin : begin + len(piece)] = piece
                begin += len(piece)
        return loaded.clip_ids

    with ThreadPoolExecutor(_THREADS) as pool:
        return pa.concat_arrays(pool.map(copy, range(len(split.shards))))


def _make_room(new: Path, needed: int, max_bytes: float) -> None:
    """Remove entries that are not in use, those used least recently first, until the new one's `needed` bytes fit.

    Entries that were not used for MAX_DAYS are removed in any case.
    """
    folder = new.parent
    for path in folder.glob(f"*{_PARTIAL}"):
        shutil.rmtree(path)  # of a killed process: only one writes at a time
    entries = {path.parent: path.stat().st_mtime for path in folder.glob(f"*/{_META}") if path.parent != new}
    used = {entry: sum(path.stat().st_size for path in entry.iterdir()) for entry in entries}
    left = sum(used.values()) + needed
    for entry in sorted(entries, key=entries.__getitem__):
        old = entries[entry] < time.time() - MAX_DAYS * 86400
        if not old and left <= max_bytes and needed <= _free_bytes(folder):
            break
        with _not_in_use(folder / f"{entry.name}.lock") as free:
            if free:
                shutil.rmtree(entry)
                left -= used[entry]
    if left > max_bytes or needed > _free_bytes(folder):
        raise ValueError(
            f"{folder}: {needed / 2**30:.2f} GiB of decoded rows do not fit: other rows that are in use take "
            f"{(left - needed) / 2**30:.2f} GiB of ingest.cache_gib, and {_free_bytes(folder) / 2**30:.2f} GiB of the "
            "disk are free; set ingest.path=stream, or make room"
        )


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


@contextlib.contextmanager
def _not_in_use(lock: Path) -> Iterator[bool]:
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _reserve(path: Path) -> None:
    """Allocate a file's blocks, so that a full disk is an error here and not a bus error when the array is written."""
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)

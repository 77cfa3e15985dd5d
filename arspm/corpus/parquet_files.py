"""Open Parquet files so that pages are verified, damage names the file, and footers are read once."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Collection, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from arspm import storage

REBUILD = "delete it and the _SUCCESS.json of the stage that wrote it, then submit again"

_MAX_FOOTERS = 2048  # 13 to 38 kB of memory each
_footers: dict[tuple[str, bytes], pq.FileMetaData] = {}  # those used last at the end
_verified: dict[tuple[str, tuple[int, ...]], set[Part]] = {}  # of a local file and its stamp: parts without damage
_lock = threading.Lock()

Part = tuple[int, str]  # row group and column


@contextlib.contextmanager
def opened(uri: str, parts: Collection[Part] = ()) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file whose pages are verified when they are read. Wrap its use in `storage.retried`.

    parts: all that will be read. In a local file, they are not verified again if this process has verified all of them:
    that took half the time of reading an epoch from memory. Then the file is mapped into memory, which saves a copy. A
    disk that fails by then ends the process; Ray repeats the task in a new one, which reads and gets the error. A
    remote file is verified whenever it is transferred.

    Pass `use_threads=False` to its methods: pyarrow would otherwise wait for storage in its pool for decoding, which
    has one thread in a Ray task of one CPU, so all files of the process would be read one after the other.

    Raises FileNotFoundError, or ValueError for a damaged file.
    """
    fs, path = storage.arrow_filesystem(uri)
    verified = _verified_parts(uri, path)
    verify = verified is None or not parts or not verified.issuperset(parts)
    with _damaged_file_named(uri), fs.open_input_file(path) if verify else pa.memory_map(path) as file:
        # Opening a file on S3 gets its ETag, which changes with the content. A local footer costs less than its check.
        etag = file.metadata().get("ETag")
        footer = None if etag is None else _known(uri, etag)
        with pq.ParquetFile(file, metadata=footer, pre_buffer=True, page_checksum_verification=verify) as parquet:
            if etag is not None:
                _remember(uri, etag, parquet.metadata)
            yield parquet
    if verified is not None:
        verified.update(parts)


def verified_parts(uri: str) -> frozenset[Part]:
    """Return the parts of a local file, as it is now, that this process has verified; none of a remote file."""
    return frozenset(_verified_parts(uri, storage.arrow_filesystem(uri)[1]) or ())


def _verified_parts(uri: str, path: str) -> set[Part] | None:
    """Return the set of what this process has verified of a local file as it is now; None for a remote or no file."""
    if storage.is_remote(uri):
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    with _lock:
        return _verified.setdefault((uri, (found.st_ino, found.st_size, found.st_mtime_ns)), set())


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, shortened."""
    return (str(error).splitlines() or [""])[0][:200]


def _known(uri: str, etag: bytes) -> pq.FileMetaData | None:
    with _lock:
        return _footers.get((uri, etag))


def _remember(uri: str, etag: bytes, footer: pq.FileMetaData) -> None:
    with _lock:
        _footers.pop((uri, etag), None)
        _footers[uri, etag] = footer
        while len(_footers) > _MAX_FOOTERS:
            del _footers[next(iter(_footers))]


@contextlib.contextmanager
def _damaged_file_named(uri: str) -> Iterator[None]:
    """Raise ValueError with the URI if pyarrow finds the file damaged.

    pyarrow then raises an ArrowException or an OSError without errno; storage errors have an errno or "AWS Error".
    """
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError) and "AWS Error" not in str(error):
            raise FileNotFoundError(f"{uri}: no such file") from None
        if isinstance(error, OSError) and (error.errno is not None or "AWS Error" in str(error)):
            raise
        line = first_line(error)
        line = line if line.isprintable() else repr(line)
        raise ValueError(f"{uri}: not an intact Parquet file ({line}); {REBUILD}") from None

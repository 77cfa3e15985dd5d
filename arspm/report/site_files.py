"""The files that a server of pages reads from storage: seldom, and only if they have changed."""

from __future__ import annotations

import gzip
import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import Any, Generic, NamedTuple, TypeVar

from arspm import storage
from arspm.report.sweep_details import without_details

FILE_SECONDS = 2.0  # between two reads of a file from storage, for all clients together

_MAX_FILES = 256  # kept in memory; a page shows at most 25 pictures and compares six trials
_COMPRESSED = (".html", ".json", ".log")

T = TypeVar("T")


class File(NamedTuple):
    """A file read from storage. `stamp` changes when the file does. All are None if there is no file.

    packed: `data` as gzip, for pages and JSON: compressed once, not for each client.
    """

    stamp: tuple[Any, ...] | None
    data: bytes | None
    packed: bytes | None


class Cached(Generic[T]):
    """A value read from storage, read again after `seconds` at the earliest, by one thread at a time.

    A failing read keeps the value before: the page itself shows how old it is.
    """

    def __init__(self, read: Callable[[T | None], T], seconds: float) -> None:
        self._read, self._seconds = read, seconds
        self._lock = threading.Lock()
        self._value: T | None = None
        self._error: Exception | None = None
        self._next = -math.inf

    def get(self) -> T:
        """Return the value. Raises the error of the last read if no read has succeeded yet."""
        with self._lock:
            if monotonic() >= self._next:
                try:
                    self._value, self._error = self._read(self._value), None
                except Exception as error:  # boto's errors and OSError have no common base class
                    self._error = error
                self._next = monotonic() + self._seconds
            if self._value is None:
                assert self._error is not None
                raise self._error
            return self._value


class Files:
    """The latest files that were read, by URI."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, Cached[File]] = OrderedDict()  # the least recently used first
        self._lock = threading.Lock()  # of _files

    def read(self, folder: str, name: str) -> File:
        """Return a file in a folder. Raises the errors of storage."""
        uri = storage.join(folder, name)
        with self._lock:
            cached = self._files.setdefault(uri, Cached(lambda before: _read_if_changed(uri, before), FILE_SECONDS))
            self._files.move_to_end(uri)
            if len(self._files) > _MAX_FILES:
                self._files.popitem(last=False)
        return cached.get()


def _read_if_changed(uri: str, before: File | None) -> File:
    """Return the file, read only if it has changed. A change between stat and read is seen the next time."""
    fs, path = storage.filesystem(uri)
    try:
        info = storage.retried(uri, lambda: fs.info(path, refresh=True))
        stamp = tuple(info.get(key) for key in ("ETag", "LastModified", "mtime", "ino", "size"))
        if before is not None and before.stamp == stamp:
            return before
        data = storage.read_bytes(uri)
        if uri.endswith(".html"):
            data = without_details(data)
        return File(stamp, data, gzip.compress(data, 6, mtime=0) if uri.endswith(_COMPRESSED) else None)
    except FileNotFoundError:
        return File(None, None, None)

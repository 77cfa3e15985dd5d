"""Local copies of remote files: those of the next clip are downloaded while the current one is decoded."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import NamedTuple

from arspm import storage
from arspm.corpus.schema import DropReason
from arspm.media.dropped import DroppedClip


class _Copy(NamedTuple):
    path: str
    context: ExitStack  # closing it removes the copy


class Copies:
    """Local copies of remote files. A thread downloads them one by one. Errors are raised when a copy is asked for."""

    def __init__(self) -> None:
        self._copies: dict[str, Future[_Copy]] = {}
        self._thread = ThreadPoolExecutor(1, "download")  # starts with the first download

    def __call__(self, uri: str) -> str:
        """Return a local path of a file, when it is there. Raises DroppedClip(missing_file), OSError."""
        if not storage.is_remote(uri):
            return uri
        self._begin(uri)
        try:
            return self._copies[uri].result().path
        except FileNotFoundError:
            raise DroppedClip(DropReason.missing_file, "no such file") from None
        finally:
            if self._copies[uri].exception() is not None:
                del self._copies[uri]  # whoever asks again may have more luck

    def keep(self, uris: Iterable[str]) -> None:
        """Begin to download these files, in this order, as far as they are remote, and remove all other copies."""
        wanted = [uri for uri in uris if storage.is_remote(uri)]
        for uri in self._copies.keys() - wanted:
            copy = self._copies.pop(uri)
            if not copy.cancel():
                copy.add_done_callback(_remove)  # at once, or after the download
        for uri in wanted:
            self._begin(uri)

    def close(self) -> None:
        """Remove all copies, after the download that is under way."""
        self.keep(())
        self._thread.shutdown()

    def _begin(self, uri: str) -> None:
        if uri not in self._copies:
            self._copies[uri] = self._thread.submit(_download, uri)


def _download(uri: str) -> _Copy:
    context = ExitStack()
    return _Copy(str(context.enter_context(storage.local_copy(uri))), context)


def _remove(copy: Future[_Copy]) -> None:
    if copy.exception() is None:
        copy.result().context.close()

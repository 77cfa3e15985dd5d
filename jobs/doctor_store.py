"""The checks of `arspm doctor` on the store of a run: reading, writing, conditional writes and the clock."""

from __future__ import annotations

import contextlib
import email.utils
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from arspm import storage
from arspm.storage import uris

_Found = tuple[Literal["OK", "warn", "fail"], str, str]  # state, text, advice

_SKEW_SECONDS = 60.0  # more is worth a warning
_MAX_SKEW_SECONDS = 900.0  # S3 refuses requests that are signed with a clock further off


@contextlib.contextmanager
def single_try() -> Iterator[None]:
    """Let a request that fails fail at once during the block: a store that is away would be tried for a minute."""
    was = os.environ.get("AWS_MAX_ATTEMPTS")
    os.environ["AWS_MAX_ATTEMPTS"] = "1"
    try:
        yield
    finally:
        if was is None:
            del os.environ["AWS_MAX_ATTEMPTS"]
        else:
            os.environ["AWS_MAX_ATTEMPTS"] = was


def _files(uri: str) -> _Found:
    """Write, read, list and remove a file."""
    folder = _folder(uri)
    name = f".doctor-{uuid.uuid4().hex[:12]}"
    file = storage.join(folder, name)
    started = time.monotonic()
    try:
        storage.write_bytes(file, b"doctor")
        if storage.read_bytes(file) != b"doctor" or name not in storage.entries(folder):
            return "fail", f"{folder}: a file that was written is not there", "see docs/storage.md"
    finally:
        storage.remove(file)
    return "OK", f"{folder}: wrote, read, listed and removed a file in {time.monotonic() - started:.2f} s", ""


def _conditions(uri: str) -> _Found:
    """Write a file that exists already, on condition that it does not."""
    folder = _folder(uri)
    storage.require_store(folder)
    file = storage.join(folder, f".once-{uuid.uuid4().hex[:12]}")
    try:
        if not storage.put_if_absent(file, b"1") or storage.put_if_absent(file, b"2"):
            return "fail", f"{folder}: a file was written twice", "use a store of docs/storage.md"
    finally:
        storage.remove(file)
    return "OK", f"{folder}: of two writers one wins", ""


def _clock(uri: str) -> _Found:
    """Compare this machine's clock with the store's."""
    if not storage.is_s3(uri):
        return "OK", "a local folder has this machine's clock", ""
    fs, path = storage.filesystem(uri)
    begun = time.time()
    reply = storage.retried(uri, lambda: fs.call_s3("list_objects_v2", Bucket=fs.split_path(path)[0], MaxKeys=1))
    headers = {key.lower(): value for key, value in reply["ResponseMetadata"]["HTTPHeaders"].items()}
    if "date" not in headers:
        return "warn", "the store's replies have no Date", "compare the clocks yourself"
    middle = (begun + time.time()) / 2
    skew = middle - email.utils.parsedate_to_datetime(headers["date"]).timestamp()
    text = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the store's"
    if abs(skew) < _SKEW_SECONDS:
        return "OK", text, ""
    return "fail" if abs(skew) > _MAX_SKEW_SECONDS else "warn", text, "set this machine's clock, for example by NTP"


def _folder(uri: str) -> str:
    """Return where the checks write: a bucket's prefix, or the nearest local folder that exists."""
    if storage.is_remote(uri):
        return uri
    return nearest_folder(uris.local_path(uri))


def nearest_folder(path: str | Path) -> str:
    """Return the folder at a local path, or the nearest one above that exists."""
    path = Path(path).expanduser().absolute()
    return str(next(each for each in (path, *path.parents) if each.is_dir()))


CHECKS: dict[str, Callable[[str], _Found]] = {"files": _files, "conditional writes": _conditions, "clock": _clock}

"""The size of a folder and the time of its last change, from a bounded listing."""

from __future__ import annotations

import contextlib
import os
from typing import Any, NamedTuple

from arspm.storage.clients import filesystem
from arspm.storage.retries import retried
from arspm.storage.uris import is_remote, is_s3

_REPLY = 1000  # objects in one reply of S3, at most


class FolderSize(NamedTuple):
    """Files below a folder: number, bytes, and the latest change as Unix time by the store's clock, None if empty.

    complete: whether all files were looked at; otherwise the numbers are lower bounds.
    """

    num_files: int
    num_bytes: int
    changed: float | None
    complete: bool


def folder_size(uri: str, max_files: int = 20_000) -> FolderSize:
    """Return the size of a folder, from about `max_files` files at most. Empty if it does not exist."""
    fs, path = filesystem(uri)
    if not is_remote(uri):
        return _local(path, max_files)
    if not is_s3(uri):
        found = [info for info in fs.find(path, detail=True).values() if info["type"] == "file"]
        return FolderSize(len(found), sum(info["size"] or 0 for info in found), None, True)
    bucket, key, _ = fs.split_path(path.rstrip("/"))
    options: dict[str, Any] = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", "MaxKeys": _REPLY}
    number, size, changed = 0, 0, None
    while True:
        try:
            reply = retried(uri, lambda: fs.call_s3("list_objects_v2", **options))
        except FileNotFoundError:  # there is no such bucket
            return FolderSize(0, 0, None, True)
        for entry in reply.get("Contents", ()):
            number, size = number + 1, size + int(entry["Size"])
            changed = max(changed or 0.0, entry["LastModified"].timestamp())
        if not reply.get("IsTruncated"):
            return FolderSize(number, size, changed, True)
        if number >= max_files:
            return FolderSize(number, size, changed, False)
        options["ContinuationToken"] = reply["NextContinuationToken"]


def _local(root: str, max_files: int) -> FolderSize:
    number, size, changed = 0, 0, None
    for folder, _, names in os.walk(root):
        for name in names:
            if number >= max_files:
                return FolderSize(number, size, changed, False)
            with contextlib.suppress(OSError):  # removed meanwhile
                status = os.lstat(os.path.join(folder, name))
                number, size = number + 1, size + status.st_size
                changed = max(changed or 0.0, status.st_mtime)
    return FolderSize(number, size, changed, True)

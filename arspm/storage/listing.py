"""List the files below a URI as a table, page by page: trees may have millions of files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import fsspec
import pyarrow as pa

from arspm.storage.clients import filesystem
from arspm.storage.retries import retried
from arspm.storage.uris import is_remote, is_s3

FILES = pa.schema([("path", pa.string()), ("bytes", pa.int64())])
_PAGE = 50_000  # files of a local tree that are Python objects at a time
_REPLY = 1000  # objects in one reply of S3, at most
_Page = list[tuple[str, int]]  # (path relative to the URI, size in bytes)


def list_files(uri: str) -> pa.Table:
    """Return every file below a URI as a table of FILES, sorted by path; empty if the folder does not exist.

    On S3, a request that fails is repeated alone, not the whole listing. Links to folders are listed like files and not
    followed. Bytes of a local name that are not UTF-8 become U+FFFD. Raises PermissionError for a folder that cannot be
    read.
    """
    fs, path = filesystem(uri)
    if not is_remote(uri):
        pages = _local_pages(path)
    elif is_s3(uri):
        pages = _s3_pages(uri, fs, path)
    else:
        pages = _found_pages(fs, path)
    batches = [_batch(page) for page in pages if page]
    return pa.Table.from_batches(batches, FILES).combine_chunks().sort_by("path")


def entries(uri: str) -> list[str]:
    """Return the names of the files and folders directly in a folder, sorted; on S3 only the first 1,000.

    Empty if the folder does not exist. Raises PermissionError if it cannot be read.
    """
    fs, path = filesystem(uri)
    try:
        if not is_s3(uri):
            fs.invalidate_cache()
            return sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in fs.ls(path, detail=False))
        bucket, key, _ = fs.split_path(path.rstrip("/"))
        options = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", "Delimiter": "/", "MaxKeys": _REPLY}
        reply = retried(uri, lambda: fs.call_s3("list_objects_v2", **options))
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = [each["Key"] for each in reply.get("Contents", ())]
    found += [each["Prefix"] for each in reply.get("CommonPrefixes", ())]
    names = {name[len(options["Prefix"]) :].rstrip("/") for name in found}
    return sorted(names - {""})  # pyarrow's marker for the folder itself


def _s3_pages(uri: str, fs: fsspec.AbstractFileSystem, path: str) -> Iterator[_Page]:
    """Yield the objects of each reply of ListObjectsV2."""
    bucket, key, _ = fs.split_path(path.rstrip("/"))
    options: dict[str, Any] = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", "MaxKeys": _REPLY}
    begin = len(options["Prefix"])
    while True:
        try:
            reply = retried(uri, lambda: fs.call_s3("list_objects_v2", **options))
        except FileNotFoundError:  # there is no such bucket
            return
        found = [(entry["Key"][begin:], int(entry["Size"])) for entry in reply.get("Contents", ())]
        yield [file for file in found if not file[0].endswith("/") and file[0]]  # pyarrow's marker for a folder
        if not reply.get("IsTruncated"):
            return
        options["ContinuationToken"] = reply["NextContinuationToken"]


def _local_pages(root: str) -> Iterator[_Page]:
    page: _Page = []
    folders = [""]
    while folders:
        prefix = folders.pop()
        try:
            with os.scandir(os.path.join(root, prefix)) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(f"{prefix}{entry.name}/")
                    elif (size := _size(entry)) is not None:
                        page.append((prefix + entry.name, size))
        except (FileNotFoundError, NotADirectoryError):  # the root; or a folder that was removed meanwhile
            continue
        if len(page) >= _PAGE:
            yield page
            page = []
    yield page


def _size(entry: os.DirEntry[str]) -> int | None:
    """Return a file's size, for a link that of its target; 0 for a broken link, None for a file removed meanwhile."""
    try:
        return entry.stat().st_size
    except OSError as error:
        if entry.is_symlink():
            return 0
        if isinstance(error, FileNotFoundError):
            return None
        raise


def _found_pages(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[_Page]:
    fs.invalidate_cache()
    root = path.rstrip("/") + "/"
    found = fs.find(path, detail=True).items()
    yield [(name[len(root) :], int(info["size"] or 0)) for name, info in found if name.startswith(root)]


def _batch(page: Iterable[tuple[str, int]]) -> pa.RecordBatch:
    paths, sizes = zip(*page, strict=True)
    try:
        column = pa.array(paths, pa.string())
    except UnicodeEncodeError:
        column = pa.array([os.fsencode(path).decode("utf-8", "replace") for path in paths], pa.string())
    return pa.record_batch([column, pa.array(sizes, pa.int64())], schema=FILES)

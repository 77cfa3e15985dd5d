"""List the files below a URI as a table, page by page: trees may have millions of files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import fsspec
import pyarrow as pa

from arspm.storage.clients import filesystem
from arspm.storage.retries import retried
from arspm.storage.uris import is_remote, is_s3

FILES = pa.schema([("path", pa.string()), ("bytes", pa.int64())])
STAMPED_FILES = FILES.append(pa.field("stamp", pa.string()))
_PAGE = 50_000  # files of a local tree that are Python objects at a time
_REPLY = 1000  # objects in one reply of S3, at most
_Page = list[tuple[str, int, str]]  # (path relative to the URI, size in bytes, stamp)


def list_files(uri: str, *, stamps: bool = False) -> pa.Table:
    """Return every file below a URI as a table of FILES, sorted by path; empty if the folder does not exist.

    stamps: return STAMPED_FILES. A file's stamp is the text that `stamp` returns for it.

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
    kind = STAMPED_FILES if stamps else FILES
    batches = [_batch(page, kind) for page in pages if page]
    return pa.Table.from_batches(batches, kind).combine_chunks().sort_by("path")


def stamp(uri: str) -> str:
    """Return a text that changes when a file is written again: its size and time of change, on S3 its ETag.

    Raises FileNotFoundError.
    """
    fs, path = filesystem(uri)

    def look() -> str:
        if not is_remote(uri):
            return _local_stamp(os.stat(path))
        fs.invalidate_cache()
        return _remote_stamp(fs.info(path))

    return retried(uri, look)


def _local_stamp(found: os.stat_result) -> str:
    return f"{found.st_size}-{found.st_mtime_ns}"


def _remote_stamp(info: Mapping[str, Any]) -> str:
    """Return the stamp of a remote file: its ETag. fsspec's memory, which has none, says when a file was created."""
    return str(info.get("ETag") or f"{info.get('size')}-{info.get('created')}").strip('"')


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
        found = [
            (entry["Key"][begin:], int(entry["Size"]), _remote_stamp(entry)) for entry in reply.get("Contents", ())
        ]
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
                    elif (file := _size_and_stamp(entry)) is not None:
                        page.append((prefix + entry.name, *file))
        except (FileNotFoundError, NotADirectoryError):  # the root; or a folder that was removed meanwhile
            continue
        if len(page) >= _PAGE:
            yield page
            page = []
    yield page


def _size_and_stamp(entry: os.DirEntry[str]) -> tuple[int, str] | None:
    """Return a file's size and stamp, for a link those of its target; None for a file removed meanwhile.

    A broken link has the size 0 and no stamp.
    """
    try:
        found = entry.stat()
        return found.st_size, _local_stamp(found)
    except OSError as error:
        if entry.is_symlink():
            return 0, ""
        if isinstance(error, FileNotFoundError):
            return None
        raise


def _found_pages(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[_Page]:
    fs.invalidate_cache()
    root = path.rstrip("/") + "/"
    found = fs.find(path, detail=True).items()
    yield [
        (name[len(root) :], int(info["size"] or 0), _remote_stamp(info))
        for name, info in found
        if name.startswith(root)
    ]


def _batch(page: _Page, kind: pa.Schema) -> pa.RecordBatch:
    paths, sizes, stamps = zip(*page, strict=True)
    try:
        column = pa.array(paths, pa.string())
    except UnicodeEncodeError:
        column = pa.array([os.fsencode(path).decode("utf-8", "replace") for path in paths], pa.string())
    columns = [column, pa.array(sizes, pa.int64()), pa.array(stamps, pa.string())]
    return pa.record_batch(columns[: len(kind)], schema=kind)

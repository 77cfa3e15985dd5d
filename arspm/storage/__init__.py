"""Files under a URI, local or on S3. `uris` checks URIs, `files` reads and writes, `retries` repeats failed operations.

`clients` makes the file systems behind them, with `arrow_s3` that of pyarrow and `ray_files` that of Ray; `credentials`
explains why a store refuses them, and `requirements` checks what it can do. `listing` lists large trees, `threads`
does several operations at a time, `local_files` writes local files atomically.
"""

from arspm.storage.clients import arrow_filesystem, filesystem
from arspm.storage.files import (
    describe,
    describe_bytes,
    describe_stream,
    exists,
    files_below,
    local_copy,
    modified,
    put_if_absent,
    read_bytes,
    read_folder,
    read_jpeg,
    read_json,
    read_model,
    remove,
    remove_files,
    upload,
    write_bytes,
    write_json,
)
from arspm.storage.folder_size import FolderSize, folder_size
from arspm.storage.listing import FILES, entries, list_files, stamp
from arspm.storage.ray_files import ray_checkpoint, ray_storage
from arspm.storage.requirements import require_store
from arspm.storage.retries import StorageUnavailable, retried
from arspm.storage.threads import in_threads
from arspm.storage.uris import absolute, is_remote, is_s3, join, run_uri

__all__ = [
    "FILES",
    "FolderSize",
    "StorageUnavailable",
    "absolute",
    "arrow_filesystem",
    "describe",
    "describe_bytes",
    "describe_stream",
    "entries",
    "exists",
    "files_below",
    "filesystem",
    "folder_size",
    "in_threads",
    "is_remote",
    "is_s3",
    "join",
    "list_files",
    "local_copy",
    "modified",
    "put_if_absent",
    "ray_checkpoint",
    "ray_storage",
    "read_bytes",
    "read_folder",
    "read_jpeg",
    "read_json",
    "read_model",
    "remove",
    "remove_files",
    "require_store",
    "retried",
    "run_uri",
    "stamp",
    "upload",
    "write_bytes",
    "write_json",
]

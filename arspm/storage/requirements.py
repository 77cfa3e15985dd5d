"""What a store must be able to do beside reading and writing files. Errors are one line each."""

from __future__ import annotations

import functools
import re
import uuid

import pyarrow.fs

from arspm.storage.clients import arrow_filesystem, filesystem
from arspm.storage.retries import StorageUnavailable, retried
from arspm.storage.uris import display_uri, is_s3, join

_WRITING = re.compile(r"during (PutObject|CreateMultipartUpload|UploadPart|CompleteMultipartUpload) operation")


def require_empty_files(folder: str) -> None:
    """Raise ValueError, in one line, if the folder's store refuses or loses empty files.

    Ray Train and Ray Tune write them through pyarrow: markers of folders, and one that shows each worker that it sees
    the same storage. They begin hours after preprocessing, so this is called before. Other errors, such as denied
    access, are those of `retried`.
    """
    if not is_s3(folder):
        return
    uri = join(folder, f".empty-{uuid.uuid4().hex[:12]}")

    def write() -> bool:
        fs, path = arrow_filesystem(uri)
        fs.create_dir(path)
        with fs.open_output_stream(f"{path}/file"):
            pass
        return fs.get_file_info(f"{path}/file").type == pyarrow.fs.FileType.File

    try:
        reason = "" if retried(uri, write) else "one was written, and is not there"
    except OSError as error:
        if isinstance(error, StorageUnavailable) or not _WRITING.search(str(error)):
            raise
        reason = str(error).removeprefix(f"{display_uri(uri)}: ")
    fs, path = filesystem(uri)
    bucket, key, _ = fs.split_path(path)
    for name in (f"{key}/file", f"{key}/"):  # s3fs' own removal leaves out names that end with '/'
        retried(uri, functools.partial(fs.call_s3, "delete_object", Bucket=bucket, Key=name))
    if reason:
        raise ValueError(
            f"{display_uri(folder)}: this store refuses empty objects, which Ray Train and Ray Tune write as markers "
            f"({reason}); allow objects of 0 bytes and names that end with '/' there, or keep the run elsewhere: in "
            "another store, or in a folder that all nodes share"
        )

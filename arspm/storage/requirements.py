"""What a store must be able to do beside reading and writing files. Errors are one line each."""

from __future__ import annotations

import uuid

from arspm.storage import credentials, files
from arspm.storage.clients import filesystem, require_s3_in_pyarrow
from arspm.storage.retries import reply_status, retried
from arspm.storage.uris import display_uri, is_s3, join

# What stores reply to a request that they do not support. 403 is a matter of permissions.
_UNSUPPORTED = (400, 405, 411, 501)


def require_store(folder: str) -> None:
    """Raise ValueError or OSError, in one line, if a run cannot be in a folder of this store.

    Its stages would find out after hours of preprocessing, or two programs would overwrite each other's results. Other
    errors, such as denied access, are those of `retried`.
    """
    if not is_s3(folder):
        return
    require_s3_in_pyarrow(folder)
    _require_empty_files(folder)
    _require_conditional_writes(folder)


def _require_empty_files(folder: str) -> None:
    """Raise ValueError if the store refuses or loses empty files, which Ray Train and Ray Tune write as markers."""
    uri = join(folder, f".empty-{uuid.uuid4().hex[:12]}")
    fs, path = filesystem(uri)

    def write() -> str:
        """Return why there is no such file now, "" if there is."""
        try:
            fs.pipe_file(path, b"")
        except OSError as error:
            if reply_status(error)[0] not in _UNSUPPORTED or credentials.problem(uri, error):
                raise
            return str(error)
        return "" if fs.exists(path) else "one was written, and is not there"

    reason = retried(uri, write)
    files.remove(uri)
    if reason:
        raise ValueError(
            f"{display_uri(folder)}: this store refuses empty objects, which Ray Train and Ray Tune write as markers "
            f"({reason}); allow objects of 0 bytes there, or keep the run elsewhere: in another store "
            "(docs/storage.md), or in a folder that all nodes share"
        )


def _require_conditional_writes(folder: str) -> None:
    """Raise OSError if the store has no If-None-Match, or ignores it."""
    uri = join(folder, f".once-{uuid.uuid4().hex[:12]}")
    try:
        if not files.put_if_absent(uri, b"1") or files.put_if_absent(uri, b"2"):
            raise OSError(f"{display_uri(folder)}: {files.NO_CONDITIONS}")
    finally:
        files.remove(uri)

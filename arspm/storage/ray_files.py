"""The file system that Ray Train and Ray Tune get for their own small files: this package's, with its retries.

Given a URI, they would make one of pyarrow's, with its settings, its few tries, and DeleteObjects.
"""

from __future__ import annotations

import io
from typing import Any

import pyarrow
import pyarrow.fs

from arspm.storage import clients, files
from arspm.storage.retries import retried
from arspm.storage.uris import is_s3


def ray_storage(uri: str) -> dict[str, Any]:
    """Return `storage_path`, and on S3 `storage_filesystem`, of Ray's RunConfig for a URI.

    The file system has no settings and no credentials: each process that unpickles it uses its own.
    """
    if not is_s3(uri):
        return {"storage_path": uri}
    return {"storage_path": clients.filesystem(uri)[1], "storage_filesystem": _on_s3()}


def ray_checkpoint(uri: str) -> dict[str, Any]:
    """Return the arguments of Ray Train's Checkpoint for a URI."""
    if not is_s3(uri):
        return {"path": uri}
    return {"path": clients.filesystem(uri)[1], "filesystem": _on_s3()}


def _on_s3() -> pyarrow.fs.FileSystem:
    return pyarrow.fs.PyFileSystem(_S3Handler())


class _S3Handler(pyarrow.fs.FSSpecHandler):
    """pyarrow's adapter of s3fs, with the operations that Ray uses from this package. Paths are bucket/key."""

    def __init__(self) -> None:
        """Keep no client: the base class's `fs` is below."""

    @property
    def fs(self) -> Any:
        return clients.filesystem("s3://any")[0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _S3Handler)

    def get_type_name(self) -> str:
        return "s3"

    def get_file_info(self, paths: list[str]) -> list[pyarrow.fs.FileInfo]:
        self.fs.invalidate_cache()
        return retried(_uri(paths[0]), lambda: super(_S3Handler, self).get_file_info(paths)) if paths else []

    def get_file_info_selector(self, selector: pyarrow.fs.FileSelector) -> list[pyarrow.fs.FileInfo]:
        self.fs.invalidate_cache()
        return retried(_uri(selector.base_dir), lambda: super(_S3Handler, self).get_file_info_selector(selector))

    def create_dir(self, path: str, recursive: bool) -> None:
        """Do nothing: S3 has no folders."""

    def delete_dir(self, path: str) -> None:
        files.remove(_uri(path))

    def delete_file(self, path: str) -> None:
        files.remove(_uri(path))

    def open_input_stream(self, path: str) -> pyarrow.PythonFile:
        return pyarrow.PythonFile(io.BytesIO(files.read_bytes(_uri(path))), mode="r")

    open_input_file = open_input_stream

    def open_output_stream(self, path: str, metadata: Any) -> pyarrow.PythonFile:
        return pyarrow.PythonFile(_Upload(_uri(path)), mode="w")


class _Upload(io.BytesIO):
    """A file in memory, which is written when it is closed."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self._uri = uri

    def close(self) -> None:
        if not self.closed:
            data = self.getvalue()
            super().close()
            files.write_bytes(self._uri, data)


def _uri(path: str) -> str:
    return f"s3://{path}"

"""Read, write, list and remove files under a URI.

S3's endpoint, region and credentials come from the standard AWS chain and `AWS_ENDPOINT_URL`. Every write is atomic:
a rename for local files, a single PUT on S3, which has no rename. `arspm.storage.retries` repeats failed operations.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import pydantic

from arspm.storage import local_files
from arspm.storage.clients import CONNECTIONS, filesystem
from arspm.storage.listing import list_files
from arspm.storage.retries import reply_status, retried
from arspm.storage.uris import is_remote, is_s3, join, local_path

NO_CONDITIONS = (
    "this store has no conditional writes (If-None-Match), without which two programs could overwrite each other's "
    "results: use one of the stores in docs/storage.md"
)

Model = TypeVar("Model", bound=pydantic.BaseModel)


def exists(uri: str) -> bool:
    fs, path = filesystem(uri)
    fs.invalidate_cache()
    return retried(uri, lambda: bool(fs.exists(path)))


def modified(uri: str) -> float:
    """Return when a file was last written, as Unix time by the store's clock. Raises FileNotFoundError."""
    fs, path = filesystem(uri)

    def look() -> float:
        fs.invalidate_cache()
        return float(fs.modified(path).timestamp())

    return retried(uri, look)


def read_bytes(uri: str) -> bytes:
    """Return the file's bytes. Raises FileNotFoundError, or ValueError for a device, which may have no end."""
    fs, path = filesystem(uri)
    if not is_remote(uri) and Path(path).is_char_device():
        raise ValueError(f"{uri}: a device, not a file")
    try:
        # One request: several could read from two versions of the file.
        return retried(uri, lambda: bytes(fs.cat_file(path, max_concurrency=1)))
    except FileNotFoundError:
        raise FileNotFoundError(f"{uri}: no such file") from None


def read_jpeg(uri: str) -> str:
    """Return a JPEG file as a data URI, for embedding in a page. Raises FileNotFoundError."""
    return "data:image/jpeg;base64," + base64.b64encode(read_bytes(uri)).decode()


def read_json(uri: str) -> Any:
    """Return the file's JSON value. Raises FileNotFoundError, or ValueError that names the file."""
    data = read_bytes(uri)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{uri}: not JSON ({error})") from None


def read_model(uri: str, kind: type[Model], what: str) -> Model:
    """Return the file's JSON as a pydantic model, without type coercion.

    Raises FileNotFoundError, or ValueError with the first problem. `what` describes the expected file in that error.
    """
    try:
        return kind.model_validate_json(read_bytes(uri), strict=True)
    except pydantic.ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))[:100]
        where = where if where.isprintable() else repr(where)  # it contains keys from the file
        raise ValueError(f"{uri}: not {what} ({where or 'JSON'}: {first['msg']})") from None


def write_bytes(uri: str, data: bytes) -> dict[str, Any]:
    """Write a file, replacing an existing one. Return its size and hash, as manifests list them."""
    if is_remote(uri):
        fs, path = filesystem(uri)
        retried(uri, lambda: fs.pipe_file(path, data))
    else:
        with local_files.atomic_file(uri) as temporary:
            temporary.write_bytes(data)
    return describe_bytes(data)


def write_json(uri: str, value: Any) -> dict[str, Any]:
    return write_bytes(uri, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def put_if_absent(uri: str, data: bytes) -> bool:
    """Write a file unless it exists. Return whether this call wrote it.

    Of several concurrent writers exactly one gets True. Raises OSError for a store without conditional writes.
    """
    if not is_remote(uri):
        return local_files.put_if_absent(uri, data)
    fs, path = filesystem(uri)
    # If the reply to a PUT is lost, the clients or `retried` repeat the PUT, which then finds the file of the first.
    own = {"writer": uuid.uuid4().hex}

    def put() -> bool:
        try:
            fs.pipe_file(path, data, mode="create", Metadata=own)  # a PUT with If-None-Match: *
        except OSError as error:
            status, code = reply_status(error)
            if status == 501 or code == "NotImplemented":
                raise OSError(f"{uri}: {NO_CONDITIONS}") from None
            if not isinstance(error, FileExistsError) and status != 412:
                raise
            with contextlib.suppress(FileNotFoundError):
                return is_s3(uri) and fs.metadata(path, refresh=True).get("writer") == own["writer"]
            return False
        return True

    return retried(uri, put)


def upload(local: str | Path, uri: str) -> dict[str, Any]:
    """Copy a local file to a URI. Return its size and hash."""
    if is_remote(uri):
        fs, path = filesystem(uri)
        retried(uri, lambda: fs.put_file(str(local), path))
    else:
        with local_files.atomic_file(uri) as temporary, open(local, "rb") as source, open(temporary, "wb") as target:
            while block := source.read(1 << 22):
                target.write(block)
    with open(local, "rb") as source:
        return describe_stream(source)


@contextlib.contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """Yield a local path with the file's content, for libraries that only read local files."""
    if not is_remote(uri):
        path = Path(local_path(uri))
        if not path.is_file():
            raise FileNotFoundError(f"{uri}: no such file")
        yield path
        return
    fs, remote = filesystem(uri)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, uri.rsplit("/", 1)[-1][-60:] or "file")
        try:
            retried(uri, lambda: fs.get_file(remote, str(target), max_concurrency=1))
        except FileNotFoundError:
            raise FileNotFoundError(f"{uri}: no such file") from None
        yield target


def files_below(uri: str) -> dict[str, int]:
    """Return every file below a URI: relative path -> size in bytes. Empty if the folder does not exist.

    For folders of a run. `list_files` returns the same as a table, for trees with many files.
    """
    table = list_files(uri)
    return dict(zip(table["path"].to_pylist(), table["bytes"].to_pylist(), strict=True))


def read_folder(uri: str, suffix: str) -> dict[str, bytes]:
    """Return the files directly in a folder whose names end with `suffix`: name -> bytes. Reads them concurrently.

    Empty if the folder does not exist.
    """
    wanted = [path for path in files_below(uri) if path.endswith(suffix) and "/" not in path]
    if not wanted:
        return {}
    fs, path = filesystem(uri)
    contents: dict[str, bytes] = {}

    def read_missing() -> None:
        """Read the files that are still missing; keep those that succeed, then raise the first error."""
        missing = {f"{path.rstrip('/')}/{name}": name for name in wanted if name not in contents}
        # Not `cat`, which treats brackets and stars in a name as a pattern.
        replies = fs.cat_ranges([*missing], None, None, on_error="return", max_concurrency=1)
        read = zip(missing.values(), replies, strict=True)
        contents.update({name: data for name, data in read if isinstance(data, bytes)})
        for error in replies:
            if isinstance(error, Exception):
                raise error

    retried(uri, read_missing)
    return {name: contents[name] for name in wanted}


def remove(uri: str) -> None:
    """Remove a file, or a folder with everything in it. Does nothing if it does not exist."""
    fs, path = filesystem(uri)

    def remove_all() -> None:
        fs.invalidate_cache()
        if not is_s3(uri):
            with contextlib.suppress(FileNotFoundError):
                fs.rm(path, recursive=True)
            return
        # Not `rm`, which treats brackets and stars in a name as a pattern.
        _delete_objects(fs, fs.find(path))

    retried(uri, remove_all)


def remove_files(folder: str, paths: Sequence[str]) -> None:
    """Remove files, given by their paths in a folder. Those that do not exist are ignored."""
    if not is_s3(folder):
        for path in paths:
            remove(join(folder, path))
        return
    fs, root = filesystem(folder)
    retried(folder, lambda: _delete_objects(fs, [f"{root.rstrip('/')}/{path}" for path in paths]))


def _delete_objects(fs: Any, keys: Sequence[str]) -> None:
    """Remove objects on S3, each by a request of its own. Those that do not exist are ignored.

    Not by DeleteObjects: several stores want a Content-MD5 with it, which botocore no longer sends, others lack it.
    """

    def delete(key: str) -> None:
        bucket, name, _ = fs.split_path(key)
        with contextlib.suppress(FileNotFoundError):  # of stores that reply 404
            fs.call_s3("delete_object", Bucket=bucket, Key=name)

    with ThreadPoolExecutor(max(1, min(CONNECTIONS, len(keys)))) as pool:
        done = [pool.submit(delete, key) for key in keys]
    fs.invalidate_cache()
    for each in done:
        each.result()


def describe(uri: str) -> dict[str, Any]:
    """Return the size and hash of a file, read in blocks."""
    fs, path = filesystem(uri)

    def read() -> dict[str, Any]:
        fs.invalidate_cache()
        with fs.open(path, "rb") as file:
            return describe_stream(cast(BinaryIO, file))

    return retried(uri, read)


def describe_bytes(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def describe_stream(file: BinaryIO) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    while block := file.read(1 << 22):
        digest.update(block)
        size += len(block)
    return {"bytes": size, "sha256": digest.hexdigest()}

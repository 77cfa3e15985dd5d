"""Files under a URI: a local path or `s3://`, through fsspec. S3's endpoint, region and credentials come from the
standard chain and `AWS_ENDPOINT_URL`.

Every write is whole or absent. Nothing is renamed on S3, where there is no rename: a single PUT is atomic there.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
import pyarrow.fs


def absolute(uri: str) -> str:
    """The URI as other processes must be told it: a local path made absolute, without a trailing slash."""
    if is_remote(uri):
        return uri.rstrip("/")
    return os.path.abspath(os.path.expanduser(uri.removeprefix("file://")))


def is_remote(uri: str) -> bool:
    return "://" in uri and not uri.startswith("file://")


def join(uri: str, *parts: str) -> str:
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec filesystem of a URI and the path in it."""
    return cast("tuple[fsspec.AbstractFileSystem, str]", fsspec.core.url_to_fs(uri))


def arrow_filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """pyarrow's own filesystem, the faster one for large Parquet files."""
    if not is_remote(uri):
        return pyarrow.fs.LocalFileSystem(), absolute(uri)
    return pyarrow.fs.FileSystem.from_uri(uri)


def exists(uri: str) -> bool:
    fs, path = filesystem(uri)
    fs.invalidate_cache()
    with _refusal_named(uri):
        return bool(fs.exists(path))


def read_bytes(uri: str) -> bytes:
    """The file's bytes. Raises FileNotFoundError with the URI."""
    fs, path = filesystem(uri)
    try:
        with _refusal_named(uri):
            return bytes(fs.cat_file(path))
    except FileNotFoundError:
        raise FileNotFoundError(f"{uri}: no such file") from None


def read_jpeg(uri: str) -> str:
    """A JPEG file as a page carries it, a data URI. Raises FileNotFoundError with the URI."""
    return "data:image/jpeg;base64," + base64.b64encode(read_bytes(uri)).decode()


def read_json(uri: str) -> Any:
    """The file's JSON value. Raises FileNotFoundError, or ValueError that names the file."""
    data = read_bytes(uri)
    try:
        return json.loads(data)
    except ValueError as error:
        raise ValueError(f"{uri}: not JSON ({error})") from None


def write_bytes(uri: str, data: bytes) -> dict[str, Any]:
    """Write a whole file, replacing what was there; its size and hash, as manifests name files."""
    if is_remote(uri):
        fs, path = filesystem(uri)
        with _refusal_named(uri):
            fs.pipe_file(path, data)
    else:
        with _complete_file(uri) as temporary:
            temporary.write_bytes(data)
    return describe_bytes(data)


def write_json(uri: str, value: Any) -> dict[str, Any]:
    return write_bytes(uri, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def put_if_absent(uri: str, data: bytes) -> bool:
    """Write a file unless there is one; False when there is. Of several writers at once exactly one gets True."""
    if is_remote(uri):
        fs, path = filesystem(uri)
        try:
            fs.pipe_file(path, data, mode="create")  # a PUT with If-None-Match: *
        except OSError:  # s3fs has no exception of its own for "there is one already"
            if not exists(uri):
                raise
            return False
        return True
    target = Path(absolute(uri))
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".partial-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644)
        os.link(name, target)  # fails if the target is there, unlike a rename
    except FileExistsError:
        return False
    finally:
        os.unlink(name)
    return True


def upload(local: str | Path, uri: str) -> dict[str, Any]:
    """Copy a local file to a URI; its size and hash."""
    if is_remote(uri):
        fs, path = filesystem(uri)
        fs.put_file(str(local), path)
    else:
        with _complete_file(uri) as temporary, open(local, "rb") as source, open(temporary, "wb") as target:
            while block := source.read(1 << 22):
                target.write(block)
    with open(local, "rb") as source:
        return describe_stream(source)


@contextlib.contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """A local path with the file's content, for libraries that want one."""
    if not is_remote(uri):
        path = Path(absolute(uri))
        if not path.is_file():
            raise FileNotFoundError(f"{uri}: no such file")
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / uri.rsplit("/", 1)[-1]
        target.write_bytes(read_bytes(uri))
        yield target


def files_below(uri: str) -> dict[str, int]:
    """Every file below a URI: path relative to it, and size in bytes. Empty when there is no such folder."""
    fs, path = filesystem(uri)
    fs.invalidate_cache()
    try:
        with _refusal_named(uri):
            found = fs.find(path, detail=True)
    except FileNotFoundError:
        return {}
    root = path.rstrip("/") + "/"
    return {
        name[len(root) :]: int(info["size"] or 0)
        for name, info in sorted(found.items())
        if name.startswith(root) and not name.endswith("/")  # on S3 that is how pyarrow marks a folder
    }


def read_folder(uri: str, suffix: str) -> dict[str, bytes]:
    """The files right in a folder whose names end so: name -> bytes, all asked for at once. Empty without a folder."""
    wanted = [path for path in files_below(uri) if path.endswith(suffix) and "/" not in path]
    if not wanted:
        return {}
    fs, path = filesystem(uri)
    paths = {f"{path.rstrip('/')}/{name}": name for name in wanted}
    with _refusal_named(uri):
        found = fs.cat(list(paths)) if len(paths) > 1 else {next(iter(paths)): fs.cat_file(next(iter(paths)))}
    return {name: bytes(found[full]) for full, name in paths.items()}


def remove(uri: str) -> None:
    """Remove a file or a whole folder; nothing happens when there is none."""
    fs, path = filesystem(uri)
    fs.invalidate_cache()
    with contextlib.suppress(FileNotFoundError):
        fs.rm(path, recursive=True)


def describe(uri: str) -> dict[str, Any]:
    """Size and hash of a file, read from where it lies."""
    fs, path = filesystem(uri)
    with fs.open(path, "rb") as file:
        return describe_stream(cast(BinaryIO, file))


def describe_bytes(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def describe_stream(file: BinaryIO) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    while block := file.read(1 << 22):
        digest.update(block)
        size += len(block)
    return {"bytes": size, "sha256": digest.hexdigest()}


@contextlib.contextmanager
def _refusal_named(uri: str) -> Iterator[None]:
    """Say which URI was refused: s3fs says no more than "Forbidden"."""
    try:
        yield
    except PermissionError as error:
        if not is_remote(uri):
            raise
        raise PermissionError(
            f"{uri}: access refused ({error}); look at the credentials and what they allow"
        ) from error


@contextlib.contextmanager
def _complete_file(uri: str) -> Iterator[Path]:
    """A temporary path beside a local file that takes its place once the block ends well."""
    target = Path(absolute(uri))
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".partial-")
    os.close(descriptor)
    try:
        yield Path(name)
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise

"""Files under a URI: a local path or `s3://`, through fsspec. S3's endpoint, region and credentials come from the
standard chain and `AWS_ENDPOINT_URL`.

Every write is whole or absent. Nothing is renamed on S3, where there is no rename: a single PUT is atomic there.
`arspm.storage.retries` says what is tried again, and how long.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import logging
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import fsspec
import pyarrow.fs
import pydantic

from arspm.storage import retries, uris
from arspm.storage.retries import answer, asked_tries, retried
from arspm.storage.uris import is_remote, is_s3

Model = TypeVar("Model", bound=pydantic.BaseModel)


def absolute(uri: str) -> str:
    """The URI as other processes must be told it: a local path made absolute, without a trailing slash.

    Raises ValueError for what a user may not give (`arspm.storage.uris`).
    """
    uris.check_given(uri)
    return uri.rstrip("/") if is_remote(uri) else _local(uri)


def run_uri(uri: str) -> str:
    """`absolute` of a run's directory. Raises ValueError for one on S3 that Ray Train would take for another."""
    if why := uris.run_problem(uri):
        raise ValueError(f"{uris.display_uri(uri)}: {why}")
    return absolute(uri)


def join(uri: str, *parts: str) -> str:
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec filesystem of a URI and the path in it. What asks it something belongs into `retried`.

    Raises ValueError for what is no place (`arspm.storage.uris`).
    """
    uris.check(uri)
    # Not by fsspec's own reading of addresses, to which `a::b` is one inside another, and `data:x` a file's content.
    if not is_s3(uri):
        fs = fsspec.filesystem("memory" if is_remote(uri) else "file")
        return fs, fs._strip_protocol(uri if is_remote(uri) else _local(uri))
    options = {
        "connect_timeout": retries.CONNECT_SECONDS,
        "read_timeout": retries.READ_SECONDS,
        "retries": {
            "mode": os.environ.get("AWS_RETRY_MODE", "standard"),
            "total_max_attempts": asked_tries() or retries.REQUEST_TRIES,
        },
    }
    fs = fsspec.filesystem("s3", config_kwargs=options)
    for logger in map(logging.getLogger, ("botocore", "aiobotocore", "s3fs")):
        # At DEBUG they write out requests as they are signed (key id, session token, signature) and what S3 quotes.
        if logger.getEffectiveLevel() < logging.INFO:
            logger.setLevel(logging.INFO)
    fs.retries = 1  # s3fs has a loop of its own round botocore's, without jitter
    return fs, fs._strip_protocol(uri)


def arrow_filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """pyarrow's own filesystem, the faster one for large Parquet files. Its use belongs into `retried`, as does this.

    Raises ValueError for what is no place (`arspm.storage.uris`).
    """
    uris.check(uri)
    if not is_remote(uri):
        return pyarrow.fs.LocalFileSystem(), _local(uri)
    if not is_s3(uri):
        return pyarrow.fs.FileSystem.from_uri(uri)
    path = uri.split("://", 1)[1]
    # from_uri finds out the bucket's region, but takes no options, and no path with a space or a bracket; the
    # constructor does not look for the endpoint.
    found, _ = pyarrow.fs.FileSystem.from_uri("s3://" + path.split("/", 1)[0])
    fs = pyarrow.fs.S3FileSystem(
        region=cast(pyarrow.fs.S3FileSystem, found).region,
        endpoint_override=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
        connect_timeout=retries.CONNECT_SECONDS,
        request_timeout=retries.READ_SECONDS,
        retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=asked_tries() or retries.REQUEST_TRIES),
    )
    return fs, path


def exists(uri: str) -> bool:
    fs, path = filesystem(uri)
    fs.invalidate_cache()
    return retried(uri, lambda: bool(fs.exists(path)))


def read_bytes(uri: str) -> bytes:
    """The file's bytes. Raises FileNotFoundError with the URI, ValueError for a device, which may have no end."""
    fs, path = filesystem(uri)
    if not is_remote(uri) and Path(path).is_char_device():
        raise ValueError(f"{uri}: a device, not a file")
    try:
        # One request: of several, some might be answered from a file that has taken this one's place.
        return retried(uri, lambda: bytes(fs.cat_file(path, max_concurrency=1)))
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
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{uri}: not JSON ({error})") from None


def read_model(uri: str, kind: type[Model], what: str) -> Model:
    """The file's JSON as a model of pydantic's, each value of its own type. Raises FileNotFoundError, or ValueError
    with the first thing that makes it not be `what`."""
    try:
        return kind.model_validate_json(read_bytes(uri), strict=True)
    except pydantic.ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))[:100]
        where = where if where.isprintable() else repr(where)  # names of the file's own are in it
        raise ValueError(f"{uri}: not {what} ({where or 'JSON'}: {first['msg']})") from None


def write_bytes(uri: str, data: bytes) -> dict[str, Any]:
    """Write a whole file, replacing what was there; its size and hash, as manifests name files."""
    if is_remote(uri):
        fs, path = filesystem(uri)
        retried(uri, lambda: fs.pipe_file(path, data))
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
        # A PUT whose reply is lost is sent again, by several layers, and then finds its own file there.
        own = {"writer": uuid.uuid4().hex}

        def put() -> bool:
            try:
                fs.pipe_file(path, data, mode="create", Metadata=own)  # a PUT with If-None-Match: *
            except OSError as error:
                if not isinstance(error, FileExistsError) and answer(error)[0] != 412:
                    raise
                with contextlib.suppress(FileNotFoundError):
                    return is_s3(uri) and fs.metadata(path, refresh=True).get("writer") == own["writer"]
                return False
            return True

        return retried(uri, put)
    target = _in_its_folder(uri)
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
        retried(uri, lambda: fs.put_file(str(local), path))
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
        path = Path(_local(uri))
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
    """Every file below a URI: path relative to it, and size in bytes. Empty when there is no such folder."""
    fs, path = filesystem(uri)

    def find() -> dict[str, dict[str, Any]]:
        fs.invalidate_cache()
        return cast("dict[str, dict[str, Any]]", fs.find(path, detail=True))

    try:
        found = retried(uri, find)
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
    found: dict[str, bytes] = {}

    def add() -> None:
        """What is missing yet, as much as can be had of it."""
        missing = {f"{path.rstrip('/')}/{name}": name for name in wanted if name not in found}
        # Not `cat`, which takes a name with brackets or stars for a pattern.
        given = fs.cat_ranges([*missing], None, None, on_error="return", max_concurrency=1)
        read = zip(missing.values(), given, strict=True)
        found.update({name: data for name, data in read if isinstance(data, bytes)})
        for error in given:
            if isinstance(error, Exception):
                raise error

    retried(uri, add)
    return {name: found[name] for name in wanted}


def remove(uri: str) -> None:
    """Remove a file or a whole folder; nothing happens when there is none."""
    fs, path = filesystem(uri)

    def rm() -> None:
        fs.invalidate_cache()
        if not is_s3(uri):
            with contextlib.suppress(FileNotFoundError):
                fs.rm(path, recursive=True)
            return
        # Not `rm`, which takes a name with brackets or stars for a pattern and says nothing of what was not removed.
        found = fs.find(path)
        for begin in range(0, len(found), 1000):
            objects = [{"Key": fs.split_path(name)[1]} for name in found[begin : begin + 1000]]
            told = fs.call_s3(
                "delete_objects", Bucket=fs.split_path(path)[0], Delete={"Objects": objects, "Quiet": True}
            )
            for error in told.get("Errors", ()):
                kind = PermissionError if error.get("Code") == "AccessDenied" else TimeoutError
                raise kind(f"{error.get('Key')} not removed: {error.get('Code')} {error.get('Message')}")
        fs.invalidate_cache()

    retried(uri, rm)


def describe(uri: str) -> dict[str, Any]:
    """Size and hash of a file, read from where it lies."""
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


def _local(uri: str) -> str:
    uris.check(uri)
    path = os.path.abspath(os.path.expanduser(uri.removeprefix("file://")))
    return path[1:] if path.startswith("//") else path  # which POSIX leaves as it is


def _in_its_folder(uri: str) -> Path:
    """A local file's path, the folders that lead to it made."""
    target = Path(_local(uri))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise NotADirectoryError(
            f"{uris.display_uri(str(target.parent))}: a file stands where a folder must be"
        ) from None
    return target


@contextlib.contextmanager
def _complete_file(uri: str) -> Iterator[Path]:
    """A temporary path beside a local file that takes its place once the block ends well."""
    target = _in_its_folder(uri)
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

"""The fsspec and pyarrow file systems that access a URI, with the same time-outs and tries per request."""

from __future__ import annotations

import functools
import logging
import os
import threading
from typing import cast

import fsspec
import pyarrow
import pyarrow.fs

from arspm.storage import retries
from arspm.storage.uris import check, display_uri, is_remote, is_s3, local_path

_IO_THREADS = 32
_one_client = threading.Lock()


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the fsspec file system of a URI and the path in it. Wrap calls on it in `retried`.

    Raises ValueError for an invalid URI.
    """
    check(uri)
    # Not fsspec's own URI parsing: it reads `a::b` as chained URIs, and `data:x` as a file's content.
    if not is_s3(uri):
        fs = fsspec.filesystem("memory" if is_remote(uri) else "file")
        return fs, fs._strip_protocol(uri if is_remote(uri) else local_path(uri))
    options = {
        "connect_timeout": retries.CONNECT_SECONDS,
        "read_timeout": retries.READ_SECONDS,
        "retries": {"mode": os.environ.get("AWS_RETRY_MODE", "standard"), "total_max_attempts": _tries_per_request()},
    }
    fs = fsspec.filesystem("s3", config_kwargs=options)
    for logger in map(logging.getLogger, ("botocore", "aiobotocore", "s3fs")):
        # At DEBUG they log requests as signed (key id, session token, signature) and the text of S3's replies.
        if logger.getEffectiveLevel() < logging.INFO:
            logger.setLevel(logging.INFO)
    fs.retries = 1  # s3fs would repeat botocore's tries, without jitter
    return fs, fs._strip_protocol(uri)


def _require_s3_in_pyarrow(uri: str) -> None:
    """Raise ValueError, in one line, if the URI is on S3 and pyarrow was built without S3.

    Some builds of conda and of computing centres are.
    """
    if not is_s3(uri):
        return
    try:
        from pyarrow.fs import S3FileSystem  # noqa: F401
    except ImportError:
        raise ValueError(
            f"{display_uri(uri)}: pyarrow {pyarrow.__version__} was built without S3; install a build with it, such as "
            "pip's wheel (pip install --force-reinstall --no-deps pyarrow) or conda-forge's, on every node"
        ) from None


def arrow_filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """Return pyarrow's own file system, which is faster for large Parquet files, and the path in it.

    Wrap this call and calls on the file system in `retried`. Raises ValueError for an invalid URI, or for one on S3 if
    pyarrow was built without it.
    """
    check(uri)
    _require_s3_in_pyarrow(uri)
    if not is_remote(uri):
        return pyarrow.fs.LocalFileSystem(), local_path(uri)
    if not is_s3(uri):
        return pyarrow.fs.FileSystem.from_uri(uri)
    path = uri.split("://", 1)[1]
    settings = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    limits = retries.CONNECT_SECONDS, retries.READ_SECONDS, _tries_per_request()
    with _one_client:  # threads that start together would each make one, and each of these its own connections
        return _arrow_s3(path.split("/", 1)[0], *limits, settings, os.getpid()), path


@functools.lru_cache(maxsize=16)
def _arrow_s3(
    bucket: str,
    connect_seconds: float,
    read_seconds: float,
    tries: int,
    settings: tuple[tuple[str, str], ...],
    pid: int,
) -> pyarrow.fs.S3FileSystem:
    """Return the file system of a bucket, which keeps connections and credentials. Threads may share it.

    settings: the environment variables that it reads, so that a change of them gets another one. pid: of this process,
    because a forked one must not use its parent's connections.
    """
    # from_uri looks up the bucket's region, but takes no options and no key with a space or a bracket.
    # The constructor does not read the endpoint from the environment.
    of_bucket, _ = pyarrow.fs.FileSystem.from_uri(f"s3://{bucket}")
    # By default, pyarrow's threads send eight requests at once.
    pyarrow.set_io_thread_count(max(_IO_THREADS, pyarrow.io_thread_count()))
    environment = dict(settings)
    return pyarrow.fs.S3FileSystem(
        region=cast(pyarrow.fs.S3FileSystem, of_bucket).region,
        endpoint_override=environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL"),
        connect_timeout=connect_seconds,
        request_timeout=read_seconds,
        retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=tries),
    )


def _tries_per_request() -> int:
    return retries.max_attempts() or retries.REQUEST_TRIES

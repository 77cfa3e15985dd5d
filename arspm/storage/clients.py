"""The fsspec and pyarrow file systems that access a URI, with the same settings, time-outs and tries per request."""

from __future__ import annotations

import functools
import logging
import os
import re
import threading
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pyarrow.fs

from arspm.storage import retries
from arspm.storage.uris import check, display_uri, is_remote, is_s3, local_path

CONNECTIONS = 32  # requests that each client sends at a time
# Files with settings and credentials: the variable that names one, and its default.
_FILES = {"AWS_CONFIG_FILE": "~/.aws/config", "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials"}
_VARIABLES = re.compile(r"AWS_|HOME$|\w+_PROXY$", re.IGNORECASE)
# By default both clients add checksums to uploads and ask for them with downloads, which several stores refuse. pyarrow
# has no parameter for it, so these variables are set. Uploads are signed with their SHA-256.
_CHECKSUMS = ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION")
_one_session = threading.Lock()
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
        "max_pool_connections": CONNECTIONS,
        "retries": {"mode": os.environ.get("AWS_RETRY_MODE", "standard"), "total_max_attempts": _tries_per_request()},
    }
    for name in _CHECKSUMS:
        os.environ.setdefault(name, "when_required")
    with _one_session:
        session = _session(_settings(), os.getpid())
    fs = fsspec.filesystem("s3", session=session, config_kwargs=options)
    for logger in map(logging.getLogger, ("botocore", "aiobotocore", "s3fs")):
        # At DEBUG they log requests as signed (key id, session token, signature) and the text of S3's replies.
        if logger.getEffectiveLevel() < logging.INFO:
            logger.setLevel(logging.INFO)
    fs.retries = 1  # s3fs would repeat botocore's tries, without jitter
    return fs, fs._strip_protocol(uri)


@functools.lru_cache(maxsize=1)
def _session(settings: tuple[Any, ...], pid: int) -> Any:
    """Return the botocore session of this process, which resolves settings and credentials once for all threads.

    settings: those of `_settings`; if they change, for example because a file has new credentials, another session
    replaces this one. pid: of this process, because a forked one must not use its parent's connections.
    """
    import s3fs  # these two are slow, and local runs do not need them
    from aiobotocore.session import AioSession

    s3fs.S3FileSystem.clear_instance_cache()  # clients of the session before
    return AioSession()


def _settings() -> tuple[Any, ...]:
    """Return the environment variables that the session reads, and the time of change of the files."""
    variables = [item for item in os.environ.items() if _VARIABLES.match(item[0])]
    files = [Path(os.environ.get(name, default)).expanduser() for name, default in _FILES.items()]
    return (*sorted(variables), *((str(file), _changed_at(file)) for file in files))


def _changed_at(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def require_s3_in_pyarrow(uri: str) -> None:
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

    On S3 it has the settings and the present credentials of `filesystem`. Get it anew for each file, because
    credentials are renewed. Wrap this call and calls on the file system in `retried`. Raises ValueError for an invalid
    URI, or for one on S3 if pyarrow was built without it.
    """
    check(uri)
    require_s3_in_pyarrow(uri)
    if not is_remote(uri):
        return pyarrow.fs.LocalFileSystem(), local_path(uri)
    if not is_s3(uri):
        return pyarrow.fs.FileSystem.from_uri(uri)
    from arspm.storage import arrow_s3  # pyarrow may have been built without S3

    fs, path = filesystem(uri)
    settings = arrow_s3.settings(fs, path.split("/", 1)[0])
    limits = retries.CONNECT_SECONDS, retries.READ_SECONDS, _tries_per_request()
    with _one_client:  # threads that start together would each make one, and each of these its own connections
        # By default, pyarrow's threads send eight requests at once.
        pyarrow.set_io_thread_count(max(CONNECTIONS, pyarrow.io_thread_count()))
        return arrow_s3.client(settings, *limits, os.getpid()), path


def _tries_per_request() -> int:
    return retries.max_attempts() or retries.REQUEST_TRIES

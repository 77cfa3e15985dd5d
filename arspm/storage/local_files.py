"""Atomic writes of local files: a reader sees the complete file or none."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from arspm.storage.uris import display_uri, local_path


@contextlib.contextmanager
def atomic_file(uri: str) -> Iterator[Path]:
    """Yield a temporary path in the file's folder. It replaces the file if the block ends without an error."""
    target = _with_folder(uri)
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


def put_if_absent(uri: str, data: bytes) -> bool:
    """Write a file unless it exists. Return whether this call wrote it."""
    target = _with_folder(uri)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".partial-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644)
        os.link(name, target)  # fails if the target exists; a rename would replace it
    except FileExistsError:
        return False
    finally:
        os.unlink(name)
    return True


def _with_folder(uri: str) -> Path:
    """Return a local file's path, after creating its folder."""
    target = Path(local_path(uri))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise NotADirectoryError(f"{display_uri(str(target.parent))}: a file is where a folder is needed") from None
    return target

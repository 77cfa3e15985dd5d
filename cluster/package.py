"""Collecting the source code that a job needs."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.access import state_home
from cluster.errors import ClusterError

_SOURCE_SUFFIXES = {".py", ".typed", ".j2", ".css", ".js", ".yaml"}


def stage_package(packages: Sequence[Path], more: Mapping[str, bytes] | None = None) -> Path:
    """Return a directory that holds only these packages' source files, for use as a job's working directory.

    more: further files, by their paths in the directory. It is in the state directory. Its name is a hash of the files,
    so Ray uploads the same code only once.
    """
    files = list((more or {}).items())
    for package in map(Path, packages):
        if not package.is_dir():
            raise ClusterError(f"{package} is not a package directory")
        for path in sorted(package.rglob("*")):
            if path.suffix in _SOURCE_SUFFIXES and path.is_file() and "__pycache__" not in path.parts:
                files.append((str(Path(package.name) / path.relative_to(package)), path.read_bytes()))
    digest = hashlib.sha256()
    for name, content in files:
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    target = state_home() / "code" / digest.hexdigest()[:16]
    if not target.is_dir():
        target.parent.mkdir(exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=target.parent))
        for name, content in files:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(content)
        try:
            partial.rename(target)
        except OSError:  # another process has just created it, with the same files
            shutil.rmtree(partial)
    return target

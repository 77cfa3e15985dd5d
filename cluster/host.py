"""This machine: its ports, memory, directories and the processes of a head."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import Any

import ray  # noqa: F401  it carries a psutil and makes it importable
from psutil import STATUS_ZOMBIE, Error, NoSuchProcess, Process, process_iter

from cluster.errors import ClusterError

MARK = "ARSPM_HEAD_ID"  # in the environment of every process of a head


def is_keeper(pid: int, mark: str) -> bool:
    """Whether that pid lives and is still the process that was started with this mark."""
    try:
        process = Process(pid)
        return process.status() != STATUS_ZOMBIE and process.environ().get(MARK) == mark
    except (Error, OSError, ValueError, OverflowError):  # the last two: no number of a process
        return False


def _was_keeper(pid: int, mark: str) -> bool:
    """Whether a session of that number can only be the keeper's: a number in use as a session's is not given anew."""
    try:
        return Process(pid).status() == STATUS_ZOMBIE or is_keeper(pid, mark)
    except NoSuchProcess:
        return True
    except Error:
        return False


def marked_processes(keeper: int, mark: str) -> list[Any]:
    """Every live process (psutil.Process) of the keeper's session or with that mark, and their descendants."""
    found: dict[int, Any] = {}
    session = keeper if _was_keeper(keeper, mark) else None
    for process in process_iter():
        with contextlib.suppress(Error, OSError):
            # A worker's title overwrites its environment, a job's driver has a session of its own: either may tell.
            if os.getsid(process.pid) == session or process.environ().get(MARK) == mark:
                found[process.pid] = process
                found.update((child.pid, child) for child in process.children(recursive=True))
    alive = []
    for process in found.values():
        with contextlib.suppress(Error):
            if process.pid != os.getpid() and process.status() != STATUS_ZOMBIE:
                alive.append(process)
    return alive


def own_directory(path: Path) -> Path:
    path = path.absolute()
    if len(str(path)) > 38:
        raise ClusterError(f"{path} is too long for Ray's sockets: give a directory of at most 38 characters")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_uid != os.getuid() or path.is_symlink():
        raise ClusterError(f"{path} is not ours: remove it, or give another directory")
    path.chmod(0o700)
    return path


def memory_bytes() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # "max" is no number
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

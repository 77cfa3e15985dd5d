"""This machine: its ports, memory and directories, and the processes of a local head."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ray  # noqa: F401  makes its own copy of psutil importable
from psutil import CONN_LISTEN, STATUS_ZOMBIE, AccessDenied, Error, NoSuchProcess, Process, process_iter

from cluster.errors import ClusterError

MARK = "ARSPM_HEAD_ID"  # environment variable of every process of a head; its value is the head's id


def mark_option(mark: str) -> str:
    """Return an option of Python that has no effect, but that shows a head's id in its process's command line."""
    return f"-X{MARK.lower()}={mark}"


def _has_mark(process: Any, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark
    except AccessDenied:  # it is in another user namespace
        return mark_option(mark) in process.cmdline()


def is_head_process(pid: int, mark: str) -> bool:
    """Return whether the process with this pid is alive and has this mark."""
    try:
        process = Process(pid)
        return process.status() != STATUS_ZOMBIE and _has_mark(process, mark)
    except (Error, OSError, ValueError, OverflowError):  # the last two: not a valid pid
        return False


def _owns_session(pid: int, mark: str) -> bool:
    """Return whether the session with this id can only be that of the head's process.

    True also after the process has ended: the system does not reuse a pid that is in use as a session's id.
    """
    try:
        return Process(pid).status() == STATUS_ZOMBIE or is_head_process(pid, mark)
    except NoSuchProcess:
        return True
    except Error:
        return False


def marked_processes(head_pid: int, mark: str) -> list[Any]:
    """Return all live processes of a head (as psutil.Process).

    These are the processes in the session of the head's process, those with this mark, and their descendants.
    head_pid: 0 if it is unknown; then the mark alone decides.
    """
    marked: dict[int, Any] = {}
    session = head_pid if head_pid and _owns_session(head_pid, mark) else None
    for process in process_iter():
        with contextlib.suppress(Error, OSError):
            # Check both: a worker's title overwrites its environment, and a job's driver has its own session.
            if os.getsid(process.pid) == session or _has_mark(process, mark):
                marked[process.pid] = process
                marked.update((child.pid, child) for child in process.children(recursive=True))
    alive = []
    for process in marked.values():
        with contextlib.suppress(Error):
            if process.pid != os.getpid() and process.status() != STATUS_ZOMBIE:
                alive.append(process)
    return alive


def listening_ports(processes: Iterable[Any]) -> set[int]:
    """Return the TCP ports on which these processes (psutil.Process) listen."""
    ports = set()
    for process in processes:
        with contextlib.suppress(Error):
            ports |= {each.laddr.port for each in process.net_connections(kind="tcp") if each.status == CONN_LISTEN}
    return ports


def machine_id() -> str:
    """Return an id of this machine since its start, or of this container: elsewhere, pids mean other processes.

    On Linux: the boot's id and the namespaces of pids and host names. Elsewhere: the host's name.
    """
    parts = []
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts += [os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "uts")]
    return " ".join(parts) or socket.gethostname()


def user_name() -> str:
    """Return this user's name, or the number of a user without one."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def private_directory(path: Path) -> Path:
    """Create a directory for Ray's files, closed to other users, and return its absolute path.

    Raises ClusterError for a path that is too long for Ray's sockets, or one that belongs to another user.
    """
    path = path.absolute()
    if len(str(path)) > 38:
        raise ClusterError(f"{path} is too long for Ray's sockets: choose a directory of at most 38 characters")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_uid != os.getuid() or path.is_symlink():
        raise ClusterError(f"{path} belongs to another user or is a link: remove it, or choose another directory")
    path.chmod(0o700)
    return path


def memory_bytes() -> int:
    """Return this machine's memory, or the control group's limit if that is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # ValueError: "max", which means no limit
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total


def is_free(port: int) -> bool:
    """Return whether a server can listen on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Return a free port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

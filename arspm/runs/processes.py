"""Processes of this machine, named so that a later process can tell whether they have ended."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_PROC = Path("/proc")


def boot_id() -> str:
    """Return the id of the machine's last boot, "" where the kernel does not tell it."""
    with contextlib.suppress(OSError):
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    return ""


def process_name(pid: int) -> str:
    """Return a name of a process that no other process has, on any machine; "" if there is none or it is unknown."""
    space, started = _space(), _started(pid)
    return f"{space}/{pid}/{started}" if space and started.isdecimal() else ""


def has_ended(name: str) -> bool:
    """Return whether the process of this name has certainly ended. False for "" and for other machines' processes."""
    where, _, started = name.rpartition("/")
    space, _, pid = where.rpartition("/")
    if not space or space != _space() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)  # sends nothing
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass  # another user's, which /proc may hide
    return _started(int(pid)) not in ("", started)


def _space() -> str:
    """Return what tells apart the machines, their boots and, for containers, the spaces in which pids are unique."""
    boot = boot_id()
    with contextlib.suppress(OSError):
        return f"{boot}/{os.readlink(_PROC / 'self/ns/pid')}" if boot else ""
    return ""


def _started(pid: int) -> str:
    """Return when a process started, in the kernel's clock ticks, "zombie" after its end, "" if it is not known."""
    with contextlib.suppress(OSError, IndexError):
        # The second field, the program's name in parentheses, may contain blanks and parentheses.
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return "zombie" if fields[0] == "Z" else fields[19]
    return ""

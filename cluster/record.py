"""The record of this user's local head: one file per machine in the state directory, which machines may share."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from cluster.access import existing_state_home, state_home
from cluster.errors import ClusterError
from cluster.host import machine_id


@dataclass(frozen=True)
class Head:
    """A local head.

    address: URL of the dashboard and the Jobs API. gcs_address: for `ray.init`. pid: of `ray start --block`, which runs
    the head's other processes. id: their mark, see `cluster.host.MARK`. host, machine: name and id of its machine.
    While it starts, pid is 0, and gcs_address and session_dir are empty.
    """

    address: str
    gcs_address: str
    pid: int
    id: str
    temp_dir: str
    session_dir: str
    started_at: float
    started_by: str
    host: str = ""
    machine: str = ""


def read() -> Head | None:
    """Return the record of the head on this machine, or None. Creates nothing."""
    home = existing_state_home()
    head = _load(home / _name(".json")) if home else None
    return head if head is None or head.machine in ("", machine_id()) else None


def write(head: Head) -> None:
    """Write the record of the head on this machine."""
    path = path_of(".json")
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(head), indent=2) + "\n")
    partial.replace(path)


def remove() -> None:
    """Remove the record of the head on this machine."""
    path_of(".json").unlink(missing_ok=True)


def elsewhere() -> list[Head]:
    """Return the records of this user's heads on other hosts that share the state directory."""
    home = existing_state_home()
    heads = [_load(path) for path in sorted(home.glob("head-*.json"))] if home else []
    return [head for head in heads if head is not None and head.host not in ("", socket.gethostname())]


def remove_earlier() -> None:
    """Remove the records of heads that ended with an earlier boot of this host."""
    boot = machine_id().split()[0]
    for path in state_home().glob("head-*.json"):
        head = _load(path)
        if head is not None and head.host == socket.gethostname() and head.machine.split()[:1] != [boot]:
            for each in (path, path.with_suffix(".log"), path.with_suffix(".lock")):
                each.unlink(missing_ok=True)


def path_of(suffix: str) -> Path:
    """Return the path of this machine's file with this suffix: .json for the record, .log for the head's output."""
    return state_home() / _name(suffix)


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Let one process of this machine at a time start or stop the head."""
    path = path_of(".lock")
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # some network file systems have no locks
            raise ClusterError(f"cannot lock {path} ({error.strerror}): set ARSPM_HOME to a local directory") from None
        yield


def _name(suffix: str) -> str:
    return f"head-{hashlib.sha256(machine_id().encode()).hexdigest()[:8]}{suffix}"


def _load(path: Path) -> Head | None:
    try:
        return TypeAdapter(Head).validate_json(path.read_bytes(), strict=True)
    except (FileNotFoundError, ValueError):
        return None

"""A local Ray head for this user, on loopback and with token authentication: start, find and stop it.

`ray start` replaces 127.0.0.1 by the machine's public address and always opens the Ray Client port; the settings below
prevent both. `ray stop` stops every Ray on the machine; a state file records which processes belong to this head.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import TypeAdapter

from cluster.access import auth_headers, ensure_token, state_home, token_file
from cluster.client import normalize_address
from cluster.errors import ClusterError
from cluster.head_environment import head_environment
from cluster.host import MARK, free_port, is_free, is_head_process, marked_processes, memory_bytes, private_directory

_GIB = 1 << 30
# `ray start` without the Ray Client server. The program also resets SIGINT, the signal that stops the head's jobs. This
# package imports nothing else of the product; it only names the program, which is installed or unpacked beside it.
_RAY = ("-m", "arspm.distributed.ray_private")


@dataclass(frozen=True)
class Head:
    """A local head.

    address: URL of the dashboard and the Jobs API. gcs_address: for `ray.init`. pid: of `ray start --block`, which runs
    the head's other processes. id: their mark, see `cluster.host.MARK`.
    """

    address: str
    gcs_address: str
    pid: int
    id: str
    temp_dir: str
    session_dir: str
    started_at: float
    started_by: str


def up(
    *,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    object_store_memory: int | None = None,
    temp_dir: Path | None = None,
    dashboard_port: int = 8265,
    env: Mapping[str, str] | None = None,
    timeout_seconds: float = 90.0,
) -> Head:
    """Start this user's head, wait until it answers and return it. If a head is running, return that one unchanged.

    num_cpus, num_gpus: None for Ray's own count.
    object_store_memory: in bytes; None for 30 % of the memory, at most 4 GiB.
    dashboard_port: replaced by a free port if it is taken.
    env: added to the environment of the head and of all its jobs.

    Raises ClusterError with the last line of the log if the head does not start in time.
    """
    with _lock():
        head = _read()
        if head is not None:
            if is_head_process(head.pid, head.id) and _answers(head.address, patience_seconds=30):
                return head
            _stop(head, grace_seconds=5)
        return _start(num_cpus, num_gpus, object_store_memory, temp_dir, dashboard_port, env or {}, timeout_seconds)


def down(*, grace_seconds: float = 15.0) -> Head | None:
    """Stop the head that `up` started, with its jobs but no other Ray. Return that head, or None if there was none."""
    with _lock():
        head = _read()
        if head is not None:
            _stop(head, grace_seconds)
        return head


def current() -> Head | None:
    """Return this user's head if its process is alive, otherwise None."""
    head = _read()
    return head if head is not None and is_head_process(head.pid, head.id) else None


def find_head(address: str | None = None) -> str | None:
    """Return the URL to send jobs to, or None.

    The first of: the argument, RAY_API_SERVER_ADDRESS, this user's own head.
    """
    chosen = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if chosen:
        return normalize_address(chosen)
    head = current()
    return head.address if head else None


def client_env(head: Head) -> dict[str, str]:
    """Return the environment variables of a client of the head. Set them before the client imports ray."""
    env = {
        "RAY_API_SERVER_ADDRESS": head.address,
        "RAY_AUTH_MODE": "token",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # with 1, ray.init replaces 127.0.0.1 by the public address
    }
    if not os.environ.get("RAY_AUTH_TOKEN"):
        env["RAY_AUTH_TOKEN_PATH"] = str(token_file())
    return env


def _start(
    num_cpus: int | None,
    num_gpus: int | None,
    object_store_memory: int | None,
    temp_dir: Path | None,
    dashboard_port: int,
    extra_env: Mapping[str, str],
    timeout_seconds: float,
) -> Head:
    ensure_token()
    private = private_directory(temp_dir or _default_temp_dir())
    root = private / "r"  # Ray opens its directory to all users; the one above it stays closed
    root.mkdir(exist_ok=True)
    address_file = root / "ray_current_cluster"
    address_file.unlink(missing_ok=True)
    _prune(root)
    address = f"http://127.0.0.1:{dashboard_port if is_free(dashboard_port) else free_port()}"
    identity = uuid.uuid4().hex
    options = {
        "node-ip-address": "127.0.0.1",
        "port": 0,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": urlsplit(address).port,
        "dashboard-agent-listen-port": 0,
        "min-worker-port": 0,
        "max-worker-port": 0,
        "object-store-memory": object_store_memory or min(int(0.3 * memory_bytes()), 4 * _GIB),
        "temp-dir": root,
    }
    options |= {} if num_cpus is None else {"num-cpus": num_cpus}
    options |= {} if num_gpus is None else {"num-gpus": num_gpus}
    flags = [f"--{name}={value}" for name, value in options.items()]
    log_path = state_home() / "head.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *_RAY, "start", "--head", "--block", "--no-monitor", "--disable-usage-stats", *flags],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=root,
            env={**head_environment(address), **extra_env, MARK: identity},
        )
    head = Head(
        address=address,
        gcs_address="",
        pid=process.pid,
        id=identity,
        temp_dir=str(private),
        session_dir="",
        started_at=time.time(),
        started_by=f"{getpass.getuser()}@{socket.gethostname()}",
    )
    _write(head)
    deadline = time.time() + timeout_seconds
    while not (address_file.is_file() and _answers(head.address)):
        if process.poll() is not None or time.time() > deadline:
            problem = "did not start" if process.poll() is not None else f"did not answer within {timeout_seconds:g} s"
            _stop(head, grace_seconds=5)
            raise ClusterError(f"the local Ray head {problem}: {_last_line(log_path)} (log: {log_path})")
        time.sleep(0.1)
    process.returncode = 0  # the head outlives this process: prevents Popen's warning about a running child
    session = next(root.glob(f"session_*_{head.pid}"))
    head = replace(head, gcs_address=address_file.read_text().strip(), session_dir=str(session))
    _write(head)
    return head


def _stop(head: Head, grace_seconds: float) -> None:
    """Send SIGTERM to the head's process, which stops the others in order. After the grace period, kill the rest."""
    if is_head_process(head.pid, head.id):
        with contextlib.suppress(ProcessLookupError):
            os.kill(head.pid, signal.SIGTERM)
    deadline = time.time() + grace_seconds
    while (left := marked_processes(head.pid, head.id)) and time.time() < deadline:
        time.sleep(0.2)
    while left:
        for process in left:
            with contextlib.suppress(Exception):
                process.kill()  # psutil checks that the pid still belongs to this process
        time.sleep(0.2)
        left = marked_processes(head.pid, head.id)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(head.pid, os.WNOHANG)  # it is a child if this process started it
    for part in Path(head.session_dir or "/nowhere").glob("*/"):
        if part.name != "logs":
            shutil.rmtree(part, ignore_errors=True)  # spilled objects, unpacked code, sockets
    _state_file().unlink(missing_ok=True)


def _prune(root: Path, keep: int = 4) -> None:
    """Remove the logs of all but the last `keep` sessions."""
    for session in sorted(root.glob("session_2*"), key=lambda path: path.stat().st_mtime)[:-keep]:
        shutil.rmtree(session, ignore_errors=True)


def _answers(address: str, patience_seconds: float = 0.0) -> bool:
    """Return whether a dashboard answers at this address, now or within `patience_seconds`."""
    deadline = time.time() + patience_seconds
    while True:
        request = urllib.request.Request(f"{address}/api/version", headers=auth_headers(address))
        try:
            # Without a proxy: the address is on this machine.
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5):
                return True
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (401, 403):
                return True  # alive, but with another token: `connect` reports that
        except OSError:
            pass
        if time.time() > deadline:
            return False
        time.sleep(0.2)


def _state_file() -> Path:
    return state_home() / "head.json"


def _read() -> Head | None:
    try:
        return TypeAdapter(Head).validate_json(_state_file().read_bytes(), strict=True)
    except (FileNotFoundError, ValueError):
        return None


def _write(head: Head) -> None:
    partial = _state_file().with_suffix(".partial")
    partial.write_text(json.dumps(asdict(head), indent=2) + "\n")
    partial.replace(_state_file())


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    with (state_home() / "head.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _default_temp_dir() -> Path:
    """Return a directory of its own for each state directory, so that heads do not mix.

    Short, because the paths of Ray's sockets below it may have at most 107 characters.
    """
    name = uuid.uuid5(uuid.NAMESPACE_URL, str(state_home())).hex[:8]
    return Path(tempfile.gettempdir()) / f"arspm-{os.getuid()}-{name}"


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "its log is empty"

"""A local Ray head for this user, on loopback and with token authentication: start, find and stop it.

`ray start` replaces 127.0.0.1 by the machine's public address and always opens the Ray Client port; the settings below
prevent both. `ray stop` stops every Ray on the machine; a state file records which processes belong to this head.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from cluster import record
from cluster.access import auth_headers, ensure_token, state_home, token_file
from cluster.connection import normalize_address
from cluster.errors import ClusterError
from cluster.head_environment import head_environment
from cluster.host import (
    MARK,
    free_port,
    is_free,
    is_head_process,
    listening_ports,
    machine_id,
    mark_option,
    marked_processes,
    memory_bytes,
    private_directory,
    user_name,
)
from cluster.proxies import without_loopback
from cluster.record import Head

_GIB = 1 << 30
# `ray start` without the Ray Client server. The program also resets SIGINT, the signal that stops the head's jobs. This
# package imports nothing else of the product; it only names the program, which is installed or unpacked beside it.
_RAY = ("-m", "arspm.distributed.ray_private")


class _PortTaken(Exception):
    """Another program took the dashboard's port while the head started."""


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
    with record.locked():
        head = record.read()
        if head is not None:
            if head.session_dir and is_head_process(head.pid, head.id) and _answers(head, patience_seconds=30):
                return head
            _stop(head, grace_seconds=5)
        record.remove_earlier()
        for port in (dashboard_port if is_free(dashboard_port) else free_port(), free_port(), free_port()):
            with contextlib.suppress(_PortTaken):
                return _start(num_cpus, num_gpus, object_store_memory, temp_dir, port, env or {}, timeout_seconds)
    raise ClusterError(
        "the local Ray head did not start: other programs took three ports, one after another; try again"
    )


def down(*, grace_seconds: float = 15.0) -> Head | None:
    """Stop the head that `up` started on this machine, with its jobs but no other Ray.

    Return that head, or None if there was none.
    """
    if record.read() is None:  # and create no state directory
        return None
    with record.locked():
        head = record.read()
        if head is not None:
            _stop(head, grace_seconds)
        return head


def current() -> Head | None:
    """Return this user's head if its process is alive, otherwise None."""
    head = record.read()
    return head if head is not None and is_head_process(head.pid, head.id) else None


def heads_elsewhere() -> str:
    """Return a remark on this user's heads on other machines that share the state directory; empty if there is none."""
    hosts = [
        f"{head.host} (since {time.strftime('%Y-%m-%d %H:%M', time.localtime(head.started_at))})"
        for head in record.elsewhere()
    ]
    return f"; a head was started on {', '.join(hosts)}, where it is reached and stopped" if hosts else ""


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
        **without_loopback(os.environ),
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
    head = Head(
        address=f"http://127.0.0.1:{dashboard_port}",
        gcs_address="",
        pid=0,
        id=uuid.uuid4().hex,
        temp_dir=str(private),
        session_dir="",
        started_at=time.time(),
        started_by=f"{user_name()}@{socket.gethostname()}",
        host=socket.gethostname(),
        machine=machine_id(),
    )
    options = {
        "node-ip-address": "127.0.0.1",
        "port": 0,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard_port,
        "dashboard-agent-listen-port": 0,
        "min-worker-port": 0,
        "max-worker-port": 0,
        "object-store-memory": object_store_memory or min(int(0.3 * memory_bytes()), 4 * _GIB),
        "temp-dir": root,
    }
    options |= {} if num_cpus is None else {"num-cpus": num_cpus}
    options |= {} if num_gpus is None else {"num-gpus": num_gpus}
    command = [
        sys.executable,
        mark_option(head.id),
        *_RAY,
        "start",
        "--head",
        "--block",
        "--no-monitor",
        "--disable-usage-stats",
    ]
    command += [f"--{name}={value}" for name, value in options.items()]
    # Before its first process exists: `down` finds them by the mark, whatever happens to this process from here on.
    record.write(head)
    try:
        with record.path_of(".log").open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=root,
                env={**head_environment(head.address, extra_env), MARK: head.id},
            )
        head = replace(head, pid=process.pid)
        record.write(head)
        try:
            _wait_for(head, process, address_file, timeout_seconds)
        finally:  # the head outlives this process, or `_stop` ends it: prevents Popen's warning about a running child
            process.returncode = 0
        session = next(root.glob(f"session_*_{head.pid}"))
        head = replace(head, gcs_address=address_file.read_text().strip(), session_dir=str(session))
        record.write(head)
    except BaseException:  # Ctrl-C, too
        _stop(head, grace_seconds=5)
        raise
    return head


def _wait_for(head: Head, process: subprocess.Popen[bytes], address_file: Path, timeout_seconds: float) -> None:
    """Wait until the head answers. Raises ClusterError if it ends or the time is up, and _PortTaken."""
    port = urlsplit(head.address).port or 0
    deadline = time.time() + timeout_seconds
    while not (address_file.is_file() and _answers(head)):
        # Ray goes on without a dashboard if its port is taken, and writes this file last.
        if (address_file.is_file() or process.poll() is not None) and not is_free(port) and not _listens(head, port):
            raise _PortTaken
        if process.poll() is not None or time.time() > deadline:
            problem = "did not start" if process.poll() is not None else f"did not answer within {timeout_seconds:g} s"
            log_path = record.path_of(".log")
            raise ClusterError(f"the local Ray head {problem}: {_last_line(log_path)} (log: {log_path})")
        time.sleep(0.1)


def _listens(head: Head, port: int) -> bool:
    """Return whether one of the head's processes listens on this port, as far as this process may see that."""
    ports = listening_ports(marked_processes(head.pid, head.id))
    return port in ports or not ports


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
    record.remove()


def _prune(root: Path, keep: int = 4) -> None:
    """Remove the logs of all but the last `keep` sessions."""
    for session in sorted(root.glob("session_2*"), key=lambda path: path.stat().st_mtime)[:-keep]:
        shutil.rmtree(session, ignore_errors=True)


def _answers(head: Head, patience_seconds: float = 0.0) -> bool:
    """Return whether the head's dashboard answers, now or within `patience_seconds`.

    Without a proxy, and only one of the head's own processes is sent the token.
    """
    where = urlsplit(head.address)
    deadline = time.time() + patience_seconds
    while True:
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=5)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.connect()
            if _listens(head, where.port or 0):
                connection.request("GET", "/api/version", headers=auth_headers(head.address))
                # 401 and 403: alive, but with another token, which `connect` reports
                if connection.getresponse().status in (200, 401, 403):
                    return True
        if time.time() > deadline:
            return False
        time.sleep(0.2)


def _default_temp_dir() -> Path:
    """Return a directory of its own for each state directory, so that heads do not mix.

    Short, because the paths of Ray's sockets below it may have at most 107 characters.
    """
    name = uuid.uuid5(uuid.NAMESPACE_URL, str(state_home())).hex[:8]
    return Path(tempfile.gettempdir()) / f"arspm-{os.getuid()}-{name}"


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "its log is empty"

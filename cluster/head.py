"""A local Ray head on loopback with token authentication, started, found and stopped as this user's own.

`ray start` turns 127.0.0.1 into the machine's public address and always opens the Ray Client port; `ray stop` stops
every Ray of the machine. Hence the settings below and a state file that says which processes are ours.
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
from cluster.client import normal_address
from cluster.errors import ClusterError
from cluster.host import MARK, free_port, is_free, is_keeper, marked_processes, memory_bytes, own_directory

_GIB = 1 << 30
# `ray start` without the Ray Client server, which it has no switch for; SIGINT as programs expect to find it, even
# where we were started in the background, or a job would not hear that it is to stop.
_KEEPER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from ray.scripts import scripts
scripts.get_ray_client_dependency_error = lambda: "not wanted"
sys.argv[0] = "ray"
scripts.main()
"""


@dataclass(frozen=True)
class Head:
    """A local head: `address` is for the Jobs API, `gcs_address` for `ray.init`, `pid` the process that keeps it."""

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
    """Start this user's head and return once it answers; when one is up already, return that one as it is.

    None for a resource is Ray's own count; the object store gets 30 % of the memory, 4 GiB at most. A taken
    `dashboard_port` is replaced by a free one. `env` is added to what the head and all its jobs see.
    """
    with _lock():
        head = _read()
        if head is not None:
            if is_keeper(head.pid, head.id) and _answers(head.address, patience_seconds=30):
                return head
            _stop(head, grace_seconds=5)
        return _start(num_cpus, num_gpus, object_store_memory, temp_dir, dashboard_port, env or {}, timeout_seconds)


def down(*, grace_seconds: float = 15.0) -> Head | None:
    """Stop the head that `up` started, its jobs with it, and no other Ray. The head that was stopped, if any."""
    with _lock():
        head = _read()
        if head is not None:
            _stop(head, grace_seconds)
        return head


def current() -> Head | None:
    """This user's head, if its process lives."""
    head = _read()
    return head if head is not None and is_keeper(head.pid, head.id) else None


def find_head(address: str | None = None) -> str | None:
    """Where to send jobs: what was asked for, else RAY_API_SERVER_ADDRESS, else this user's own head, else nowhere."""
    asked = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if asked:
        return normal_address(asked)
    head = current()
    return head.address if head else None


def client_env(head: Head) -> dict[str, str]:
    """What a process outside the head needs in its environment, before it imports ray, to be a client of it."""
    env = {
        "RAY_API_SERVER_ADDRESS": head.address,
        "RAY_AUTH_MODE": "token",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else ray.init looks for 127.0.0.1 at the machine's public address
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
    own = own_directory(temp_dir or _default_temp_dir())
    root = own / "r"  # Ray opens its directory to all users; the one above is ours alone
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
        keeper = subprocess.Popen(
            [
                sys.executable,
                "-c",
                _KEEPER,
                "start",
                "--head",
                "--block",
                "--no-monitor",
                "--disable-usage-stats",
                *flags,
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=root,
            env={**_environment(address), **extra_env, MARK: identity},
        )
    head = Head(
        address=address,
        gcs_address="",
        pid=keeper.pid,
        id=identity,
        temp_dir=str(own),
        session_dir="",
        started_at=time.time(),
        started_by=f"{getpass.getuser()}@{socket.gethostname()}",
    )
    _write(head)
    deadline = time.time() + timeout_seconds
    while not (address_file.is_file() and _answers(head.address)):
        if keeper.poll() is not None or time.time() > deadline:
            what = "did not start" if keeper.poll() is not None else f"did not answer in {timeout_seconds:g} s"
            _stop(head, grace_seconds=5)
            raise ClusterError(f"the local Ray head {what}: {_last_line(log_path)} (log: {log_path})")
        time.sleep(0.1)
    keeper.returncode = 0  # it is to outlive us: say nothing about that when this object goes
    session = next(root.glob(f"session_*_{head.pid}"))
    head = replace(head, gcs_address=address_file.read_text().strip(), session_dir=str(session))
    _write(head)
    return head


def _environment(address: str) -> dict[str, str]:
    """The head's environment, which its jobs inherit. What the user has set wins, except where safety hangs on it."""
    loopback = "lo" if sys.platform == "linux" else "lo0"
    wanted = {
        "RAY_JOB_STOP_SIGNAL": "SIGINT",  # Train stops in an orderly way on no other
        "RAY_JOB_STOP_WAIT_TIME_S": "60",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # one node: there is nowhere to drain to
        "RAY_enable_metrics_collection": "0",  # nobody scrapes a local head
        # A log of Ray's is at most 192 MiB; only where this is said do those of workers rotate too.
        "RAY_ROTATION_MAX_BYTES": str(64 << 20),
        "RAY_ROTATION_BACKUP_COUNT": "2",
        # With more processes than CPUs Ray ends what is idle for a second, and the next task imports torch anew.
        "RAY_idle_worker_killing_time_threshold_ms": "120000",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the future default; without it every ray.init warns of it
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": loopback,
    }
    fixed = {
        "RAY_AUTH_MODE": "token",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else Ray replaces 127.0.0.1 by the machine's public address
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_API_SERVER_ADDRESS": address,  # a job may submit jobs
        "DASHBOARD_METRIC_PORT": str(free_port()),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",  # `python` is ours
    }
    if not os.environ.get("RAY_AUTH_TOKEN"):
        fixed["RAY_AUTH_TOKEN_PATH"] = str(token_file())
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return {**wanted, **inherited, **fixed}


def _stop(head: Head, grace_seconds: float) -> None:
    """SIGTERM to the keeper, which ends the rest in order; SIGKILL to whatever of the head is left."""
    if is_keeper(head.pid, head.id):
        with contextlib.suppress(ProcessLookupError):
            os.kill(head.pid, signal.SIGTERM)
    deadline = time.time() + grace_seconds
    while (left := marked_processes(head.pid, head.id)) and time.time() < deadline:
        time.sleep(0.2)
    while left:
        for process in left:
            with contextlib.suppress(Exception):
                process.kill()  # psutil makes sure that the pid is still this process
        time.sleep(0.2)
        left = marked_processes(head.pid, head.id)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(head.pid, os.WNOHANG)  # ours, when this process started it
    for part in Path(head.session_dir or "/nowhere").glob("*/"):
        if part.name != "logs":
            shutil.rmtree(part, ignore_errors=True)  # spilled objects, unpacked code, sockets
    _state_file().unlink(missing_ok=True)


def _prune(root: Path, keep: int = 4) -> None:
    """Remove the logs of all but the last few sessions."""
    for session in sorted(root.glob("session_2*"), key=lambda path: path.stat().st_mtime)[:-keep]:
        shutil.rmtree(session, ignore_errors=True)


def _answers(address: str, patience_seconds: float = 0.0) -> bool:
    deadline = time.time() + patience_seconds
    while True:
        request = urllib.request.Request(f"{address}/api/version", headers=auth_headers(address))
        try:
            # No proxy: the address is on this machine.
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5):
                return True
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (401, 403):
                return True  # alive, with another token than ours: `connect` says so
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
    """One per state directory, so that heads do not mix; short, for Ray's sockets lie below it (107 characters)."""
    name = uuid.uuid5(uuid.NAMESPACE_URL, str(state_home())).hex[:8]
    return Path(tempfile.gettempdir()) / f"arspm-{os.getuid()}-{name}"


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"

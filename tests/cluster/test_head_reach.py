"""Local heads of their own: behind a proxy, with nodes that come and go, for a user without a name, and interrupted."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import client as jobs
from cluster import head as heads
from cluster import record
from cluster.access import token_file
from cluster.host import free_port, is_free, listening_ports, marked_processes
from tests.cluster.listeners import Proxy
from tests.cluster.test_homes import NAMELESS, NO_NAMESPACES, REPO, arspm

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PROXIES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "grpc_proxy")
SMALL = {"num_cpus": 1, "object_store_memory": 100_000_000}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state directory; no process and no record of a head is left in it."""
    monkeypatch.setenv("ARSPM_HOME", str(tmp_path / "home"))
    yield tmp_path / "home"
    stopped = heads.down()
    if stopped:
        assert marked_processes(stopped.pid, stopped.id) == []
        shutil.rmtree(stopped.temp_dir, ignore_errors=True)


def behind_a_proxy(proxy: Proxy, folder: Path) -> dict[str, str]:
    """Return the environment of a user whose every request goes through the proxy, with a password for all hosts."""
    (folder / ".netrc").write_text("default login me password private\n")
    return {**dict.fromkeys(PROXIES, proxy.url), "HOME": str(folder)}


JOB = """
import ray, requests
from ray.util.state import list_nodes
ray.init(log_to_driver=False)
print("nodes:", [node.state for node in list_nodes()])  # over HTTP, with the token, as Ray Train does
print("store:", requests.get("http://s3.example/bucket").status_code)
"""


def test_only_requests_to_other_hosts_pass_through_a_proxy(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those to the head, not the token, and no report of usage."""
    (tmp_path / "job.py").write_text(JOB)
    with Proxy() as proxy:
        for name, value in behind_a_proxy(proxy, tmp_path).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        token = token_file().read_text()
        head = heads.up(**SMALL, dashboard_port=free_port())
        client = jobs.connect(head.address)
        jobs.submit(client, submission_id="behind", entrypoint=f"python {tmp_path / 'job.py'}")
        lines: list[str] = []
        job = jobs.wait(client, "behind", lines.append)
        assert job.status == "SUCCEEDED", lines
        assert "nodes: ['ALIVE']" in lines
        assert "store: 502" in lines
        time.sleep(10)  # Ray reports its usage soon after the start
        assert heads.down() == head
        received = b"\n".join(proxy.received)
        assert token.encode() not in received
        assert [each.partition(b" HTTP")[0] for each in proxy.received] == [b"GET http://s3.example/bucket"]


def test_capacity_follows_more_than_a_hundred_nodes_that_live_and_die(
    home: Path, wait_until: Callable[..., None]
) -> None:
    """The nodes are registered with the real GCS, whose health checks find later that nothing answers there."""
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import gcs_pb2, gcs_service_pb2, gcs_service_pb2_grpc

    head = heads.up(**SMALL, dashboard_port=free_port())
    client = jobs.connect(head.address)
    assert jobs.capacity(client).num_cpus == 1
    with init_grpc_channel(head.gcs_address) as channel:
        gcs = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
        for _ in range(150):
            info = gcs_pb2.GcsNodeInfo(
                node_id=os.urandom(28),
                node_manager_address="127.0.0.1",
                node_manager_port=free_port(),
                state=gcs_pb2.GcsNodeInfo.ALIVE,
                resources_total={"CPU": 2.0, "GPU": 1.0},
                start_time_ms=int(time.time() * 1000),
            )
            gcs.RegisterNode(gcs_service_pb2.RegisterNodeRequest(node_info=info), timeout=10)
    full = jobs.capacity(client)
    assert (full.num_cpus, full.num_gpus) == (301, 150)
    wait_until(lambda: jobs.capacity(client).num_cpus == 1, seconds=120)
    assert jobs.capacity(client).num_gpus == 0


@pytest.mark.skipif(NO_NAMESPACES, reason="needs user namespaces")
@pytest.mark.parametrize("variable", ["HOME", "ARSPM_HOME"])
def test_a_user_without_a_name_starts_and_stops_a_head(variable: str, tmp_path: Path) -> None:
    """With a home directory, or with nothing but the state directory."""
    environment = {variable: str(tmp_path)}
    shown = arspm("up --cpus 1", NAMELESS, **environment)
    try:
        assert shown.startswith("Ray answers at http://127.0.0.1:"), shown
        [path] = tmp_path.rglob("head-*.json")
        head = record._load(path)
        assert head is not None
        assert head.started_by.startswith("54321@")
        assert len(marked_processes(head.pid, head.id)) > 3
    finally:
        assert arspm("down", NAMELESS, **environment) == shown.partition(";")[0].replace(
            "Ray answers", "stopped the Ray head"
        )
    assert marked_processes(head.pid, head.id) == []
    shutil.rmtree(head.temp_dir, ignore_errors=True)


@pytest.mark.parametrize("seconds", [0.0, 3.0])
def test_a_head_whose_start_was_killed_is_stopped_by_down(home: Path, seconds: float) -> None:
    program = "from cluster.head import up; up(num_cpus=1, object_store_memory=100_000_000)"
    starting = subprocess.Popen([sys.executable, "-c", program], cwd=REPO)
    deadline = time.time() + 60
    while (head := record.read()) is None or not head.pid:
        assert time.time() < deadline
        time.sleep(0.01)
    time.sleep(seconds)
    starting.send_signal(signal.SIGKILL)
    starting.wait()
    assert marked_processes(head.pid, head.id)
    assert heads.down() == head
    assert marked_processes(head.pid, head.id) == []
    shutil.rmtree(head.temp_dir, ignore_errors=True)


def test_a_head_that_was_half_started_is_replaced(home: Path) -> None:
    program = "from cluster.head import up; up(num_cpus=1, object_store_memory=100_000_000)"
    starting = subprocess.Popen([sys.executable, "-c", program], cwd=REPO)
    while (half := record.read()) is None or not half.pid:
        time.sleep(0.01)
    starting.kill()
    starting.wait()
    head = heads.up(**SMALL, dashboard_port=free_port())
    assert head.id != half.id
    assert marked_processes(half.pid, half.id) == []
    assert head.gcs_address


def test_a_port_that_is_taken_during_the_start_is_replaced(home: Path) -> None:
    """By a server that would answer to a token, as another user's head would."""
    port, received = free_port(), []

    def take() -> None:
        while record.read() is None:
            time.sleep(0.01)
        with socket.create_server(("127.0.0.1", port)) as server:
            server.settimeout(60)
            while not finished.is_set():
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(1)
                    try:
                        received.append(connection.recv(4096))
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                    except OSError:
                        pass

    finished = threading.Event()
    threading.Thread(target=take, daemon=True).start()
    head = heads.up(**SMALL, dashboard_port=port)
    finished.set()
    assert head.address != f"http://127.0.0.1:{port}"
    assert not is_free(port)
    assert not any(b"Bearer" in each for each in received)
    own = int(head.address.rpartition(":")[2])
    assert own in listening_ports(marked_processes(head.pid, head.id))
    assert jobs.connect(head.address)


@pytest.mark.long
def test_two_heads_that_start_at_once_get_two_ports(tmp_path: Path) -> None:
    port = str(free_port())
    program = (
        "import sys; from cluster.head import up\n"
        "print(up(num_cpus=1, object_store_memory=100_000_000, dashboard_port=int(sys.argv[1])).address)"
    )
    homes = [tmp_path / name for name in "ab"]
    starting = [
        subprocess.Popen(
            [sys.executable, "-c", program, port],
            env={**os.environ, "ARSPM_HOME": str(home)},
            cwd=REPO,
            stdout=subprocess.PIPE,
            text=True,
        )
        for home in homes
    ]
    found: list[Any] = []
    try:
        addresses = {process.communicate(timeout=240)[0].strip() for process in starting}
        assert len(addresses) == 2
        assert all(address.startswith("http://127.0.0.1:") for address in addresses)
    finally:
        with pytest.MonkeyPatch.context() as patch:
            for home in homes:
                patch.setenv("ARSPM_HOME", str(home))
                found.append(heads.down())
    for head in found:
        assert marked_processes(head.pid, head.id) == []
        shutil.rmtree(head.temp_dir, ignore_errors=True)

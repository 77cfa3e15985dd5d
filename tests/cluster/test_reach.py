"""Addresses at which no dashboard answers: one line says what is there, and what to pass instead."""

from __future__ import annotations

import http.server
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest
from ray._common.tls_utils import add_port_to_grpc_server

from cluster import client as jobs
from cluster import tls
from cluster.client import connect, normalize_address
from cluster.errors import ClusterError, Unreachable
from tests.cluster.listeners import TOKEN, Dashboard, Proxy, serving, with_tls

PORT = "pass the port of Ray's dashboard, 8265 unless it was changed"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    tls.make_authority(folder)
    tls.make_node(folder, folder, ["127.0.0.1"])
    return folder


def error_of(address: str) -> ClusterError:
    with pytest.raises(ClusterError) as caught:
        connect(address)
    assert "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value)
    return caught.value


@contextmanager
def gcs(certificates: Path | None) -> Iterator[int]:
    """A gRPC server as Ray's GCS is one: on a bare port, or with the certificates that both sides must have."""
    names = {"SERVER_CERT": tls.NODE_CERT, "SERVER_KEY": tls.NODE_KEY, "CA_CERT": tls.CA_CERT}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USE_TLS", "1" if certificates else "0")
        for name, file in names.items():
            patch.setenv(f"RAY_TLS_{name}", str((certificates or Path()) / file))
        server = grpc.server(ThreadPoolExecutor(1))
        port = add_port_to_grpc_server(server, "127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(grace=None).wait()


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("secure", [False, True])
def test_the_port_of_the_gcs(scheme: str, secure: bool, certificates: Path) -> None:
    with gcs(certificates if secure else None) as port:
        address = f"{scheme}://127.0.0.1:{port}"
        assert str(error_of(address)) == f"{address} is a gRPC port, such as that of Ray's GCS: {PORT}"


class Website(http.server.BaseHTTPRequestHandler):
    """Answers every path with its start page, as applications with pages of their own do."""

    status, body, headers_sent = 200, b"<!DOCTYPE html><title>Other</title>", {}

    def do_GET(self) -> None:
        self.send_response(self.status)
        for name, value in self.headers_sent.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (200, Website.body, "its answer contains no version of Ray"),
        (200, b"{}", "its answer contains no version of Ray"),
        (200, b"[]", "its answer contains no version of Ray"),
        (404, b"", "Version check returned 404"),
        (500, b"", "500 Server Error: Internal Server Error"),
    ],
)
def test_the_port_of_another_web_server(status: int, body: bytes, message: str) -> None:
    handler = type("Handler", (Website,), {"status": status, "body": body})
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as port:
        address = f"http://127.0.0.1:{port}"
        assert str(error_of(address)) == f"{address} answers, but is not a Ray head: {message}; {PORT}"


def test_a_web_server_with_a_password_of_its_own() -> None:
    for status, name in ((401, "Unauthorized"), (403, "Forbidden")):
        handler = type("Handler", (Website,), {"status": status, "body": b"Log in"})
        with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as port:
            address = f"http://127.0.0.1:{port}"
            message = f"{address} answers {status} {name}, but not as a Ray head does: {PORT}; if a server in front of"
            assert str(error_of(address)).startswith(message)


def test_a_redirection_is_named_and_not_followed() -> None:
    """The token would go to a host that the user did not name."""
    elsewhere = Dashboard()
    with serving(elsewhere) as target:
        headers = {"Location": f"http://localhost:{target}/login?next=secret"}
        handler = type("Handler", (Website,), {"status": 302, "headers_sent": headers})
        with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as port:
            message = str(error_of(f"127.0.0.1:{port}"))
    where = f"http://127.0.0.1:{port} redirects to http://localhost:{target}/login"
    assert message == f"{where}: pass the address of the dashboard itself"
    assert elsewhere.authorizations == []


def test_http_to_a_port_with_tls_and_the_reverse(certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(with_tls(Dashboard(), certificates)) as port:
        assert str(error_of(f"127.0.0.1:{port}")) == (
            f"http://127.0.0.1:{port} answers with TLS: write https://127.0.0.1:{port}"
        )
        assert str(error_of(f"https://127.0.0.1:{port}")) == (
            f"the certificate of https://127.0.0.1:{port} is not accepted (unable to get local issuer certificate): "
            "set REQUESTS_CA_BUNDLE to the file with its authority's certificate"
        )
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates / tls.CA_CERT))
        assert connect(f"https://127.0.0.1:{port}")._do_request("GET", "/api/version").ok
    with serving(Dashboard()) as port:
        assert str(error_of(f"https://127.0.0.1:{port}")) == (
            f"https://127.0.0.1:{port} answers without TLS: write http://127.0.0.1:{port}"
        )


def test_a_web_server_that_tells_in_http_that_it_expects_tls(certificates: Path) -> None:
    """As nginx and servers written in Go do."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / tls.NODE_CERT, certificates / tls.NODE_KEY)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    if connection.recv(1, socket.MSG_PEEK) == b"\x16":
                        context.wrap_socket(connection, server_side=True).close()
                    elif connection.recv(65536):
                        connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent HTTP to an HTTPS server.\n")
                except OSError:
                    pass

    threading.Thread(target=serve, daemon=True).start()
    port = listener.getsockname()[1]
    try:
        assert "answers with TLS: write https://" in str(error_of(f"127.0.0.1:{port}"))
    finally:
        listener.close()


@pytest.mark.parametrize(
    "banner", [b"SSH-2.0-OpenSSH_9.2\r\n", b"-ERR unknown command 'GET'\r\n", b"J\0\0\0\n8.0.36\0"]
)
def test_the_port_of_a_service_that_does_not_speak_http(banner: bytes) -> None:
    with Proxy(banner) as service:
        message = str(error_of(service.url))
    assert message == f"{service.url} is the port of another service, which does not speak HTTP: {PORT}"


def dripping(connection: socket.socket) -> None:
    """Send a byte of an answer at a time, without end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"x")
        time.sleep(0.05)


@pytest.mark.parametrize("says", [lambda connection: time.sleep(60), dripping])
def test_a_port_that_never_answers_is_an_error_after_a_bounded_wait(
    says: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.connection._CONTACT_SECONDS", 2.0)
    monkeypatch.setattr("cluster.listeners._SECONDS", 0.3)
    listener = socket.create_server(("127.0.0.1", 0))

    def talk(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            says(connection)

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    started = time.monotonic()
    try:
        error = error_of(address)
    finally:
        listener.close()
    assert time.monotonic() - started < 10
    if says is not dripping:
        assert isinstance(error, Unreachable)
        assert str(error) == f"no Ray head answers at {address}: it accepts connections but gives no answer; {PORT}"


def test_a_name_that_does_not_exist() -> None:
    error = error_of("no-such-host.invalid:8265")
    assert isinstance(error, Unreachable)
    reason = "the host's name cannot be resolved; check --ray-address"
    assert str(error) == f"no Ray head answers at http://no-such-host.invalid:8265: {reason}"


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:99999", "127.0.0.1:port", "http://[::1:8265", "http://:8265", ""]
)
def test_what_cannot_be_an_address(address: str) -> None:
    with pytest.raises(ClusterError, match="is not the address of a Ray dashboard: write it as http://HOST:8265"):
        normalize_address(address)


def test_an_error_never_shows_a_password() -> None:
    with Proxy() as gone:
        pass
    assert "private" not in str(error_of(f"http://me:private@127.0.0.1:{gone.port}"))


# --- the nodes of a cluster


def node(number: int, state: str) -> dict[str, object]:
    total = {"CPU": 4.0, "GPU": 1.0, "memory": 8e9} if state == "ALIVE" else {}
    return {"node_id": f"{number:056x}", "state": state, "resources_total": total}


@pytest.mark.parametrize("alive", [range(150, 170), range(0, 250), range(0, 320, 2)])
def test_capacity_counts_all_live_nodes_and_no_others(alive: range) -> None:
    """By default Ray lists the first 100 nodes by their ids, dead ones included."""
    nodes = [node(number, "ALIVE" if number in alive else "DEAD") for number in range(320)]
    with serving(Dashboard(nodes=nodes)) as port:
        capacity = jobs.capacity(connect(f"127.0.0.1:{port}"))
    assert capacity.num_cpus == 4 * len(alive)
    assert capacity.num_gpus == len(alive)
    assert capacity.memory_bytes == 8e9 * len(alive)


def test_a_head_that_does_not_list_all_live_nodes_is_an_error() -> None:
    dashboard = Dashboard(nodes=[node(number, "ALIVE") for number in range(320)])
    dashboard.max_limit = 150
    with serving(dashboard) as port:
        client = connect(f"127.0.0.1:{port}")
        with pytest.raises(
            Unreachable, match=r"lists only 150 of its 320 live nodes: start it with RAY_MAX_LIMIT_FROM_"
        ):
            jobs.capacity(client)
        dashboard.nodes = dashboard.nodes[:150]
        assert jobs.capacity(client).num_cpus == 600


def head_of(memory_gib: float, group: str = "") -> dict[str, object]:
    labels = {"ray.io/node-group": group} if group else {"ray.io/node-id": "1"}
    total = {"memory": memory_gib * 2**30}
    return {**node(0, "ALIVE"), "resources_total": total, "is_head_node": True, "labels": labels}


def test_a_cluster_grows_if_an_autoscaler_started_a_node() -> None:
    for nodes, grows in (
        ([head_of(8)], False),
        ([head_of(8, "head-group")], True),
        ([head_of(8), {**node(1, "ALIVE"), "labels": {"ray.io/node-group": "spot"}}], True),
        ([head_of(8), {**node(1, "DEAD"), "labels": {"ray.io/node-group": "spot"}}], False),
    ):
        with serving(Dashboard(nodes=nodes)) as port:
            assert jobs.capacity(connect(f"127.0.0.1:{port}")).grows is grows


@pytest.mark.parametrize("nodes", [[node(1, "ALIVE")], [head_of(0)]])
def test_a_head_that_shows_no_memory_has_no_limit(nodes: list[dict[str, object]]) -> None:
    with serving(Dashboard(nodes=nodes)) as port:
        client = connect(f"127.0.0.1:{port}")
        assert jobs.capacity(client).free_drivers is None
        jobs.require_driver_room(client)


def test_a_head_has_room_for_drivers_as_its_memory_allows() -> None:
    dashboard = Dashboard(nodes=[head_of(8), node(1, "ALIVE")])
    for status in ("RUNNING", "PENDING", "SUCCEEDED", "FAILED"):
        dashboard.add_job("run", "stage", status)
    room = int(8 * 2**30 / jobs.DRIVER_BYTES)
    with serving(dashboard) as port:
        client = connect(f"127.0.0.1:{port}")
        assert jobs.capacity(client).free_drivers == room - 2
        jobs.require_driver_room(client)
        for _ in range(room - 3):
            dashboard.add_job("run", "stage", "RUNNING")
        with pytest.raises(ClusterError, match=f"no further driver beside its {room - 1} jobs: wait until some have"):
            jobs.require_driver_room(client)

"""Servers on loopback that a Ray client may meet: one that answers as a dashboard does, and a proxy that records."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "0123456789abcdef" * 4


class Dashboard(http.server.ThreadingHTTPServer):
    """Answers as Ray 2.60's dashboard does: its version, its nodes and its jobs, to requests with the token.

    nodes: rows of the State API. max_limit: of RAY_MAX_LIMIT_FROM_API_SERVER. authorizations: what it was sent. jobs:
    rows of the Jobs API, by id, and logs: their logs. A job that is asked to stop ends at once.
    """

    daemon_threads = True

    def __init__(self, address: str = "127.0.0.1", nodes: list[dict[str, Any]] | None = None) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        super().__init__((address, 0), _Answers)
        self.nodes, self.max_limit = nodes or [], 10_000
        self.authorizations: list[str | None] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.logs: dict[str, str] = {}
        self.most_lines = 0  # that a request for the end of a log asked for

    def add_job(self, run: str, stage: str, status: str, *, log: str = "", age: float = 60.0, **fields: Any) -> str:
        """Add a job that began `age` seconds ago and, unless it is alive, ended half of that ago. Returns its id."""
        job, metadata = f"arspm-{stage}-{len(self.jobs)}", {"run": run, "stage": stage, **fields.pop("metadata", {})}
        started = int((time.time() - age) * 1000)
        row = {"type": "SUBMISSION", "submission_id": job, "entrypoint": "true", "status": status, "message": ""}
        row |= {
            "metadata": metadata,
            "start_time": started,
            "driver_node_id": "n1",
            "error_type": None,
            "driver_exit_code": None,
            "end_time": None,
        }
        if status not in ("PENDING", "RUNNING"):
            row["end_time"] = started + int(age * 500)
        job = fields.get("submission_id", job)
        self.jobs[job], self.logs[job] = {**row, "submission_id": job, **fields}, log
        return job

    def answer_on_jobs(self, path: str, query: dict[str, list[str]]) -> tuple[int, bytes]:
        if path == "/api/jobs/":
            return 200, json.dumps([*self.jobs.values()]).encode()
        if path == "/api/v0/logs/file":
            if not query.get("node_id"):
                return 500, b"500 Internal Server Error"
            lines = int(query["lines"][0])
            self.most_lines = max(self.most_lines, lines)
            return 200, "".join(self.logs[query["submission_id"][0]].splitlines(keepends=True)[-lines:]).encode()
        job, _, what = path.removeprefix("/api/jobs/").partition("/")
        if job not in self.jobs:
            return 404, b"404: Not Found"
        if what == "logs":
            return 200, json.dumps({"logs": self.logs[job]}).encode()
        if what == "stop":
            self.jobs[job] |= {"status": "STOPPED", "end_time": int(time.time() * 1000)}
            return 200, json.dumps({"stopped": True}).encode()
        return 200, json.dumps(self.jobs[job]).encode()

    def list_nodes(self, query: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        limit = int(query.get("limit", ["100"])[0])
        if limit > self.max_limit:
            msg = f"Given limit {limit} exceeds the supported limit {self.max_limit}. Use a lower limit, or set the "
            return 400, {"result": False, "msg": msg, "data": {"result": None}}
        [wanted] = query.get("filter_values", [""])
        rows = [node for node in self.nodes if wanted in ("", node["state"])]
        rows.sort(key=lambda row: row["node_id"])
        listed = {"total": len(self.nodes), "num_after_truncation": len(rows), "num_filtered": len(rows)}
        return 200, {"result": True, "msg": "", "data": {"result": {**listed, "result": rows[:limit]}}}


class _Answers(http.server.BaseHTTPRequestHandler):
    server: Dashboard
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.authorizations.append(self.headers["Authorization"])
        url = urlsplit(self.path)
        if self.headers["Authorization"] is None:
            return self._reply(401, b"Unauthorized: Missing authentication token")
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self._reply(403, b"Forbidden: Invalid authentication token")
        if url.path == "/api/version":
            version = {"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": "session_1"}
            return self._reply(200, json.dumps(version).encode())
        if url.path == "/api/v0/nodes":
            status, body = self.server.list_nodes(parse_qs(url.query))
            return self._reply(status, json.dumps(body).encode())
        if url.path.startswith(("/api/jobs/", "/api/v0/logs/file")):
            return self._reply(*self.server.answer_on_jobs(url.path, parse_qs(url.query)))
        return self._reply(404, b"404: Not Found")

    do_POST = do_GET

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def serving(server: http.server.HTTPServer) -> Iterator[int]:
    """Serve in the background while the block runs; gives the port."""
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


class Proxy:
    """A port that records what it is sent. Answers each connection with `answer`, then closes it; b"" says nothing."""

    def __init__(
        self, answer: bytes = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    ) -> None:
        self.received: list[bytes] = []
        self._answer, self._socket = answer, socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes `accept`, which would otherwise serve one more connection
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(2)
            self.received.append(b"")
            at = len(self.received) - 1
            self.received[at] += connection.recv(65536)
            connection.sendall(self._answer)


def with_tls(server: http.server.HTTPServer, certificates: Path) -> http.server.HTTPServer:
    """Return the server, which now answers with TLS and the certificate in the folder, as `cluster.tls` writes it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "tls.crt", certificates / "tls.key")
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    return server

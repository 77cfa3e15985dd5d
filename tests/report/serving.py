"""A client that sends requests as given, and sweep folders to serve."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

from arspm import storage

PAGE = b"<!doctype html><title>the sweep</title>"


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Client(NamedTuple):
    """Sends requests as given: http.client changes neither path nor Host.

    Paths are below `root`, which is the token's path, and empty for a stranger.
    """

    port: int
    root: str = ""

    @property
    def token(self) -> str:
        return self.root.removeprefix("/")

    @property
    def stranger(self) -> Client:
        return Client(self.port)

    def __call__(self, path: str, method: str = "GET", **headers: str) -> Reply:
        headers = {"Host": f"127.0.0.1:{self.port}", **{name.replace("_", "-"): v for name, v in headers.items()}}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.putrequest(method, self.root + path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            reply = connection.getresponse()
            return Reply(reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read())
        finally:
            connection.close()

    def raw(self, data: bytes) -> bytes:
        """Return the response to raw bytes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b""))


Serve = Callable[[str], Client]


def results(state: str = "running", **changes: Any) -> dict[str, Any]:
    counts = {"planned": 16, "waiting": 8, "running": 2, "finished": 3, "stopped": 2, "failed": 1, "interrupted": 0}
    trials = [{"number": 0, "best": 40.0}, {"number": 3, "best": 38.123}]
    sweep = {"name": "s", "metric": "val_cos_degrees"}
    made = {"sweep": sweep, "state": state, "updated": 1_790_000_000.0, "counts": counts, "trials": trials, "best": 3}
    return {**made, **changes}


def write_sweep(run: str, name: str = "loss_weights", page: bytes | None = PAGE, **changes: Any) -> str:
    """Write a sweep's folder and return its URI. With page None the sweep has no results yet."""
    folder = storage.join(run, "sweeps", name)
    storage.write_json(storage.join(folder, "sweep.json"), {"name": name})
    storage.write_json(storage.join(folder, "trials", "00000.json"), {"number": 0})
    if page is not None:
        storage.write_json(storage.join(folder, "results.json"), results(**changes))
        storage.write_bytes(storage.join(folder, "index.html"), page)
    return folder

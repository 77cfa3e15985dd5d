"""A site of videos for tests: a web server with ranges, which can throttle, refuse, be slow and break off."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Request(NamedTuple):
    """What was asked for, and what was sent."""

    method: str
    path: str
    range: str
    status: int
    cookie: str
    time: float


class VideoServer(ThreadingHTTPServer):
    """Serves `files` at /<name>. All settings are by name.

    without_ranges: names that are only sent as a whole. statuses: the status of the next replies; the last one of a
    list that ends with None is sent for ever. cut_off: how many replies break off in the middle. delay: seconds before
    a reply. retry_after: the header of a 429.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.files: dict[str, bytes] = {}
        self.without_ranges: set[str] = set()
        self.statuses: dict[str, list[int | None]] = {}
        self.cut_off: Counter[str] = Counter()
        self.delay: dict[str, float] = {}
        self.retry_after = "0"
        self.requests: list[Request] = []
        self.bytes_sent: Counter[str] = Counter()
        self.lock = threading.Lock()

    def of(self, name: str) -> list[Request]:
        """Return the requests for a file."""
        return [each for each in self.requests if each.path == f"/{name}"]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: clients break off on purpose."""


@contextlib.contextmanager
def video_server() -> Iterator[VideoServer]:
    server = VideoServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: VideoServer

    def _reply(self) -> None:
        name = self.path[1:]
        server = self.server
        time.sleep(server.delay.get(name, 0.0))
        with server.lock:
            planned = server.statuses.get(name, [])
            status = planned[0] if planned and planned[0] else 0
            if planned and planned[1:] != [None]:
                planned.pop(0)
            cut = not status and server.cut_off[name] > 0 and self.command == "GET"
            server.cut_off[name] -= cut
        data = server.files.get(name)
        if status or data is None:
            self._send(name, status or 404, b"no")
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None or name in server.without_ranges:
            self._send(name, 200, data, cut=cut)
            return
        first, last = int(asked[1]), min(int(asked[2] or len(data) - 1), len(data) - 1)
        if first > last:
            self._send(name, 416, b"", {"Content-Range": f"bytes */{len(data)}"})
            return
        ranged = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
        self._send(name, 206, data[first : last + 1], ranged, cut=cut)

    do_GET = do_HEAD = _reply

    def _send(self, name: str, status: int, data: bytes, headers: dict[str, str] | None = None, *, cut: bool = False):
        server = self.server
        with server.lock:
            server.requests.append(
                Request(
                    self.command,
                    self.path,
                    self.headers.get("Range", ""),
                    status,
                    self.headers.get("Cookie", ""),
                    time.monotonic(),
                )
            )
        self.send_response(status)
        self.send_header(
            "Content-Type", "video/mp4" if status in (200, 206) and not name.endswith("html") else "text/html"
        )
        self.send_header("Content-Length", str(len(data)))
        if status in (200, 206) and name not in server.without_ranges:
            self.send_header("Accept-Ranges", "bytes")
        if status == 429:
            self.send_header("Retry-After", server.retry_after)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        sent = data[: len(data) // 2] if cut else data
        with contextlib.suppress(OSError):
            for begin in range(0, len(sent), 1 << 14):
                self.wfile.write(sent[begin : begin + (1 << 14)])
                with server.lock:
                    server.bytes_sent[name] += len(sent[begin : begin + (1 << 14)])
        if cut:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""

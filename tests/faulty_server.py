"""An HTTP proxy before a real S3 server that fails by order, so that each fault comes when the test wants it."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit

# Nothing of these reaches the server behind.
SLOW_DOWN = "503 SlowDown"
INTERNAL_ERROR = "500 InternalError"
QUOTING_SLOW_DOWN = "503 SlowDown that quotes the request's credentials"
REFUSED = "403 SignatureDoesNotMatch, which quotes them too"
NO_SUCH_UPLOAD = "404 NoSuchUpload"
NONE_DELETED = "200 and nothing deleted"
RESET = "a reset before the reply"
STALL = "no reply"
# The server behind has done what was asked.
LOST_REPLY = "a reset instead of the reply"
TORN = "half of the body and the end"
RESET_BODY = "half of the body and a reset"
STALLED_BODY = "half of the body and no more"

# What S3 says.
ERROR = "<Error><Code>{}</Code><Message>{}</Message>{}<RequestId>4442587FB7D0A2F9</RequestId></Error>"
REPLIES = {
    SLOW_DOWN: (503, ERROR.format("SlowDown", "Please reduce your request rate.", "")),
    INTERNAL_ERROR: (500, ERROR.format("InternalError", "We encountered an internal error. Please try again.", "")),
    REFUSED: (
        403,
        ERROR.format(
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided. It was for {key}.",
            "<AWSAccessKeyId>{key}</AWSAccessKeyId><StringToSign>AWS4-HMAC-SHA256 {key} {token}</StringToSign>",
        ),
    ),
    QUOTING_SLOW_DOWN: (503, ERROR.format("SlowDown", "Too many requests of {key} with {token}.", "")),
    NO_SUCH_UPLOAD: (404, ERROR.format("NoSuchUpload", "The specified multipart upload does not exist.", "")),
    NONE_DELETED: (
        200,
        "<DeleteResult><Error><Key>a</Key><Code>InternalError</Code><Message>again</Message></Error></DeleteResult>",
    ),
}


class Order(NamedTuple):
    """A fault for the next `times` requests of a method (any, if empty) whose path and query hold a text."""

    fault: str
    method: str
    text: str
    times: int


class FaultyServer(ThreadingHTTPServer):
    """Passes every request on to `upstream` (http://host:port), but for those that an order is for.

    `seen`: method -> requests of it that came. `done`: fault -> how often it struck.
    """

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.seen: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self._orders: list[Order] = []
        self._lock = threading.Lock()
        self.closing = threading.Event()

    def order(self, fault: str, *, times: int = 1, method: str = "", text: str = "") -> None:
        """One more order. Of several that fit a request the first one given, while it lasts, is carried out."""
        with self._lock:
            self._orders.append(Order(fault, method, text, times))

    def fault_for(self, method: str, path: str) -> str | None:
        with self._lock:
            self.seen[method] += 1
            for number, order in enumerate(self._orders):
                if order.times and order.method in ("", method) and order.text in path:
                    self._orders[number] = order._replace(times=order.times - 1)
                    self.done[order.fault] += 1
                    return order.fault
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: clients hang up on a stall, and that is what the tests are about."""


@contextlib.contextmanager
def faulty_server(upstream: str) -> Iterator[FaultyServer]:
    server = FaultyServer(upstream)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # the class answers `Expect: 100-continue` and keeps connections
    disable_nagle_algorithm = True
    server: FaultyServer

    def _handle(self) -> None:
        body = self._request_body()
        fault = self.server.fault_for(self.command, self.path)
        if fault in REPLIES:
            self._send_error(*REPLIES[fault])
        elif fault == RESET:
            self._reset()
        elif fault == STALL:
            self._stall()
        else:
            self._pass_on(body, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def _request_body(self) -> bytes:
        """The body as it came, chunks with their framing: the signature is over what they hold."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while True:
            line = self.rfile.readline()
            size = int(line.split(b";")[0], 16)
            pieces += [line, self.rfile.read(size + 2)]
            if not size:
                return b"".join(pieces)

    def _pass_on(self, body: bytes, fault: str | None) -> None:
        behind = http.client.HTTPConnection(self.server.upstream.hostname or "", self.server.upstream.port, timeout=60)
        with contextlib.closing(behind):
            behind.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):
                    behind.putheader(name, value)
            behind.endheaders()
            behind.send(body)
            reply = behind.getresponse()
            content = reply.read()
        if fault == LOST_REPLY:
            self._reset()
            return
        length = reply.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        self.send_response_only(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if fault is None:
            self.wfile.write(content)
            return
        assert content, f"{fault} ordered for a reply without a body: {self.command} {self.path}"
        self.wfile.write(content[: len(content) // 2])
        self.wfile.flush()
        if fault == TORN:
            self.close_connection = True
        elif fault == RESET_BODY:
            self._reset()
        else:
            self._stall()

    def _send_error(self, status: int, text: str) -> None:
        signed = re.search(r"Credential=([^/]+)/", self.headers.get("Authorization", ""))
        quoted = {"key": signed[1] if signed else "", "token": self.headers.get("X-Amz-Security-Token", "")}
        content = ('<?xml version="1.0" encoding="UTF-8"?>\n' + text.format(**quoted)).encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _reset(self) -> None:
        """End the connection with an RST: a socket that lingers for no time sends no FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _stall(self) -> None:
        """Say nothing until the client or the test has gone."""
        self.connection.settimeout(0.1)
        while not self.server.closing.is_set():
            try:
                if not self.connection.recv(1 << 16):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        self.close_connection = True

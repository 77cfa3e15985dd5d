"""An HTTP proxy in front of a real S3 server that injects faults, or imitates a store that lacks something."""

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

# With these faults, the request does not reach the server.
SLOW_DOWN = "503 SlowDown"
INTERNAL_ERROR = "500 InternalError"
QUOTING_SLOW_DOWN = "503 SlowDown that quotes the request's credentials"
DENIED = "403 SignatureDoesNotMatch that quotes the request's credentials"
NO_SUCH_UPLOAD = "404 NoSuchUpload"
NO_EMPTY_OBJECT = "400 for an object of 0 bytes"
NOT_IMPLEMENTED = "501 NotImplemented"
EXPIRED = "400 ExpiredToken"
EXPIRED_BY_STS = "403 ExpiredTokenException"
REQUEST_EXPIRED = "403 RequestExpired"
WRONG_TOKEN = "400 InvalidToken"
WRONG_CLOCK = "403 RequestTimeTooSkewed"
RESET = "a reset before the reply"
STALL = "no reply"
# With these faults, the server has processed the request.
LOST_REPLY = "a reset instead of the reply"
TRUNCATED = "half of the body, then a closed connection"
RESET_BODY = "half of the body, then a reset"
STALLED_BODY = "half of the body, then nothing"

# What a store lacks. It replies to such a request as if it had the missing function, or says that it has none.
NO_CONDITIONS = "501 for If-None-Match"
IGNORED_CONDITIONS = "success in place of 412"
NO_EMPTY_OBJECTS = "400 for an object without bytes"
MD5_TO_DELETE = "400 for DeleteObjects without Content-MD5"
NO_CHECKSUMS = "400 for checksums in headers or trailers"
MISSING_IS_404 = "404 for the removal of an object that does not exist"

# Replies as S3 sends them.
ERROR = "<Error><Code>{}</Code><Message>{}</Message>{}<RequestId>4442587FB7D0A2F9</RequestId></Error>"
REPLIES = {
    SLOW_DOWN: (503, ERROR.format("SlowDown", "Please reduce your request rate.", "")),
    INTERNAL_ERROR: (500, ERROR.format("InternalError", "We encountered an internal error. Please try again.", "")),
    DENIED: (
        403,
        ERROR.format(
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided. It was for {key}.",
            "<AWSAccessKeyId>{key}</AWSAccessKeyId><StringToSign>AWS4-HMAC-SHA256 {key} {token}</StringToSign>",
        ),
    ),
    QUOTING_SLOW_DOWN: (503, ERROR.format("SlowDown", "Too many requests of {key} with {token}.", "")),
    NO_SUCH_UPLOAD: (404, ERROR.format("NoSuchUpload", "The specified multipart upload does not exist.", "")),
    NO_EMPTY_OBJECT: (400, ERROR.format("InvalidArgument", "Object must not be empty.", "")),
    NOT_IMPLEMENTED: (501, ERROR.format("NotImplemented", "A header implies functionality not implemented.", "")),
    EXPIRED: (400, ERROR.format("ExpiredToken", "The provided token has expired.", "<Token-0>{token}</Token-0>")),
    EXPIRED_BY_STS: (
        403,
        ERROR.format("ExpiredTokenException", "The security token included in the request is expired", ""),
    ),
    REQUEST_EXPIRED: (403, ERROR.format("RequestExpired", "Request has expired", "")),
    WRONG_TOKEN: (400, ERROR.format("InvalidToken", "The provided token is malformed or otherwise invalid.", "")),
    WRONG_CLOCK: (
        403,
        ERROR.format(
            "RequestTimeTooSkewed", "The difference between the request time and the current time is too large.", ""
        ),
    ),
}


LACKING = {
    NO_CONDITIONS: (
        501,
        ERROR.format("NotImplemented", "A header you provided implies functionality that is not implemented", ""),
    ),
    NO_EMPTY_OBJECTS: (400, ERROR.format("EntityTooSmall", "Your proposed upload is smaller than allowed", "")),
    MD5_TO_DELETE: (400, ERROR.format("InvalidRequest", "Missing required header for this request: Content-MD5", "")),
    MISSING_IS_404: (404, ERROR.format("NoSuchKey", "The specified key does not exist.", "")),
    NO_CHECKSUMS: (400, ERROR.format("InvalidArgument", "Unsupported header 'x-amz-checksum-crc32' received", "")),
}


class Rule(NamedTuple):
    """Inject a fault into the next `times` requests of a method (any if empty) whose path and query contain a text."""

    fault: str
    method: str
    text: str
    times: int


class FaultyServer(ThreadingHTTPServer):
    """A proxy that forwards requests to `upstream` (http://host:port) and injects faults.

    `requests`: method -> number of requests. `injected`: fault -> how often it was injected. `lacks`: what the store
    that is imitated lacks. `expired`: session tokens that have expired. `signed`: (key id, region) of each request.
    """

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.requests: Counter[str] = Counter()
        self.injected: Counter[str] = Counter()
        self.lacks: set[str] = set()
        self.expired: set[str] = set()
        self.signed: set[tuple[str, str]] = set()
        self.written: set[str] = set()  # objects that were written through this proxy and not removed
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self.closing = threading.Event()

    def inject(self, fault: str, *, times: int = 1, method: str = "", text: str = "") -> None:
        """Add a rule. The oldest unused rule that matches a request applies."""
        with self._lock:
            self._rules.append(Rule(fault, method, text, times))

    def fault_for(self, method: str, path: str) -> str | None:
        """Count a request, and return the fault to inject, if any."""
        with self._lock:
            self.requests[method] += 1
            for index, rule in enumerate(self._rules):
                if rule.times and rule.method in ("", method) and rule.text in path:
                    self._rules[index] = rule._replace(times=rule.times - 1)
                    self.injected[rule.fault] += 1
                    return rule.fault
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: clients close stalled connections on purpose."""


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
    protocol_version = "HTTP/1.1"  # with `Expect: 100-continue` and keep-alive
    disable_nagle_algorithm = True
    server: FaultyServer

    def _handle(self) -> None:
        body = self._request_body()
        fault = self.server.fault_for(self.command, self.path)
        if scope := re.search(r"Credential=([^/]+)/\d+/([^/]+)/", self.headers.get("Authorization", "")):
            self.server.signed.add((scope[1], scope[2]))
        if self.headers.get("X-Amz-Security-Token") in self.server.expired:
            self._send_error(*REPLIES[EXPIRED])
        elif missing := self._missing(body):
            self._send_error(*LACKING[missing])
        elif fault in REPLIES:
            self._send_error(*REPLIES[fault])
        elif fault == RESET:
            self._reset()
        elif fault == STALL:
            self._stall()
        else:
            self._forward(body, fault)

    def _missing(self, body: bytes) -> str:
        """Return what the request needs and the imitated store lacks, "" if nothing."""
        query = urlsplit(self.path).query.split("&")
        needed = {
            NO_CONDITIONS: "If-None-Match" in self.headers and self.command == "PUT",
            NO_EMPTY_OBJECTS: self.command == "PUT" and not body,
            MISSING_IS_404: self.command == "DELETE" and self.path not in self.server.written,
            NO_CHECKSUMS: any("x-amz-checksum-" in f"{each}: {self.headers[each]}".lower() for each in self.headers),
            MD5_TO_DELETE: self.command == "POST" and "delete" in query and "Content-MD5" not in self.headers,
        }
        if self.command in ("PUT", "DELETE"):
            (self.server.written.add if self.command == "PUT" else self.server.written.discard)(self.path)
        return next((name for name, is_needed in needed.items() if is_needed and name in self.server.lacks), "")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""

    def _request_body(self) -> bytes:
        """Return the body unchanged, chunks with their framing, so that the request can be forwarded."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while True:
            line = self.rfile.readline()
            size = int(line.split(b";")[0], 16)
            pieces += [line, self.rfile.read(size + 2)]
            if not size:
                return b"".join(pieces)

    def _forward(self, body: bytes, fault: str | None) -> None:
        upstream = http.client.HTTPConnection(
            self.server.upstream.hostname or "", self.server.upstream.port, timeout=60
        )
        with contextlib.closing(upstream):
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):
                    upstream.putheader(name, value)
            upstream.endheaders()
            upstream.send(body)
            reply = upstream.getresponse()
            content = reply.read()
        if fault == LOST_REPLY:
            self._reset()
            return
        if reply.status == 412 and IGNORED_CONDITIONS in self.server.lacks:
            self.send_response_only(200)
            self.send_header("ETag", '"d41d8cd98f00b204e9800998ecf8427e"')
            self.send_header("Content-Length", "0")
            self.end_headers()
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
        assert content, f"{fault} injected into a reply without a body: {self.command} {self.path}"
        self.wfile.write(content[: len(content) // 2])
        self.wfile.flush()
        if fault == TRUNCATED:
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
        """Close the connection with an RST: SO_LINGER with zero seconds sends no FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _stall(self) -> None:
        """Send nothing until the client closes the connection or the test ends."""
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

"""What listens on a port, found out without sending it anything of value."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Literal

_SECONDS = 3.0  # for each of at most five questions
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)  # the preface and an empty SETTINGS frame
_GET = b"GET /api/version HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n"

Listener = Literal["unresolved", "unreachable", "nothing", "silent", "grpc", "http", "tls", "other"]


def what_answers(host: str, port: int) -> Listener:
    """Return what answers at a port: gRPC (with TLS or without), HTTP, TLS, or another protocol.

    Or why nothing does: the name is unknown, no connection comes about, none is accepted, or nothing is said on it.
    Takes at most 15 seconds.
    """
    try:
        socket.create_connection((host, port), timeout=_SECONDS).close()
    except ConnectionRefusedError:
        return "nothing"
    except (socket.gaierror, UnicodeError):
        return "unresolved"
    except OSError:
        return "unreachable"
    answer = _say(host, port, _HTTP2)
    if answer[3:4] == b"\x04" and answer[5:9] == bytes(4):  # a SETTINGS frame, of stream 0
        return "grpc"
    speaks_tls, chosen = _handshake(host, port, "h2")
    if speaks_tls:
        # A gRPC server accepts only HTTP/2; a web server that knows it accepts HTTP/1.1 too.
        return "grpc" if chosen == "h2" and _handshake(host, port, "http/1.1")[1] != "http/1.1" else "tls"
    if _say(host, port, _GET % host.encode()).startswith(b"HTTP/"):  # some TLS servers, too, answer this in HTTP
        return "http"
    return "other" if answer else "silent"


def _say(host: str, port: int, message: bytes) -> bytes:
    """Return the first bytes of an answer; none if there is none within 3 seconds."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=_SECONDS) as connection:
        connection.sendall(message)
        return connection.recv(64)
    return b""


def _handshake(host: str, port: int, protocol: str) -> tuple[bool, str | None]:
    """Return whether a port speaks TLS, and whether it chose this application protocol (ALPN)."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # to see what it is, not to trust it
    context.set_alpn_protocols([protocol])
    try:
        with (
            socket.create_connection((host, port), timeout=_SECONDS) as connection,
            context.wrap_socket(connection, server_hostname=host) as secure,
        ):
            return True, secure.selected_alpn_protocol()
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or ""), None  # only a TLS server sends alerts
    except OSError:
        return False, None

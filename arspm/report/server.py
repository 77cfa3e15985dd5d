"""An HTTP server for a run's pages: it reads them from storage and serves them on loopback, read-only.

Every user of the machine can connect to loopback, so the URL's path starts with a token, a new one at each start. A
cookie would not do: a browser sends the cookies of 127.0.0.1 to every port, also to another user's server. All links in
the pages are relative, so they work below the token and do not contain it. `site` decides which paths exist.
"""

from __future__ import annotations

import hashlib
import re
import socketserver
from http.server import BaseHTTPRequestHandler
from typing import Any

from arspm import storage
from arspm.report import loopback
from arspm.report.site import OWN_POLICY, Response, Site, open_site

PORT = 8266  # Ray's dashboard is 8265
HOSTS = ("127.0.0.1", "localhost")

_GZIP = re.compile(r"\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))", re.IGNORECASE)  # q=0 refuses it
_NO_TOKEN = b"Open the complete URL that `arspm dashboard` printed. It contains a token, a new one at each start.\n"


def serve(uri: str, port: int = PORT, host: str = "127.0.0.1") -> None:
    """Serve the pages of a run, an ablation, a sweep or a folder of runs, on loopback until Ctrl-C. Prints the URL.

    uri: a path or s3://. If the port is taken, the next free one is used; 0 is any free port. Below the URL there is
    only what `site` lists. Raises FileNotFoundError if there is nothing to serve, and ValueError for a host other than
    loopback, and if the port cannot be used.
    """
    with start(uri, port, host) as server:
        if port not in (0, server.port):
            print(f"port {port} is taken")
        print(f"serving {server.url} (Ctrl-C to stop)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def start(uri: str, port: int = PORT, host: str = "127.0.0.1") -> Server:
    """Return a bound server; call its `serve_forever`. Raises as `serve` does."""
    if host not in HOSTS:
        raise ValueError(
            f"host {host!r}: only loopback is allowed; from another machine use ssh -L {port}:127.0.0.1:{port}"
        )
    loopback.require_port(port)
    site = open_site(storage.absolute(uri))
    return loopback.at_free_port(port, lambda candidate: Server(candidate, site))


class Server(socketserver.ThreadingTCPServer):
    """A server on loopback with its own token. Raises OSError if the port cannot be used."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int, site: Site) -> None:
        self.site = site
        self.root = f"/{loopback.new_token()}/"
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        """The URL of the pages, with the token: anyone who has it can read them."""
        return f"http://127.0.0.1:{self.port}{self.root}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors of a connection: the browser has closed it."""


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD. Every response, errors included, has the same security headers."""

    server: Server
    server_version, sys_version = "arspm", ""
    timeout = 30
    policy = OWN_POLICY

    def do_GET(self) -> None:
        if not loopback.is_local(self.headers.get_all("Host", [])):
            self._send(Response(403, loopback.FOREIGN_HOST))
            return
        root = self.server.root
        if not loopback.has_token(self.path, root):
            self._send(Response(403, _NO_TOKEN))
            return
        try:
            response = self.server.site.respond(self.path[len(root) :])
        except Exception as error:  # any error of storage or its libraries; the next request tries again
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            response = Response(503, f"Cannot read the run's folder: {line}\n".encode())
        self._send(response)

    do_HEAD = do_GET

    def refuse(self) -> None:
        self._send(Response(405, b"Only GET and HEAD are allowed.\n"))

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = refuse

    def _send(self, response: Response) -> None:
        packed = response.packed if _GZIP.search(self.headers.get("Accept-Encoding", "")) else None
        data = response.data if packed is None else packed
        tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"' if response.status == 200 else None
        known = {each.strip().removeprefix("W/") for each in self.headers.get("If-None-Match", "").split(",")}
        same = tag is not None and (tag in known or "*" in known)
        self.policy = response.policy
        self.send_response(304 if same else response.status)
        if tag:
            self.send_header("ETag", tag)
        if response.packed is not None:
            self.send_header("Vary", "Accept-Encoding")
        if response.location:
            self.send_header("Location", response.location)
        if response.status == 405:
            self.send_header("Allow", "GET, HEAD")
        if not same:
            self.send_header("Content-Type", response.type)
            self.send_header("Content-Length", str(len(data)))
            if packed is not None:
                self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        if not same and self.command != "HEAD":
            self.wfile.write(data)

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Content-Security-Policy", self.policy)
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: pages reload every 15 s, which would fill the terminal."""

"""A forward proxy in a process of its own: `python tests/forward_proxy.py UPSTREAM`, with a host:port.

It sends everything to UPSTREAM, whatever host a request names, so the names need not exist. It prints its port, then
the method and target of each request: an absolute URI, or a host after CONNECT.
"""

from __future__ import annotations

import http.client
import select
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

UPSTREAM = sys.argv[1]
PRINTING = threading.Lock()  # print writes the parts of a line one after the other


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def report(self) -> None:
        with PRINTING:
            print(self.command, self.path, flush=True)

    def do_CONNECT(self) -> None:
        self.report()
        host, _, port = UPSTREAM.partition(":")
        with socket.create_connection((host, int(port))) as upstream:
            self.send_response_only(200)
            self.end_headers()
            ends = {self.connection: upstream, upstream: self.connection}
            while True:
                for source in select.select([*ends], [], [])[0]:
                    data = source.recv(1 << 16)
                    if not data:
                        self.close_connection = True
                        return
                    ends[source].sendall(data)

    def forward(self) -> None:
        self.report()
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        upstream = http.client.HTTPConnection(UPSTREAM, timeout=60)
        upstream.putrequest(
            self.command,
            parts.path + (f"?{parts.query}" if parts.query else ""),
            skip_host=True,
            skip_accept_encoding=True,
        )
        for name, value in self.headers.items():
            if name.lower() not in ("expect", "connection", "proxy-connection"):
                upstream.putheader(name, value)
        upstream.endheaders()
        upstream.send(body)
        reply = upstream.getresponse()
        content = reply.read()
        self.send_response_only(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = reply.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing else."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()

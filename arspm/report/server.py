"""An HTTP server for sweep pages: it reads them from storage and serves them on loopback, read-only.

Every user of the machine can connect to loopback, so the URL's path starts with a token, a new one at each start. A
cookie would not do: a browser sends the cookies of 127.0.0.1 to every port, also to another user's server. All links in
the pages are relative, so they work below the token and do not contain it.
"""

from __future__ import annotations

import gzip
import hashlib
import html
import json
import math
import re
import socketserver
import threading
import time
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from time import monotonic
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote, unquote

from arspm import storage
from arspm.report import loopback
from arspm.report.sweep_details import without_details
from arspm.runs import sweep_curves, sweeps

PORT = 8266  # Ray's dashboard is 8265
FILE_SECONDS = 2.0  # between two reads of a file from storage, for all clients together
NAMES_SECONDS = 10.0  # between two listings of the sweeps
HOSTS = ("127.0.0.1", "localhost")

_MAX_FILES = 256  # kept in memory; the page shows at most 25 pictures and compares six trials
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".gz": "application/gzip",
    ".jpg": "image/jpeg",
    ".log": "text/plain; charset=utf-8",
}
_COMPRESSED = (".html", ".json", ".log")
_FILES = (sweeps.PAGE, sweeps.RESULTS, sweep_curves.CURVES, sweeps.CLIPS)
_TRIAL_FILE = re.compile(rf"{sweeps.TRIALS}/[0-9]{{5,9}}\.(json|jpg|log)")
_LIST = "sweeps.json"  # the names of the sweeps, which a page can compare
_GZIP = re.compile(r"\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))", re.IGNORECASE)  # q=0 refuses it
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.6 system-ui, sans-serif; margin: 48px auto; max-width: 960px; padding: 0 24px; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: 6px 16px 6px 0; overflow-wrap: anywhere; }
"""
_RESTRICTIONS = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# A sweep's page contains a stricter policy of its own. This one applies to any file of that name in the folder.
_PAGE_POLICY = f"default-src 'self' 'unsafe-inline' data: blob:; {_RESTRICTIONS}"
_STYLE_HASH = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_OWN_POLICY = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; {_RESTRICTIONS}"

_NO_TOKEN = b"Open the complete URL that `arspm dashboard` printed. It contains a token, a new one at each start.\n"

T = TypeVar("T")


def serve(uri: str, port: int = PORT, host: str = "127.0.0.1") -> None:
    """Serve a sweep's folder, or all sweeps of a run (a path or s3://), on loopback until Ctrl-C. Prints the URL.

    If the port is taken, the next free one is used; 0 is any free port. Only the list of sweeps, a sweep's page, its
    results and curves, and its trials' records, logs and portraits exist below the URL. Raises ValueError if there is
    no sweep, for a host other than loopback, and if the port cannot be used.
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
    site = Site(storage.absolute(uri))
    return loopback.at_free_port(port, lambda candidate: Server(candidate, site))


class Response(NamedTuple):
    """The response to a request. `location`: target of a redirect, with status 302. `packed`: `data`, compressed."""

    status: int
    data: bytes
    packed: bytes | None = None
    type: str = "text/plain; charset=utf-8"
    policy: str = _OWN_POLICY
    location: str | None = None


class File(NamedTuple):
    """A file read from storage. `stamp` changes when the file does. All are None if there is no file.

    packed: `data` as gzip, for pages and JSON: compressed once, not for each client.
    """

    stamp: tuple[Any, ...] | None
    data: bytes | None
    packed: bytes | None


class Cached(Generic[T]):
    """A value read from storage, read again after `seconds` at the earliest, by one thread at a time.

    A failing read keeps the value before: the page itself shows how old it is.
    """

    def __init__(self, read: Callable[[T | None], T], seconds: float) -> None:
        self._read, self._seconds = read, seconds
        self._lock = threading.Lock()
        self._value: T | None = None
        self._error: Exception | None = None
        self._next = -math.inf

    def get(self) -> T:
        """Return the value. Raises the error of the last read if no read has succeeded yet."""
        with self._lock:
            if monotonic() >= self._next:
                try:
                    self._value, self._error = self._read(self._value), None
                except Exception as error:  # boto's errors and OSError have no common base class
                    self._error = error
                self._next = monotonic() + self._seconds
            if self._value is None:
                assert self._error is not None
                raise self._error
            return self._value


class Site:
    """The pages. A request can only choose among the sweeps that storage lists; it never becomes part of a path."""

    def __init__(self, uri: str) -> None:
        """Raises ValueError if there is no sweep at the URI."""
        self._files: OrderedDict[str, Cached[File]] = OrderedDict()  # the least recently used first
        self._lock = threading.Lock()  # of _files
        if storage.exists(storage.join(uri, sweeps.SWEEP)):
            alone = {uri.rsplit("/", 1)[-1]: uri}
            self._sweeps = Cached(lambda _: alone, math.inf)
        else:
            self._sweeps = Cached(lambda _: _sweeps_of(uri), NAMES_SECONDS)
            if not self._sweeps.get():
                raise ValueError(f"{uri}: no sweep here; start one with `arspm sweep SPACE --run {uri}`")

    def respond(self, path: str) -> Response:
        """Return the response to a GET; `path` is what follows the token. Raises the errors of storage."""
        known = self._sweeps.get()
        name, slash, file = path.partition("?")[0].partition("/")
        if not name and not slash:
            if len(known) == 1:
                return Response(302, b"", location=f"{quote(next(iter(known)), safe='')}/")
            return _own_page("Sweeps", self._table(known), 15)
        if name == _LIST and not slash:
            return Response(200, json.dumps(list(known)).encode(), type=_TYPES[".json"])
        name, file = unquote(name), file or sweeps.PAGE
        if slash and name in known and (file in _FILES or _TRIAL_FILE.fullmatch(file)):
            found = self._read(known[name], file)
            if found.data is not None:
                kind = _TYPES[file[file.rindex(".") :]]
                return Response(200, found.data, found.packed, kind, _PAGE_POLICY)
            if file == sweeps.PAGE:
                text = f"<p>{html.escape(name)} has not written results yet. This page reloads every few seconds.</p>"
                return _own_page("Waiting for the sweep", text, 5)
        return Response(404, b"No such page. Open the URL that `arspm dashboard` printed.\n")

    def _read(self, folder: str, name: str) -> File:
        uri = storage.join(folder, name)
        with self._lock:
            cached = self._files.setdefault(uri, Cached(lambda before: _read_if_changed(uri, before), FILE_SECONDS))
            self._files.move_to_end(uri)
            if len(self._files) > _MAX_FILES:
                self._files.popitem(last=False)
        return cached.get()

    def _table(self, known: dict[str, str]) -> str:
        heads = "".join(f"<th>{head}</th>" for head in ("Sweep", "State", "Trials", "Best", "Updated"))
        rows = []
        for name, folder in known.items():
            link = f'<a href="{html.escape(quote(name, safe=""))}/">{html.escape(name)}</a>'
            cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(self._read(folder, sweeps.RESULTS).data))
            rows.append(f"<tr><td>{link}</td>{cells}</tr>")
        return f"<table><tr>{heads}</tr>{''.join(rows)}</table>"


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
    policy = _OWN_POLICY

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
            response = Response(503, f"Cannot read the sweep's folder: {line}\n".encode())
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


def _sweeps_of(run: str) -> dict[str, str]:
    return {name: storage.join(run, sweeps.FOLDER, name) for name in sweeps.names(run)}


def _read_if_changed(uri: str, before: File | None) -> File:
    """Return the file, read only if it has changed. A change between stat and read is seen the next time."""
    fs, path = storage.filesystem(uri)
    try:
        info = storage.retried(uri, lambda: fs.info(path, refresh=True))
        stamp = tuple(info.get(key) for key in ("ETag", "LastModified", "mtime", "ino", "size"))
        if before is not None and before.stamp == stamp:
            return before
        data = storage.read_bytes(uri)
        if uri.endswith(sweeps.PAGE):
            data = without_details(data)
        return File(stamp, data, gzip.compress(data, 6, mtime=0) if uri.endswith(_COMPRESSED) else None)
    except FileNotFoundError:
        return File(None, None, None)


def _cells(data: bytes | None) -> tuple[str, str, str, str]:
    """Return state, trials, best and time of a results.json as text. Any part of the file may be invalid."""
    if data is None:
        return "not started", "", "", ""
    try:
        results = json.loads(data)
        ended, leading = sweeps.ended_and_best(results)
        best = (
            ""
            if leading is None or leading["best"] is None
            else f"{float(leading['best']):.4g} {results['sweep']['metric']}"
        )
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(float(results["updated"])))
        return str(results["state"]), ended, best, when
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, OSError, RecursionError):
        return "unreadable", "", "", ""


def _own_page(title: str, body: str, reload_seconds: int) -> Response:
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="refresh" content="{reload_seconds}"><style>{_STYLE}</style></head>'
        f"<body><h1>{title}</h1>{body}</body></html>\n"
    )
    return Response(200, text.encode(), type=_TYPES[".html"])

"""A sweep's page, live: read from its folder in storage and served on loopback, read-only, to who has its address.

Every user of the machine reaches loopback, so the address's path begins with a token, another at each start. It is no
cookie, for a browser sends those of 127.0.0.1 to every port there, and one may be another user's. What is served has
relative links alone: they work below the token and do not tell it.
"""

from __future__ import annotations

import errno
import hashlib
import html
import json
import math
import re
import secrets
import socketserver
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from time import monotonic
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote, unquote

from arspm import storage
from arspm.runs import sweeps

PORT = 8266  # Ray's dashboard is 8265
FILE_SECONDS = 2.0  # between two looks at a file in storage, however many read the page
NAMES_SECONDS = 10.0  # between two looks at which sweeps there are
HOSTS = ("127.0.0.1", "localhost")

_PORTS_TRIED = 50
_TYPES = {sweeps.PAGE: "text/html; charset=utf-8", sweeps.RESULTS: "application/json"}
_HOST_HEADER = re.compile(r"(localhost|127\.0\.0\.1)(:\d{1,5})?", re.IGNORECASE)
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.6 system-ui, sans-serif; margin: 48px auto; max-width: 960px; padding: 0 24px; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: 6px 16px 6px 0; overflow-wrap: anywhere; }
"""
_SHUT = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# The sweep's page has a stricter policy of its own inside; this one holds whatever lies in the folder under that name.
_PAGE_POLICY = f"default-src 'self' 'unsafe-inline' data: blob:; {_SHUT}"
_OWN_POLICY = (
    f"default-src 'none'; style-src 'sha256-{b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; {_SHUT}"
)

_STRANGER = (
    b"This page is for who has its address: the whole one that `arspm dashboard` printed, with its token."
    b" Each start has another.\n"
)

T = TypeVar("T")


def dashboard(uri: str, port: int | None = None) -> None:
    """Show a sweep, or a run's sweeps, until Ctrl-C. Raises as `serve` does."""
    serve(uri, PORT if port is None else port)


def serve(uri: str, port: int = PORT, host: str = "127.0.0.1") -> None:
    """Serve a sweep's folder, or all sweeps of a run (a path or s3://), on loopback until Ctrl-C; say where.

    A taken port is replaced by the next free one, 0 is any. Below the address that is printed there is `SWEEP/`,
    `SWEEP/index.html` and `SWEEP/results.json`, nothing else, and beside it nothing. Raises ValueError where there is
    no sweep, for another host than loopback, and for a port that cannot be had.
    """
    with start(uri, port, host) as server:
        if port not in (0, server.port):
            print(f"port {port} is taken")
        print(f"the page is at {server.address} (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def start(uri: str, port: int = PORT, host: str = "127.0.0.1") -> Server:
    """The server of `serve`, bound; its `serve_forever` serves. Raises as `serve` does."""
    if host not in HOSTS:
        raise ValueError(
            f"host {host!r}: the page is for this machine alone; from elsewhere use ssh -L {port}:127.0.0.1"
        )
    if not 0 <= port < 65536:
        raise ValueError(f"port {port}: a number from 0 to 65535")
    site = Site(storage.absolute(uri))
    for candidate in range(port, min(port + _PORTS_TRIED, 65536)):
        try:
            return Server(candidate, site)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ValueError(f"port {candidate}: {error.strerror}; give another") from None
    raise ValueError(f"port {port} and the {_PORTS_TRIED - 1} after it are taken; give another")


class Answer(NamedTuple):
    """What is sent for a path. `location`: where else to look, with status 302."""

    status: int
    data: bytes
    type: str = "text/plain; charset=utf-8"
    policy: str = _OWN_POLICY
    location: str | None = None


class File(NamedTuple):
    """A file as storage had it: what tells a change of it, and its bytes. Both None where there is none."""

    stamp: tuple[Any, ...] | None
    data: bytes | None


class Remembered(Generic[T]):
    """What a look at storage gave, looked at again after `seconds` at the earliest, by one thread for all.

    A look that fails leaves what was known before: the page says itself how old it is.
    """

    def __init__(self, look: Callable[[T | None], T], seconds: float) -> None:
        self._look, self._seconds = look, seconds
        self._lock = threading.Lock()
        self._value: T | None = None
        self._error: Exception | None = None
        self._next = -math.inf

    def get(self) -> T:
        """Raises what the look raised, as long as none has succeeded."""
        with self._lock:
            if monotonic() >= self._next:
                try:
                    self._value, self._error = self._look(self._value), None
                except Exception as error:  # boto's errors have no base in common with the file system's
                    self._error = error
                self._next = monotonic() + self._seconds
            if self._value is None:
                assert self._error is not None
                raise self._error
            return self._value


class Site:
    """The pages that there are. A request only chooses among the names that storage lists; it makes up no path."""

    def __init__(self, uri: str) -> None:
        """Raises ValueError where there is no sweep."""
        self._files: dict[str, Remembered[File]] = {}
        if storage.exists(storage.join(uri, sweeps.SWEEP)):
            alone = {uri.rsplit("/", 1)[-1]: uri}
            self._sweeps = Remembered(lambda _: alone, math.inf)
        else:
            self._sweeps = Remembered(lambda _: _sweeps_of(uri), NAMES_SECONDS)
            if not self._sweeps.get():
                raise ValueError(f"{uri}: no sweep here; `arspm sweep SPACE --run {uri}` makes one in a finished run")

    def answer(self, path: str) -> Answer:
        """The answer to a GET of what follows the token in a request's target. Raises what storage raises."""
        known = self._sweeps.get()
        parts = path.partition("?")[0].split("/")
        if parts == [""]:
            if len(known) == 1:
                return Answer(302, b"", location=f"{quote(next(iter(known)), safe='')}/")
            return _own_page("Sweeps", self._table(known), 15)
        if len(parts) == 2 and (name := unquote(parts[0])) in known and (parts[1] or sweeps.PAGE) in _TYPES:
            file = parts[1] or sweeps.PAGE
            data = self._read(known[name], file)
            if data is not None:
                return Answer(200, data, _TYPES[file], _PAGE_POLICY)
            if file == sweeps.PAGE:
                told = f"<p>{html.escape(name)} has not begun to write. This page looks again every few seconds.</p>"
                return _own_page("Waiting for the sweep", told, 5)
        return Answer(404, b"There is no such page. The sweeps are at the address that `arspm dashboard` printed.\n")

    def _read(self, folder: str, name: str) -> bytes | None:
        uri = storage.join(folder, name)
        remembered = self._files.setdefault(uri, Remembered(lambda before: _look(uri, before), FILE_SECONDS))
        return remembered.get().data

    def _table(self, known: dict[str, str]) -> str:
        heads = "".join(f"<th>{head}</th>" for head in ("Sweep", "State", "Trials", "Best", "Last renewed"))
        rows = []
        for name, folder in known.items():
            link = f'<a href="{html.escape(quote(name, safe=""))}/">{html.escape(name)}</a>'
            cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in _told(self._read(folder, sweeps.RESULTS)))
            rows.append(f"<tr><td>{link}</td>{cells}</tr>")
        return f"<table><tr>{heads}</tr>{''.join(rows)}</table>"


class Server(socketserver.ThreadingTCPServer):
    """Bound to loopback, with a token of its own. Raises OSError for a port that cannot be had."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int, site: Site) -> None:
        self.site = site
        self.root = f"/{secrets.token_urlsafe(16)}/"  # 128 bits, and the line with the address fits a terminal
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def address(self) -> str:
        """Where the page is. Who has it can read the page."""
        return f"http://127.0.0.1:{self.port}{self.root}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: it is a browser that went away."""


class Handler(BaseHTTPRequestHandler):
    """GET and HEAD, with the same headers on whatever is sent."""

    server: Server
    server_version, sys_version = "arspm", ""
    timeout = 30
    policy = _OWN_POLICY

    def do_GET(self) -> None:
        hosts = self.headers.get_all("Host", [])
        # A name of someone else's that leads to 127.0.0.1 would let their page read this one (DNS rebinding).
        if len(hosts) != 1 or not _HOST_HEADER.fullmatch(hosts[0].strip()):
            self._send(Answer(403, b"This server answers to the names localhost and 127.0.0.1 only.\n"))
            return
        root = self.server.root
        if not secrets.compare_digest(self.path[: len(root)].encode(), root.encode()):
            self._send(Answer(403, _STRANGER))
            return
        try:
            answer = self.server.site.answer(self.path[len(root) :])
        except Exception as error:  # whatever storage or its library says; the next request asks again
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            answer = Answer(503, f"The sweep's folder cannot be read: {line}\n".encode())
        self._send(answer)

    do_HEAD = do_GET

    def refuse(self) -> None:
        self._send(Answer(405, b"This server only shows: GET and HEAD.\n"))

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = refuse

    def _send(self, answer: Answer) -> None:
        tag = f'"{hashlib.sha256(answer.data).hexdigest()[:32]}"' if answer.status == 200 else None
        asked = {each.strip().removeprefix("W/") for each in self.headers.get("If-None-Match", "").split(",")}
        same = tag is not None and (tag in asked or "*" in asked)
        self.policy = answer.policy
        self.send_response(304 if same else answer.status)
        if tag:
            self.send_header("ETag", tag)
        if answer.location:
            self.send_header("Location", answer.location)
        if answer.status == 405:
            self.send_header("Allow", "GET, HEAD")
        if not same:
            self.send_header("Content-Type", answer.type)
            self.send_header("Content-Length", str(len(answer.data)))
        self.end_headers()
        if not same and self.command != "HEAD":
            self.wfile.write(answer.data)

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Content-Security-Policy", self.policy)
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a page that looks every 15 s would fill the terminal."""


def _sweeps_of(run: str) -> dict[str, str]:
    return {name: storage.join(run, sweeps.FOLDER, name) for name in sweeps.names(run)}


def _look(uri: str, before: File | None) -> File:
    """The file, read only if it is another than before. A change between the two looks is seen at the next."""
    fs, path = storage.filesystem(uri)
    try:
        info = storage.retried(uri, lambda: fs.info(path, refresh=True))
        stamp = tuple(info.get(key) for key in ("ETag", "LastModified", "mtime", "ino", "size"))
        if before is not None and before.stamp == stamp:
            return before
        return File(stamp, storage.read_bytes(uri))
    except FileNotFoundError:
        return File(None, None)


def _told(data: bytes | None) -> tuple[str, str, str, str]:
    """State, trials, best and time of a results.json, for people; it is someone's file, so any of it may be odd."""
    if data is None:
        return "not begun", "", "", ""
    try:
        results = json.loads(data)
        ended, leading = sweeps.standing(results)
        told = (
            ""
            if leading is None or leading["best"] is None
            else f"{float(leading['best']):.4g} {results['sweep']['metric']}"
        )
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(float(results["updated"])))
        return str(results["state"]), ended, told, when
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, OSError, RecursionError):
        return "unreadable", "", "", ""


def _own_page(title: str, body: str, seconds: int) -> Answer:
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="refresh" content="{seconds}"><style>{_STYLE}</style></head>'
        f"<body><h1>{title}</h1>{body}</body></html>\n"
    )
    return Answer(200, text.encode(), _TYPES[sweeps.PAGE])

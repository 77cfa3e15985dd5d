"""The page's server, over real connections: what it shows, what it refuses, how often it asks storage."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from arspm import storage
from jobs import dashboard

REPO = Path(__file__).parents[2]
PAGE = b"<!doctype html><title>the sweep</title>"


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Client(NamedTuple):
    """Requests as they are written here: http.client changes neither path nor Host.

    Paths go below `root`, which begins with the token; a stranger's is empty.
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
        """The answer to bytes that are sent as they are."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b""))


Serve = Callable[[str], Client]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A function that serves a URI on a free port and gives a client of it."""
    servers = []

    def begin(uri: str) -> Client:
        server = dashboard.start(uri, port=0)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return Client(server.port, server.root.removesuffix("/"))

    yield begin
    for server in servers:
        server.shutdown()
        server.server_close()


def results(state: str = "running", **changes: Any) -> dict[str, Any]:
    counts = {"planned": 16, "waiting": 8, "running": 2, "finished": 3, "stopped": 2, "failed": 1, "interrupted": 0}
    trials = [{"number": 0, "best": 40.0}, {"number": 3, "best": 38.123}]
    sweep = {"name": "s", "metric": "val_cos_degrees"}
    made = {"sweep": sweep, "state": state, "updated": 1_790_000_000.0, "counts": counts, "trials": trials, "best": 3}
    return {**made, **changes}


def write_sweep(run: str, name: str = "loss_weights", page: bytes | None = PAGE, **changes: Any) -> str:
    """A sweep's folder; with page None one that has not begun to write."""
    folder = storage.join(run, "sweeps", name)
    storage.write_json(storage.join(folder, "sweep.json"), {"name": name})
    storage.write_json(storage.join(folder, "trials", "00000.json"), {"number": 0})
    if page is not None:
        storage.write_json(storage.join(folder, "results.json"), results(**changes))
        storage.write_bytes(storage.join(folder, "index.html"), page)
    return folder


# --- what it shows


def test_a_run_with_one_sweep_leads_to_its_page(tmp_path: Path, serve: Serve) -> None:
    folder = write_sweep(str(tmp_path))
    get = serve(str(tmp_path))
    assert (get("/").status, get("/").headers["location"]) == (302, "loss_weights/")
    for path in ("/loss_weights/", "/loss_weights/index.html", "/loss_weights/?again=1"):
        reply = get(path)
        assert (reply.status, reply.body, reply.headers["content-type"]) == (200, PAGE, "text/html; charset=utf-8")
    reply = get("/loss_weights/results.json")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert reply.body == Path(folder, "results.json").read_bytes()
    for name, value in {"cache-control": "no-cache", "x-content-type-options": "nosniff"}.items():
        assert reply.headers[name] == value


def test_a_sweeps_own_folder_is_shown(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sweep(str(tmp_path), "other")
    folder = write_sweep(str(tmp_path))
    assert serve(folder)("/loss_weights/").body == PAGE
    assert serve(folder)("/other/").status == 404
    monkeypatch.chdir(tmp_path)
    assert serve("sweeps/loss_weights/")("/loss_weights/").body == PAGE


def test_several_sweeps_are_listed(tmp_path: Path, serve: Serve) -> None:
    write_sweep(str(tmp_path), "done", state="finished")
    write_sweep(str(tmp_path), "empty", trials=[], best=None)
    write_sweep(str(tmp_path), "later", page=None)
    write_sweep(str(tmp_path), "odd", trials={"a": 1})
    Path(write_sweep(str(tmp_path), "torn"), "results.json").write_bytes(b"[" * 100_000)
    get = serve(str(tmp_path))
    page = get("/")
    assert page.status == 200
    text = page.body.decode()
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in text.split("<tr>")[2:]]
    told = {re.sub("<.*?>", "", row[0]): row[1:] for row in rows}
    assert told == {
        "done": ["finished", "6 of 16", "38.12 val_cos_degrees", "2026-09-21 14:13:20 UTC"],
        "empty": ["running", "6 of 16", "", "2026-09-21 14:13:20 UTC"],
        "later": ["not begun", "", "", ""],
        "odd": ["unreadable", "", "", ""],
        "torn": ["unreadable", "", "", ""],
    }
    for link in re.findall(r'href="(.*?)"', text):
        assert get(f"/{link}").status == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]


def test_names_and_figures_of_others_are_shown_as_text(tmp_path: Path, serve: Serve) -> None:
    hostile = "<script>alert(1)<|script>&\"'"
    write_sweep(str(tmp_path), hostile, state="<img src=x onerror=alert(2)>")
    write_sweep(str(tmp_path), "plain")
    get = serve(str(tmp_path))
    text = get("/").body.decode()
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;script&gt;alert(1)" in text
    [link] = [link for link in re.findall(r'href="(.*?)"', text) if "plain" not in link]
    assert re.fullmatch(r"[A-Za-z0-9%._~-]+/", link)
    assert get(f"/{link}").body == PAGE
    (tmp_path / "sweeps" / hostile / "index.html").unlink()
    get = serve(str(tmp_path / "sweeps" / hostile))
    location = get("/").headers["location"]
    assert re.fullmatch(r"[A-Za-z0-9%._~-]+/", location)
    assert "<script" not in get(f"/{location}").body.decode()


def test_a_sweep_that_has_not_begun_is_waited_for(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard, "FILE_SECONDS", 0.0)
    get = serve(write_sweep(str(tmp_path), page=None))
    waiting = get("/loss_weights/")
    assert waiting.status == 200
    assert b"has not begun to write" in waiting.body
    assert b'http-equiv="refresh"' in waiting.body
    assert get("/loss_weights/results.json").status == 404
    write_sweep(str(tmp_path))
    assert get("/loss_weights/").body == PAGE
    assert get("/loss_weights/results.json").status == 200


def test_the_style_of_its_own_pages_is_allowed_by_their_policy(tmp_path: Path, serve: Serve) -> None:
    """By its hash, which a browser works out as here."""
    import base64
    import hashlib

    reply = serve(write_sweep(str(tmp_path), page=None))("/loss_weights/")
    [style] = re.findall(rb"<style>(.*?)</style>", reply.body, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in reply.headers["content-security-policy"]


def test_no_sweep_is_one_line(tmp_path: Path) -> None:
    for uri in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match=r"no sweep here; `arspm sweep SPACE --run .*` makes one") as caught:
            dashboard.start(str(uri), port=0)
        assert "\n" not in str(caught.value)


# --- how often it asks


def test_a_reader_who_has_it_is_told_so(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "FILE_SECONDS", 0.0)
    folder = write_sweep(str(tmp_path))
    get = serve(folder)
    for path in ("/loss_weights/", "/loss_weights/results.json"):
        first = get(path)
        for have in (first.headers["etag"], f'"older", W/{first.headers["etag"]}', "*"):
            again = get(path, If_None_Match=have)
            assert (again.status, again.body, again.headers["etag"]) == (304, b"", first.headers["etag"])
        assert get(path, If_None_Match='"older"').status == 200
    write_sweep(str(tmp_path), page=PAGE + b"new", state="finished")
    for path in ("/loss_weights/", "/loss_weights/results.json"):
        assert get(path, If_None_Match=first.headers["etag"]).status == 200
    assert get("/loss_weights/").body == PAGE + b"new"


def test_storage_is_asked_once_in_two_seconds_whatever_the_readers(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, looks, read = 0.0, [], []
    monkeypatch.setattr(dashboard, "monotonic", lambda: now)
    look, read_bytes = dashboard._look, storage.read_bytes
    monkeypatch.setattr(dashboard, "_look", lambda uri, before: looks.append(uri) or look(uri, before))
    monkeypatch.setattr(storage, "read_bytes", lambda uri: read.append(uri) or read_bytes(uri))
    get = serve(write_sweep(str(tmp_path)))
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(get, ["/loss_weights/results.json"] * 80))
        assert {reply.status for reply in replies} == {200}
        assert len(looks) == len(read) == 1
        now += 2.0
        list(pool.map(get, ["/loss_weights/results.json"] * 20))
        assert (len(looks), len(read)) == (2, 1), "a file that is as it was is not read again"
        write_sweep(str(tmp_path), state="finished")
        assert json.loads(get("/loss_weights/results.json").body)["state"] == "running"
        now += 2.0
        assert json.loads(get("/loss_weights/results.json").body)["state"] == "finished"


def test_a_fault_of_storage_is_said_or_bridged(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "FILE_SECONDS", 0.0)
    folder = Path(write_sweep(str(tmp_path)))
    get = serve(str(folder))
    assert get("/loss_weights/").body == PAGE
    for name in ("index.html", "results.json"):  # a folder of that name cannot be read as a file
        (folder / name).unlink()
        (folder / name).mkdir()
    assert get("/loss_weights/").body == PAGE, "what was known stays"
    fault = get("/loss_weights/results.json")
    assert fault.status == 503
    assert re.fullmatch(rb"The sweep's folder cannot be read: .*\n", fault.body)


# --- whom it refuses


def strange(token: str) -> list[str]:
    """Paths of who has not the whole token, to what there is and to what there is not."""
    names = ("", "loss_weights/", "loss_weights/index.html", "loss_weights/results.json", "none/", "favicon.ico")
    other = token[:-1] + ("a" if token[-1] != "a" else "b")
    guesses = ("", other, token[:-1], token + "a", token.swapcase(), f"%{ord(token[0]):02x}{token[1:]}", "..")
    return [
        *(f"/{name}" for name in names),
        *(f"/{guess}/{name}" for guess in guesses for name in names),
        *(f"/{token}{end}" for end in ("", "?", "%2f", "%2floss_weights/", "\\loss_weights/")),
        *(f"/loss_weights/?{token}", f"/?token={token}", f"/loss_weights/{token}/", f"/./{token}/"),
    ]


def test_a_stranger_is_refused_whatever_there_is(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the token, or with another: the same answer to every path and method, with no look at storage."""
    get = serve(write_sweep(str(tmp_path)))
    assert get("/loss_weights/").body == PAGE
    etag = get("/loss_weights/").headers["etag"]
    asked: list[str] = []
    monkeypatch.setattr(dashboard.Site, "answer", lambda _, path: asked.append(path))
    replies = []
    for path in strange(get.token):
        replies += [get.stranger(path), get.stranger(path, If_None_Match=f"{etag}, *")]
        head = get.stranger(path, "HEAD")
        assert (head.status, head.body) == (403, b"")
        assert get.stranger(path, "POST", Content_Length="0").status == 405
    assert asked == []
    assert {reply.status for reply in replies} == {403}
    [body] = {reply.body for reply in replies}
    assert b"the whole one that `arspm dashboard` printed" in body
    assert len({str(reply.headers | {"date": ""}) for reply in replies}) == 1
    assert "etag" not in replies[0].headers
    assert replies[0].headers["referrer-policy"] == "no-referrer"


def test_a_server_has_a_token_of_its_own(tmp_path: Path, serve: Serve) -> None:
    folder = write_sweep(str(tmp_path))
    servers = [serve(folder) for _ in range(3)]
    assert len({get.token for get in servers}) == 3
    for get in servers:
        assert re.fullmatch(r"[A-Za-z0-9_-]{22}", get.token), "128 bits"
        for other in servers:
            reply = get._replace(root=other.root)("/loss_weights/")
            assert (reply.status, reply.body == PAGE) == ((200, True) if other is get else (403, False))


def test_the_token_is_in_nothing_that_is_sent(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither to who has it, for a page may be saved, printed and passed on, nor to a stranger."""
    monkeypatch.setattr(dashboard, "FILE_SECONDS", 0.0)
    alone = serve(write_sweep(str(tmp_path / "alone")))
    write_sweep(str(tmp_path))
    write_sweep(str(tmp_path), "later", page=None)
    Path(write_sweep(str(tmp_path), "broken", page=None), "results.json").mkdir()
    get = serve(str(tmp_path))
    asked = [(alone, "/", 302), (alone, "/loss_weights", 404), (get, "/", 503), (get, "/loss_weights/", 200)]
    asked += [(get, "/loss_weights/results.json", 200), (get, "/later/", 200), (get, "/none/", 404)]
    asked += [(get, "/broken/results.json", 503), (get.stranger, "/", 403)]
    for client, path, status in asked:
        reply = client(path)
        assert reply.status == status
        for each in (alone, get):
            assert each.token not in f"{reply.headers}{reply.body!r}"
    (tmp_path / "sweeps" / "broken" / "results.json").rmdir()
    listed = get("/")
    assert (listed.status, listed.body.count(b"<td><a ")) == (200, 3)
    assert get.token not in f"{listed.headers}{listed.body!r}"
    assert get.token not in str(get("/", "POST", Content_Length="0"))


# --- what it refuses


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/loss_weights/../../secret",
        "/loss_weights/%2e%2e/%2e%2e/secret",
        "/%2e%2e/secret",
        "/..%2f..%2fsecret",
        "/loss_weights/..%2f..%2fsecret",
        "/loss_weights%2f/index.html",
        "/loss_weights/%2fetc%2fpasswd",
        "//etc/passwd",
        "/etc/passwd",
        "/loss_weights//index.html",
        "/loss_weights",
        "/loss_weights/sweep.json",
        "/loss_weights/trials/00000.json",
        "/loss_weights/index.html/",
        "/loss_weights/index.html%00",
        "/loss_weights%00/index.html",
        "/%ff%fe/index.html",
        "/sweeps/loss_weights/index.html",
        "/index.html",
        "/secret",
        "/" + "a" * 60_000,
        "//loss_weights/",
        "//there/loss_weights/",
        "/#/loss_weights/",
    ],
)
def test_nothing_else_is_there(path: str, tmp_path: Path, serve: Serve) -> None:
    (tmp_path / "secret").write_text("hidden")
    (tmp_path / "run" / "secret").parent.mkdir()
    (tmp_path / "run" / "secret").write_text("hidden")
    write_sweep(str(tmp_path / "run"))
    reply = serve(str(tmp_path / "run"))(path)
    assert reply.status == 404
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert b"hidden" not in reply.body
    assert b"root:" not in reply.body
    assert path.encode() not in reply.body


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET ROOT/\x00 HTTP/1.1", b"404"),
        (b"GET ROOT/loss_weights/\x00 HTTP/1.1", b"404"),
        (b"GET ROOT/\xff\xfe HTTP/1.1", b"404"),
        (b"GET ROOT/" + b"a" * 70_000 + b" HTTP/1.1", b"414"),
        (b"BREW ROOT/ HTTP/1.1", b"501"),
        (b"GET /\x00 HTTP/1.1", b"403"),
        (b"GET /\xff\xfe HTTP/1.1", b"403"),
        (b"GET * HTTP/1.1", b"403"),
        (b"GET http://127.0.0.1ROOT/loss_weights/ HTTP/1.1", b"403"),
        (b"GET TOKEN/loss_weights/ HTTP/1.1", b"403"),
        (b"GET /loss_weights/ HTTP/1.1\r\nCookie: token=TOKEN\r\nAuthorization: Bearer TOKEN", b"403"),
    ],
)
def test_odd_requests_are_answered_with_an_error(
    request_line: bytes, status: bytes, tmp_path: Path, serve: Serve
) -> None:
    client = serve(write_sweep(str(tmp_path)))
    for word, value in ((b"ROOT", client.root), (b"TOKEN", client.token)):
        request_line = request_line.replace(word, value.encode())
    reply = client.raw(request_line + b"\r\nHost: localhost\r\n\r\n")
    assert reply.split(b" ")[1] == status
    assert client.token.encode() not in reply
    assert PAGE not in reply
    assert b"X-Content-Type-Options: nosniff" in reply
    assert b"default-src 'none'" in reply
    for nonsense in (b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01", b""):
        assert PAGE not in client.raw(nonsense)
    assert client("/loss_weights/").status == 200, "and the next one is served"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:1234", 200),
        ("127.0.0.1:9000", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example:8266", 403),
        ("evil.example:127.0.0.1", 403),
        ("localhost:80@evil.example", 403),
        ("evil.example@localhost", 403),
        ("0.0.0.0:8266", 403),
        ("192.168.0.1", 403),
        ("[::ffff:7f00:1]", 403),
        ("", 403),
    ],
)
def test_other_names_of_this_host_are_refused(host: str, status: int, tmp_path: Path, serve: Serve) -> None:
    get = serve(write_sweep(str(tmp_path)))
    for path in ("/loss_weights/", "/loss_weights/results.json"):
        reply = get(path, Host=host)
        assert reply.status == status
        assert status == 200 or PAGE not in reply.body


def test_no_host_and_two_hosts_are_refused(tmp_path: Path, serve: Serve) -> None:
    client = serve(write_sweep(str(tmp_path)))
    for hosts in (b"", b"Host: localhost\r\nHost: evil.example\r\n"):
        reply = client.raw(f"GET {client.root}/loss_weights/ HTTP/1.1\r\n".encode() + hosts + b"\r\n")
        assert reply.split(b" ")[1] == b"403"
        assert PAGE not in reply


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_it_only_shows(method: str, tmp_path: Path, serve: Serve) -> None:
    folder = Path(write_sweep(str(tmp_path)))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    reply = serve(str(folder))("/loss_weights/results.json", method, Content_Length="0")
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_head_is_get_without_the_body(tmp_path: Path, serve: Serve) -> None:
    get = serve(write_sweep(str(tmp_path)))
    for path in ("/", "/loss_weights/", "/loss_weights/results.json", "/none"):
        whole, head = get(path), get(path, "HEAD")
        assert head.body == b""
        assert {**head.headers, "date": ""} == {**whole.headers, "date": ""}
        assert head.status == whole.status
    assert get("/loss_weights/").status == get("/loss_weights/", "HEAD").status == 200


# --- where it listens


def test_it_listens_on_loopback_only(tmp_path: Path) -> None:
    folder = write_sweep(str(tmp_path))
    for host in ("0.0.0.0", "::", "192.168.0.1", ""):
        with pytest.raises(ValueError, match="for this machine alone"):
            dashboard.start(folder, port=0, host=host)
    with dashboard.start(folder, port=0) as server:
        assert server.socket.getsockname()[0] == "127.0.0.1"
    for port in (-1, 65536):
        with pytest.raises(ValueError, match=f"port {port}: a number from 0 to 65535"):
            dashboard.start(folder, port=port)


def test_the_command_takes_the_next_free_port_says_so_and_ends_at_ctrl_c(tmp_path: Path) -> None:
    """And writes its token in the address alone, whatever is asked of it."""
    folder = write_sweep(str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code = "import sys; from jobs.dashboard import dashboard; dashboard(sys.argv[1], int(sys.argv[2]))"
        command = subprocess.Popen(
            [sys.executable, "-c", code, folder, str(port)],
            cwd=REPO,
            env={**os.environ, "PYTHONPATH": str(REPO)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert command.stdout is not None
            assert command.stdout.readline() == f"port {port} is taken\n"
            said = re.fullmatch(
                r"the page is at http://127\.0\.0\.1:(\d+)(/[\w-]+)/ \(Ctrl-C ends it\)\n", command.stdout.readline()
            )
            assert said is not None
            assert int(said[1]) > port
            get = Client(int(said[1]), said[2])
            assert get("/loss_weights/").body == PAGE
            assert get("/none/").status == 404
            assert get.stranger("/loss_weights/").status == 403
            assert b"400" in get.raw(f"nonsense {get.root}/\r\n\r\n".encode())
            assert get.raw(f"BREW {get.root}/ HTTP/1.1\r\n\r\n".encode()).split(b" ")[1] == b"501"
            command.send_signal(signal.SIGINT)
            out, errors = command.communicate(timeout=20)
            assert (command.returncode, out, errors) == (0, "\n", "")
        finally:
            command.kill()
            command.communicate()


# --- on S3


def test_a_bucket_is_shown(s3: str, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "FILE_SECONDS", 0.0)
    monkeypatch.setattr(dashboard, "NAMES_SECONDS", 0.0)
    run = storage.join(s3, "dashboard", "run")
    with pytest.raises(ValueError, match=r"s3://.*/dashboard/run: no sweep here"):
        dashboard.start(run, port=0)
    folder = write_sweep(run, page=None)
    alone, all_of_run = serve(folder), serve(run)
    for get in (alone, all_of_run):
        assert b"has not begun to write" in get("/loss_weights/").body
    write_sweep(run)
    read_bytes, read = storage.read_bytes, []
    monkeypatch.setattr(storage, "read_bytes", lambda uri: read.append(uri) or read_bytes(uri))
    for get in (alone, all_of_run):
        first = get("/loss_weights/results.json")
        assert (first.status, json.loads(first.body)["state"]) == (200, "running")
        assert get("/loss_weights/results.json", If_None_Match=first.headers["etag"]).status == 304
    assert len(read) == 2, "the same object is not fetched again"
    write_sweep(run, state="finished")
    for get in (alone, all_of_run):
        assert json.loads(get("/loss_weights/results.json").body)["state"] == "finished"
        assert get("/loss_weights/sweep.json").status == 404
    write_sweep(run, "second")
    assert all_of_run("/").body.count(b"<td><a ") == 2

"""What the server of pages refuses: requests without its token, other hosts, other paths, other methods."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from arspm import storage
from arspm.report import site, site_files
from tests.report.serving import PAGE, Serve, write_sweep

# --- without the token


def strange(token: str) -> list[str]:
    """Paths without the complete token, to existing and to missing pages."""
    names = (
        "",
        "sweeps/loss_weights/",
        "sweeps/loss_weights/index.html",
        "sweeps/loss_weights/results.json",
        "sweeps/none/",
        "favicon.ico",
    )
    other = token[:-1] + ("a" if token[-1] != "a" else "b")
    guesses = ("", other, token[:-1], token + "a", token.swapcase(), f"%{ord(token[0]):02x}{token[1:]}", "..")
    return [
        *(f"/{name}" for name in names),
        *(f"/{guess}/{name}" for guess in guesses for name in names),
        *(f"/{token}{end}" for end in ("", "?", "%2f", "%2fsweeps/loss_weights/", "\\sweeps\\loss_weights/")),
        *(f"/sweeps/loss_weights/?{token}", f"/?token={token}", f"/sweeps/loss_weights/{token}/", f"/./{token}/"),
    ]


def test_every_request_without_the_token_is_refused(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the token, or with another: the same response to every path, without a read of storage."""
    get = serve(write_sweep(str(tmp_path)))
    assert get("/sweeps/loss_weights/").body == PAGE
    etag = get("/sweeps/loss_weights/").headers["etag"]
    asked: list[str] = []
    monkeypatch.setattr(site._SweepSite, "respond", lambda _, path: asked.append(path))
    replies = []
    for path in strange(get.token):
        replies += [get.stranger(path), get.stranger(path, If_None_Match=f"{etag}, *")]
        head = get.stranger(path, "HEAD")
        assert (head.status, head.body) == (403, b"")
        assert get.stranger(path, "POST", Content_Length="0").status == 405
    assert asked == []
    assert {reply.status for reply in replies} == {403}
    [body] = {reply.body for reply in replies}
    assert b"Open the complete URL that `arspm dashboard` printed" in body
    assert len({str(reply.headers | {"date": ""}) for reply in replies}) == 1
    assert "etag" not in replies[0].headers
    assert replies[0].headers["referrer-policy"] == "no-referrer"


def test_every_server_has_its_own_token(tmp_path: Path, serve: Serve) -> None:
    folder = write_sweep(str(tmp_path))
    servers = [serve(folder) for _ in range(3)]
    assert len({get.token for get in servers}) == 3
    for get in servers:
        assert re.fullmatch(r"[A-Za-z0-9_-]{22}", get.token), "128 bits"
        for other in servers:
            reply = get._replace(root=other.root)("/sweeps/loss_weights/")
            assert (reply.status, reply.body == PAGE) == ((200, True) if other is get else (403, False))


def test_no_response_contains_the_token(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even to a client that knows it, as a page may be saved, printed or forwarded."""
    monkeypatch.setattr(site_files, "FILE_SECONDS", 0.0)
    monkeypatch.setattr(site, "NAMES_SECONDS", 0.0)
    alone = serve(write_sweep(str(tmp_path / "alone")))
    write_sweep(str(tmp_path))
    write_sweep(str(tmp_path), "later", page=None)
    Path(write_sweep(str(tmp_path), "broken", page=None), "results.json").mkdir()
    get = serve(str(tmp_path))
    asked = [
        (alone, "/", 302),
        (alone, "/sweeps/loss_weights", 404),
        (get, "/", 503),
        (get, "/sweeps/loss_weights/", 200),
    ]
    asked += [
        (get, "/sweeps/loss_weights/results.json", 200),
        (get, "/sweeps/later/", 200),
        (get, "/sweeps/none/", 404),
    ]
    asked += [(get, "/sweeps/broken/results.json", 503), (get.stranger, "/", 403)]
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


# --- invalid requests


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/sweeps/loss_weights/../../secret",
        "/sweeps/loss_weights/%2e%2e/%2e%2e/secret",
        "/%2e%2e/secret",
        "/..%2f..%2fsecret",
        "/sweeps/loss_weights/..%2f..%2fsecret",
        "/sweeps/loss_weights%2f/index.html",
        "/sweeps/loss_weights/%2fetc%2fpasswd",
        "//etc/passwd",
        "/etc/passwd",
        "/sweeps/loss_weights//index.html",
        "/sweeps/loss_weights",
        "/sweeps/loss_weights/sweep.json",
        "/sweeps/loss_weights/trials/",
        "/sweeps/loss_weights/trials/0.json",
        "/sweeps/loss_weights/trials/00001.json",
        "/sweeps/loss_weights/trials/00000.txt",
        "/sweeps/loss_weights/trials/00000.json/",
        "/sweeps/loss_weights/trials/0000000000.json",
        "/sweeps/loss_weights/trials/%30%30000.json",
        "/sweeps/loss_weights/trials/../../../../secret",
        "/sweeps/loss_weights/trials/00000/../../sweep.json",
        "/sweeps/loss_weights/trials/00000/step-00000001/progress.json",
        "/sweeps/loss_weights/tensorboard/00000/events",
        "/sweeps/loss_weights/clips.jpg",
        "/sweeps/loss_weights/index.html/",
        "/sweeps/loss_weights/index.html%00",
        "/sweeps/loss_weights%00/index.html",
        "/%ff%fe/index.html",
        "/loss_weights/index.html",
        "/index.html",
        "/sweeps/",
        "/report/metrics.json",
        "/report/_SUCCESS.json",
        "/configs/one.json",
        "/corpus/manifest.json",
        "/decoder/live.json",
        "/decoder/model.safetensors",
        "/decoder/epochs/../model.safetensors",
        "/decoder/epochs/00001.json",
        "/decoder/epochs/1.jpg",
        "/gender/epochs/00001.jpg",
        "/preprocess/index.html",
        "/ablation/metrics.json",
        "/_variants/neutral-0/encoder/model.safetensors",
        "/_variants/../report/index.html",
        "/_variants/%2e%2e/report/index.html",
        "/secret",
        "/" + "a" * 60_000,
        "//loss_weights/",
        "//there/loss_weights/",
        "/#/loss_weights/",
    ],
)
def test_no_other_path_exists(path: str, tmp_path: Path, serve: Serve) -> None:
    (tmp_path / "secret").write_text("hidden")
    (tmp_path / "run" / "secret").parent.mkdir()
    (tmp_path / "run" / "secret").write_text("hidden")
    for name in (
        *("report/metrics.json", "report/_SUCCESS.json", "configs/one.json", "corpus/manifest.json"),
        *("decoder/live.json", "decoder/model.safetensors", "decoder/epochs/00001.json", "decoder/epochs/1.jpg"),
        *("gender/epochs/00001.jpg", "preprocess/index.html", "ablation/metrics.json"),
        "_variants/neutral-0/encoder/model.safetensors",
    ):
        storage.write_bytes(f"{tmp_path}/run/{name}", b"hidden")
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
        (b"GET ROOT/sweeps/loss_weights/\x00 HTTP/1.1", b"404"),
        (b"GET ROOT/\xff\xfe HTTP/1.1", b"404"),
        (b"GET ROOT/" + b"a" * 70_000 + b" HTTP/1.1", b"414"),
        (b"BREW ROOT/ HTTP/1.1", b"501"),
        (b"GET /\x00 HTTP/1.1", b"403"),
        (b"GET /\xff\xfe HTTP/1.1", b"403"),
        (b"GET * HTTP/1.1", b"403"),
        (b"GET http://127.0.0.1ROOT/sweeps/loss_weights/ HTTP/1.1", b"403"),
        (b"GET TOKEN/sweeps/loss_weights/ HTTP/1.1", b"403"),
        (b"GET /sweeps/loss_weights/ HTTP/1.1\r\nCookie: token=TOKEN\r\nAuthorization: Bearer TOKEN", b"403"),
    ],
)
def test_malformed_requests_get_an_error(request_line: bytes, status: bytes, tmp_path: Path, serve: Serve) -> None:
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
    assert client("/sweeps/loss_weights/").status == 200, "the next request is served"


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
def test_other_host_names_are_refused(host: str, status: int, tmp_path: Path, serve: Serve) -> None:
    get = serve(write_sweep(str(tmp_path)))
    for path in ("/sweeps/loss_weights/", "/sweeps/loss_weights/results.json"):
        reply = get(path, Host=host)
        assert reply.status == status
        assert status == 200 or PAGE not in reply.body


def test_a_missing_or_repeated_host_header_is_refused(tmp_path: Path, serve: Serve) -> None:
    client = serve(write_sweep(str(tmp_path)))
    for hosts in (b"", b"Host: localhost\r\nHost: evil.example\r\n"):
        reply = client.raw(f"GET {client.root}/sweeps/loss_weights/ HTTP/1.1\r\n".encode() + hosts + b"\r\n")
        assert reply.split(b" ")[1] == b"403"
        assert PAGE not in reply


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(method: str, tmp_path: Path, serve: Serve) -> None:
    folder = Path(write_sweep(str(tmp_path)))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    reply = serve(str(folder))("/sweeps/loss_weights/results.json", method, Content_Length="0")
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_head_is_get_without_the_body(tmp_path: Path, serve: Serve) -> None:
    get = serve(write_sweep(str(tmp_path)))
    for path in ("/", "/sweeps/loss_weights/", "/sweeps/loss_weights/results.json", "/none"):
        whole, head = get(path), get(path, "HEAD")
        assert head.body == b""
        assert {**head.headers, "date": ""} == {**whole.headers, "date": ""}
        assert head.status == whole.status
    assert get("/sweeps/loss_weights/").status == get("/sweeps/loss_weights/", "HEAD").status == 200

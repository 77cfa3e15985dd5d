"""A model that is downloaded by name, from a server on loopback."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from arspm.media import models
from arspm.media.detectors import make_detector
from arspm.media.models import Model, model_file

DATA = b"a model" * 1000


class Server(ThreadingHTTPServer):
    """Serves one file and counts the requests."""

    data = DATA
    num_requests = 0
    status = 200


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.num_requests += 1
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        url = f"http://127.0.0.1:{running.server_port}/yunet.onnx"
        monkeypatch.setitem(models.MODELS, "yunet", Model(url, hashlib.sha256(DATA).hexdigest(), len(DATA)))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield running
        running.shutdown()


def test_a_model_is_downloaded_once_and_again_if_it_is_damaged(server: Server, tmp_path: Path) -> None:
    path = model_file("yunet")
    assert path.read_bytes() == DATA
    assert path.parent == tmp_path / "cache" / "arspm"
    assert model_file("yunet") == path
    assert server.num_requests == 1
    path.write_bytes(DATA[:-1])
    assert model_file("yunet").read_bytes() == DATA
    assert server.num_requests == 2


@pytest.mark.parametrize(
    ("status", "data", "says"),
    [
        (404, b"", "cannot be downloaded (Not Found)"),
        (200, b"<html>log in</html>", "is not the file that it was (SHA-256"),
        (200, DATA + b"!", "is not the file that it was (SHA-256"),
    ],
)
def test_another_file_is_refused_and_not_kept(
    server: Server, tmp_path: Path, status: int, data: bytes, says: str
) -> None:
    server.status, server.data = status, data
    with pytest.raises(ConnectionError) as caught:
        model_file("yunet")
    assert says in str(caught.value)
    assert str(caught.value).endswith("download it elsewhere and pass its path instead of 'yunet'")
    assert "\n" not in str(caught.value)
    assert not [*tmp_path.rglob("*.onnx")]


def test_without_a_connection_the_error_says_what_to_do(server: Server) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError, match=r"cannot be downloaded \(.*refused.*\): download it elsewhere"):
        make_detector("yunet")


def test_the_published_file_is_pinned() -> None:
    model = models.MODELS["yunet"]
    assert model.url.startswith("https://")
    assert (len(model.sha256), model.num_bytes) == (64, 232_589)

"""EC2's spot notices, from a server that answers as its metadata service does. Draining itself: tests/faults."""

from collections.abc import Iterator
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from cluster.drain import spot_notice
from cluster.errors import Unreachable


class Metadata(BaseHTTPRequestHandler):
    """IMDSv2: a token by PUT, and nothing without it."""

    notice: tuple[int, str]

    def do_PUT(self) -> None:
        asked = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self.answer(*((200, "the token") if asked else (400, "")))

    def do_GET(self) -> None:
        if self.headers["X-aws-ec2-metadata-token"] != "the token":
            self.answer(401, "")
        elif self.path == "/latest/meta-data/spot/instance-action":
            self.answer(*self.notice)
        else:
            self.answer(404, "")

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def metadata() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Metadata) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_without_a_notice_there_is_no_deadline(metadata: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Metadata, "notice", (404, "not found"), raising=False)
    assert spot_notice(metadata) is None


@pytest.mark.parametrize("action", ["terminate", "stop", "hibernate"])
def test_a_notice_says_when(metadata: str, monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    text = f'{{"action": "{action}", "time": "2026-09-18T08:22:00Z"}}'
    monkeypatch.setattr(Metadata, "notice", (200, text), raising=False)
    assert spot_notice(metadata) == datetime(2026, 9, 18, 8, 22, tzinfo=timezone.utc).timestamp()


@pytest.mark.parametrize("notice", [(500, ""), (200, "<html>"), (200, "[]"), (200, '{"time": 3}'), (200, "{}")])
def test_what_is_no_notice_takes_no_node_away(
    metadata: str, monkeypatch: pytest.MonkeyPatch, notice: tuple[int, str]
) -> None:
    monkeypatch.setattr(Metadata, "notice", notice, raising=False)
    with pytest.raises(Unreachable, match=metadata):
        spot_notice(metadata)


def test_elsewhere_than_on_ec2_nobody_answers() -> None:
    with pytest.raises(Unreachable, match="gives no spot notices"):
        spot_notice("http://127.0.0.1:1")

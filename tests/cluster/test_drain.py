"""EC2's spot notices, from a stand-in for its metadata service, and the command that drains a node.

Draining itself is tested in tests/faults.
"""

import subprocess
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
import ray.autoscaler.v2.sdk
from ray.autoscaler.v2.schema import ClusterStatus, NodeInfo
from ray.scripts import scripts

from cluster import drain as drains
from cluster.drain import drain, spot_notice
from cluster.errors import ClusterError, Unreachable


class Metadata(BaseHTTPRequestHandler):
    """IMDSv2: PUT returns a token, and GET requires it."""

    notice: tuple[int, str]

    def do_PUT(self) -> None:
        valid = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self.answer(*((200, "the token") if valid else (400, "")))

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
def test_a_notice_has_a_deadline(metadata: str, monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    text = f'{{"action": "{action}", "time": "2026-09-18T08:22:00Z"}}'
    monkeypatch.setattr(Metadata, "notice", (200, text), raising=False)
    assert spot_notice(metadata) == datetime(2026, 9, 18, 8, 22, tzinfo=timezone.utc).timestamp()


@pytest.mark.parametrize("notice", [(500, ""), (200, "<html>"), (200, "[]"), (200, '{"time": 3}'), (200, "{}")])
def test_an_invalid_notice_is_an_error(metadata: str, monkeypatch: pytest.MonkeyPatch, notice: tuple[int, str]) -> None:
    monkeypatch.setattr(Metadata, "notice", notice, raising=False)
    with pytest.raises(Unreachable, match=metadata):
        spot_notice(metadata)


def test_outside_ec2_the_service_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="gives no spot notices"):
        spot_notice("http://127.0.0.1:1")


@pytest.fixture
def status(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster with a busy node, an idle one and a dead one, instead of an answer of the head."""
    nodes = [NodeInfo("", "", "", f"10.0.0.{number}", node_id=f"{number}" * 56) for number in (1, 2, 3)]
    found = ClusterStatus(active_nodes=nodes[:1], idle_nodes=nodes[1:2], failed_nodes=nodes[2:])
    monkeypatch.setattr(ray.autoscaler.v2.sdk, "get_cluster_status", lambda address, timeout: found)


@pytest.mark.usefixtures("status")
@pytest.mark.parametrize("number", [1, 2])
def test_ray_takes_the_command_that_drains_a_node(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Parsed by Ray's own command line, instead of running it."""
    parsed: list[dict[str, Any]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        program, name, *options = command
        assert program.endswith("/ray")
        parsed.append(scripts.cli.get_command(None, name).make_context(name, options).params)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(drains.subprocess, "run", run)
    assert drain("head:6379", f"10.0.0.{number}", time.time() + 100, "spot notice") == f"{number}" * 56
    [options] = parsed
    assert 95 <= options.pop("deadline_remaining_seconds") <= 97
    assert options == {
        "address": "head:6379",
        "node_id": f"{number}" * 56,
        "reason": "DRAIN_NODE_REASON_PREEMPTION",
        "reason_message": "spot notice",
    }


@pytest.mark.usefixtures("status")
def test_a_node_that_ray_does_not_know_or_drain_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("10.0.0.3", "10.0.0.4"):
        with pytest.raises(ClusterError, match=f"Ray at head:6379 knows no live node {address}"):
            drain("head:6379", address, time.time() + 100, "spot notice")
    refused = subprocess.CompletedProcess([], 1, stderr="a warning\nError: The drain request is not accepted: busy\n")
    monkeypatch.setattr(drains.subprocess, "run", lambda command, **_: refused)
    with pytest.raises(ClusterError, match=r"Ray does not drain node 1+: The drain request is not accepted: busy$"):
        drain("head:6379", "10.0.0.1", time.time() + 100, "spot notice")

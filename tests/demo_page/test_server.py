"""Who may use the page: on loopback only, with the token, under this machine's own names."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from arspm.demo_page.server import Guard, listen

ROOT = "/secret"


async def _page(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]})
    await send({"type": "http.response.body", "body": b"the page"})


def ask(path: str, *hosts: str, kind: str = "http") -> list[dict[str, Any]]:
    """Return the messages with which the guard of `_page` answers."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"host", host.encode()) for host in hosts]
    asyncio.run(Guard(_page, ROOT)({"type": kind, "path": path, "headers": headers}, None, send))
    return sent


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8267", "localhost:1", "LOCALHOST"])
def test_with_the_token_the_page_answers_and_has_the_security_headers(host: str):
    begin, body = ask("/secret/gradio_api/info", host)
    assert (begin["status"], body["body"]) == (200, b"the page")
    headers = dict(begin["headers"])
    assert headers[b"x-own"] == b"1"
    assert headers[b"referrer-policy"] == b"no-referrer"
    policy = headers[b"content-security-policy"].decode()
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert "'unsafe-eval'" not in policy


@pytest.mark.parametrize("path", ["/", "/secret", "/secre/", "/Secret/", "/gradio_api/info", "/secretx/", "/é/"])
def test_without_the_token_everything_is_refused(path: str):
    begin, body = ask(path, "127.0.0.1")
    assert begin["status"] == 403
    assert b"token" in body["body"]
    assert b"secret" not in body["body"]
    assert b"content-security-policy" in dict(begin["headers"])


@pytest.mark.parametrize("hosts", [(), ("evil.example",), ("127.0.0.1.evil.example",), ("127.0.0.1", "evil.example")])
def test_other_hosts_are_refused(hosts: tuple[str, ...]):
    begin, body = ask("/secret/", *hosts)
    assert begin["status"] == 403
    assert b"host" in body["body"]


def test_websockets_are_refused():
    assert ask("/secret/", "127.0.0.1", kind="websocket") == [{"type": "websocket.close", "code": 1008}]


def test_a_taken_port_leads_to_the_next_one_on_loopback():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with listen(port) as listener:
            host, found = listener.getsockname()
            assert host == "127.0.0.1"
            assert found > port


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_does_not_exist_is_refused(port: int):
    with pytest.raises(ValueError, match=f"port {port}: must be from 0 to 65535"):
        listen(port)

"""Serves the page on loopback. As for the sweep pages, the URL's path starts with a token, a new one at each start."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from arspm import SpeechPortrait
from arspm.demo_page import faces, page
from arspm.report import loopback

PORT = 8267  # arspm dashboard is 8266

# Without eval, and with nothing from elsewhere: gradio's frontend would otherwise ask other servers for some features.
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'wasm-unsafe-eval' data: blob:; base-uri 'self'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


def serve(uri: str, port: int = PORT, *, device: str = "cpu") -> None:
    """Serve the page of a trained run or an exported model on 127.0.0.1 until Ctrl-C. Prints the URL.

    If the port is taken, the next free one is used; 0 is any free port. Raises ValueError or OSError, in one line, if
    gradio is not installed, the model cannot be loaded or the port cannot be used.
    """
    with TemporaryDirectory(prefix="arspm-demo-page-") as name:
        os.environ["GRADIO_TEMP_DIR"] = name  # gradio reads it when it is imported
        page.require_gradio()
        model = SpeechPortrait.load(uri, device=device)
        means = faces.load_means(uri)
        root = f"/{loopback.new_token()}"
        app = page.build(model, means, Path(name), root)
        with listen(port) as listener:
            found = listener.getsockname()[1]
            if port not in (0, found):
                print(f"port {port} is taken")
            _run(Guard(app, root), listener, f"serving http://127.0.0.1:{found}{root}/ (Ctrl-C to stop)")


def listen(port: int) -> socket.socket:
    """Return a socket that listens on 127.0.0.1. Raises ValueError if no port can be used."""
    return loopback.at_free_port(port, lambda candidate: socket.create_server(("127.0.0.1", candidate)))


class Guard:
    """An ASGI application in front of another: it refuses other hosts and paths without the token, and adds headers."""

    def __init__(self, app: Any, root: str) -> None:
        self._app, self._root = app, f"{root}/"

    async def __call__(self, scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
            await send(message)

        if scope["type"] == "http" and (reason := self._refusal(scope)) is None:
            await self._app(scope, receive, send_with_headers)
        elif scope["type"] == "http":
            plain = [(b"content-type", b"text/plain; charset=utf-8")]
            await send_with_headers({"type": "http.response.start", "status": 403, "headers": plain})
            await send({"type": "http.response.body", "body": reason})
        else:
            await send({"type": "websocket.close", "code": 1008})  # the page uses none

    def _refusal(self, scope: Any) -> bytes | None:
        if not loopback.is_local([value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]):
            return loopback.FOREIGN_HOST
        if not loopback.has_token(scope["path"], self._root):
            return (
                b"Open the complete URL that `arspm demo-page` printed. It contains a token, a new one at each start.\n"
            )
        return None


def _run(app: Guard, listener: socket.socket, announcement: str) -> None:
    """Serve until SIGINT or SIGTERM; both end the process normally, so that the temporary folder is deleted."""
    import uvicorn

    class Announced(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            print(announcement, flush=True)

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=2
    )
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        Announced(config).run(sockets=[listener])
    except KeyboardInterrupt:  # uvicorn raises the signal again after its shutdown
        print()
    finally:
        signal.signal(signal.SIGTERM, before)

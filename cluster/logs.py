"""Following a job's log without asking for all of it again each time."""

from __future__ import annotations

import asyncio
import queue
import threading
from types import TracebackType
from typing import Any


class Tail:
    """The log of one job, line by line, over the Jobs API's web socket, read by a thread in the background.

    The socket gives the log from its start and may break; the thread then connects anew and leaves out what it had.
    """

    def __init__(self, client: Any, submission_id: str) -> None:
        self._client, self._id = client, submission_id
        self._chunks: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._received, self._taken, self._partial = 0, 0, ""
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Tail:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def new_lines(self) -> list[str]:
        """The whole lines that arrived since the last call; never waits."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._read, name=f"log of {self._id}", daemon=True)
            self._thread.start()
        text = self._partial
        while not self._chunks.empty():
            chunk = self._chunks.get()
            self._taken += len(chunk)
            text += chunk
        *lines, self._partial = text.split("\n")
        return lines

    def rest(self, log: str) -> list[str]:
        """The lines of the complete log that `new_lines` has not given."""
        return (self._partial + log[self._taken :]).splitlines()

    def close(self) -> None:
        """Give up reading. The thread ends on its own when the socket next says something or closes."""
        self._closed.set()

    def _read(self) -> None:
        while not self._closed.is_set():
            try:
                return asyncio.run(self._receive())
            except Exception:  # the socket broke; whether the job lives is for the caller to ask
                self._closed.wait(2.0)

    async def _receive(self) -> None:
        """Queue what the socket gives beyond what was had before; returns once the log has ended."""
        position = 0
        async for chunk in self._client.tail_job_logs(self._id):
            if self._closed.is_set():
                return
            new = chunk[max(0, self._received - position) :]
            position += len(chunk)
            if new:
                self._received += len(new)
                self._chunks.put(new)

"""Following a job's log without fetching all of it each time."""

from __future__ import annotations

import asyncio
import queue
import threading
from types import TracebackType
from typing import Any


class Tail:
    """Follows the log of one job, line by line. A background thread reads it from the Jobs API's web socket.

    The socket always sends the log from its start. If it breaks, the thread reconnects and drops the text that it has
    already received.
    """

    def __init__(self, client: Any, submission_id: str) -> None:
        self._client, self._id = client, submission_id
        self._chunks: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._received, self._returned, self._partial = 0, 0, ""  # two counts of characters, and an unfinished line
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Tail:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def new_lines(self) -> list[str]:
        """Return the complete lines that arrived since the last call. Never waits."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._read, name=f"log of {self._id}", daemon=True)
            self._thread.start()
        text = self._partial
        while not self._chunks.empty():
            chunk = self._chunks.get()
            self._returned += len(chunk)
            text += chunk
        *lines, self._partial = text.split("\n")
        return lines

    def rest(self, log: str) -> list[str]:
        """Return the lines of the complete log that `new_lines` has not returned."""
        return (self._partial + log[self._returned :]).splitlines()

    def close(self) -> None:
        """Stop following. The thread ends with the socket's next message, or when the socket closes."""
        self._closed.set()

    def _read(self) -> None:
        while not self._closed.is_set():
            try:
                return asyncio.run(self._receive())
            except Exception:  # the socket broke; the caller finds out whether the job is still alive
                self._closed.wait(2.0)

    async def _receive(self) -> None:
        """Queue the text that was not received before. Returns when the log has ended."""
        position = 0
        async for chunk in self._client.tail_job_logs(self._id):
            if self._closed.is_set():
                return
            new = chunk[max(0, self._received - position) :]
            position += len(chunk)
            if new:
                self._received += len(new)
                self._chunks.put(new)

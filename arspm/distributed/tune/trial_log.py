"""A trial's log, `trials/00003.log`: what its process logs and warns, and the traceback of its error.

A trial of several workers has the lines of its driver; its workers' own output is in Ray's logs.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator

from arspm import storage
from arspm.runs import sweeps

WRITE_SECONDS = 15.0  # between two writes of a log that grows
MAX_CHARACTERS = 200_000  # of a log; its end is kept

log = logging.getLogger("arspm.trial")


@contextlib.contextmanager
def logged(folder: str, number: int) -> Iterator[None]:
    """Copy what this process logs to the trial's log in the sweep's folder, after the lines of earlier attempts."""
    uri = storage.join(folder, f"{sweeps.stem(number)}.log")
    handler = _Handler(storage.read_bytes(uri).decode(errors="replace") if storage.exists(uri) else "")
    root, done = logging.getLogger(), threading.Event()
    writer = threading.Thread(target=_write_until, args=(done, handler, uri), daemon=True)
    level, is_stopped = log.level, False
    log.setLevel(logging.INFO)
    root.addHandler(handler)
    logging.captureWarnings(True)
    writer.start()
    try:
        log.info("trial %d starts on %s", number, socket.gethostname())
        yield
        log.info("trial %d has ended", number)
    except SystemExit:  # how Tune ends a trial that was stopped
        is_stopped = True
        log.info("trial %d was stopped", number)
        raise
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        log.setLevel(level)
        done.set()
        if not is_stopped:  # Tune waits only 2 s for a stopped trial before it gives its actor up
            writer.join()


class _Handler(logging.Handler):
    """Keeps the end of a log as text."""

    def __init__(self, text: str) -> None:
        super().__init__(logging.INFO)
        self.text = text
        formatter = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S UTC")
        formatter.converter = time.gmtime
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        self.text = f"{self.text}{self.format(record)}\n"[-MAX_CHARACTERS:]


def _write_until(done: threading.Event, handler: _Handler, uri: str) -> None:
    """Write the log every WRITE_SECONDS if it has grown, and at its end. Runs in a thread: training never waits for it.

    A failed write is repeated with the next one. No trial fails for its log.
    """
    written = None
    while True:
        is_last = done.wait(WRITE_SECONDS)
        text = handler.text
        if text != written:
            with contextlib.suppress(Exception):  # of storage, after its own retries
                storage.write_bytes(uri, text.encode())
                written = text
        if is_last:
            return

"""Requests to stop single trials of a sweep: files in `stop/` that `arspm cancel` writes.

The trial itself looks for its own, and the sweep's job for all of them. They lie in storage because the command, the
job and the trial share nothing else. A request stays until its trial has ended, so a job that dies in between leaves it
to the next one.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from arspm import storage
from arspm.runs import sweeps

FOLDER = "stop"
REASON = "stopped by the user"
LOOK_SECONDS = 5.0  # between two looks of a trial for its request


class StopRequested(Exception):
    """The user has asked to stop the trial that this process trains."""


def request(sweep_folder: str, number: int) -> sweeps.Record:
    """Request that a trial be stopped, and return its record.

    Raises ValueError if the trial has not started or has ended.
    """
    record = sweeps.read_record(sweep_folder, number)
    if record is None:
        raise ValueError(f"trial {number} has not started; only a started trial can be stopped")
    if record["state"] in sweeps.ENDED:
        raise ValueError(f"trial {number} has ended ({record['state']}); nothing to stop")
    storage.write_json(_file(sweep_folder, number), {"requested": time.time()})
    return record


def requested(sweep_folder: str) -> set[int]:
    """Return the numbers of the trials that are to be stopped. Other files in the folder are ignored."""
    names = [path.removesuffix(".json") for path in storage.files_below(storage.join(sweep_folder, FOLDER))]
    return {int(name) for name in names if name.isascii() and name.isdigit()}


@contextlib.contextmanager
def watched(sweep_folder: str, number: int) -> Iterator[Callable[[], None]]:
    """Yield a function that raises StopRequested once a trial is to be stopped.

    A thread looks for the request, so that training never waits for storage. While storage is not available, there is
    none.
    """
    is_requested, is_over = threading.Event(), threading.Event()

    def look() -> None:
        while not is_over.wait(LOOK_SECONDS):
            with contextlib.suppress(Exception):  # of storage, after its own retries
                if storage.exists(_file(sweep_folder, number)):
                    is_requested.set()
                    return

    def check() -> None:
        if is_requested.is_set():
            raise StopRequested(f"trial {number}: {REASON}")

    threading.Thread(target=look, daemon=True).start()
    try:
        yield check
    finally:
        is_over.set()


def remove(sweep_folder: str, number: int) -> None:
    """Remove a trial's request, if there is one."""
    storage.remove(_file(sweep_folder, number))


def _file(sweep_folder: str, number: int) -> str:
    return storage.join(sweep_folder, FOLDER, f"{number:05d}.json")

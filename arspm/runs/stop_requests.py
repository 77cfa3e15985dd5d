"""Requests to stop single trials of a sweep: files in `stop/` that `arspm cancel` writes and the sweep's job reads.

They lie in storage because the command and the job share nothing else. A request stays until its trial has ended, so a
job that dies in between leaves it to the next one.
"""

from __future__ import annotations

import time

from arspm import storage
from arspm.runs import sweeps

FOLDER = "stop"
REASON = "stopped by the user"


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


def remove(sweep_folder: str, number: int) -> None:
    """Remove a trial's request, if there is one."""
    storage.remove(_file(sweep_folder, number))


def _file(sweep_folder: str, number: int) -> str:
    return storage.join(sweep_folder, FOLDER, f"{number:05d}.json")

"""Single trials of a sweep: stop one, and read its log. Both need storage only, no cluster."""

from __future__ import annotations

from collections.abc import Sequence

from arspm import storage
from arspm.config import ConfigError
from arspm.runs import find, lease, stop_requests, sweeps


def stop(run: str, names: Sequence[str], stages: Sequence[str], trials: Sequence[int]) -> list[str]:
    """Request that trials of a sweep be stopped, and return a line on each.

    names: of the sweeps that the user gave; one is needed. stages: the stages that the user gave; none may be. Raises
    ConfigError for other options, FileNotFoundError if there is no such sweep, ValueError for a trial that does not
    run.
    """
    if len(names) != 1 or stages:
        raise ConfigError("trial: a trial is a sweep's; pass one --sweep NAME with it, and no --stage")
    folder = _folder(run, names[0])
    running = lease.last_sign(folder)[0]
    when = "within seconds" if running else "when the sweep is resumed, for its job does not run"
    lines = []
    for number in trials:
        stop_requests.request(folder, number)
        lines.append(f"trial {number} of {names[0]}: will be stopped {when}")
    return lines


def log(run: str, name: str, number: int) -> str:
    """Return the log of a sweep's trial. Raises FileNotFoundError if there is none."""
    folder = _folder(run, name)
    uri = storage.join(folder, f"{sweeps.stem(number)}.log")
    if not storage.exists(uri):
        raise FileNotFoundError(f"{uri}: trial {number} has no log; it may not have started")
    return storage.read_bytes(uri).decode(errors="replace")


def _folder(run: str, name: str) -> str:
    folder = sweeps.folder(run, name)
    if not storage.exists(storage.join(folder, sweeps.SWEEP)):
        find.require_run(run)
        known = ", ".join(sweeps.names(run)) or "none"
        raise FileNotFoundError(f"{run}: no sweep {name!r}; its sweeps: {known}")
    return folder

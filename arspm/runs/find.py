"""Whether there is a run at a URI, and the run that was probably meant if there is none."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable

from arspm import storage
from arspm.runs import drivers, inventory, stages, sweeps
from arspm.storage import uris

# Folders of a run. A lease does not count: a sweep's folder, inside a run, has one too.
_PARTS = {"configs", inventory.FOLDER, stages.CORPUS, stages.VARIANTS, sweeps.FOLDER, drivers.FOLDER, *stages.STAGES}
_MOST_SHOWN = 3


def is_run(uri: str) -> bool:
    """Return whether a folder has at least one of the folders that a run has."""
    return has_parts(storage.entries(uri))


def has_parts(names: Iterable[str]) -> bool:
    """Return whether one of the names of a folder's entries is that of a run's own folder."""
    return not _PARTS.isdisjoint(names)


def require_run(uri: str) -> None:
    """Raise FileNotFoundError, with the nearest run beside it, if there is no run at this URI."""
    if is_run(uri):
        return
    parent, _, name = uri.rpartition("/")
    if parent.endswith(":/"):  # of a bucket
        parent = ""
    shown = uris.display_uri(uri)
    with contextlib.suppress(PermissionError):  # of the folders around it
        if near := _near(uri, parent, name):
            raise FileNotFoundError(f"{shown}: {near}")
    raise FileNotFoundError(f"{shown}: there is no such run; `arspm submit --run {shown} ...` starts one")


def _near(uri: str, parent: str, name: str) -> str:
    """Return which run was probably meant by the folder `name` in `parent`, "" if there is none."""
    if parent and is_run(parent):
        return f"not a run, but inside one: did you mean {parent}?"
    beside = storage.entries(parent) if parent else []
    for near in difflib.get_close_matches(name, [each for each in beside if each != name], n=_MOST_SHOWN):
        if is_run(found := storage.join(parent, near)):
            return f"there is no such run: did you mean {found}?"
    inside = [each for each in storage.entries(uri)[:50] if is_run(storage.join(uri, each))]
    if inside:
        more = ", ..." if len(inside) > _MOST_SHOWN else ""
        return f"not a run, but a folder of runs: {', '.join(inside[:_MOST_SHOWN])}{more}"
    return ""

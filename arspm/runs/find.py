"""Whether there is a run at a URI, the run that was probably meant if there is none, the runs below it, their state."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Collection, Iterable

from arspm import storage
from arspm.corpus.media_types import MEDIA_EXTENSIONS
from arspm.runs import drivers, inventory, lease, stages, sweeps
from arspm.storage import uris

# Folders of a run. A lease does not count: a sweep's folder, inside a run, has one too.
_PARTS = {"configs", inventory.FOLDER, stages.CORPUS, stages.VARIANTS, sweeps.FOLDER, drivers.FOLDER, *stages.STAGES}
_MOST_SHOWN = 3
MAX_RUNS = 200  # that `runs_below` returns
MAX_DEPTH = 3  # folders below the URI
_MAX_FOLDERS = 2000  # that are looked into
# Names that are surely no folders of runs: hidden ones, and files by their type. A run may be called `v1.2`.
_FILE_TYPES = ("csv", "html", "json", "parquet", "py", "safetensors", "txt", "yaml", *MEDIA_EXTENSIONS)
_FILE = re.compile(rf"^\.|\.({'|'.join(_FILE_TYPES)})$", re.IGNORECASE)


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


def runs_below(uri: str, max_runs: int = MAX_RUNS) -> tuple[list[str], bool]:
    """Return the URIs of the runs at or below a URI, at most MAX_DEPTH folders down, and whether that is all of them.

    A run's own folders are not looked into. On S3 only the first 1,000 entries of a folder are.
    """
    runs, level, looked = [], [uri], 0
    for depth in range(MAX_DEPTH + 1):
        room = _MAX_FOLDERS - looked
        entries = storage.in_threads(storage.entries, level[:room])
        looked += len(entries)
        below: list[str] = []
        for folder, names in zip(level[:room], entries, strict=True):
            if has_parts(names):
                runs.append(folder)
            else:
                below += [storage.join(folder, name) for name in names if not _FILE.search(name)]
        if len(level) > room or len(runs) > max_runs:
            return sorted(runs)[:max_runs], False
        if not below or depth == MAX_DEPTH:
            break
        level = below
    return sorted(runs), True


def stages_done(run: str) -> list[str]:
    """Return the stages that have a manifest."""
    uris_of = [storage.join(stages.folder(run, stage), stages.SUCCESS) for stage in stages.STAGES]
    there = storage.in_threads(storage.exists, uris_of)
    return [stage for stage, is_there in zip(stages.STAGES, there, strict=True) if is_there]


def state(run: str, done: Collection[str]) -> str:
    """Return "running", "done", how the chain's driver ended, or "incomplete". done: the stages with a manifest."""
    if lease.last_sign(run)[0]:
        return "running"
    if set(done) == set(stages.STAGES):
        return "done"
    driver = drivers.read(run, drivers.CHAIN)
    if driver is not None and driver.ended and driver.how != drivers.FINISHED:
        return driver.how.partition(":")[0]
    return "incomplete"

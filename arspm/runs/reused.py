"""Check the files of finished stages before other stages build on them.

Two heads that run the same run at once can leave one's files under the other's manifest, and storage can damage a file.
The sizes are compared with a listing, which is cheap; the SHA-256 needs every byte.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from arspm import storage
from arspm.runs import stages

_THREADS = 8  # hashing releases the GIL, and reading from S3 waits
_SHARD = re.compile(rf"{stages.CORPUS}/[^/]+/[^/]+/[^/]+\.parquet")


class Hashed(NamedTuple):
    """What `require_hashes` read, and how much it left because of its limit."""

    num_files: int
    num_bytes: int
    seconds: float
    bytes_left: int


class _Listed(NamedTuple):
    """A file that a manifest lists."""

    uri: str
    manifest: str
    stage: str
    described: dict[str, Any]  # "bytes" and "sha256"


def built_on(pending: Iterable[str]) -> list[str]:
    """Return the stages whose output the pending stages build on, directly or not, without the pending ones."""
    pending = set(pending)
    found: set[str] = set()
    waiting = [need for stage in pending for need in stages.STAGES[stage].needs]
    while waiting:
        stage = waiting.pop()
        if stage not in found:
            found.add(stage)
            waiting += stages.STAGES[stage].needs
    return [stage for stage in stages.STAGES if stage in found - pending]


def require_sizes(run: str, names: Sequence[str], *, shards: bool = True) -> None:
    """Raise ValueError, in one line, if a file of finished stages is missing or its size is not that of its manifest.

    names: the stages. shards: whether the shards of the corpus count, which the report does not read.
    """
    sizes: dict[str, dict[str, int]] = {}
    for each in _listed(run, names, shards):
        folder, name = _folder_of(each.uri, each.manifest)
        if folder not in sizes:
            sizes[folder] = storage.files_below(folder)
        found, expected = sizes[folder].get(name), each.described.get("bytes")
        if found is None:
            raise ValueError(
                f"{each.uri}: missing, although {each.manifest} lists it; delete {each.manifest} and submit again, "
                f"which runs stage {each.stage} again"
            )
        if expected is not None and found != expected:
            raise ValueError(_other_file(each, f"it has {found:,} bytes instead of {expected:,}"))


def require_hashes(run: str, names: Sequence[str], *, max_bytes: float, shards: bool = True) -> Hashed:
    """Raise ValueError, in one line, if a file of finished stages has another SHA-256 than its manifest says.

    Reads up to `max_bytes`: first what is not a shard of the corpus, such as networks, then shards in their order.
    """
    started, num_bytes = time.monotonic(), 0
    files = [each for each in _listed(run, names, shards) if {"bytes", "sha256"} <= each.described.keys()]
    files.sort(key=lambda each: _SHARD.search(each.uri) is not None)  # stable
    chosen = []
    for each in files:
        if num_bytes + each.described["bytes"] <= max_bytes:
            chosen.append(each)
            num_bytes += each.described["bytes"]
    with ThreadPoolExecutor(_THREADS) as pool:
        for each, found in zip(chosen, pool.map(lambda each: storage.describe(each.uri), chosen), strict=True):
            if found["sha256"] != each.described["sha256"]:
                raise ValueError(_other_file(each, "its SHA-256 is another"))
    bytes_left = sum(each.described["bytes"] for each in files) - num_bytes
    return Hashed(len(chosen), num_bytes, time.monotonic() - started, bytes_left)


def _listed(run: str, names: Sequence[str], shards: bool) -> Iterator[_Listed]:
    for stage in names:
        manifest = stages.success(run, stage)
        if manifest is None:
            continue
        uri = storage.join(stages.folder(run, stage), stages.SUCCESS)
        base = uri.removesuffix(f"/{stage}/{stages.SUCCESS}")
        for path, described in manifest.files.items():
            if shards or not _SHARD.fullmatch(path):
                yield _Listed(storage.join(base, path), uri, stage, described)
        if shards and (source := manifest.figures.get("adopted")):
            made = stages.success(source, stage)
            if made is None or made.fingerprint != manifest.fingerprint:
                raise ValueError(f"{uri}: its corpus, that of {source}, is no longer there or was made again")
            yield from _listed(source, [stage], shards)


def _folder_of(uri: str, manifest: str) -> tuple[str, str]:
    """Return the folder of the run that a file is in, and the file's path below it."""
    base = manifest.rsplit("/", 2)[0]
    top, _, rest = uri.removeprefix(f"{base}/").partition("/")
    return storage.join(base, top), rest


def _other_file(each: _Listed, why: str) -> str:
    return (
        f"{each.uri}: not the file that {each.manifest} lists: {why}. It is damaged, or was written by another run of "
        f"stage {each.stage} at the same time; delete both files and submit again, which makes them again"
    )

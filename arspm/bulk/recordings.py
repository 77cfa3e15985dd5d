"""Find recordings in files, folders, buckets and corpora, and give each portrait a name of its own."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from arspm import storage
from arspm.corpus import schema, tables
from arspm.corpus.media_types import CLIP_EXTENSIONS, extension
from arspm.corpus.parquet_files import opened
from arspm.runs import stages
from arspm.storage.retries import first_line

PER_ITEM = 64  # recordings that are read, drawn and written together
_THREADS = 16  # tables whose footers are read at a time

# What is drawn at a time, as JSON: "number", and either "sources" and "names" of recordings, or the "table" with rows
# of speech, the number of its row "group", and the "names" of its folder; the "stamps" of the sources or the group.
Item = dict[str, Any]


@dataclass
class Found:
    """What there is to draw.

    recordings: URI -> name. tables: URI of a Parquet file with rows of speech -> name of its folder. stamps: URI of
    either -> `storage.stamp`, "" if it cannot be told. failures: URI and reason of each input that has nothing.
    num_repeated: recordings that were given twice. left_out: extension -> files that are no recordings.
    """

    recordings: dict[str, str] = field(default_factory=dict)
    tables: dict[str, str] = field(default_factory=dict)
    stamps: dict[str, str] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)
    num_repeated: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def items(self, drawn: Container[tuple[str, str]] = (), number: int = 0) -> Iterator[Item]:
        """Yield what there is to draw, numbered from `number`. A table that cannot be opened becomes a failure.

        drawn: (source, stamp) of recordings and row groups that are left out.
        """
        sources = [source for source in self.recordings if (source, self.stamps[source]) not in drawn]
        for begin in range(0, len(sources), PER_ITEM):
            part = sources[begin : begin + PER_ITEM]
            names, stamps = ([of[source] for source in part] for of in (self.recordings, self.stamps))
            yield {"number": number, "table": "", "group": 0, "sources": part, "names": names, "stamps": stamps}
            number += 1
        with ThreadPoolExecutor(_THREADS) as pool:
            for table, groups in zip(self.tables, pool.map(_row_groups, self.tables), strict=True):
                if isinstance(groups, str):
                    self.failures.append((table, groups))
                    continue
                for group in range(groups):
                    stamp = self.group_stamp(table, group)
                    if (table, stamp) in drawn:
                        continue
                    about = {"names": [self.tables[table]], "stamps": [stamp]}
                    yield {"number": number, "table": table, "group": group, "sources": [], **about}
                    number += 1

    def group_stamp(self, table: str, group: int) -> str:
        """Return the stamp of a row group of a table."""
        return f"{self.stamps[table]} {group}" if self.stamps[table] else ""


def find(inputs: Sequence[str], splits: Sequence[str] = schema.SPLITS) -> Found:
    """Return the recordings in files, folders, s3:// prefixes, Parquet files with speech, corpora, and runs' corpora.

    splits: those that are drawn of a corpus. In a folder, the extension decides which files are recordings; a file that
    is given itself is read whatever it is called. A portrait is named like its recording, by its path below the folder
    that all inputs have in common, so equal names in different folders stay apart.
    """
    found = Found()
    roots: dict[str, str] = {}  # of each recording and table: the folder in which it was found
    corpora = set[str]()
    for uri in inputs:
        try:
            if corpus := _corpus(uri):
                corpora.add(corpus)
                root, sources = corpus, _speech_tables(corpus, splits)
            else:
                root, sources = _sources(uri, found)
        except (ValueError, OSError) as error:
            if isinstance(error, storage.StorageUnavailable):
                raise
            found.failures.append((uri, reason_of(error, uri)))
            continue
        if not sources:
            found.failures.append((uri, "no recordings in it"))
        for source in sources:
            found.num_repeated += source in roots
            roots.setdefault(source, root)
    paths = _paths(roots)
    unstamped = [source for source in roots if source not in found.stamps]
    found.stamps.update(zip(unstamped, storage.in_threads(_stamp, unstamped), strict=True))
    is_table = {source: extension(source) == "parquet" for source in roots}
    found.recordings = _unique_names({source: path for source, path in paths.items() if not is_table[source]})
    found.tables = {
        source: path.rpartition("/speech/")[0] if roots[source] in corpora else os.path.splitext(path)[0]
        for source, path in paths.items()
        if is_table[source]
    }
    return found


def reason_of(error: Exception, source: str) -> str:
    """Return why a source cannot be used, in one line that does not repeat the source."""
    if isinstance(error, PermissionError) and not storage.is_remote(source):
        return "no permission to read it"
    text = first_line(error)
    if isinstance(error, OSError) and error.strerror and error.errno is not None:
        text = error.strerror
    return text.removeprefix(f"{source}: ")[:300]


def _corpus(uri: str) -> str | None:
    """Return the URI of the corpus that an input is, or that the run has which it is; None if it is neither."""
    if _is_file(uri):
        return None
    for corpus in (uri, stages.corpus(uri)):
        entries = {*storage.entries(corpus)}
        if tables.MANIFEST in entries and entries & {*schema.SPLITS}:  # others have a file of this name, too
            return corpus
    return None


def _is_file(uri: str) -> bool:
    """Return whether an input is a file, by its name if it is remote: looking would take a request for each."""
    if storage.is_remote(uri):
        return extension(uri) in (*CLIP_EXTENSIONS, "parquet")
    return not os.path.isdir(uri)


def _sources(uri: str, found: Found) -> tuple[str, list[str]]:
    """Return the folder of an input that is no corpus, and the recordings and tables in it, sorted.

    Adds the stamps of those in a folder, and what is left out there.
    """
    alone = uri.rpartition("/")[0], [uri]
    if _is_file(uri):
        return alone
    files = storage.list_files(uri, stamps=True)
    paths = files["path"].to_pylist()
    if storage.is_remote(uri) and not paths:
        return alone  # a file with an unusual name; if there is none, reading it says so
    kinds = {path: extension(path) for path in paths}
    stamps = {
        storage.join(uri, path): stamp
        for path, stamp in zip(paths, files["stamp"].to_pylist(), strict=True)
        if kinds[path] in (*CLIP_EXTENSIONS, "parquet")
    }
    found.stamps.update(stamps)
    found.left_out.update(kind or "other" for kind in kinds.values() if kind not in (*CLIP_EXTENSIONS, "parquet"))
    return uri, [*stamps]


def _stamp(source: str) -> str:
    """Return the stamp of a source, "" if it cannot be told: then reading it says why."""
    try:
        return storage.stamp(source)
    except (ValueError, OSError) as error:
        if isinstance(error, storage.StorageUnavailable):
            raise
        return ""


def _speech_tables(corpus: str, splits: Sequence[str]) -> list[str]:
    """Return the Parquet files with the speech of a corpus's splits: those that its manifest lists."""
    names = tables.shard_names(corpus)
    return [
        storage.join(corpus, split, "speech", f"{shard}.parquet")
        for split in splits
        for shard in sorted(names.get(split, ()))
    ]


def _row_groups(table: str) -> int | str:
    """Return the number of row groups of a Parquet file, or why it cannot be read."""

    def read() -> int:
        with opened(table) as parquet:
            return int(parquet.num_row_groups)

    try:
        return storage.retried(table, read)
    except (ValueError, FileNotFoundError, PermissionError) as error:
        return reason_of(error, table)


def _paths(roots: dict[str, str]) -> dict[str, str]:
    """Return each source's path below the folder that all roots have in common; without one, its whole path."""
    parts = [root.split("/") for root in {*roots.values()}]
    shared = 0
    while parts and all(len(each) > shared and each[shared] == parts[0][shared] for each in parts):
        shared += 1
    return {source: "/".join(filter(None, source.split("/")[shared:])).replace(":", "_") for source in roots}


def _unique_names(paths: dict[str, str]) -> dict[str, str]:
    """Return each path without its extension, or with it where another recording would get the same name."""
    stems = {source: os.path.splitext(path)[0] for source, path in paths.items()}
    counts, taken = Counter(stems.values()), {*paths.values()}
    return {
        source: stems[source] if counts[stems[source]] == 1 and stems[source] not in taken else path
        for source, path in paths.items()
    }

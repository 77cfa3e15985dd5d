"""The inputs of a run: their hash, and the inventory, which is the stored listing of their files.

Whoever computes the fingerprint of preprocess lists every tree of files, and stores the listing in the run with that
fingerprint, as `<run>/inventory/<name>.parquet`. Whoever is given the fingerprint reads the stored listing. So each
`arspm submit` lists the trees once.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import time
from collections.abc import Mapping
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from arspm import storage
from arspm.config import DATA_FORMATS, Config, ConfigError, Data, read_recognizer_input, uri_fields
from arspm.corpus.filters import check_filter
from arspm.corpus.media_types import MEDIA_EXTENSIONS, have_extension

FOLDER = "inventory"  # of a run
TABLES = ("csv", "test_csv")  # the inputs that are files, besides labels.csv; the others are trees of files
_CHUNK = 65_536  # files that are Python objects at a time

log = logging.getLogger(__name__)


class Inputs(NamedTuple):
    """The files of each tree by its name in `data`, and a hash of the tables' contents and of the media files."""

    trees: dict[str, pa.Table]  # of storage.FILES
    hash: str


def find_inputs(config: Config, trees: Mapping[str, pa.Table] | None = None) -> Inputs:
    """Return the inputs. trees: a listing of them (default: list them now).

    Raises FileNotFoundError if an input is not configured, does not exist, or is a folder without media files. Checks
    the files and the filter of later stages too, which would otherwise fail hours later.
    """
    names = _names(config.data)
    for name in names:
        uri = getattr(config.data, name)
        if not uri or not storage.exists(uri):
            problem = f"{uri} does not exist" if uri else f"not set; data.format={config.data.format} needs it"
            raise FileNotFoundError(f"data.{name}: {problem}")
    check_settings(config)
    tables = [config.data.csv] if "csv" in names else []
    tables += [uri for uri in (config.data.test_csv, config.data.labels) if uri]
    hashes = [hashlib.sha256(storage.read_bytes(uri)).hexdigest() for uri in tables]
    uris = {name: getattr(config.data, name) for name in _trees(config.data)}
    found = {name: storage.list_files(uri) for name, uri in uris.items()} if trees is None else dict(trees)
    parts = {name: _hash_media(files) for name, files in found.items()}
    for name, described in parts.items():
        if not described:
            raise FileNotFoundError(f"data.{name}: {uris[name]} contains no media files")
    return Inputs(found, hashlib.sha256(json.dumps([hashes, parts]).encode()).hexdigest())


def check_settings(config: Config) -> None:
    """Raise ConfigError or FileNotFoundError for a filter or a file of later stages that would fail hours later."""
    try:
        check_filter(config.data.filter)
    except ValueError as error:
        raise ConfigError(f"data.filter: {error}") from None
    for field, uri in uri_fields(config).items():
        if not field.startswith("data.") and not storage.exists(uri):
            raise FileNotFoundError(f"{field}: {uri} does not exist")
    if config.evaluate.recognizer:
        read_recognizer_input(config.evaluate.recognizer)


def write_inventory(run: str, data: Data, fingerprint: str, trees: Mapping[str, pa.Table]) -> None:
    """Store a listing that was just made. fingerprint: that of preprocess for these inputs."""
    for name, files in trees.items():
        facts = {
            "uri": getattr(data, name),
            "listed_at": f"{time.time():.0f}",  # seconds since 1970
            "num_files": f"{len(files)}",
            "fingerprint": fingerprint,
        }
        sink = io.BytesIO()
        pq.write_table(files.replace_schema_metadata(facts), sink, compression="zstd")
        storage.write_bytes(_uri(run, name), sink.getvalue())


def read_inventory(run: str, data: Data, fingerprint: str) -> dict[str, pa.Table] | None:
    """Return the stored listing of each tree, or None unless all are fresh and of this fingerprint and these URIs.

    Fresh is what is younger than `data.inventory_minutes`. An invalid file counts as none.
    """
    trees = {}
    for name in _trees(data):
        uri = _uri(run, name)
        try:
            files, facts = _parse(storage.read_bytes(uri))
        except FileNotFoundError:
            return None
        except ValueError as error:
            log.warning("%s: not an inventory (%s); the files are listed again", uri, error)
            return None
        age_seconds = abs(time.time() - int(facts["listed_at"]))
        expected = (fingerprint, getattr(data, name))
        if age_seconds >= data.inventory_minutes * 60 or (facts.get("fingerprint"), facts.get("uri")) != expected:
            return None
        trees[name] = files
    return trees


def _parse(data: bytes) -> tuple[pa.Table, dict[str, str]]:
    """Return a stored listing and what `write_inventory` says about it. Raises ValueError if the file is invalid."""
    try:
        table = pq.read_table(pa.BufferReader(data))
    except OSError as error:  # of pyarrow, for a file that is cut off
        raise ValueError(str(error)) from None
    facts = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if not table.schema.equals(storage.FILES) or facts.get("num_files") != str(len(table)):
        raise ValueError("other columns, or another number of files")
    if not facts.get("listed_at", "").isdecimal():
        raise ValueError("no time")
    return table.replace_schema_metadata(), facts


def _names(data: Data) -> list[str]:
    fields = DATA_FORMATS[data.format]
    return [*fields.required, *(name for name in fields.optional if getattr(data, name))]


def _trees(data: Data) -> list[str]:
    return [name for name in _names(data) if name not in TABLES]


def _uri(run: str, name: str) -> str:
    return storage.join(run, FOLDER, f"{name}.parquet")


def _hash_media(files: pa.Table) -> str:
    """Return a hash of the paths and sizes of the media files, "" if there are none.

    Another file, such as a README, changes nothing, so it is no reason to start over.
    """
    media = files.filter(have_extension(files["path"], MEDIA_EXTENSIONS))
    digest = hashlib.sha256()
    for batch in media.to_batches(_CHUNK):
        sizes = pc.cast(batch["bytes"], pa.string())
        lines = pc.binary_join_element_wise(batch["path"], sizes, "", "\0")  # no path contains a zero byte
        digest.update("".join(lines.to_pylist()).encode())
    return digest.hexdigest() if len(media) else ""

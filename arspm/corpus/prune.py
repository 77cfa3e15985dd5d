"""Files of a corpus that belong to earlier versions of it. They stay until they are removed on request."""

from __future__ import annotations

import re

from arspm import storage
from arspm.corpus import tables

RECEIPTS = "receipts"  # folder of the receipts of shards, `<split>-<shard>.json`
_SHARD_FILE = re.compile(r"(?P<split>[^/]+)/[^/]+/(?P<name>[^/]+)\.parquet")
_RECEIPT = re.compile(rf"{RECEIPTS}/(?:[^/]+/)?(?P<split>[^/-]+)-(?P<name>[^/]+)\.json")


def unused_files(corpus: str) -> dict[str, int]:
    """Return the files of shards that are not in the corpus's manifest: path in the corpus -> size in bytes.

    Receipts come first, so that none is left without its shard if removing is interrupted. Raises FileNotFoundError
    without a manifest.
    """
    used = tables.shard_names(corpus)
    unused = {}
    for path, size in storage.files_below(corpus).items():
        found = _SHARD_FILE.fullmatch(path) or _RECEIPT.fullmatch(path)
        if found and found["name"] not in used.get(found["split"], ()):
            unused[path] = size
    return dict(sorted(unused.items(), key=lambda item: not item[0].startswith(f"{RECEIPTS}/")))

"""dropped.parquet: the rows that became no clip, and why."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pyarrow.parquet as pq

from arspm import storage
from arspm.corpus import schema

DROPPED = "dropped.parquet"
_BATCH_ROWS = 65_536


def dropped_rows(corpus: str, reason: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the dropped rows of a corpus, or those with one reason: row, clip_id, reason and detail, in order.

    clip_id and detail are untrusted text. Raises FileNotFoundError if there is no such file.
    """
    with storage.local_copy(storage.join(corpus, DROPPED)) as path:
        yield from (row for row in _rows(path) if reason is None or row["reason"] == reason)


def first_examples(corpus: str, reasons: Collection[str], number: int) -> dict[str, list[dict[str, Any]]]:
    """Return the first dropped rows of each reason.

    Stops reading when all reasons have enough, because there may be millions of rows.
    """
    uri = storage.join(corpus, DROPPED)
    fs, path = storage.filesystem(uri)

    def read() -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {reason: [] for reason in reasons}
        with fs.open(path, "rb") as file:
            for row in _rows(file):
                examples = found.get(row["reason"], [])
                if len(examples) < number:
                    examples.append({name: row[name] for name in ("row", schema.CLIP_ID, "detail")})
                    if all(len(each) == number for each in found.values()):
                        break
        return found

    return storage.retried(uri, read) if reasons else {}


def _rows(file: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file, a path or an open file, a batch at a time."""
    for batch in pq.ParquetFile(file).iter_batches(_BATCH_ROWS, use_threads=False):
        yield from batch.to_pylist()


def describe_drops(corpus: str, counts: Mapping[str, int]) -> list[str]:
    """Return one line for each reason, the most frequent first: how many rows, what it means, the first example."""
    examples = first_examples(corpus, counts, 1)
    lines = []
    for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        meaning = schema.DropReason[reason].description if reason in schema.DropReason.__members__ else ""
        first = "".join(f"; {numbered_detail(each)[:200]}" for each in examples[reason])
        lines.append(f"{count:,} {reason} ({meaning}){first}")
    return lines


def numbered_detail(row: Mapping[str, Any]) -> str:
    """Return a row's detail, after the row's number unless it begins with the number of its line."""
    return row["detail"] if row["detail"].startswith("line ") else f"row {row['row']}: {row['detail']}"

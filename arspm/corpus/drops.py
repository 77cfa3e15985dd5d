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
        for batch in pq.ParquetFile(path).iter_batches(_BATCH_ROWS, use_threads=False):
            for row in batch.to_pylist():
                if reason is None or row["reason"] == reason:
                    yield row


def first_examples(corpus: str, reasons: Collection[str], number: int) -> dict[str, list[dict[str, Any]]]:
    """Return the first dropped rows of each reason.

    Stops reading when all reasons have enough, because there may be millions of rows.
    """
    found: dict[str, list[dict[str, Any]]] = {reason: [] for reason in reasons}
    for row in dropped_rows(corpus) if found else ():
        examples = found.get(row["reason"], [])
        if len(examples) < number:
            examples.append({name: row[name] for name in ("row", schema.CLIP_ID, "detail")})
            if all(len(each) == number for each in found.values()):
                break
    return found


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

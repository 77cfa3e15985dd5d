"""Predictions of a gender network, made up, as the genders family of a corpus."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from arspm.corpus import schema, tables
from arspm.corpus.genders import FAMILY


def write_predictions(corpus: str, split_name: str, names: Sequence[str], confidences: Sequence[float]) -> None:
    """Write a prediction for each clip of a split, in its order."""
    split = tables.open_split(corpus, split_name)
    ids = tables.read_columns(split, "faces", (schema.CLIP_ID,))[schema.CLIP_ID].to_pylist()
    table = pa.table([ids, list(names), pa.array(confidences, pa.float32())], schema=schema.genders_schema())
    begin = 0
    for shard, rows in enumerate(split.shard_rows):
        tables.write_table(split.path(FAMILY, shard), table.slice(begin, rows), split.rows_per_group)
        begin += rows

"""The tables of `infer`'s actors: what is read for them, and what they return is written.

On GPUs tasks do this beside the actors. They import this module, and torch only where a GPU needs it: without torch a
process takes 0.3 GB less, and starts in a third of the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from arspm import storage
from arspm.corpus import schema, tables
from arspm.corpus.prune import RECEIPTS
from arspm.distributed.data.readings import read_decoded
from arspm.media.jpeg import encode_jpeg
from arspm.runs import stages

PREDICTIONS = "predictions"


def read_shard(
    splits: dict[str, tables.Split], wanted: Mapping[str, Sequence[str]], face_size: int, item: dict[str, Any]
) -> pa.Table:
    """Return the clip ids and the wanted columns of an item's shard, with decoded faces: FACE in place of FACE_JPEG."""
    split = splits[item["split"]].only(item["shard"])
    return schema.table_of(read_decoded(split, wanted, face_size, np.arange(split.num_rows)))


def write_family(
    family: str, splits: dict[str, tables.Split], run: str, item: dict[str, Any], table: pa.Table
) -> dict[str, Any]:
    """Write a shard of a family and its receipt. Returns what `ShardActor.write` returns."""
    split, shard = splits[item["split"]], item["shard"]
    described = tables.write_table(split.path(family, shard), table, split.rows_per_group)
    # Written last, so it proves that the shard is complete.
    receipt = storage.join(RECEIPTS, family, f"{item['split']}-{split.shards[shard]}.json")
    storage.write_json(storage.join(stages.corpus(run), receipt), {"key": item["key"], **described})
    path = f"{stages.CORPUS}/{item['split']}/{family}/{split.shards[shard]}.parquet"
    return {"path": path, **described, "rows": len(table)}


def write_predictions(
    splits: dict[str, tables.Split], run: str, item: dict[str, Any], table: pa.Table
) -> dict[str, Any]:
    """Write a shard of predictions, and their pictures, which are pixels, as JPEG. Returns as `ShardActor.write`."""
    split = splits[item["split"]]
    path = f"evaluate/{PREDICTIONS}/{item['split']}-{split.shards[item['shard']]}.parquet"
    columns = schema.columns_of(table)
    for name in (schema.PORTRAIT_JPEG, schema.FACE_TO_FACE_JPEG):
        columns[name] = [encode_jpeg(pixels) for pixels in columns[name]]
    described = tables.write_table(storage.join(run, path), schema.table_of(columns), split.rows_per_group)
    return {"path": path, **described, "rows": len(table)}

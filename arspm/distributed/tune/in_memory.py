"""Keep a small corpus in Ray's object store, once per node, and make the same batches from it as `ingest.stream`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from arspm.corpus import schema, tables
from arspm.distributed.data.ingest import Reading, plan
from arspm.distributed.train.rows import Rows
from arspm.training.batch import ROW, WEIGHT
from arspm.training.checkpoint import TrainingState
from arspm.training.order import window

Columns = dict[str, Any]  # column -> array over all rows of a split


def num_bytes(readings: Sequence[Reading]) -> int:
    """Return the size of what `hold` would put into the object store."""
    total = 0
    for reading in readings:
        row = tables.read_rows(reading.split, reading.wanted, np.zeros(1, np.int64))
        total += reading.split.num_rows * sum(value.nbytes for value in row.values())
    return total


def hold(readings: Sequence[Reading]) -> list[ray.ObjectRef]:
    """Put all rows of each reading's split into the object store. Tensors only: faces are not decoded."""
    held = []
    for reading in readings:
        columns = tables.read_rows(reading.split, reading.wanted, np.arange(reading.split.num_rows))
        held.append(ray.put({name: _array(value) for name, value in columns.items()}))
    return held


def batches(
    rows: Rows, held: Sequence[ray.ObjectRef], epochs: int, progress: TrainingState
) -> Iterator[dict[str, Any]]:
    """Yield the batches that `train.rows.batches` gives to a single worker, from what `hold` put into the object store.

    Only the batches are copied; the corpus is read in place.
    """
    columns: list[Columns] = ray.get(list(held))
    for entry in plan(rows.readings, epochs, progress.epoch, progress.step_in_epoch):
        reading, stored = rows.readings[entry.reading], columns[entry.reading]
        part = window(reading.order, entry.epoch, entry.window, rank=0, world_size=1)
        for numbers, weights in zip(part.rows[entry.skip :], part.weights[entry.skip :], strict=True):
            batch = {name: values[numbers] for name, values in stored.items()}
            batch |= {name: values[numbers] for name, values in reading.labels.items()}
            batch[schema.CLIP_ID] = batch[schema.CLIP_ID].tolist()
            yield batch | {ROW: numbers, WEIGHT: weights}


def _array(value: Any) -> np.ndarray:
    return np.array(value.to_pylist()) if isinstance(value, pa.Array) else value

"""Ray Data streams a corpus's rows into training workers, in the order that `training.order` gives.

One execution serves all epochs, training and validation rows alike, so that no epoch pays a start-up. Each worker reads
its own lanes. A read task reads one window: a few row groups of just the columns that the stage needs. A face is
decoded there, on the CPU nodes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import ray
import ray.data
import ray.exceptions
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES,
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
)
from ray.data._internal.execution.interfaces import PhysicalOperator
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from arspm.config import Tasks
from arspm.corpus import schema, tables
from arspm.media.faces import decode_jpeg
from arspm.training.batch import FACE, ROW, WEIGHT
from arspm.training.order import Order, lanes, window

T = TypeVar("T")
PAUSE_SECONDS = 0.02  # of the scheduling loop at each turn


class Reading(NamedTuple):
    """What is read: rows of `split` in `order`, `wanted` columns by family; faces decoded to `face_size` pixels.

    `labels`: further columns, arrays over all rows of the split.
    """

    split: tables.Split
    order: Order
    wanted: Mapping[str, Sequence[str]]
    face_size: int
    labels: Mapping[str, np.ndarray]


class Entry(NamedTuple):
    """One window of one epoch of one of the readings; `skip` of its steps were already taken."""

    reading: int
    epoch: int
    window: int
    skip: int


def plan(readings: Sequence[Reading], epochs: int, epoch: int = 0, step: int = 0) -> list[Entry]:
    """The entries of all epochs from (epoch, step) on: each epoch's training windows, then the validation windows.

    `step` counts steps of the first reading; at its end the epoch's validation is still to come.
    """
    entries = []
    for each in range(epoch, epochs):
        for number, reading in enumerate(readings):
            done = step if number == 0 and each == epoch else 0
            for index in range(reading.order.num_windows):
                first = index * reading.order.window_steps
                last = min(first + reading.order.window_steps, reading.order.num_steps)
                if done < last:
                    shown = each if reading.order.shuffle else 0
                    entries.append(Entry(number, shown, index, max(0, done - first)))
    return entries


def read_window(reading: Reading, entry: Entry, rank: int, world_size: int) -> pa.Table:
    """The rows of an entry for one worker, step after step."""
    part = window(reading.order, entry.epoch, entry.window, rank, world_size)
    rows, weights = part.rows[entry.skip :].ravel(), part.weights[entry.skip :].ravel()
    found = tables.read_rows(reading.split, reading.wanted, rows)
    arrays: dict[str, Any] = {schema.CLIP_ID: found.pop(schema.CLIP_ID)}
    if schema.FACE_JPEG in found:
        pictures = found.pop(schema.FACE_JPEG).to_pylist()
        found[FACE] = np.stack([decode_jpeg(picture, reading.face_size) for picture in pictures])
    found |= {name: values[rows] for name, values in reading.labels.items()} | {ROW: rows, WEIGHT: weights}
    arrays |= {name: schema.tensor_column(values) for name, values in found.items()}
    types = {name: schema.tensor_field(name, values.dtype.str, values.shape[1:]) for name, values in found.items()}
    fields = [types.get(name, pa.field(name, pa.string())) for name in arrays]
    return pa.Table.from_arrays(list(arrays.values()), schema=pa.schema(fields))


def stream(
    readings: Sequence[Reading],
    entries: Sequence[Entry],
    *,
    rank: int,
    world_size: int,
    tasks: Tasks,
    prefetch_batches: int,
) -> Iterator[dict[str, Any]]:
    """One worker's batches of all entries, one a step: column -> array (rows, *shape); `clip_id` is a list.

    All readings must have the same columns and the same global batch. Needs a Ray connection.
    """
    if not entries:
        return
    quiet()
    kinds = _kinds(readings[0], rank, world_size)
    order = readings[0].order
    batch_rows = len(lanes(order, rank, world_size)) * order.lane_batch
    data = ray.data.read_datasource(
        _Windows(readings, entries, rank, world_size),
        override_num_blocks=len(entries),
        concurrency=tasks.num_tasks,
        **tasks.remote_options,
    )
    batches = data.iter_batches(
        batch_size=batch_rows, batch_format="pyarrow", prefetch_batches=prefetch_batches, drop_last=False
    )
    for table in plain_errors(batches):
        yield as_arrays(table, kinds)


def as_arrays(table: pa.Table, kinds: Mapping[str, schema.TensorType]) -> dict[str, Any]:
    """A table's tensor columns as arrays; `clip_id` as a list."""
    batch: dict[str, Any] = {name: schema.tensors(table[name], kind) for name, kind in kinds.items()}
    batch[schema.CLIP_ID] = table[schema.CLIP_ID].to_pylist()
    return batch


def table_kinds(table: pa.Table) -> dict[str, schema.TensorType]:
    """The tensor columns of a table and what their cells are."""
    return {
        field.name: schema.tensor_type(field) for field in table.schema if field.metadata and b"dtype" in field.metadata
    }


def _kinds(reading: Reading, rank: int, world_size: int) -> dict[str, schema.TensorType]:
    """What the cells are, from one step read here: Ray Data does not promise to carry a field's metadata."""
    one_step = reading._replace(order=reading.order._replace(window_rows=1))
    return table_kinds(read_window(one_step, Entry(0, 0, 0, 0), rank, world_size))


class _Windows(Datasource):
    """A read task for each entry."""

    def __init__(self, readings: Sequence[Reading], entries: Sequence[Entry], rank: int, world_size: int):
        super().__init__()
        self._shared = ray.put(tuple(readings))  # once, not in every task
        self._entries, self._rank, self._world_size = entries, rank, world_size

    def get_name(self) -> str:
        return "ReadWindows"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[ReadTask]:
        return [
            ReadTask(
                _read_task(self._shared, entry, self._rank, self._world_size),
                BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None),
            )
            for entry in self._entries
        ]


def _read_task(shared: ray.ObjectRef, entry: Entry, rank: int, world_size: int) -> Callable[[], list[pa.Table]]:
    def read() -> list[pa.Table]:
        readings = ray.get(shared)
        return [read_window(readings[entry.reading], entry, rank, world_size)]

    return read


def plain_errors(results: Iterable[T]) -> Iterator[T]:
    """What Ray Data gives, but when a task of ours fails, its own error instead of Ray's account of it."""
    try:
        yield from results
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error


class _Breath(BackpressurePolicy):
    """Limits nothing; it makes Ray Data's scheduling loop pause at each turn.

    Where output waits for its consumer, which is always so ahead of training, the loop of Ray 2.60 turns without a
    pause and holds Python's lock: in a worker on two cores training then ran at less than half of its speed.
    """

    def max_task_output_bytes_to_read(self, op: PhysicalOperator) -> int | None:
        if op is next(iter(self._topology)):  # once a turn
            time.sleep(PAUSE_SECONDS)
        return None


def quiet() -> None:
    """Ray Data as the stages want it: rows in the plan's order, errors as raised, no bars and no chatter in the log."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [*ENABLED_BACKPRESSURE_POLICIES, _Breath])
    context.execution_options.preserve_order = True
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # see plain_errors
    logging.getLogger("ray.data").setLevel(logging.WARNING)

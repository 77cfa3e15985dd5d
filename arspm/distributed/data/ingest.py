"""Stream a corpus's rows into training workers with Ray Data, in the order of `training.order`.

One execution serves training and validation rows of all epochs, so only the first batch waits for a start-up. Each
worker reads its own lanes. A read task reads one window: a few row groups of the columns that the stage needs. It also
decodes faces, so that this happens on the CPU nodes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import ray
import ray.data
import ray.exceptions
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from arspm.config import Tasks
from arspm.corpus import schema, tables
from arspm.distributed import ray_private
from arspm.media.jpeg import decode_jpeg
from arspm.training.batch import FACE, ROW, WEIGHT
from arspm.training.order import Order, lanes, window

T = TypeVar("T")


class Reading(NamedTuple):
    """What to read: rows of `split` in `order`, the `wanted` columns by family, faces decoded to `face_size` pixels.

    `labels`: further columns, as arrays over all rows of the split.
    """

    split: tables.Split
    order: Order
    wanted: Mapping[str, Sequence[str]]
    face_size: int
    labels: Mapping[str, np.ndarray]


class Entry(NamedTuple):
    """One window of one epoch of one reading. Its first `skip` steps were already taken."""

    reading: int
    epoch: int
    window: int
    skip: int


def plan(readings: Sequence[Reading], epochs: int, epoch: int = 0, step: int = 0) -> list[Entry]:
    """Return the entries of all epochs from (epoch, step) on: each epoch's training windows, then validation windows.

    `step` counts steps of the first reading. After its last step the epoch's validation still follows.
    """
    entries = []
    for each in range(epoch, epochs):
        for number, reading in enumerate(readings):
            done = step if number == 0 and each == epoch else 0
            for index in range(reading.order.num_windows):
                first = index * reading.order.window_steps
                last = min(first + reading.order.window_steps, reading.order.num_steps)
                if done < last:
                    order_epoch = each if reading.order.shuffle else 0
                    entries.append(Entry(number, order_epoch, index, max(0, done - first)))
    return entries


def read_window(reading: Reading, entry: Entry, rank: int, world_size: int) -> pa.Table:
    """Return the rows of an entry for one worker, step after step."""
    part = window(reading.order, entry.epoch, entry.window, rank, world_size)
    rows, weights = part.rows[entry.skip :].ravel(), part.weights[entry.skip :].ravel()
    tensors = tables.read_rows(reading.split, reading.wanted, rows)
    arrays: dict[str, Any] = {schema.CLIP_ID: tensors.pop(schema.CLIP_ID)}
    if schema.FACE_JPEG in tensors:
        jpegs = tensors.pop(schema.FACE_JPEG).to_pylist()
        tensors[FACE] = np.stack([decode_jpeg(jpeg, reading.face_size) for jpeg in jpegs])
    tensors |= {name: values[rows] for name, values in reading.labels.items()} | {ROW: rows, WEIGHT: weights}
    arrays |= {name: schema.tensor_column(values) for name, values in tensors.items()}
    types = {name: schema.tensor_field(name, values.dtype.str, values.shape[1:]) for name, values in tensors.items()}
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
    """Yield one worker's batches of all entries, one per step: column -> array (rows, *shape); `clip_id` is a list.

    All readings must have the same columns and the same global batch size. Needs a Ray connection.
    """
    if not entries:
        return
    configure_ray_data()
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
    for table in original_errors(batches):
        yield as_arrays(table, kinds)


def as_arrays(table: pa.Table, kinds: Mapping[str, schema.TensorType]) -> dict[str, Any]:
    """Return a table's tensor columns as arrays, and `clip_id` as a list."""
    batch: dict[str, Any] = {name: schema.tensors(table[name], kind) for name, kind in kinds.items()}
    batch[schema.CLIP_ID] = table[schema.CLIP_ID].to_pylist()
    return batch


def table_kinds(table: pa.Table) -> dict[str, schema.TensorType]:
    """Return the types of a table's tensor columns, by name."""
    return {
        field.name: schema.tensor_type(field) for field in table.schema if field.metadata and b"dtype" in field.metadata
    }


def _kinds(reading: Reading, rank: int, world_size: int) -> dict[str, schema.TensorType]:
    """Return the tensor types, by reading one step here: Ray Data does not promise to keep a field's metadata."""
    one_step = reading._replace(order=reading.order._replace(window_rows=1))
    return table_kinds(read_window(one_step, Entry(0, 0, 0, 0), rank, world_size))


class _Windows(Datasource):
    """A Ray Data source with one read task per entry."""

    def __init__(self, readings: Sequence[Reading], entries: Sequence[Entry], rank: int, world_size: int):
        super().__init__()
        self._shared = ray.put(tuple(readings))  # stored once, not pickled into every task
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


def original_errors(results: Iterable[T]) -> Iterator[T]:
    """Yield Ray Data's results. If one of our tasks fails, raise its original exception instead of Ray's wrapper."""
    try:
        yield from results
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error


def configure_ray_data() -> None:
    """Set up this process's Ray Data: rows in order, original exceptions, a throttled scheduler, no progress output."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    ray_private.throttle_scheduler(context)
    context.execution_options.preserve_order = True
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # see original_errors
    logging.getLogger("ray.data").setLevel(logging.WARNING)

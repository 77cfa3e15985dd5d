"""Stream a corpus's rows into training workers with Ray Data, in the order of `training.order`.

One execution serves all workers, and training and validation rows of all epochs. So only the first batch waits for a
start-up, and Ray divides the cluster's CPUs by the number of trainings, not by the number of workers.

A *part* is one worker's rows of one window. Parts are numbered window by window, and rank by rank within a window. A
few *readers*, which are long-running tasks, read the parts in turns: reader i of n reads the parts i, i + n, i + 2 n...
Ray Data takes a part from each reader in turn, and gives each worker a part in turn. Each part is a block, and all
blocks have the same number of rows, so both turns are exact. Every part has its number, which the worker checks.

A block has its part's rows as they were read, in ascending order. The worker picks each batch's rows out of it. So from
file to batch a row is copied three times: by Parquet's decoding, to Ray's object store, and to the batch.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import ray
import ray.data
import ray.exceptions
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from arspm.config import Tasks
from arspm.corpus import schema
from arspm.distributed import ray_private
from arspm.distributed.data.readings import Pieces, Plan, Reading, part_of, read, steps
from arspm.distributed.memory import killed_for_memory

T = TypeVar("T")

_PART = "part"  # column of a part's number
# Read tasks of one training. More would make planning slow, which Ray Data does for all tasks before the first runs.
_MAX_TASKS = 512
_MIN_PARTS_PER_TASK = 8  # a task starts in tens of milliseconds
_MAX_READERS = 16  # each is an operator of the execution, on which Ray Data's scheduling loop spends time
# Times a part's size that a read task holds: up to twice as read, because a row group may have other rows, and once
# serialized.
_COPIES = 3


def open_stream(
    readings: Sequence[Reading], plan: Plan, *, world_size: int, tasks: Tasks, kinds_of_row: Mapping[str, Any]
) -> list[ray.data.DataIterator]:
    """Return each worker's iterator, by rank, of the execution that reads a plan. `tasks.num_tasks` run per worker.

    All readings must have the same columns and the same global batch size. Needs a Ray connection.
    """
    configure_ray_data()
    ray.data.DataContext.get_current().target_max_block_size = 1  # never join two parts in one block
    shared = ray.put((tuple(readings), plan))  # stored once, not pickled into every task
    num_parts, num_tasks = len(plan) * world_size, tasks.num_tasks * world_size
    num_readers = min(num_tasks, num_parts, _MAX_READERS)
    row_bytes = sum(kind.num_bytes for kind in kinds_of_row.values())
    options = tasks.remote_options
    options["memory"] = max(options.get("memory", 0), _COPIES * row_bytes * _part_rows(readings, world_size))
    sources = [
        _Reader(shared, range(reader, num_parts, num_readers), world_size, _MAX_TASKS // num_readers)
        for reader in range(num_readers)
    ]
    data = [
        ray.data.read_datasource(
            source,
            override_num_blocks=len(source.tasks),
            concurrency=math.ceil(num_tasks / num_readers),
            **options,
        )
        for source in sources
    ]
    joined = data[0].union(*data[1:]) if len(data) > 1 else data[0]
    return joined.streaming_split(world_size, equal=False)


def stream(
    readings: Sequence[Reading],
    plan: Plan,
    splits: Sequence[Any],
    *,
    rank: int,
    kinds_of_row: Mapping[str, schema.TensorType],
    prefetch_batches: int,
) -> Iterator[dict[str, Any]]:
    """Yield one worker's batches of a plan, one per step: column -> values (rows, *shape); `clip_id` is a list.

    splits: what `open_stream` returned. Every worker must iterate at the same time. The columns that were read are
    `Picked`: their rows are still in Ray's object store.
    """
    world_size = len(splits)
    prefetch = math.ceil(prefetch_batches / readings[0].order.window_steps)
    blocks = splits[rank].iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=prefetch)
    for expected, block in enumerate(original_errors(blocks, "read")):
        number = block[_PART][0].as_py()
        if number != expected * world_size + rank:
            raise RuntimeError(
                f"Ray Data gave worker {rank} of {world_size} part {number} instead of part "
                f"{expected * world_size + rank}: this release of Ray orders blocks in another way"
            )
        entry = plan[expected]
        reading = readings[entry.reading]
        part = part_of(reading, entry, rank, world_size)
        rows = block.slice(0, len(np.unique(part.rows)))
        columns = {
            name: [schema.tensors(chunk, kind) for chunk in rows[name].chunks] for name, kind in kinds_of_row.items()
        }
        yield from steps(reading, part, columns, schema.one_array(rows[schema.CLIP_ID]))


def _part_rows(readings: Sequence[Reading], world_size: int) -> int:
    """Return the most rows that a part can have."""
    orders = [reading.order for reading in readings]
    return max(math.ceil(order.num_lanes / world_size) * order.window_steps * order.lane_batch for order in orders)


def _block(number: int, columns: Mapping[str, Pieces], clip_ids: pa.Array, num_rows: int) -> pa.Table:
    """Return a part as a block with `num_rows` rows, those after its own without values."""

    def filled(arrays: list[pa.Array]) -> pa.ChunkedArray:
        missing = num_rows - sum(map(len, arrays))
        return pa.chunked_array([*arrays, pa.repeat(pa.scalar(b"", arrays[0].type), missing)] if missing else arrays)

    cells = {name: filled([schema.tensor_column(piece) for piece in pieces]) for name, pieces in columns.items()}
    return pa.table({_PART: np.full(num_rows, number), schema.CLIP_ID: filled([clip_ids]), **cells})


class _Reader(Datasource):
    """A Ray Data source that reads some parts, one after the other, in a few tasks that run one after the other."""

    def __init__(self, shared: ray.ObjectRef, parts: range, world_size: int, max_tasks: int):
        super().__init__()
        size = max(_MIN_PARTS_PER_TASK, math.ceil(len(parts) / max_tasks))
        self.tasks = [parts[begin : begin + size] for begin in range(0, len(parts), size)]
        self._shared, self._world_size = shared, world_size

    def get_name(self) -> str:
        return "ReadParts"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[ReadTask]:
        return [
            ReadTask(
                _read_task(self._shared, parts, self._world_size),
                BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None),
            )
            for parts in self.tasks
        ]


def _read_task(shared: ray.ObjectRef, parts: range, world_size: int) -> Callable[[], Iterator[pa.Table]]:
    def read_parts() -> Iterator[pa.Table]:
        readings, plan = ray.get(shared)
        num_rows = _part_rows(readings, world_size)
        for number in parts:
            index, rank = divmod(number, world_size)
            entry = plan[index]
            reading = readings[entry.reading]
            rows = np.unique(part_of(reading, entry, rank, world_size).rows)
            yield _block(number, *read(reading, rows), num_rows)

    return read_parts


def original_errors(results: Iterable[T], setting: str) -> Iterator[T]:
    """Yield Ray Data's results. If one of our tasks fails, raise its original exception instead of Ray's wrapper.

    setting: the section of `resources` of these tasks. Raises KilledForMemory if a task was killed for memory more
    often than Ray repeats it.
    """
    try:
        yield from results
    except ray.exceptions.RayError as error:
        original = _original(error)
        raise killed_for_memory(original, setting) or original from error


def _original(error: BaseException) -> BaseException:
    """Return the exception inside Ray's wrappers: of the task, and of the actor that runs the execution."""
    while isinstance(error, ray.exceptions.RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error


def configure_ray_data() -> None:
    """Set up this process's Ray Data: rows in order, original exceptions, a throttled scheduler, no progress output."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    ray_private.throttle_scheduler(context)
    context.execution_options.preserve_order = True
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # see original_errors
    logging.getLogger("ray.data").setLevel(logging.WARNING)

"""Stream a corpus's rows into training workers with Ray Data, in the order of `training.order`.

One execution serves all workers, and training and validation rows of all epochs. So only the first batch waits for a
start-up, and Ray divides the cluster's CPUs by the number of trainings, not by the number of workers.

A *part* is one worker's rows of one window, or the rows of some of its lanes if it has several readers. Parts are
numbered window by window, and within a window so that each worker gets one in turn. A few *readers*, which are
long-running tasks, read the parts in turns: reader i of n reads the parts i, i + n, i + 2 n... These are of the same
lanes if there are not too many workers, so a reader reads each row group once, also where windows meet within it.

Ray Data takes a part from each reader in turn, and gives each worker a part in turn. Each part is one row of a block,
so both turns are exact. Every part has its number, which the worker checks.

A block has its part's clips as they were read: each piece of a row group is a cell. The worker picks each batch's clips
out of it. So from file to batch a clip is copied three times: by Parquet's decoding, to Ray's object store, and to the
batch.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
import ray.exceptions
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from arspm.config import Tasks
from arspm.corpus import schema
from arspm.distributed import ray_private
from arspm.distributed.data.loaded import Loaded, joined
from arspm.distributed.data.readings import Entry, Plan, Reading, load_parts, part_of, steps
from arspm.distributed.memory import killed_for_memory
from arspm.training.columns import ROW

T = TypeVar("T")

_PART = "part"  # column of a part's number
# Read tasks of one training. More would make planning slow, which Ray Data does for all tasks before the first runs.
_MAX_TASKS = 512
_MIN_PARTS_PER_TASK = 8  # a task starts in tens of milliseconds
_MAX_READERS = 16  # each is an operator of the execution, on which Ray Data's scheduling loop spends time
_PARTS_HELD = 2  # in a read task: Ray Data refers to the last part until it gets the next one


class Division(NamedTuple):
    """How a window's lanes are divided: among the workers, and those of each worker into `shares` parts."""

    world_size: int
    shares: int

    @property
    def num_parts(self) -> int:
        """Parts of a window."""
        return self.world_size * self.shares

    def locate(self, number: int) -> tuple[int, int]:
        """Return a part's window, and its rank among the parts of that window."""
        index, place = divmod(number, self.num_parts)
        share, worker = divmod(place, self.world_size)
        return index, worker * self.shares + share


class Source(NamedTuple):
    """The execution that serves all workers. `splits`: each worker's `ray.data.DataIterator`, by rank."""

    splits: Sequence[Any]  # Ray's annotations lack `batch_size=None`
    division: Division


def open_stream(
    readings: Sequence[Reading], plan: Plan, *, world_size: int, tasks: Tasks, kinds_of_row: Mapping[str, Any]
) -> Source:
    """Start the execution that reads a plan for all workers, with `tasks.num_tasks` readers for each of them.

    All readings must have the same columns and the same global batch size. Needs a Ray connection.
    """
    configure_ray_data()
    ray.data.DataContext.get_current().target_max_block_size = 1  # never join two parts in one block
    num_lanes = min(reading.order.num_lanes for reading in readings)
    shares = min(tasks.num_tasks, num_lanes // world_size, _MAX_READERS // world_size)
    division = Division(world_size, max(1, shares))
    shared = ray.put((tuple(readings), plan))  # stored once, not pickled into every task
    num_parts, num_tasks = len(plan) * division.num_parts, tasks.num_tasks * world_size
    num_readers = min(division.num_parts, num_parts, _MAX_READERS)
    num_clips, _ = _sizes(readings, division)
    options = tasks.remote_options
    options["memory"] = max(options.get("memory", 0), num_clips * sum(kind.num_bytes for kind in kinds_of_row.values()))
    sources = [
        _Reader(shared, range(reader, num_parts, num_readers), division, _MAX_TASKS // num_readers)
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
    union = data[0].union(*data[1:]) if len(data) > 1 else data[0]
    return Source(union.streaming_split(world_size, equal=False), division)


def stream(
    readings: Sequence[Reading],
    plan: Plan,
    source: Source,
    *,
    rank: int,
    kinds_of_row: Mapping[str, schema.TensorType],
    prefetch_batches: int,
) -> Iterator[dict[str, Any]]:
    """Yield one worker's batches of a plan, one per step: column -> values (rows, *shape); `clip_id` is a list.

    source: what `open_stream` returned. Every worker must iterate at the same time. The columns that were read are
    `Picked`: their rows are still in Ray's object store.
    """
    world_size, shares = source.division
    prefetch = shares * math.ceil(prefetch_batches / readings[0].order.window_steps)
    blocks = source.splits[rank].iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=prefetch)
    numbered = enumerate(original_errors(blocks, "read"))
    for entry in plan:
        loaded = []
        for place, block in itertools.islice(numbered, shares):
            number, expected = block[_PART][0].as_py(), place * world_size + rank
            if number != expected:
                raise RuntimeError(
                    f"Ray Data gave worker {rank} of {world_size} part {number} instead of part {expected}: this "
                    "release of Ray orders blocks in another way"
                )
            loaded.append(_loaded(block, kinds_of_row))
        reading = readings[entry.reading]
        yield from steps(reading, part_of(reading, entry, rank, world_size), joined(loaded))
    next(numbered, None)  # so that Ray Data ends the execution, or raises its error


def _sizes(readings: Sequence[Reading], division: Division) -> tuple[int, int]:
    """Return the most clips that a read task has in memory, and the number of pieces in a block.

    Clips of its parts, and of the row groups where windows meet. Clips of one lane come from consecutive row groups.
    """
    num_clips = num_pieces = 1
    for reading in readings:
        order, group = reading.order, reading.split.rows_per_group
        num_lanes = math.ceil(order.num_lanes / division.num_parts)
        window = order.window_steps * order.lane_batch
        num_clips = max(num_clips, _PARTS_HELD * num_lanes * (window + group))
        num_pieces = max(num_pieces, num_lanes * (math.ceil(window / group) + 1))
    return num_clips, num_pieces


def _block(number: int, loaded: Loaded, num_pieces: int) -> pa.Table:
    """Return a part as a block of one row. All blocks have `num_pieces` cells for each column, some of them empty."""
    cells: dict[str, pa.Array] = {}
    for name, pieces in loaded.columns.items():
        if len(pieces) > num_pieces:  # a filter leaves clips of many row groups
            pieces = [*pieces[: num_pieces - 1], np.concatenate(pieces[num_pieces - 1 :])]
        columns = [schema.tensor_column(piece[None]) for piece in pieces]
        columns += [pa.array([b""], pa.binary())] * (num_pieces - len(pieces))
        cells |= {f"{name}/{place}": column for place, column in enumerate(columns)}
    return pa.table({_PART: [number], ROW: [loaded.rows], schema.CLIP_ID: [loaded.clip_ids.to_pylist()], **cells})


def _loaded(block: pa.Table, kinds_of_row: Mapping[str, schema.TensorType]) -> Loaded:
    """Return a block's clips, as views of Ray's object store."""

    def pieces(name: str, kind: schema.TensorType) -> Iterator[np.ndarray]:
        for place in itertools.takewhile(lambda place: f"{name}/{place}" in block.column_names, itertools.count()):
            cell = block[f"{name}/{place}"]
            num_clips = pc.binary_length(cell)[0].as_py() // kind.num_bytes
            if num_clips:
                yield schema.tensors(cell, kind._replace(shape=(num_clips, *kind.shape)))[0]

    columns = {name: list(pieces(name, kind)) for name, kind in kinds_of_row.items()}
    return Loaded(np.array(block[ROW][0].values), columns, block[schema.CLIP_ID][0].values)


class _Reader(Datasource):
    """A Ray Data source that reads some parts, one after the other, in a few tasks that run one after the other."""

    def __init__(self, shared: ray.ObjectRef, parts: range, division: Division, max_tasks: int):
        super().__init__()
        size = max(_MIN_PARTS_PER_TASK, math.ceil(len(parts) / max_tasks))
        self.tasks = [parts[begin : begin + size] for begin in range(0, len(parts), size)]
        self._shared, self._division = shared, division

    def get_name(self) -> str:
        return "ReadParts"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[ReadTask]:
        return [
            ReadTask(
                _read_task(self._shared, parts, self._division),
                BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None),
            )
            for parts in self.tasks
        ]


def _read_task(shared: ray.ObjectRef, parts: range, division: Division) -> Callable[[], Iterator[pa.Table]]:
    def read_parts() -> Iterator[pa.Table]:
        readings, plan = ray.get(shared)

        def part(number: int) -> tuple[Entry, int]:
            index, rank = division.locate(number)
            return plan[index], rank

        _, num_pieces = _sizes(readings, division)
        loaded = load_parts(readings, parts, part, division.num_parts)
        yield from map(_block, parts, loaded, itertools.repeat(num_pieces))  # without a name for the last part

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

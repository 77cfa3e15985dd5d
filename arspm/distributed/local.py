"""Call a function with many items: by Ray Data, or in the current process, so that a debugger stops at its breakpoints.

`in_process` chooses the second for all stages. A training stage then runs as a single worker (`train.alone`). The
results are those of one worker on a cluster. Nothing resumes: a debugged run starts over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pyarrow as pa
import ray.data

from arspm.config import Tasks
from arspm.corpus import schema
from arspm.distributed.data.ingest import configure_ray_data, original_errors

_ITEM, _SCHEMA = "item", "schema"  # columns of a row with a table
_COPIES = 3  # of a table that a process holds at most: as read, decoded, and serialized

_IN_PROCESS: ContextVar[bool] = ContextVar("in_process", default=False)

Item = dict[str, Any]


@contextmanager
def in_process() -> Iterator[None]:
    """Run stages in this process while the block runs."""
    token = _IN_PROCESS.set(True)
    try:
        yield
    finally:
        _IN_PROCESS.reset(token)


def is_in_process() -> bool:
    """Return whether stages run in this process."""
    return _IN_PROCESS.get()


def map_items(function: Callable[[Item], Item], items: Sequence[Item], tasks: Tasks) -> Iterator[Item]:
    """Yield a function's results in the order of the items: by Ray Data tasks, or by a loop in this process."""
    if is_in_process():
        yield from map(function, items)
        return
    pool = ray.data.TaskPoolStrategy(size=tasks.num_tasks)
    yield from _map_on_ray(function, items, tasks, "preprocess", compute=pool)


def map_with_actors(
    actor: type, arguments: tuple[Any, ...], items: Sequence[Item], tasks: Tasks, *, memory: int = 0
) -> Iterator[Item]:
    """Yield the results of calling `actor(*arguments)` with each item, in the order of the items.

    Ray Data calls a pool of actors; in this process a single object is called. memory: bytes that each actor reserves,
    unless `tasks` says more.
    """
    if is_in_process():
        yield from map(actor(*arguments), items)
        return
    pool = ray.data.ActorPoolStrategy(size=min(tasks.num_tasks, len(items)))
    yield from _map_on_ray(actor, items, tasks, "infer", memory=memory, compute=pool, fn_constructor_args=arguments)


def map_tables_with_actors(
    actor: type,
    arguments: tuple[Any, ...],
    items: Sequence[Item],
    tasks: Tasks,
    *,
    read: Callable[[Item], pa.Table],
    write: Callable[[Item, pa.Table], Item],
    table_bytes: int,
    helpers: Tasks | None,
) -> Iterator[Item]:
    """Yield `write(item, actor(*arguments)(read(item)))` of each item, in the order of the items.

    helpers: tasks beside each actor that read for it and write its results, so that a GPU waits for neither. None: the
    actors do both themselves, and need no CPUs but their own. table_bytes: the largest size of a table.
    """
    memory = _COPIES * table_bytes
    if is_in_process() or helpers is None:
        alone = (read, actor, arguments, write)
        yield from map_with_actors(_ActorWithoutHelpers, alone, items, tasks, memory=memory)
        return
    num_actors = min(tasks.num_tasks, len(items))
    num_helpers = min(helpers.num_tasks * num_actors, len(items))
    one_table: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
    actors = one_table | tasks.remote_options | {"compute": ray.data.ActorPoolStrategy(size=num_actors)}
    helping = one_table | _options(helpers, memory) | {"compute": ray.data.TaskPoolStrategy(size=num_helpers)}
    configure_ray_data()
    data: ray.data.Dataset = ray.data.from_items(list(items), override_num_blocks=len(items))
    data = data.map_batches(_reading(read), **helping)
    data = data.map_batches(_ActorWithHelpers, fn_constructor_args=(actor, arguments), **actors)
    data = data.map_batches(_writing(write), **helping)
    yield from original_errors(data.iter_rows(), "infer")


class _ActorWithoutHelpers:
    """An actor that also reads and writes."""

    def __init__(
        self,
        read: Callable[[Item], pa.Table],
        actor: type,
        arguments: tuple[Any, ...],
        write: Callable[[Item, pa.Table], Item],
    ):
        self._read, self._actor, self._write = read, actor(*arguments), write

    def __call__(self, item: Item) -> Item:
        return self._write(item, self._actor(self._read(item)))


class _ActorWithHelpers:
    """An actor that gets the tables which tasks have read, and returns those which tasks write."""

    def __init__(self, actor: type, arguments: tuple[Any, ...]):
        self._actor = actor(*arguments)

    def __call__(self, block: pa.Table) -> pa.Table:
        item, table = _unpacked(block)
        return _packed(item, self._actor(table))


def _reading(read: Callable[[Item], pa.Table]) -> Callable[[pa.Table], pa.Table]:
    def read_one(block: pa.Table) -> pa.Table:
        [item] = block.to_pylist()
        return _packed(item, read(item))

    return read_one


def _writing(write: Callable[[Item, pa.Table], Item]) -> Callable[[pa.Table], pa.Table]:
    def write_one(block: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([write(*_unpacked(block))])

    return write_one


def _packed(item: Item, table: pa.Table) -> pa.Table:
    """Return an item and its table as one row, without a copy: Ray Data may divide and join blocks, but not rows."""
    cells = {
        name: pa.ListArray.from_arrays([0, len(table)], schema.one_array(table[name])) for name in table.column_names
    }
    return pa.table({_ITEM: [item], _SCHEMA: [table.schema.serialize().to_pybytes()], **cells})


def _unpacked(block: pa.Table) -> tuple[Item, pa.Table]:
    """Return the item and the table of a block that has one row."""
    [item], [fields] = block[_ITEM].to_pylist(), block[_SCHEMA].to_pylist()
    kind = pa.ipc.read_schema(pa.py_buffer(fields))
    return item, pa.Table.from_arrays([schema.one_array(block[name]).flatten() for name in kind.names], schema=kind)


def _map_on_ray(
    function: Any, items: Sequence[Item], tasks: Tasks, setting: str, *, memory: int = 0, **options: Any
) -> Iterator[Item]:
    configure_ray_data()
    data = ray.data.from_items(list(items), override_num_blocks=len(items))
    yield from original_errors(data.map(function, **options, **_options(tasks, memory)).iter_rows(), setting)


def _options(tasks: Tasks, memory: int) -> dict[str, Any]:
    """Return the options of an operator whose tasks or actors use at least this many bytes of memory."""
    options = tasks.remote_options
    return options | {"memory": max(options.get("memory", 0), memory)} if memory else options

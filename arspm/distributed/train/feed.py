"""The three paths from the corpus to a training worker. They give the same batches, bit by bit, in the same order.

stream    Ray Data reads every epoch from storage; for a corpus of any size
cache     decoded rows on each node's disk, as memory-mapped arrays; read from storage once
resident  decoded rows in the memory of each worker's device
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
import torch.distributed

from arspm.config import Config
from arspm.distributed.data import node_cache
from arspm.distributed.data.ingest import Source, open_stream, stream
from arspm.distributed.data.node_cache import Arrays
from arspm.distributed.data.readings import Plan, Reading, batch, kinds, part_of, read_batches
from arspm.distributed.train.rows import Rows
from arspm.training.checkpoint import TrainingState
from arspm.training.fit import WorkerContext

PathName = Literal["stream", "cache", "resident"]
PATHS: tuple[PathName, ...] = ("stream", "cache", "resident")  # the first needs no space, the last is the fastest
# Of a GPU's free memory before the network is on it. The rest is for the network, Adam's state and the activations.
RESIDENT_FRACTION = 0.6
_CHUNK_ROWS = 256  # copied to the device at once

Batches = Iterator[dict[str, Any]]
Share = Callable[[Callable[[], Source]], Source]


def open_feed(
    stage: str, config: Config, rows: Rows, worker: WorkerContext, *, share: Share | None
) -> Callable[[TrainingState], Batches]:
    """Return `feed(progress)`, which yields a worker's batches from `progress` to the last epoch.

    share: returns on every worker what its argument returns on rank 0; None: without Ray, streaming reads in this
    process. Every worker must call this function and the feed at the same time. Raises ValueError if a path that
    `ingest.path` demands is not possible.
    """
    path = agreed_path(config, rows.readings, worker)
    readings, epochs = rows.readings, getattr(config.training, stage).epochs
    types = kinds(rows.train) if path == "stream" and share is not None else {}

    def feed(progress: TrainingState) -> Batches:
        plan = Plan(readings, epochs, progress.epoch, progress.step_in_epoch)
        if path != "stream":
            return _from_memory(plan)
        if share is None:
            return read_batches(readings, plan)
        size, tasks, ahead = worker.world_size, config.resources.read, config.ingest.prefetch_batches
        source = share(lambda: open_stream(readings, plan, world_size=size, tasks=tasks, kinds_of_row=types))
        return stream(readings, plan, source, rank=worker.rank, kinds_of_row=types, prefetch_batches=ahead)

    def _from_memory(plan: Plan) -> Batches:
        with contextlib.ExitStack() as opened:
            arrays = [_open(config, reading, path, worker.device) for reading in readings]
            for each in arrays:
                opened.callback(each.close)
            yield from array_batches(readings, plan, arrays, worker.rank, worker.world_size)

    return feed


def array_batches(
    readings: Sequence[Reading], plan: Plan, arrays: Sequence[Arrays], rank: int = 0, world_size: int = 1
) -> Batches:
    """Yield a worker's batches of a plan from arrays of all rows: NumPy arrays, or tensors on a device."""
    for entry in plan:
        reading, held = readings[entry.reading], arrays[entry.reading]
        part = part_of(reading, entry, rank, world_size)
        for rows, weights in zip(part.rows, part.weights, strict=True):
            columns = {name: _take(values, rows) for name, values in held.columns.items()}
            clip_ids = held.clip_ids.take(pa.array(rows)).to_pylist()
            yield batch(reading, columns, clip_ids, rows, weights)


def choose_path(config: Config, readings: Sequence[Reading], device: torch.device) -> PathName:
    """Return the path that this worker can use: that of `ingest.path`, or for "auto" the fastest that has room.

    Raises ValueError if the cache is demanded and too small for the corpus.
    """
    wanted = config.ingest.path
    if wanted in ("stream", "resident"):
        return wanted
    size, limit = sum(map(node_cache.num_bytes, readings)), config.ingest.cache_gib * 2**30
    named = all(family in reading.written for reading in readings for family in reading.wanted)
    if wanted == "cache":
        if size > limit:
            raise ValueError(
                f"ingest.path=cache: the decoded rows take {size / 2**30:.2f} GiB on each node, more than "
                f"ingest.cache_gib={config.ingest.cache_gib:g}"
            )
        return "cache"
    if device.type == "cuda" and size <= RESIDENT_FRACTION * torch.cuda.mem_get_info(device)[0]:
        return "resident"
    return "cache" if named and size <= limit and node_cache.has_room(cache_folder(config), size) else "stream"


def agreed_path(config: Config, readings: Sequence[Reading], worker: WorkerContext) -> PathName:
    """Return the path of all workers: the first in PATHS that one of them has to use. A collective call."""
    own = choose_path(config, readings, worker.device)
    if worker.world_size == 1:
        return own
    number = torch.tensor(PATHS.index(own), device=worker.device)
    torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MIN)
    return PATHS[int(number)]


def cache_folder(config: Config) -> Path:
    """Return the folder of the node's cache."""
    return Path(config.ingest.cache_folder) if config.ingest.cache_folder else node_cache.default_folder()


def _open(config: Config, reading: Reading, path: PathName, device: torch.device) -> Arrays:
    """Return all rows of a reading, on the device for "resident"."""
    limit = config.ingest.cache_gib * 2**30
    if path == "cache" or (reading.written and node_cache.num_bytes(reading) <= limit):
        arrays = node_cache.open_arrays(reading, cache_folder(config), limit)
    else:
        arrays = node_cache.read_arrays(reading)
    if path == "cache":
        return arrays
    on_device = _on_device(arrays.columns, device)
    arrays.close()
    return Arrays(on_device, arrays.clip_ids)


def _on_device(columns: Mapping[str, np.ndarray], device: torch.device) -> dict[str, torch.Tensor]:
    copies = {}
    for name, values in columns.items():
        copy: torch.Tensor | None = None
        for begin in range(0, len(values), _CHUNK_ROWS):
            chunk = torch.from_numpy(np.array(values[begin : begin + _CHUNK_ROWS]))
            if copy is None:
                copy = torch.empty(values.shape, dtype=chunk.dtype, device=device)
            copy[begin : begin + len(chunk)] = chunk.to(device)
        copies[name] = copy
    return {name: copy for name, copy in copies.items() if copy is not None}


def _take(values: Any, rows: np.ndarray) -> Any:
    if isinstance(values, torch.Tensor):
        return values.index_select(0, torch.from_numpy(rows).to(values.device))
    return values[rows]

"""What a training reads, and in which windows. Ray Data, the node cache and a single process all follow this plan."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from arspm.corpus import schema, tables
from arspm.distributed.data.loaded import Loaded, divided, joined
from arspm.media.jpeg import decode_jpeg
from arspm.training.columns import FACE, ROW, WEIGHT, Picked
from arspm.training.order import Order, Window, window

_FACES = 1024  # decoded faces in an array, 154 MB of the paper's size
_PARTS_AHEAD = 64  # parts that can share what is read once; a window is rarely much smaller than a row group


class Reading(NamedTuple):
    """What to read: rows of `split` in `order`, the `wanted` columns by family, faces decoded to `face_size` pixels.

    `labels`: further columns, as arrays over all rows of the split. `written`: for each family a hash that changes when
    it is written again; without it, decoded rows cannot be kept in a node's cache.
    """

    split: tables.Split
    order: Order
    wanted: Mapping[str, Sequence[str]]
    face_size: int
    labels: Mapping[str, np.ndarray]
    written: Mapping[str, str] = {}


class Entry(NamedTuple):
    """One window of one epoch of one reading. Its first `skip` steps were already taken."""

    reading: int
    epoch: int
    window: int
    skip: int


class Plan(Sequence[Entry]):
    """The entries of a training: each epoch's training windows, then its validation windows.

    Entries are computed when they are asked for, so a plan of any length costs nothing.
    """

    def __init__(self, readings: Sequence[Reading], epochs: int, epoch: int = 0, step: int = 0):
        """`epoch`, `step`: where training is. `step` counts steps of the first reading; validation follows the last."""
        self._windows = [reading.order.num_windows for reading in readings]
        self._shuffled = [reading.order.shuffle for reading in readings]
        order, before = readings[0].order, epoch * sum(self._windows)
        if step < order.num_steps:
            self._first, self._skip = before + step // order.window_steps, step % order.window_steps
        else:
            self._first, self._skip = before + order.num_windows, 0
        self._end = max(self._first, epochs * sum(self._windows))

    def __len__(self) -> int:
        return self._end - self._first

    def __getitem__(self, index: Any) -> Any:
        """Return the entry of this index, from 0 to len - 1."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        epoch, number = divmod(self._first + index, sum(self._windows))
        reading = 0
        while number >= self._windows[reading]:
            number -= self._windows[reading]
            reading += 1
        return Entry(reading, epoch if self._shuffled[reading] else 0, number, 0 if index else self._skip)


def part_of(reading: Reading, entry: Entry, rank: int, world_size: int) -> Window:
    """Return a worker's rows and weights of an entry, (steps, rows per step) each, without those of skipped steps."""
    part = window(reading.order, entry.epoch, entry.window, rank, world_size)
    return Window(part.rows[entry.skip :], part.weights[entry.skip :], part.first_step + entry.skip)


def kinds(reading: Reading) -> dict[str, schema.TensorType]:
    """Return the types of the tensor columns that a reading has, faces decoded, from the corpus's Parquet schemas."""
    return decoded_kinds(reading.split, reading.wanted, reading.face_size)


def decoded_kinds(
    split: tables.Split, wanted: Mapping[str, Sequence[str]], face_size: int
) -> dict[str, schema.TensorType]:
    """Return the types of the tensor columns of `read_decoded`."""
    found = tables.tensor_kinds(split, wanted)
    if any(schema.FACE_JPEG in columns for columns in wanted.values()):
        found[FACE] = schema.TensorType("|u1", (face_size, face_size, 3))
    return found


def load(reading: Reading, rows: np.ndarray) -> Loaded:
    """Return some rows as they are read, faces decoded. rows: ascending, each once."""
    columns = tables.read_pieces(reading.split, reading.wanted, rows)
    clip_ids = columns.pop(schema.CLIP_ID)
    if schema.FACE_JPEG in columns:
        jpegs = columns.pop(schema.FACE_JPEG)
        begins = range(0, len(jpegs), _FACES)
        columns[FACE] = [_decoded(jpegs.slice(begin, _FACES), reading.face_size) for begin in begins]
    return Loaded(rows, columns, clip_ids)


def load_parts(
    readings: Sequence[Reading], numbers: range, part: Callable[[int], tuple[Entry, int]], world_size: int
) -> Iterator[Loaded]:
    """Yield the rows of each part, by number. `part(number)` is its entry and its rank.

    A row group that a part has in common with those after it is read once, and its rows for these are held meanwhile.
    """

    @functools.lru_cache(_PARTS_AHEAD)
    def rows_of(number: int) -> np.ndarray:
        entry, rank = part(number)
        return np.unique(part_of(readings[entry.reading], entry, rank, world_size).rows)

    held, held_of = None, -1
    for index, number in enumerate(numbers):
        source, rows = part(number)[0].reading, rows_of(number)
        if held_of != source:
            held, held_of = None, source  # rows of another split
        missing = rows if held is None else np.setdiff1d(rows, held.rows)
        if len(missing):
            split = readings[source].split
            groups, needed = split.group_of(missing), [missing]
            for later in numbers[index + 1 : index + _PARTS_AHEAD]:
                coming = rows_of(later) if part(later)[0].reading == source else missing[:0]
                needed.append(coming[np.isin(split.group_of(coming), groups)])
                if not len(needed[-1]):
                    break
            new = np.setdiff1d(np.concatenate(needed), [] if held is None else held.rows)
            loaded = load(readings[source], new)
            held = loaded if held is None else joined([held, loaded])
            del loaded
        assert held is not None
        now, held = divided(held, np.isin(held.rows, rows))
        yield now


def read_decoded(
    split: tables.Split, wanted: Mapping[str, Sequence[str]], face_size: int, rows: np.ndarray
) -> dict[str, Any]:
    """Return what `tables.read_rows` returns, with FACE, (rows, face_size, face_size, 3), in place of FACE_JPEG."""
    columns = tables.read_rows(split, wanted, rows)
    if schema.FACE_JPEG in columns:
        columns[FACE] = _decoded(columns.pop(schema.FACE_JPEG), face_size)
    return columns


def _decoded(jpegs: pa.Array, face_size: int) -> np.ndarray:
    faces = np.empty((len(jpegs), face_size, face_size, 3), np.uint8)
    for row, jpeg in enumerate(jpegs):
        faces[row] = decode_jpeg(jpeg.as_py(), face_size)
    return faces


def batch(
    reading: Reading, columns: Mapping[str, Any], clip_ids: list[str], rows: np.ndarray, weights: np.ndarray
) -> dict[str, Any]:
    """Return one step's batch: column -> values (rows, *shape), with labels, row numbers and weights, and clip ids."""
    labels = {name: values[rows] for name, values in reading.labels.items()}
    return {schema.CLIP_ID: clip_ids, **columns, **labels, ROW: rows, WEIGHT: weights}


def read_batches(readings: Sequence[Reading], plan: Plan) -> Iterator[dict[str, Any]]:
    """Yield the batches of a single worker, read in this process."""
    parts = load_parts(readings, range(len(plan)), lambda number: (plan[number], 0), 1)
    for entry, loaded in zip(plan, parts, strict=True):
        reading = readings[entry.reading]
        yield from steps(reading, part_of(reading, entry, rank=0, world_size=1), loaded)


def steps(reading: Reading, part: Window, loaded: Loaded) -> Iterator[dict[str, Any]]:
    """Yield the batches of a part, one per step."""
    for rows, weights, index in zip(part.rows, part.weights, loaded.positions(part.rows), strict=True):
        columns = {name: Picked(pieces, index) for name, pieces in loaded.columns.items()}
        yield batch(reading, columns, loaded.clip_ids.take(pa.array(index)).to_pylist(), rows, weights)

"""What a training reads, and in which windows. Ray Data, the node cache and a single process all follow this plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from arspm.corpus import schema, tables
from arspm.media.jpeg import decode_jpeg
from arspm.training.batch import FACE, ROW, WEIGHT, Picked
from arspm.training.order import Order, Window, window

Pieces = Sequence[np.ndarray]  # a column's values as consecutive arrays (rows, *shape)
_FACES = 1024  # decoded faces in an array, 154 MB of the paper's size


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


def read(reading: Reading, rows: np.ndarray) -> tuple[dict[str, Pieces], pa.Array]:
    """Return the tensor columns of some rows, faces decoded, and the rows' clip ids. rows: ascending, each once."""
    columns = tables.read_pieces(reading.split, reading.wanted, rows)
    clip_ids = columns.pop(schema.CLIP_ID)
    if schema.FACE_JPEG in columns:
        jpegs = columns.pop(schema.FACE_JPEG)
        begins = range(0, len(jpegs), _FACES)
        columns[FACE] = [_decoded(jpegs.slice(begin, _FACES), reading.face_size) for begin in begins]
    return columns, clip_ids


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
    for entry in plan:
        reading = readings[entry.reading]
        part = part_of(reading, entry, rank=0, world_size=1)
        columns, clip_ids = read(reading, np.unique(part.rows))
        yield from steps(reading, part, columns, clip_ids)


def steps(
    reading: Reading, part: Window, columns: Mapping[str, Pieces], clip_ids: pa.Array
) -> Iterator[dict[str, Any]]:
    """Yield the batches of a part, one per step. columns, clip_ids: of the part's rows, ascending, each once."""
    known = np.unique(part.rows)
    for rows, weights in zip(part.rows, part.weights, strict=True):
        index = np.searchsorted(known, rows)
        of_step = {name: Picked(pieces, index) for name, pieces in columns.items()}
        yield batch(reading, of_step, clip_ids.take(pa.array(index)).to_pylist(), rows, weights)

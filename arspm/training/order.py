"""The order in which training reads rows: a pure function of (rows, seed, epoch), cut into lanes for the workers.

An epoch permutes the split's row groups and reads them as one sequence of rows, wrapped round to fill the last step, so
that every row is read at least once. The sequence is cut into `num_lanes` equal stretches. A global batch takes the
next `lane_batch` rows of every lane; rows are shuffled within windows of a lane. The workers share the lanes out, as
evenly as they divide, so whatever the number of workers, the global batches hold the same rows, and no row group is
read by two workers (but those that a cut falls in).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_GROUPS, _WINDOW = 1, 2  # what a random generator is for; without it (seed, epoch) would equal (seed, epoch, 0, 0)


class Groups(NamedTuple):
    """Row groups of a split, in the order of its files. Rows are numbered through all of them from 0.

    `rows`: the row numbers that take part, rising. Those of group i are rows[begins[i]:begins[i + 1]]; groups with none
    are left out. Two arrays, for a corpus has tens of thousands of groups and every read task is handed them all.
    """

    rows: np.ndarray
    begins: np.ndarray

    @property
    def num_rows(self) -> int:
        return len(self.rows)


def groups(sizes: Sequence[int], keep: np.ndarray | None = None) -> Groups:
    """Groups of these sizes. `keep`: (rows,) booleans, the rows that take part; all of them when None."""
    ends = np.cumsum(sizes, dtype=np.int64)
    rows = np.arange(ends[-1]) if keep is None else np.flatnonzero(keep)
    begins = np.searchsorted(rows, np.concatenate([[0], ends]))
    return Groups(rows, np.unique(begins))


class Order(NamedTuple):
    """How the rows of `groups` become steps. `shuffle=False`: in their own order, for validation."""

    groups: Groups
    global_batch: int
    num_lanes: int
    window_rows: int
    seed: int
    shuffle: bool = True

    @property
    def lane_batch(self) -> int:
        return self.global_batch // self.num_lanes

    @property
    def num_steps(self) -> int:
        """Steps of one epoch."""
        return -(-self.groups.num_rows // self.global_batch)

    @property
    def window_steps(self) -> int:
        return max(1, self.window_rows // self.lane_batch)

    @property
    def num_windows(self) -> int:
        return -(-self.num_steps // self.window_steps)


class Window(NamedTuple):
    """One worker's rows of some consecutive steps.

    `rows`: (steps, rows a worker and step) row numbers. `weights`: the same shape, 0 where a row repeats one of this
    epoch only to fill the last step, else 1. `first_step`: the epoch's step that the window begins with.
    """

    rows: np.ndarray
    weights: np.ndarray
    first_step: int


def lanes(order: Order, rank: int, world_size: int) -> range:
    """The lanes of one worker; none has more than one more than another. world_size: up to the number of lanes."""
    return range(rank * order.num_lanes // world_size, (rank + 1) * order.num_lanes // world_size)


def window(order: Order, epoch: int, index: int, rank: int, world_size: int) -> Window:
    """Window `index` of an epoch for one worker."""
    own = lanes(order, rank, world_size)
    first = index * order.window_steps
    steps = min(order.window_steps, order.num_steps - first)
    width, length = steps * order.lane_batch, order.num_steps * order.lane_batch

    starts, total = order.groups.begins, order.groups.num_rows
    sequence = np.arange(len(starts) - 1)
    if order.shuffle:
        _rng(order.seed, epoch, _GROUPS).shuffle(sequence)
    begins = np.concatenate([[0], np.cumsum(np.diff(starts)[sequence])])

    rows, weights = [], []
    for lane in own:
        positions = lane * length + first * order.lane_batch + np.arange(width)
        if order.shuffle:
            _rng(order.seed, epoch, _WINDOW, lane, index).shuffle(positions)
        wrapped = positions % total
        which = np.searchsorted(begins, wrapped, side="right") - 1
        rows.append(order.groups.rows[starts[sequence[which]] + wrapped - begins[which]])
        weights.append(positions < total)
    shape = (len(own), steps, order.lane_batch)

    def by_step(values: list) -> np.ndarray:
        return np.asarray(values).reshape(shape).swapaxes(0, 1).reshape(steps, -1)

    return Window(by_step(rows).astype(np.int64), by_step(weights).astype(np.float32), first)


def _rng(*words: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))

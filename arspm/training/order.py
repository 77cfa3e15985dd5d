"""The order in which training reads rows: a pure function of (rows, seed, epoch), divided into lanes for the workers.

A *row group* is the unit of reading in Parquet. Each epoch permutes the split's row groups and reads them as one long
sequence of rows. The sequence wraps around to fill the last step, so every row is read at least once. It is cut into
`num_lanes` *lanes*: consecutive parts of equal length. A *step* takes the next `lane_batch` rows of every lane, which
together are one global batch. A *window* is `window_steps` consecutive steps; each lane shuffles its rows within a
window.

Each worker reads some of the lanes. The global batches therefore hold the same rows for any number of workers, and no
two workers read the same row group, except where a cut between lanes falls inside one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_GROUPS, _WINDOW = 1, 2  # purpose of a random generator: NumPy treats seeds (s, e) and (s, e, 0, 0) as equal


class Groups(NamedTuple):
    """The rows of a split that training uses, by row group. Rows are numbered from 0 across the split's files.

    `rows`: (rows,) row numbers, ascending. `begins`: (groups + 1,); group i is rows[begins[i]:begins[i + 1]]. Groups
    without used rows are left out. Two arrays instead of a list of groups: a corpus has tens of thousands of groups,
    and every read task gets a copy.
    """

    rows: np.ndarray
    begins: np.ndarray

    @property
    def num_rows(self) -> int:
        return len(self.rows)


def groups(sizes: Sequence[int], keep: np.ndarray | None = None) -> Groups:
    """Return the Groups of row groups with these sizes. `keep`: (rows,) booleans, True for rows to use; None: all."""
    ends = np.cumsum(sizes, dtype=np.int64)
    rows = np.arange(ends[-1]) if keep is None else np.flatnonzero(keep)
    begins = np.searchsorted(rows, np.concatenate([[0], ends]))
    return Groups(rows, np.unique(begins))


class Order(NamedTuple):
    """How the rows of `groups` are divided into steps, lanes and windows; see the module's docstring.

    `global_batch`: rows per step over all lanes. `window_rows`: rows of one lane that are shuffled together.
    `shuffle`: False keeps the split's order, for validation.
    """

    groups: Groups
    global_batch: int
    num_lanes: int
    window_rows: int
    seed: int
    shuffle: bool = True

    @property
    def lane_batch(self) -> int:
        """Rows that a step takes from each lane."""
        return self.global_batch // self.num_lanes

    @property
    def num_steps(self) -> int:
        """Steps per epoch."""
        return -(-self.groups.num_rows // self.global_batch)

    @property
    def window_steps(self) -> int:
        """Steps per window; an epoch's last window may have fewer."""
        return max(1, self.window_rows // self.lane_batch)

    @property
    def num_windows(self) -> int:
        """Windows per epoch."""
        return -(-self.num_steps // self.window_steps)


class Window(NamedTuple):
    """One worker's rows in a window.

    `rows`: (steps, worker's rows per step) row numbers. `weights`: the same shape; 0 for rows that repeat earlier rows
    of the epoch to fill the last step, otherwise 1. `first_step`: the window's first step, counted within the epoch.
    """

    rows: np.ndarray
    weights: np.ndarray
    first_step: int


def lanes(order: Order, rank: int, world_size: int) -> range:
    """Return one worker's lanes. The numbers of lanes of two workers differ by at most one. world_size <= num_lanes."""
    return range(rank * order.num_lanes // world_size, (rank + 1) * order.num_lanes // world_size)


def window(order: Order, epoch: int, index: int, rank: int, world_size: int) -> Window:
    """Return window `index` of an epoch, from 0 to num_windows - 1, for one worker."""
    own = lanes(order, rank, world_size)
    first = index * order.window_steps
    steps = min(order.window_steps, order.num_steps - first)
    rows_of_window, rows_of_lane = steps * order.lane_batch, order.num_steps * order.lane_batch

    starts, total = order.groups.begins, order.groups.num_rows
    permuted = np.arange(len(starts) - 1)  # row groups in the order of this epoch
    if order.shuffle:
        _rng(order.seed, epoch, _GROUPS).shuffle(permuted)
    begins = np.concatenate([[0], np.cumsum(np.diff(starts)[permuted])])  # their positions in the epoch's sequence

    rows, weights = [], []
    for lane in own:
        positions = lane * rows_of_lane + first * order.lane_batch + np.arange(rows_of_window)
        if order.shuffle:
            _rng(order.seed, epoch, _WINDOW, lane, index).shuffle(positions)
        wrapped = positions % total
        group = np.searchsorted(begins, wrapped, side="right") - 1
        rows.append(order.groups.rows[starts[permuted[group]] + wrapped - begins[group]])
        weights.append(positions < total)
    shape = (len(own), steps, order.lane_batch)

    def by_step(values: list) -> np.ndarray:
        """Return (lanes, steps x lane_batch) as (steps, lanes x lane_batch)."""
        return np.asarray(values).reshape(shape).swapaxes(0, 1).reshape(steps, -1)

    return Window(by_step(rows).astype(np.int64), by_step(weights).astype(np.float32), first)


def _rng(*seeds: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seeds)))

"""Columns of a batch before it is on a device. Imports no torch, so that processes that only read start fast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

# Columns that the corpus does not have.
FACE = "face"  # decoded faces, uint8 (rows, height, width, 3)
ROW = "row"  # row numbers in the split
WEIGHT = "weight"  # see `Batch.weight`


class Picked:
    """Rows that are still to be picked from a column's consecutive arrays: an array that `copy_to` or NumPy makes.

    So the only copy of a row in the worker is the one to where the batch is needed, such as pinned memory.
    """

    def __init__(self, pieces: Sequence[np.ndarray], index: np.ndarray):
        """pieces: arrays (rows, *shape). index: (rows,) numbers of rows, counted across all pieces."""
        self._pieces, self._index = pieces, index
        self.shape, self.dtype = (len(index), *pieces[0].shape[1:]), pieces[0].dtype

    def __len__(self) -> int:
        return len(self._index)

    def copy_to(self, out: np.ndarray) -> np.ndarray:
        """Copy the rows to an array of this shape, and return it."""
        begins = np.cumsum([0, *map(len, self._pieces)])
        numbers = np.searchsorted(begins, self._index, side="right") - 1
        offsets = self._index - begins[numbers]
        for row, (number, offset) in enumerate(zip(numbers.tolist(), offsets.tolist(), strict=True)):
            out[row] = self._pieces[number][offset]
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.copy_to(np.empty(self.shape, self.dtype if dtype is None else dtype))

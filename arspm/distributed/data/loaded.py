"""Rows as they were read from storage: consecutive arrays, most of them views of Parquet's row groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

Pieces = Sequence[np.ndarray]  # a column's values as consecutive arrays (rows, *shape)


class Loaded(NamedTuple):
    """Rows of a split. `rows`: their numbers, each once, in the order of `clip_ids` and of each of the `columns`."""

    rows: np.ndarray
    columns: Mapping[str, Pieces]
    clip_ids: pa.Array

    def positions(self, rows: np.ndarray) -> np.ndarray:
        """Return where the rows with these numbers are, in an array of the same shape."""
        order = np.argsort(self.rows)
        return order[np.searchsorted(self.rows, rows, sorter=order)]


def joined(loaded: Sequence[Loaded]) -> Loaded:
    """Return all rows together, without a copy."""
    return Loaded(
        np.concatenate([each.rows for each in loaded]),
        {name: [piece for each in loaded for piece in each.columns[name]] for name in loaded[0].columns},
        pa.concat_arrays([each.clip_ids for each in loaded]),
    )


def divided(loaded: Loaded, chosen: np.ndarray) -> tuple[Loaded, Loaded]:
    """Return the chosen rows and the others, without a copy. chosen: booleans (rows,)."""

    def those(mask: np.ndarray) -> Loaded:
        columns = {name: _runs(pieces, mask) for name, pieces in loaded.columns.items()}
        return Loaded(loaded.rows[mask], columns, loaded.clip_ids.filter(pa.array(mask)))

    return those(chosen), those(~chosen)


def _runs(pieces: Pieces, mask: np.ndarray) -> list[np.ndarray]:
    """Return the rows where the mask is True, each run of them as a view."""
    found, begin = [], 0
    for piece in pieces:
        own = mask[begin : begin + len(piece)]
        for run in np.split(np.arange(len(own)), np.flatnonzero(np.diff(own)) + 1):
            if len(run) and own[run[0]]:
                found.append(piece[run[0] : run[-1] + 1])
        begin += len(piece)
    return found

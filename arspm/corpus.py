"""The corpus on storage, by plain pyarrow: its manifest, rows of its aligned families, and its tables."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from arspm import schema, storage

MANIFEST = "manifest.json"


class Split(NamedTuple):
    """A split's shards, in order. Rows are numbered through them from 0."""

    uri: str
    shards: tuple[str, ...]  # "shard-00000"
    shard_rows: tuple[int, ...]
    rows_per_group: int

    @property
    def num_rows(self) -> int:
        return sum(self.shard_rows)

    def only(self, shard: int) -> Split:
        """The split as if it had this shard alone."""
        return self._replace(shards=(self.shards[shard],), shard_rows=(self.shard_rows[shard],))

    def path(self, family: str, shard: int) -> str:
        return storage.join(self.uri, family, f"{self.shards[shard]}.parquet")

    def group_sizes(self) -> list[int]:
        """Rows of each row group, through all shards."""
        return [size for rows in self.shard_rows for size in _cut(rows, self.rows_per_group)]


def open_split(corpus: str, name: str, subset: int | None = None) -> Split:
    """A split of a corpus, or its first `subset` rows in whole shards' order.

    Raises FileNotFoundError without a manifest, and ValueError for a split without a row.
    """
    manifest = storage.read_json(storage.join(corpus, MANIFEST))
    shards: list[dict[str, Any]] = manifest["splits"][name]["shards"]
    names, rows, left = [], [], subset
    for shard in shards:
        take = shard["rows"] if left is None else min(left, shard["rows"])
        if take:
            names.append(shard["name"])
            rows.append(take)
        left = None if left is None else left - take
    if not rows:
        raise ValueError(f"{corpus}: the {name} split is empty")
    return Split(storage.join(corpus, name), tuple(names), tuple(rows), manifest["rows_per_group"])


def read_rows(split: Split, wanted: Mapping[str, Sequence[str]], rows: np.ndarray) -> dict[str, Any]:
    """Rows of some columns, in the order asked for: column -> array (rows, *shape), or pa.Array for plain columns.

    `wanted`: family -> columns. `clip_id` always comes along. Raises ValueError where the families' ids differ, or
    where one has fewer rows than the manifest says.
    """
    starts = np.cumsum([0, *split.group_sizes()])
    groups_of_shard = np.cumsum([0] + [len(_cut(size, split.rows_per_group)) for size in split.shard_rows])
    group_of_row = np.searchsorted(starts, rows, side="right") - 1
    needed = np.unique(group_of_row)
    # Where each row lies in the concatenation of the groups read.
    begins = np.cumsum([0, *(starts[needed + 1] - starts[needed])])
    place = begins[np.searchsorted(needed, group_of_row)] + rows - starts[group_of_row]

    found: dict[str, Any] = {}
    for family, columns in wanted.items():
        pieces = []
        for shard in np.unique(np.searchsorted(groups_of_shard, needed, side="right") - 1).tolist():
            inside = needed[(needed >= groups_of_shard[shard]) & (needed < groups_of_shard[shard + 1])]
            pieces.append(
                _read_groups(
                    split.path(family, shard),
                    [*dict.fromkeys([schema.CLIP_ID, *columns])],
                    inside - groups_of_shard[shard],
                )
            )
        # A subset may end inside a row group, whose further rows are read and left.
        table = _first_rows(pieces, starts[needed + 1] - starts[needed])
        if len(table) < begins[-1]:
            raise ValueError(f"{split.uri}: {family} has fewer rows than the manifest says; make it anew")
        ids = table[schema.CLIP_ID].combine_chunks().take(pa.array(place))
        if schema.CLIP_ID in found and not ids.equals(found[schema.CLIP_ID]):
            raise ValueError(f"{split.uri}: the rows of {family} are not those of the other families; make it anew")
        found[schema.CLIP_ID] = ids
        for column in columns:
            field = table.schema.field(column)
            if pa.types.is_binary(field.type) and field.metadata and b"dtype" in field.metadata:
                found[column] = _gather(table[column], schema.tensor_type(field), place)
            elif column != schema.CLIP_ID:
                found[column] = table[column].combine_chunks().take(pa.array(place))
    return found


def read_columns(split: Split, family: str, columns: Sequence[str]) -> pa.Table:
    """Columns of a whole split: small ones, or few rows."""
    tables = []
    for shard, rows in enumerate(split.shard_rows):
        fs, path = storage.arrow_filesystem(split.path(family, shard))
        tables.append(pq.read_table(path, columns=list(columns), filesystem=fs).slice(0, rows))
    return pa.concat_tables(tables)


def speakers(table: pa.Table) -> list[str]:
    """Whose clip each row is: the identity where there is one, else the video id."""
    named = zip(table[schema.IDENTITY].to_pylist(), table[schema.VIDEO_ID].to_pylist(), strict=True)
    return [identity or video for identity, video in named]


def write_table(uri: str, table: pa.Table, rows_per_group: int) -> dict[str, Any]:
    """Write a Parquet file whose bytes follow from its content alone; its size and hash."""
    sink = io.BytesIO()
    # Half floats and JPEG do not compress, and cells are too large for dictionaries and statistics.
    pq.write_table(
        table, sink, row_group_size=rows_per_group, compression="none", use_dictionary=False, write_statistics=False
    )
    return storage.write_bytes(uri, sink.getvalue())


def ids_hash(clip_ids: Sequence[str]) -> str:
    """The hash that says that two tables have the same rows in the same order."""
    return hashlib.sha256("\n".join(clip_ids).encode()).hexdigest()


def _cut(rows: int, size: int) -> list[int]:
    return [min(size, rows - start) for start in range(0, rows, size)]


def _read_groups(uri: str, columns: list[str], groups: np.ndarray) -> list[pa.Table]:
    fs, path = storage.arrow_filesystem(uri)
    with fs.open_input_file(path) as file, pq.ParquetFile(file, pre_buffer=True) as parquet:
        if groups[-1] >= parquet.num_row_groups:
            raise ValueError(f"{uri}: fewer rows than the manifest says; make it anew")
        return [parquet.read_row_group(int(group), columns=columns) for group in groups]


def _first_rows(pieces: list[list[pa.Table]], sizes: np.ndarray) -> pa.Table:
    tables = [table for piece in pieces for table in piece]
    return pa.concat_tables([table.slice(0, int(size)) for table, size in zip(tables, sizes, strict=True)])


def _gather(column: pa.ChunkedArray, kind: schema.TensorType, place: np.ndarray) -> np.ndarray:
    out = np.empty((len(place), *kind.shape), kind.dtype)
    begin = 0
    for chunk in column.chunks:
        values = schema.tensors(chunk, kind)
        here = (place >= begin) & (place < begin + len(values))
        out[here] = values[place[here] - begin]
        begin += len(values)
    return out

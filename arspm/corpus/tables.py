"""The corpus on storage, by plain pyarrow: its manifest, rows of its aligned families, and its tables."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, Field

from arspm import storage
from arspm.corpus import schema

MANIFEST = "manifest.json"


# A manifest's numbers decide how much is held in memory before any file is opened.
_MAX_SHARD_ROWS, _MAX_ROWS = 1_000_000, 100_000_000
_MAX_GROUP_BYTES = 4 << 30
_TENSORS = (schema.SPECTROGRAM, schema.WAVEFORM, schema.FACE_FEATURE)
_TEXTS = (schema.CLIP_ID, schema.VIDEO_ID, schema.GENDER, schema.IDENTITY)


class _Shard(BaseModel):
    name: Annotated[str, Field(pattern=r"\A[A-Za-z0-9_-]{1,100}\z")]
    rows: Annotated[int, Field(ge=0, le=_MAX_SHARD_ROWS)]


class _Shards(BaseModel):
    shards: list[_Shard]


class _Manifest(BaseModel):
    """What reading needs of a manifest."""

    rows_per_group: Annotated[int, Field(ge=1, le=_MAX_SHARD_ROWS)]
    splits: dict[str, _Shards]


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

    Raises FileNotFoundError without a manifest, and ValueError for one that is none or a split without a row.
    """
    uri = storage.join(corpus, MANIFEST)
    manifest = storage.read_model(uri, _Manifest, "a corpus's manifest")
    if name not in manifest.splits:
        raise ValueError(f"{uri}: there is no {name} split")
    shards = manifest.splits[name].shards
    if sum(shard.rows for shard in shards) > _MAX_ROWS:
        raise ValueError(f"{uri}: the {name} split has more than {_MAX_ROWS} rows")
    names, rows, left = [], [], subset
    for shard in shards:
        take = shard.rows if left is None else min(left, shard.rows)
        if take:
            names.append(shard.name)
            rows.append(take)
        left = None if left is None else left - take
    if not rows:
        raise ValueError(f"{uri}: the {name} split is empty")
    return Split(storage.join(corpus, name), tuple(names), tuple(rows), manifest.rows_per_group)


def read_rows(split: Split, wanted: Mapping[str, Sequence[str]], rows: np.ndarray) -> dict[str, Any]:
    """Rows of some columns, in the order asked for: column -> array (rows, *shape), or pa.Array for plain columns.

    `wanted`: family -> columns. `clip_id` always comes along. Of rows that lie scattered a few shards' row
    groups are in memory at once. Raises ValueError where the families' ids differ, or where one has fewer rows than the
    manifest says.
    """
    starts = np.cumsum([0, *split.group_sizes()])
    groups_of_shard = np.cumsum([0] + [len(_cut(size, split.rows_per_group)) for size in split.shard_rows])
    group_of_row = np.searchsorted(starts, rows, side="right") - 1
    shard_of_row = np.searchsorted(groups_of_shard, group_of_row, side="right") - 1
    shards = np.unique(shard_of_row).tolist()
    asked = [np.flatnonzero(shard_of_row == shard) for shard in shards]  # which of `rows`, shard by shard
    in_order = pa.array(np.argsort(np.concatenate(asked)))

    found: dict[str, Any] = {}
    for family, columns in wanted.items():
        names = [*dict.fromkeys([schema.CLIP_ID, *columns])]
        plain: dict[str, list[pa.Array]] = {}
        for shard, here in zip(shards, asked, strict=True):
            needed = np.unique(group_of_row[here])
            sizes = starts[needed + 1] - starts[needed]
            uri = split.path(family, shard)
            pieces = _read_groups(uri, names, needed - groups_of_shard[shard], split.rows_per_group)
            table = _first_rows(pieces, sizes)
            if len(table) < sizes.sum():
                raise ValueError(f"{split.uri}: {family} has fewer rows than the manifest says; make it anew")
            # Where each row lies in the concatenation of the groups read.
            begins = np.cumsum([0, *sizes])
            group = group_of_row[here]
            place = begins[np.searchsorted(needed, group)] + rows[here] - starts[group]
            for name in names:
                field = table.schema.field(name)
                if pa.types.is_binary(field.type) and field.metadata and b"dtype" in field.metadata:
                    kind = schema.tensor_type(field)
                    if name not in found:
                        found[name] = np.empty((len(rows), *kind.shape), kind.dtype)
                    if (found[name].dtype, found[name].shape[1:]) != (np.dtype(kind.dtype), tuple(kind.shape)):
                        raise ValueError(f"{uri}: {name} is of other tensors than in other shards; make it anew")
                    _gather(table[name], kind, place, found[name], here)
                else:
                    plain.setdefault(name, []).append(table[name].combine_chunks().take(pa.array(place)))
        for name, parts in plain.items():
            values = pa.concat_arrays(parts).take(in_order)
            if name == schema.CLIP_ID and not values.equals(found.setdefault(name, values)):
                raise ValueError(f"{split.uri}: the rows of {family} are not those of the other families; make it anew")
            found[name] = values
    return found


def read_columns(split: Split, family: str, columns: Sequence[str]) -> pa.Table:
    """Columns of a whole split: small ones, or few rows."""
    tables = []
    for shard, rows in enumerate(split.shard_rows):
        tables.append(read_table(split.path(family, shard), columns).slice(0, rows))
    return pa.concat_tables(tables)


def read_table(uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole Parquet file, or some columns of it. Raises FileNotFoundError."""

    def read() -> pa.Table:
        fs, path = storage.arrow_filesystem(uri)
        with _broken_named(uri):
            table = pq.read_table(path, columns=None if columns is None else list(columns), filesystem=fs)
        return _checked(uri, table, columns or ())

    return storage.retried(uri, read)


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


def _read_groups(uri: str, columns: list[str], groups: np.ndarray, rows_per_group: int) -> list[pa.Table]:
    def read() -> list[pa.Table]:
        fs, path = storage.arrow_filesystem(uri)
        with _broken_named(uri), fs.open_input_file(path) as file, pq.ParquetFile(file, pre_buffer=True) as parquet:
            if groups[-1] >= parquet.num_row_groups:
                raise ValueError(f"{uri}: fewer rows than the manifest says; make it anew")
            for group in map(parquet.metadata.row_group, groups.tolist()):
                if group.num_rows > rows_per_group or group.total_byte_size > _MAX_GROUP_BYTES:
                    raise ValueError(f"{uri}: a row group of other size than the manifest says; make it anew")
            return [_checked(uri, parquet.read_row_group(int(group), columns=columns), columns) for group in groups]

    return storage.retried(uri, read)


@contextlib.contextmanager
def _broken_named(uri: str) -> Iterator[None]:
    """Say which file pyarrow found broken: by an OSError without a number, unlike the storage's faults."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and (error.errno is not None or "AWS Error" in str(error)):
            raise
        first = (str(error).splitlines() or [""])[0][:200]
        told = first if first.isprintable() else repr(first)
        raise ValueError(f"{uri}: not a whole Parquet file ({told})") from None


def _checked(uri: str, table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """The table, if it has these columns, once each, and its tensors and texts are such."""
    if missing := [name for name in columns if table.column_names.count(name) != 1]:
        raise ValueError(f"{uri}: no column {', '.join(missing)}; make it anew")
    for field in table.schema:
        column = table[field.name]
        try:
            if field.metadata and b"dtype" in field.metadata:
                kind = schema.tensor_type(field)
                if not pa.types.is_binary(field.type):
                    raise ValueError(f"column {field.name} holds {str(field.type)[:100]}, not the bytes of tensors")
                for chunk in column.chunks:
                    schema.tensors(chunk, kind)
            # Of a damaged file, offsets and text are as it says. This reads all but the large cells' bytes.
            column.validate(full=pa.types.is_string(field.type))
        except (ValueError, pa.ArrowException) as error:
            raise ValueError(f"{uri}: {(str(error).splitlines() or [''])[0][:200]}; make it anew") from None
        if field.name in _TENSORS and not (field.metadata and b"dtype" in field.metadata):
            raise ValueError(f"{uri}: column {field.name} is not of tensors; make it anew")
        if field.name in _TEXTS and not pa.types.is_string(field.type):
            raise ValueError(f"{uri}: column {field.name} must be text, not {str(field.type)[:100]}; make it anew")
    return table


def _first_rows(pieces: list[pa.Table], sizes: np.ndarray) -> pa.Table:
    """The groups in one, without the rows of the last one that a subset leaves out."""
    return pa.concat_tables([table.slice(0, int(size)) for table, size in zip(pieces, sizes, strict=True)])


def _gather(
    column: pa.ChunkedArray, kind: schema.TensorType, place: np.ndarray, out: np.ndarray, where: np.ndarray
) -> None:
    """out[where] = the cells at `place`. A chunk at a time: together they may be more than Arrow's offsets reach."""
    begin = 0
    for chunk in column.chunks:
        values = schema.tensors(chunk, kind)
        here = (place >= begin) & (place < begin + len(values))
        out[where[here]] = values[place[here] - begin]
        begin += len(values)

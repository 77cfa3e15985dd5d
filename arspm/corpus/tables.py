"""Read and write the corpus with pyarrow: its manifest, rows of its aligned families, and complete tables."""

from __future__ import annotations

import functools
import hashlib
import io
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, Field, field_validator

from arspm import storage
from arspm.corpus import schema
from arspm.corpus.parquet_files import REBUILD, first_line, opened, verified_parts
from arspm.storage import uris

T = TypeVar("T")

MANIFEST = "manifest.json"

# Limits on a manifest's numbers, because arrays of these sizes are allocated before any file is opened.
_MAX_SHARD_ROWS, _MAX_ROWS = 1_000_000, 100_000_000
_MAX_GROUP_BYTES = 4 << 30
# Files read at once: decoding releases the GIL, and reading from S3 waits. It bounds the memory of scattered rows.
_THREADS = 4
# Files of which small columns are read at once from remote storage, where each takes several round trips.
_SMALL_THREADS = 32
_OF_PREPROCESS = ("speech", "faces", "measures")  # families that an adopted corpus has in its source
_TENSORS = (schema.SPECTROGRAM, schema.WAVEFORM, schema.FACE_FEATURE)
_TEXTS = (schema.CLIP_ID, schema.VIDEO_ID, schema.GENDER, schema.IDENTITY, schema.PREDICTED_GENDER)


class _Shard(BaseModel):
    name: Annotated[str, Field(pattern=r"\A[A-Za-z0-9_-]{1,100}\z")]
    rows: Annotated[int, Field(ge=0, le=_MAX_SHARD_ROWS)]

    key: str = ""


class _Shards(BaseModel):
    shards: list[_Shard]


class _Manifest(BaseModel):
    """The fields of a manifest that reading needs."""

    rows_per_group: Annotated[int, Field(ge=1, le=_MAX_SHARD_ROWS)]
    splits: dict[str, _Shards]
    source: str = ""  # the corpus that has the clips, if another run made them

    @field_validator("source")
    @classmethod
    def _check_source(cls, value: str) -> str:
        if value and (problem := uris.user_uri_problem(value)):
            raise ValueError(problem)
        return value


class Split(NamedTuple):
    """A split's shards, in order. Rows are numbered from 0 across all shards."""

    uri: str
    shards: tuple[str, ...]  # "shard-00000"
    shard_rows: tuple[int, ...]
    rows_per_group: int
    source: str = ""  # URI of the split that has the clips, if it is not this one
    keys: tuple[str, ...] = ()  # of the clips of each shard; shards with one key have the same clips and pictures

    @property
    def num_rows(self) -> int:
        return sum(self.shard_rows)

    def only(self, shard: int) -> Split:
        """Return a split that has only this shard."""
        return self._replace(shards=(self.shards[shard],), shard_rows=(self.shard_rows[shard],), keys=())

    def path(self, family: str, shard: int) -> str:
        uri = self.source if self.source and family in _OF_PREPROCESS else self.uri
        return storage.join(uri, family, f"{self.shards[shard]}.parquet")

    def group_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the row group of each row, counted across all shards."""
        return np.searchsorted(np.cumsum([0, *self.group_sizes()]), rows, side="right") - 1

    def group_sizes(self) -> list[int]:
        """Return the number of rows of each row group of all shards, in order."""
        return [size for rows in self.shard_rows for size in _cut(rows, self.rows_per_group)]


def open_split(corpus: str, name: str, subset: int | None = None) -> Split:
    """Return a split of a corpus, or its first `subset` rows.

    Raises FileNotFoundError without a manifest, and ValueError for an invalid manifest or a split without rows.
    """
    uri = storage.join(corpus, MANIFEST)
    manifest = storage.read_model(uri, _Manifest, "a corpus's manifest")
    if name not in manifest.splits:
        raise ValueError(f"{uri}: there is no {name} split")
    shards = manifest.splits[name].shards
    if sum(shard.rows for shard in shards) > _MAX_ROWS:
        raise ValueError(f"{uri}: the {name} split has more than {_MAX_ROWS} rows")
    names, rows, keys, left = [], [], [], subset
    for shard in shards:
        take = shard.rows if left is None else min(left, shard.rows)
        if take:
            names.append(shard.name)
            rows.append(take)
            keys.append(shard.key)
        left = None if left is None else left - take
    if not rows:
        raise ValueError(f"{uri}: the {name} split is empty")
    source = storage.join(manifest.source, name) if manifest.source else ""
    return Split(
        storage.join(corpus, name), tuple(names), tuple(rows), manifest.rows_per_group, source=source, keys=tuple(keys)
    )


def shard_names(corpus: str) -> dict[str, set[str]]:
    """Return the names of the shards of each split. Raises FileNotFoundError or ValueError as `open_split`."""
    manifest = storage.read_model(storage.join(corpus, MANIFEST), _Manifest, "a corpus's manifest")
    return {split: {shard.name for shard in shards.shards} for split, shards in manifest.splits.items()}


def read_rows(split: Split, wanted: Mapping[str, Sequence[str]], rows: np.ndarray) -> dict[str, Any]:
    """Return rows of some columns, in the order of `rows`.

    `wanted` maps a family to its columns; `clip_id` is always added. Returns column -> array (rows, *shape) for tensor
    columns, and column -> pa.Array for other columns. A few files are read at once, to bound memory. Raises IndexError
    for other row numbers, and ValueError if the families' clip ids differ, or a family has fewer rows than the manifest
    says.
    """
    tensors: dict[str, np.ndarray] = {}
    allocating = threading.Lock()

    def copy(name: str, values: np.ndarray, offsets: np.ndarray, into: np.ndarray) -> None:
        with allocating:
            if name not in tensors:
                tensors[name] = np.empty((len(rows), *values.shape[1:]), values.dtype)
        # Row by row, because NumPy's own indexing on both sides copies all rows twice.
        for row, offset in zip(into.tolist(), offsets.tolist(), strict=True):
            tensors[name][row] = values[offset]

    others = _read(split, wanted, rows, copy)
    return {**tensors, **others}


def read_pieces(split: Split, wanted: Mapping[str, Sequence[str]], rows: np.ndarray) -> dict[str, Any]:
    """Return what `read_rows` returns, but a tensor column as consecutive arrays, which are no copies if possible.

    rows: ascending, each once. An array is a view of the row group that was read, unless that would keep more than
    twice its memory.
    """
    found: dict[str, dict[int, np.ndarray]] = {}

    def keep(name: str, values: np.ndarray, offsets: np.ndarray, into: np.ndarray) -> None:
        begin, end = int(offsets[0]), int(offsets[-1]) + 1
        dense = end - begin == len(offsets) and 2 * len(offsets) >= len(values)
        found.setdefault(name, {})[int(into[0])] = values[begin:end] if dense else values[offsets]

    others = _read(split, wanted, rows, keep)
    return {name: [own[begin] for begin in sorted(own)] for name, own in found.items()} | others


def _read(
    split: Split,
    wanted: Mapping[str, Sequence[str]],
    rows: np.ndarray,
    use: Callable[[str, np.ndarray, np.ndarray, np.ndarray], None],
) -> dict[str, pa.Array]:
    """Call `use(name, values, offsets, into)` for each tensor column of each row group; return the other columns.

    rows[into] of the column `name` are values[offsets]. Threads call `use`, and again after a failed read.
    """
    if min(rows) < 0 or max(rows) >= split.num_rows:
        raise IndexError(f"{split.uri}: rows from {min(rows)} to {max(rows)}, of {split.num_rows}")
    starts = np.cumsum([0, *split.group_sizes()])
    groups_of_shard = np.cumsum([0] + [len(_cut(size, split.rows_per_group)) for size in split.shard_rows])
    group_of_row = split.group_of(rows)
    by_group = np.argsort(group_of_row, kind="stable")  # positions in `rows`
    groups, firsts = np.unique(group_of_row[by_group], return_index=True)
    into_of_group = dict(zip(groups.tolist(), np.split(by_group, firsts[1:]), strict=True))
    shard_of_group = np.searchsorted(groups_of_shard, groups, side="right") - 1
    kinds: dict[str, schema.TensorType] = {}

    def read_shard(family: str, names: list[str], shard: int) -> list[dict[str, pa.Array]]:
        """Use a shard's row groups. Returns the other columns of each."""
        uri, first_group = split.path(family, shard), int(groups_of_shard[shard])

        def use_group(table: pa.Table, number: int) -> dict[str, pa.Array]:
            group = first_group + number
            if len(table) < starts[group + 1] - starts[group]:
                raise ValueError(f"{split.uri}: {family} has fewer rows than the manifest says; {REBUILD}")
            into = into_of_group[group]
            offsets = rows[into] - starts[group]
            others = {}
            for name in names:
                field = table.schema.field(name)
                if not (pa.types.is_binary(field.type) and field.metadata and b"dtype" in field.metadata):
                    others[name] = schema.one_array(table[name]).take(pa.array(offsets))
                    continue
                kind = schema.tensor_type(field)
                if kinds.setdefault(name, kind) != kind:
                    raise ValueError(f"{uri}: {name} has another dtype or shape than in other shards; {REBUILD}")
                begin = 0
                for chunk in table[name].chunks:  # several if their bytes overflow Arrow's offsets
                    values = schema.tensors(chunk, kind)
                    here = (offsets >= begin) & (offsets < begin + len(values))
                    if here.any():
                        use(name, values, offsets[here] - begin, into[here])
                    begin += len(values)
            return others

        own = (groups[shard_of_group == shard] - first_group).tolist()
        return _read_groups(uri, names, own, split.rows_per_group, use_group)

    jobs = [
        (family, [*dict.fromkeys([schema.CLIP_ID, *columns])], shard)
        for family, columns in wanted.items()
        for shard in np.unique(shard_of_group).tolist()
    ]
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(lambda job: read_shard(*job), jobs))

    in_order = pa.array(np.argsort(by_group))
    result: dict[str, pa.Array] = {}
    for family in wanted:
        parts = [part for job, parts in zip(jobs, found, strict=True) if job[0] == family for part in parts]
        for name in parts[0]:
            values = pa.concat_arrays([part[name] for part in parts]).take(in_order)
            if name == schema.CLIP_ID and not values.equals(result.setdefault(name, values)):
                raise ValueError(f"{split.uri}: {family} has other clip ids than the other families; {REBUILD}")
            result[name] = values
    return result


def tensor_kinds(split: Split, wanted: Mapping[str, Sequence[str]]) -> dict[str, schema.TensorType]:
    """Return the types of the wanted tensor columns, by name, from the Parquet schemas of the first shard."""
    kinds = {}
    for family, columns in wanted.items():
        uri = split.path(family, 0)

        def read(uri: str = uri) -> pa.Schema:
            with opened(uri) as parquet:
                return parquet.schema_arrow

        found = storage.retried(uri, read)
        for name in columns:
            if name not in found.names:
                raise ValueError(f"{uri}: no column {name}; {REBUILD}")
            if name in _TENSORS:
                kinds[name] = schema.tensor_type(found.field(name))
    return kinds


def read_columns(split: Split, family: str, columns: Sequence[str]) -> pa.Table:
    """Return columns of a complete split in memory. For small columns or few rows."""

    def read(shard: int) -> pa.Table:
        return read_table(split.path(family, shard), columns).slice(0, split.shard_rows[shard])

    with ThreadPoolExecutor(_SMALL_THREADS if storage.is_remote(split.uri) else _THREADS) as pool:
        return pa.concat_tables(pool.map(read, range(len(split.shards))))


def read_table(uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a Parquet file, or some of its columns. Raises FileNotFoundError, or ValueError for a damaged file."""

    def read() -> pa.Table:
        # Not pq.read_table, which calls a file without one of the columns invalid.
        with opened(uri) as parquet:
            table = parquet.read(columns=None if columns is None else list(columns), use_threads=False)
        table = _checked(uri, table, columns or ())
        return table if columns is None else table.select(columns)

    return storage.retried(uri, read)


def take_rows(uri: str, rows: Sequence[int]) -> pa.Table:
    """Return some rows of a Parquet file, in this order, from the row groups that have them.

    Raises FileNotFoundError, or ValueError for a damaged file or one with fewer rows.
    """

    def read() -> pa.Table:
        with opened(uri) as parquet:
            sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
            starts = np.cumsum([0, *sizes])
            if max(rows) >= starts[-1]:
                raise ValueError(f"{uri}: fewer rows than its receipt says; {REBUILD}")
            group_of_row = np.searchsorted(starts, rows, side="right") - 1
            groups = np.unique(group_of_row)
            table = _checked(uri, parquet.read_row_groups(groups.tolist(), use_threads=False), ())
            begins = np.cumsum([0, *np.array(sizes)[groups]])
            index = begins[np.searchsorted(groups, group_of_row)] + np.asarray(rows) - starts[group_of_row]
            return table.take(pa.array(index))

    return storage.retried(uri, read)


def read_speech(uri: str, group: int) -> pa.Table:
    """Return the clip ids and the speech of a row group: a `waveform` or a `spectrogram` of six seconds in each row.

    Raises FileNotFoundError, or ValueError for a damaged file or one without such columns.
    """

    def read() -> pa.Table:
        with opened(uri) as parquet:
            shapes = {schema.WAVEFORM: schema.WAVEFORM_SHAPE, schema.SPECTROGRAM: schema.SPECTROGRAM_SHAPE}
            speech = [name for name in shapes if name in parquet.schema_arrow.names]
            if not speech or schema.CLIP_ID not in parquet.schema_arrow.names:
                raise ValueError(f"{uri}: no rows of speech (columns {schema.CLIP_ID} and {' or '.join(shapes)})")
            if parquet.metadata.row_group(group).total_byte_size > _MAX_GROUP_BYTES:
                raise ValueError(f"{uri}: row group {group} is larger than {_MAX_GROUP_BYTES >> 30} GiB")
            columns = [schema.CLIP_ID, speech[0]]
            table = _checked(uri, parquet.read_row_group(group, columns=columns, use_threads=False), columns)
        if schema.tensor_type(table.schema.field(speech[0])).shape != shapes[speech[0]]:
            raise ValueError(f"{uri}: column {speech[0]} does not hold {schema.SPEECH_SECONDS} seconds in each row")
        return table

    return storage.retried(uri, read)


def speakers(table: pa.Table) -> list[str]:
    """Return the speaker of each row: the identity, or the video id if there is none."""
    named = zip(table[schema.IDENTITY].to_pylist(), table[schema.VIDEO_ID].to_pylist(), strict=True)
    return [identity or video for identity, video in named]


def write_table(uri: str, table: pa.Table, rows_per_group: int) -> dict[str, Any]:
    """Write a Parquet file, with bytes that depend only on the rows. Return its size and hash.

    Every page has a checksum, which reading verifies: otherwise a flipped bit would be trained on.
    """
    sink = io.BytesIO()
    # float16 and JPEG data do not compress, and cells are too large for dictionaries and statistics.
    pq.write_table(
        table,
        sink,
        row_group_size=rows_per_group,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    )
    return storage.write_bytes(uri, sink.getvalue())


def ids_hash(clip_ids: Sequence[str]) -> str:
    """Return the hash by which tables check that they have the same rows in the same order."""
    return hashlib.sha256("\n".join(clip_ids).encode()).hexdigest()


def _cut(rows: int, size: int) -> list[int]:
    """Return the sizes of consecutive groups of at most `size` rows."""
    return [min(size, rows - start) for start in range(0, rows, size)]


def _read_groups(
    uri: str, columns: list[str], groups: list[int], rows_per_group: int, use: Callable[[pa.Table, int], T]
) -> list[T]:
    """Return `use(table, group)` of some row groups, which are in memory one after the other."""

    def read() -> list[T]:
        verified = verified_parts(uri)
        known = [group for group in groups if verified.issuperset((group, name) for name in columns)]
        # Apart, because pyarrow verifies either all or none of what it reads from an open file.
        found = use_groups(known) | use_groups([group for group in groups if group not in known])
        return [found[group] for group in groups]

    def use_groups(own: list[int]) -> dict[int, T]:
        if not own:
            return {}
        with opened(uri, [(group, name) for group in own for name in columns]) as parquet:
            if max(own) >= parquet.num_row_groups:
                raise ValueError(f"{uri}: fewer rows than the manifest says; {REBUILD}")
            for group in map(parquet.metadata.row_group, own):
                if group.num_rows > rows_per_group or group.total_byte_size > _MAX_GROUP_BYTES:
                    raise ValueError(f"{uri}: a row group is larger than the manifest says; {REBUILD}")
            read = functools.partial(parquet.read_row_group, columns=columns, use_threads=False)
            return {group: use(_checked(uri, read(group), columns), group) for group in own}

    return storage.retried(uri, read)


def _checked(uri: str, table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Return the table. Raises ValueError if a column is missing or repeated, or a tensor or text column is invalid."""
    if missing := [name for name in columns if table.column_names.count(name) != 1]:
        raise ValueError(f"{uri}: no column {', '.join(missing)}; {REBUILD}")
    for field in table.schema:
        column = table[field.name]
        try:
            if field.metadata and b"dtype" in field.metadata:
                kind = schema.tensor_type(field)
                if not pa.types.is_binary(field.type):
                    raise ValueError(f"column {field.name} holds {str(field.type)[:100]}, not the bytes of tensors")
                for chunk in column.chunks:
                    schema.tensors(chunk, kind)
            # A damaged file may have invalid offsets and text. This reads everything but the large cells' bytes.
            column.validate(full=pa.types.is_string(field.type))
        except (ValueError, pa.ArrowException) as error:
            raise ValueError(f"{uri}: {first_line(error)}; {REBUILD}") from None
        if field.name in _TENSORS and not (field.metadata and b"dtype" in field.metadata):
            raise ValueError(f"{uri}: column {field.name} does not hold tensors; {REBUILD}")
        if field.name in _TEXTS and not pa.types.is_string(field.type):
            raise ValueError(f"{uri}: column {field.name} must be text, not {str(field.type)[:100]}; {REBUILD}")
    return table

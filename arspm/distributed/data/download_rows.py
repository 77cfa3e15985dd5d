"""The rows to download, video by video, and the table of those that failed. Millions of rows: they stay columns."""

from __future__ import annotations

import io
import json
import re
import uuid
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from arspm import storage
from arspm.corpus import tables
from arspm.corpus.hashes import order_hash
from arspm.corpus.schema import CLIP_ID, DropReason
from arspm.media.clip_files import ClipFolder
from arspm.media.clip_rows import DroppedRow, Rows, read_clip_rows, read_csv
from arspm.media.download_failures import FailureReason, failures_schema

FAILURES = "failures.parquet"
STATE = "_download"  # folder of what an interrupted run leaves
_PLAIN_NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)
_CHUNK = 65_536  # rows that are Python objects at a time


class Clip(NamedTuple):
    """A row to download. `path`: of its file below the destination, without an extension."""

    row: int
    clip_id: str
    start: float
    end: float
    path: str


class VideoClips(NamedTuple):
    """The rows of one video, in order of their start."""

    video_id: str
    clips: tuple[Clip, ...]


class Failure(NamedTuple):
    """A line of failures.parquet."""

    row: int
    clip_id: str | None
    video_id: str | None
    reason: FailureReason
    detail: str


def read_selection(csv: str, sample: int | None) -> Rows:
    """Return a CSV's rows in order of a hash of the video id; unusable rows come last.

    sample: number of rows, all usable: those whose video ids have the smallest hashes. A smaller sample is a part of a
    larger one. Raises FileNotFoundError, and ValueError if there are no usable rows.
    """
    rows = read_csv(csv)
    usable = rows.usable().table
    if not len(usable):
        raise ValueError(f"{csv}: none of {len(rows)} rows is usable; the first: {_first_detail(rows)}")
    videos = usable["video_id"].unique()
    hashes = pa.table(
        {"video_id": videos, "hash": pa.array([order_hash(each) for each in videos.to_pylist()], pa.uint64())}
    )
    keys = usable.select(["video_id", "start_seconds", "line"]).append_column("row", pa.array(np.arange(len(usable))))
    order = keys.join(hashes, "video_id").sort_by(
        [(name, "ascending") for name in ("hash", "video_id", "start_seconds", "line")]
    )["row"]
    if sample is not None:
        return Rows(usable.take(order.slice(0, sample)))
    return Rows(pa.concat_tables([usable.take(order), rows.dropped().table]))


def _first_detail(rows: Rows) -> str:
    return str(rows.table["detail"][0]) if len(rows) else "the file is empty"


def bad_rows(rows: Rows, found: np.ndarray) -> list[Failure]:
    """Return the lines of the rows that are unusable. found: which rows have a file, (rows,)."""
    lines = []
    named = pc.and_(pc.is_null(rows.table["reason"]), pc.not_equal(rows.table["path"], ""))
    named = pc.and_(named, pa.array(~found))
    for each in Rows(rows.table.filter(named)):
        detail = (
            f"line {each.line}: its sixth column names a file that is not there; leave it empty to download the clip"
        )
        lines.append(Failure(each.line, each.clip_id, each.video_id, FailureReason.bad_row, detail))
    for each in rows.dropped():
        assert isinstance(each, DroppedRow)
        # A repeated row has the id of the row that it repeats, which may have a file.
        clip_id = None if each.reason is DropReason.duplicate_key else each.clip_id or None
        lines.append(Failure(each.line, clip_id, each.video_id or None, FailureReason.bad_row, each.detail))
    return lines


def existing(rows: Rows, csv: str, destination: str) -> np.ndarray:
    """Return which rows of a CSV have a file below the destination, as preprocessing finds it: (rows,) bool.

    Raises ValueError if two files fit one row.
    """
    try:
        folder = ClipFolder(destination)
    except FileNotFoundError:
        return np.zeros(len(rows), bool)
    lines = read_clip_rows(csv, folder).usable().table["line"].to_numpy()
    return np.isin(rows.table["line"].to_numpy(), lines)


def by_video(rows: Rows, wanted: np.ndarray) -> Iterator[VideoClips]:
    """Yield the wanted rows, video by video. Only one video's rows are objects."""
    table = rows.table.filter(pa.array(wanted))
    video_id, clips = "", list[Clip]()
    for batch in table.to_batches(_CHUNK):
        for cells in batch.select(["line", "clip_id", "video_id", "start_seconds", "end_seconds"]).to_pylist():
            if clips and cells["video_id"] != video_id:
                yield VideoClips(video_id, tuple(clips))
                clips = []
            video_id = cells["video_id"]
            start, end = cells["start_seconds"], cells["end_seconds"]
            path = f"{order_hash(video_id) >> 56:02x}/{_file_name(cells['clip_id'], video_id, start, end)}"
            clips.append(Clip(cells["line"], cells["clip_id"], start, end, path))
    if clips:
        yield VideoClips(video_id, tuple(clips))


def _file_name(clip_id: str, video_id: str, start: float, end: float) -> str:
    """Return `<video id>_<start>_<end>`, with the CSV's own numbers unless they are written as 1e1 or 1,5."""
    numbers = clip_id[len(video_id) + 1 :].split("_")
    if len(numbers) == 2 and all(_PLAIN_NUMBER.fullmatch(each) for each in numbers):
        return clip_id
    texts = (np.format_float_positional(each, precision=6, trim="0") for each in (start, end))
    return "_".join((video_id, *texts))


class Failures:
    """The lines of failures.parquet. Lines are added in small files, so that a killed run loses the last second's."""

    def __init__(self, destination: str) -> None:
        self._uri = storage.join(destination, FAILURES)
        self._state = storage.join(destination, STATE)
        self._new: list[Failure] = []
        self._unsaved: list[Failure] = []
        self._run, self._num_parts = uuid.uuid4().hex[:8], 0
        self.table = self._read()

    def _read(self) -> pa.Table:
        """Return the lines of earlier runs, but for those of unusable rows, which this run finds again."""
        lines = []
        for name, data in sorted(storage.read_folder(self._state, ".json").items()):
            if name.startswith("failures-"):
                lines += [
                    Failure(row, clip_id, video_id, FailureReason[reason], detail)
                    for row, clip_id, video_id, reason, detail in json.loads(data)
                ]
        table = failures_schema().empty_table()
        if storage.exists(self._uri):
            try:
                table = pq.read_table(io.BytesIO(storage.read_bytes(self._uri))).cast(failures_schema())
            except (pa.ArrowException, ValueError) as error:
                raise ValueError(f"{self._uri}: not a table of failures ({error}); remove it") from None
        table = _merged(table, _table(lines))
        return table.filter(pc.not_equal(table["reason"], FailureReason.bad_row.value))

    def add(self, lines: Sequence[Failure]) -> None:
        """Add lines; `flush` writes them."""
        self._unsaved += lines

    def flush(self) -> None:
        """Write the lines that were added since the last time."""
        if self._unsaved:
            self._num_parts += 1
            name = f"failures-{self._run}-{self._num_parts:06d}.json"
            lines = [[*line[:3], line.reason.value, line.detail] for line in self._unsaved]
            storage.write_bytes(storage.join(self._state, name), json.dumps(lines).encode())
            self._new += self._unsaved
            self._unsaved = []

    def write(self, without: pa.Array) -> pa.Table:
        """Write and return failures.parquet, without the lines of the clips `without`, which have files now."""
        self.flush()
        table = _merged(self.table, _table(self._new))
        table = table.filter(pc.invert(pc.is_in(table[CLIP_ID], without))).sort_by("row")
        tables.write_table(self._uri, table, max(1, len(table)))
        parts = [path for path in storage.files_below(self._state) if path.startswith("failures-")]
        storage.remove_files(self._state, parts)
        self.table, self._new, self._num_parts = table, [], 0
        return table


def _table(lines: Sequence[Failure]) -> pa.Table:
    rows, clips, videos, reasons, details = zip(*lines, strict=True) if lines else [()] * 5
    columns = (rows, clips, videos, [each.value for each in reasons], details, [each.retry for each in reasons])
    arrays = [pa.array(values, field.type) for values, field in zip(columns, failures_schema(), strict=True)]
    return pa.Table.from_arrays(arrays, schema=failures_schema())


def _merged(old: pa.Table, new: pa.Table) -> pa.Table:
    """Return the lines of both: of a clip the newest."""
    if new.num_rows:
        ids = new[CLIP_ID].combine_chunks()
        last = {clip: number for number, clip in enumerate(ids.to_pylist()) if clip is not None}
        unnamed = [number for number, clip in enumerate(ids.to_pylist()) if clip is None]
        new = new.take(sorted([*last.values(), *unnamed]))
        old = old.filter(pc.invert(pc.is_in(old[CLIP_ID], ids.drop_null())))
    return pa.concat_tables([old, new])

"""Download the clips of an AVSpeech CSV: a Ray task for each video, all under one rate limit.

A clip that has a file is done; failures.parquet has a line for each other row that was tried. So the same command goes
on where it was stopped.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from pydantic import BaseModel

from arspm import storage
from arspm.corpus.schema import CLIP_ID
from arspm.distributed.data.download_rows import (
    STATE,
    Clip,
    Failure,
    Failures,
    VideoClips,
    bad_rows,
    by_video,
    existing,
    read_selection,
)
from arspm.distributed.data.rate_limit import Gate, RateLimit, Ticket, local_gate
from arspm.distributed.local import is_in_process
from arspm.media.clip_rows import Rows
from arspm.media.download_failures import DownloadFailed, FailureReason
from arspm.media.downloads import SiteOptions, Video, check_url, load_yt_dlp, open_video, require_yt_dlp

SUMMARY = "summary.json"  # in STATE
MAX_TRIES = 4  # of one video, if the site throttles it
FLUSH_SECONDS = 1.0
WRITE_SECONDS = 300.0  # between two versions of failures.parquet while a run goes on
_CRASHES = (
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.NodeDiedError,
)
GAVE_UP = "not tried: the site throttled everything; run the command again later"


@dataclass(frozen=True)
class Settings:
    """What a download is asked to do. The defaults of its limits are polite: a video every three seconds."""

    csv: str
    destination: str
    sample: int | None = None
    retry_failed: bool = False  # try the rows again that failed for a lasting reason
    per_minute: float = 20.0  # videos
    concurrency: int = 2  # videos at a time
    pause_seconds: float = 60.0  # after a throttled reply; doubles
    site: SiteOptions = field(default_factory=SiteOptions)


class Summary(BaseModel):
    """How a download ended. `failed`: reason -> number of rows; `first`: reason -> the detail of its first row."""

    id: str
    num_rows: int
    num_downloaded: int
    num_there_before: int
    num_failed_before: int  # of the failed, those that were not tried again
    failed: dict[str, int]
    first: dict[str, str]
    gave_up: bool


class _Outcome(NamedTuple):
    """What became of a video's clips."""

    done: tuple[str, ...]  # clip ids
    failures: tuple[Failure, ...]
    gave_up: bool = False


def download(
    settings: Settings, progress: Callable[[float, float, str], None] = lambda done, total, message: None
) -> Summary:
    """Download the clips that have no file, and write failures.parquet. Runs on Ray, or in this process (`in_process`).

    progress: called with the numbers of finished rows and of all rows, and a text. Raises ValueError or OSError, in one
    line, for unusable settings. What an interrupted run has done is kept.
    """
    check_url(settings.site.url)
    require_yt_dlp()
    rows = read_selection(settings.csv, settings.sample)
    found = existing(rows, settings.csv, settings.destination)
    failures = Failures(settings.destination)
    bad = bad_rows(rows, found)
    failures.add(bad)
    open_rows = ~found
    open_rows[[*_positions(rows, bad)]] = False
    failed_before = np.zeros(len(rows), bool)
    if not settings.retry_failed:
        lasting = failures.table.filter(pc.invert(failures.table["retry"]))[CLIP_ID].combine_chunks()
        failed_before = open_rows & pc.is_in(rows.table["clip_id"], lasting).to_numpy()
    wanted = open_rows & ~failed_before

    done: list[str] = []
    finished = len(rows) - int(wanted.sum())
    gave_up = False
    progress(finished, len(rows), "")
    ids_found = rows.table.filter(pa.array(found))["clip_id"].combine_chunks()
    flushed = written = time.monotonic()
    try:
        for outcome in _outcomes(settings, by_video(rows, wanted)):
            done += outcome.done
            failures.add(outcome.failures)
            gave_up = gave_up or outcome.gave_up
            finished += len(outcome.done) + len(outcome.failures)
            now = time.monotonic()
            if now - flushed > FLUSH_SECONDS:
                failures.flush()
                flushed = now
            if now - written > WRITE_SECONDS:
                failures.write(_joined(ids_found, done))
                written = now
            progress(finished, len(rows), f"{len(done)} downloaded")
    finally:
        table = failures.write(_joined(ids_found, done))
    failed, first = _counts(table, rows)
    summary = Summary(
        id=uuid.uuid4().hex,
        num_rows=len(rows),
        num_downloaded=len(done),
        num_there_before=int(found.sum()),
        num_failed_before=int(failed_before.sum()),
        failed=failed,
        first=first,
        gave_up=gave_up,
    )
    storage.write_json(storage.join(settings.destination, STATE, SUMMARY), summary.model_dump())
    return summary


def _positions(rows: Rows, lines: Sequence[Failure]) -> list[int]:
    """Return where the rows of these lines of the CSV are."""
    return np.flatnonzero(np.isin(rows.table["line"].to_numpy(), [line.row for line in lines])).tolist()


def _counts(table: pa.Table, rows: Rows) -> tuple[dict[str, int], dict[str, str]]:
    """Return how many of the rows failed for each reason, and the first row's detail."""
    bad = pc.equal(table["reason"], FailureReason.bad_row.value)
    ours = table.filter(pc.or_(bad, pc.is_in(table[CLIP_ID], rows.usable().table["clip_id"].combine_chunks())))
    failed, first = dict[str, int](), dict[str, str]()
    for entry in ours["reason"].value_counts().to_pylist():
        reason = entry["values"]
        line = ours.slice(pc.index(ours["reason"], reason).as_py(), 1).to_pylist()[0]
        failed[reason], first[reason] = entry["counts"], f"{line[CLIP_ID] or '-'}: {line['detail']}"
    return dict(sorted(failed.items())), first


def last_summary(destination: str) -> Summary | None:
    """Return how the last download into a folder ended; None if there was none."""
    try:
        return storage.read_model(storage.join(destination, STATE, SUMMARY), Summary, "a download's summary")
    except FileNotFoundError:
        return None


def _joined(there: pa.Array, done: list[str]) -> pa.Array:
    return pa.concat_arrays([there, pa.array(done, pa.string())])


def _outcomes(settings: Settings, videos: Iterator[VideoClips]) -> Iterator[_Outcome]:
    """Yield what became of the videos, in the order in which they end."""
    arguments = (settings.per_minute, settings.pause_seconds)
    if is_in_process():
        gate = local_gate(RateLimit(*arguments))
        for video in videos:
            yield (outcome := download_video(video, settings.destination, settings.site, gate))
            if outcome.gave_up:
                break
        yield from map(_not_tried, videos)
        return
    if not ray.is_initialized():
        ray.init()  # at RAY_ADDRESS
    limit: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(RateLimit).remote(*arguments)
    site = ray.put(settings.site)  # with the cookies, which are in no log
    # A task that ends with its process, or its node, runs once more; what it did is done over.
    task = ray.remote(num_cpus=1, max_retries=1, scheduling_strategy="SPREAD")(_download_on_ray)
    running: dict[Any, VideoClips] = {}
    gave_up = False
    try:
        while True:
            for video in itertools.islice(videos, 0 if gave_up else settings.concurrency - len(running)):
                running[task.remote(video, settings.destination, site, limit)] = video
            if not running:
                break
            ready, _ = ray.wait([*running])
            for each in ready:
                video = running.pop(each)
                try:
                    outcome = ray.get(each)
                except _CRASHES as error:
                    detail = f"the process that downloads ended twice: {type(error).__name__}"
                    outcome = _Outcome((), _failed(video.clips, video, DownloadFailed(FailureReason.unknown, detail)))
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from error
                gave_up = gave_up or outcome.gave_up
                yield outcome
        yield from map(_not_tried, videos)
    finally:
        for each in running:
            with contextlib.suppress(Exception):
                ray.cancel(each, force=True)
        ray.kill(limit)


def _not_tried(video: VideoClips) -> _Outcome:
    error = DownloadFailed(FailureReason.throttled, GAVE_UP)
    return _Outcome((), _failed(video.clips, video, error), gave_up=True)


def _download_on_ray(video: VideoClips, destination: str, site: SiteOptions, limit: Any) -> _Outcome:
    def call(name: str, *arguments: Any) -> Any:
        return ray.get(getattr(limit, name).remote(*arguments))

    return download_video(video, destination, site, Gate(call))


def download_video(video: VideoClips, destination: str, site: SiteOptions, gate: Gate) -> _Outcome:
    """Download the clips of a video and return what became of them. Raises OSError if the destination fails."""
    left, done, failures = [*video.clips], list[str](), list[Failure]()
    failed = DownloadFailed(FailureReason.throttled, "")
    load_yt_dlp(site.url)
    for _ in range(MAX_TRIES):
        ticket = gate.enter()
        if ticket.gave_up:
            failed = DownloadFailed(FailureReason.throttled, failed.detail or GAVE_UP)
            return _Outcome(tuple(done), (*failures, *_failed(left, video, failed)), gave_up=True)
        try:
            with open_video(video.video_id, site) as opened:
                while left:
                    try:
                        _download_clip(opened, left[0], destination)
                        done.append(left[0].clip_id)
                    except DownloadFailed as error:
                        if error.reason.retry:  # of the site, not of this clip
                            raise
                        failures += _failed(left[:1], video, error)
                    left = left[1:]
            gate.call("answered")
            break
        except DownloadFailed as error:
            failed = error
            if not _is_throttled(error, ticket, gate):
                failures += _failed(left, video, error)
                left = []
                break
    return _Outcome(tuple(done), (*failures, *_failed(left, video, failed)))


def _is_throttled(error: DownloadFailed, ticket: Ticket, gate: Gate) -> bool:
    """Report an error to the rate limit, and return whether the video is to be tried again after a pause."""
    if error.reason is FailureReason.throttled:
        gate.call("throttled", ticket.pause, error.retry_after)
        return True
    if error.reason is FailureReason.forbidden:
        return bool(gate.call("refused", ticket.pause))
    if error.reason is not FailureReason.network:
        gate.call("answered")
    return False


def _download_clip(opened: Video, clip: Clip, destination: str) -> None:
    """Write a clip's file. Raises DownloadFailed."""
    folder = tempfile.mkdtemp(prefix="arspm-clip-")
    try:
        path = opened.cut(clip.start, clip.end, folder)
        storage.upload(path, storage.join(destination, clip.path + Path(path).suffix))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _failed(clips: list[Clip] | tuple[Clip, ...], video: VideoClips, error: DownloadFailed) -> tuple[Failure, ...]:
    return tuple(Failure(each.row, each.clip_id, video.video_id, error.reason, error.detail) for each in clips)

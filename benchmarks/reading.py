"""Measures how fast rows reach a process: `python -m benchmarks.reading FOLDER [--storage waveform spectrogram]`.

Writes 2,048 random clips in the paper's sizes to FOLDER in each library's own format, then reads them in batches of
16, from the page cache. Prints, and stores as JSON, for each way of reading: rows per second over whole epochs,
milliseconds to the first batch of an epoch, and the rate as a multiple of plain pyarrow's; also how fast a node's cache
is filled.

Repeats go round all ways, so that other load hits all of them, and ratios are those of two ways in the same repeat.
Epochs before the measured ones are left out. For `stream` they are as many as it takes until Ray's object store has
used most of its memory once, because new memory is slow. It reads on after the measured ones, since its readers are
some windows ahead: otherwise the rows that were read ahead would count in one direction only. Ray runs only while a way
that needs it is measured, since its processes are busy when idle, too.

Row order: pyarrow reads in the order of the files; all others shuffle. The peers need the extra `bench`. MosaicML
Streaming is not among them: it needs numpy < 2.2.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import math
import multiprocessing
import os
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ray
import torch

from arspm.config import override
from arspm.config.presets import PRESETS
from arspm.distributed.data import node_cache
from arspm.distributed.data.readings import Reading
from benchmarks import results
from benchmarks.feed import write_corpus
from benchmarks.ways import BASE, BATCH, OURS, PEERS, WAYS, reading_of

NUM_FILLS = 3  # of the node's cache
STORE_BYTES = 6 << 30  # of Ray's object store, of which Ray Data uses a half
RAY_WAYS = {"stream", "plain Ray Data"}


class Epochs(NamedTuple):
    """How many epochs of a way are read: left out, measured, and left out again."""

    before: int
    measured: int
    after: int


class Measured(NamedTuple):
    """Rows per second over the measured epochs, and the median and the highest seconds to their first batches."""

    rate: float
    first: float
    last_first: float


def epochs_of(name: str, epochs: int, num_bytes: int) -> Epochs:
    """Return how many epochs of a way to read, of a corpus of this size."""
    if name != "stream":
        return Epochs(1, epochs, 0)
    ahead = math.ceil(STORE_BYTES / 4 / num_bytes)
    return Epochs(6 * ahead, 2 * ahead * epochs, 2 * ahead)


def measure(name: str, reading: Reading, epochs: Epochs) -> Measured:
    """Read a reading in one way."""
    firsts, rows, begun, ended = [], 0, 0.0, 0.0
    for number, epoch in enumerate(WAYS[name](reading, sum(epochs))):
        started = time.perf_counter()
        if number == epochs.before:
            begun = started
        elif number == epochs.before + epochs.measured:
            ended = started
        measured = 0 <= number - epochs.before < epochs.measured
        for index, batch in enumerate(epoch):
            if measured and index == 0:
                firsts.append(time.perf_counter() - started)
            rows += num_rows(batch) if measured else 0
    seconds = (ended or time.perf_counter()) - begun
    return Measured(rows / seconds, statistics.median(firsts), max(firsts))


def end_workers() -> None:
    """End the worker processes of a way that was measured; LitData's would go on reading while the next is measured."""
    gc.collect()
    for child in multiprocessing.active_children():
        child.terminate()
        child.join()


def num_rows(batch: Any) -> int:
    """Return how many rows a batch has."""
    return len(batch if isinstance(batch, torch.Tensor) else next(iter(batch.values())))


def measure_fill(reading: Reading, folder: Path) -> float:
    """Return rows per second of filling a node's cache, which is empty."""
    shutil.rmtree(folder, ignore_errors=True)
    started = time.perf_counter()
    node_cache.open_arrays(reading, folder, 2.0**40).close()
    seconds = time.perf_counter() - started
    shutil.rmtree(folder)
    return reading.split.num_rows / seconds


def compare(reading: Reading, names: list[str], epochs: int, repeats: int) -> dict[str, list[Measured]]:
    """Return each way's measurements, one per repeat. Every other repeat goes round in the opposite direction."""
    num_bytes = node_cache.num_bytes(reading)
    found: dict[str, list[Measured]] = {name: [] for name in names}
    for repeat in range(repeats):
        for name in names if repeat % 2 else reversed(names):
            with running_ray() if name in RAY_WAYS else contextlib.nullcontext():
                found[name].append(measure(name, reading, epochs_of(name, epochs, num_bytes)))
            end_workers()
            print(f"repeat {repeat + 1}: {name}: {found[name][-1].rate:,.0f} rows/s", file=sys.stderr, flush=True)
    return found


@contextlib.contextmanager
def running_ray() -> Iterator[None]:
    """Run Ray on two cores of this machine."""
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        object_store_memory=STORE_BYTES,
    )
    try:
        yield
    finally:
        ray.shutdown()


def ratios_of(storage: str, found: dict[str, list[Measured]]) -> dict[str, results.Spread]:
    """Return the ratios of our ways to plain pyarrow, and of the cache to each peer."""
    rates = {name: [each.rate for each in own] for name, own in found.items()}
    pairs = [(name, BASE) for name in OURS] + [("cache", name) for name in PEERS]
    return {
        f"{storage}: {ours} / {theirs}": results.ratios(rates[ours], rates[theirs])
        for ours, theirs in pairs
        if ours in rates and theirs in rates
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reading", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--storage", nargs="+", default=["spectrogram", "waveform"])
    parser.add_argument("--clips", type=int, default=2048, help="(default: 2048)")
    parser.add_argument("--epochs", type=int, default=2, help="measured in each repeat, more of stream (default: 2)")
    parser.add_argument("--repeats", type=int, default=4, help="(default: 4)")
    parser.add_argument("--window-rows", type=int, default=None, help="ingest.window_rows (default: null)")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--json", type=Path, default=None, help="also write the results there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["ARSPM_CACHE"] = str(arguments.folder / "cache")
    figures: dict[str, Any] = {}
    ratios: dict[str, results.Spread] = {}
    for storage in arguments.storage:
        config = override(PRESETS["paper"], {"data.storage": storage, "ingest.window_rows": arguments.window_rows})
        run = arguments.folder / storage
        if not run.exists():
            write_corpus(config, arguments.clips, run)
        reading = reading_of(config, run)
        fills = [measure_fill(reading, arguments.folder / "filled") for _ in range(NUM_FILLS)]
        found = compare(reading, arguments.ways, arguments.epochs, arguments.repeats)
        ratios |= ratios_of(storage, found)
        figures[storage] = {
            "rows": reading.split.num_rows,
            "batch": BATCH,
            "window": reading.order.window_rows * reading.order.num_lanes,
            "row_bytes": node_cache.num_bytes(reading) // reading.split.num_rows,
            "fill": results.spread(fills),
            "ways": {
                name: {
                    "rows_per_second": results.spread(each.rate for each in own),
                    "first_ms": results.spread(1000 * each.first for each in own),
                    "highest_first_ms": 1000 * max(each.last_first for each in own),
                    "of_pyarrow": results.ratios([each.rate for each in own], [each.rate for each in found[BASE]])
                    if BASE in found
                    else None,
                }
                for name, own in found.items()
            },
        }
        print(f"\n{storage}{'':<28} rows/s (quartiles)   first batch   of pyarrow")
        for name, way in figures[storage]["ways"].items():
            rate, ratio = way["rows_per_second"], way["of_pyarrow"]
            shown = "" if ratio is None else f"{ratio['median']:8.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
            quartiles = f"({rate['low']:,.0f} to {rate['high']:,.0f})"
            print(f"{name:<36} {rate['median']:8,.0f} {quartiles:>20} {way['first_ms']['median']:10.1f} ms {shown}")
    results.write(arguments.json, figures, ratios)


if __name__ == "__main__":
    main()

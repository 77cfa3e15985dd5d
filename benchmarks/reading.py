"""Measures how fast rows reach a process: `python -m benchmarks.reading FOLDER [--storage waveform spectrogram]`.

Writes 2,048 random clips in the paper's sizes to FOLDER in each library's own format, then reads them in batches of 16
for some epochs, from the page cache. Prints and stores as JSON, for each way of reading: rows per second over the
epochs after the first (median, lowest and highest of the repeats), milliseconds to the first batch of a later epoch,
and the rate as a multiple of plain pyarrow's. Repeats go round all ways, so that other load hits all of them.

The peers need the extra `bench`. Row order: pyarrow reads in the order of the files; all others shuffle.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
import ray.data
import torch

from arspm.config import Config, override
from arspm.config.presets import PRESETS
from arspm.corpus import schema, tables
from arspm.distributed.data import ingest, node_cache
from arspm.distributed.data.readings import Plan, Reading, kinds
from arspm.distributed.train.feed import array_batches
from arspm.runs import stages
from arspm.training.batch import host_tensor
from arspm.training.order import Order, groups
from benchmarks.feed import write_corpus

BATCH = 16
Epochs = Iterator[Iterator[Any]]  # of batches


def reading_of(config: Config, run: Path) -> Reading:
    """Return the speech and the features of the training split, shuffled, in batches of BATCH."""
    split = tables.open_split(stages.corpus(str(run)), "train")
    order = Order(groups(split.group_sizes()), BATCH, config.ingest.num_lanes, config.ingest.window_rows, 0)
    wanted = {"speech": (config.data.storage,), "features": (schema.FACE_FEATURE,)}
    return Reading(split, order, wanted, config.image_size, {}, {"speech": "0", "features": "0"})


def plain_pyarrow(reading: Reading, epochs: int) -> Epochs:
    """Row groups one after the other, batches as views, no checksums."""

    def epoch() -> Iterator[dict[str, torch.Tensor]]:
        for shard in range(len(reading.split.shards)):
            files = {name: pq.ParquetFile(reading.split.path(family, shard)) for family, [name] in _wanted(reading)}
            for group in range(next(iter(files.values())).num_row_groups):
                columns = {}
                for name, file in files.items():
                    table = file.read_row_group(group, columns=[name])
                    columns[name] = schema.tensors(table[name], schema.tensor_type(file.schema_arrow.field(name)))
                size = len(next(iter(columns.values())))
                for begin in range(0, size, BATCH):
                    yield {name: host_tensor(values[begin : begin + BATCH]) for name, values in columns.items()}

    return (epoch() for _ in range(epochs))


def plain_ray_data(reading: Reading, epochs: int) -> Epochs:
    """ray.data.read_parquet of the speech alone; it cannot join the families without a shuffle."""
    [(_, [name]), *_] = _wanted(reading)
    kind = kinds(reading)[name]
    data = ray.data.read_parquet([reading.split.path("speech", shard) for shard in range(len(reading.split.shards))])

    def epoch() -> Iterator[torch.Tensor]:
        for table in data.iter_batches(batch_size=BATCH, batch_format="pyarrow", prefetch_batches=4):
            yield host_tensor(schema.tensors(table[name], kind))

    return (epoch() for _ in range(epochs))


def stream(reading: Reading, epochs: int) -> Epochs:
    """Ours: ingest.path=stream."""
    plan, types = Plan([reading], epochs), kinds(reading)
    tasks = PRESETS["demo"].resources.read.model_copy(update={"num_tasks": 2})
    source = ingest.open_stream([reading], plan, world_size=1, tasks=tasks, kinds_of_row=types)
    batches = ingest.stream([reading], plan, source, rank=0, kinds_of_row=types, prefetch_batches=4)
    return _by_epoch(batches, reading.order.num_steps, epochs)


def cache(reading: Reading, epochs: int) -> Epochs:
    """Ours: ingest.path=cache. The first epoch writes the cache."""
    arrays = node_cache.open_arrays(reading, node_cache.default_folder(), 2.0**40)
    return _by_epoch(array_batches([reading], Plan([reading], epochs), [arrays]), reading.order.num_steps, epochs)


def data_loader(reading: Reading, epochs: int, num_workers: int = 0) -> Epochs:
    """torch.utils.data.DataLoader over the cache's memory-mapped arrays, shuffled by row."""
    arrays = node_cache.open_arrays(reading, node_cache.default_folder(), 2.0**40)
    loader = torch.utils.data.DataLoader(
        _Rows(dict(arrays.columns)),
        batch_size=BATCH,
        shuffle=True,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
    return (iter(loader) for _ in range(epochs))


def data_loader_2(reading: Reading, epochs: int) -> Epochs:
    """The same with two worker processes."""
    return data_loader(reading, epochs, 2)


def webdataset(reading: Reading, epochs: int) -> Epochs:
    """Tar files of raw bytes, shuffled by shard and in a buffer of 256 rows, two worker processes."""
    import webdataset as wds

    folder, types = _peers(reading) / "webdataset", kinds(reading)
    if not folder.exists():
        folder.mkdir(parents=True)
        with wds.ShardWriter(str(folder / "%05d.tar"), maxcount=128, verbose=0) as writer:
            for row, columns in enumerate(_rows(reading)):
                writer.write({"__key__": f"{row:06d}", **{name: value.tobytes() for name, value in columns.items()}})
    urls = sorted(map(str, folder.glob("*.tar")))

    def collate(samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {
            name: torch.from_numpy(
                np.stack([np.frombuffer(sample[name], kind.dtype).reshape(kind.shape) for sample in samples])
            )
            for name, kind in types.items()
        }

    data = wds.WebDataset(urls, shardshuffle=100, empty_check=False, workersplitter=wds.split_by_worker).shuffle(256)
    loader = torch.utils.data.DataLoader(
        data, batch_size=BATCH, num_workers=2, collate_fn=collate, persistent_workers=True
    )
    return (iter(loader) for _ in range(epochs))


def litdata(reading: Reading, epochs: int) -> Epochs:
    """LitData's chunks of NumPy arrays, shuffled, in this process."""
    import litdata

    folder = _peers(reading) / "litdata"
    if not folder.exists():
        rows = list(_rows(reading))
        litdata.optimize(
            rows.__getitem__, list(range(len(rows))), str(folder), chunk_bytes="64MB", num_workers=1, verbose=False
        )
    data = litdata.StreamingDataset(str(folder), shuffle=True, max_cache_size="50GB")
    loader = litdata.StreamingDataLoader(data, batch_size=BATCH, num_workers=0)
    return (iter(loader) for _ in range(epochs))


WAYS: dict[str, Callable[[Reading, int], Epochs]] = {
    "plain pyarrow": plain_pyarrow,
    "stream (ours)": stream,
    "cache (ours)": cache,
    "plain Ray Data": plain_ray_data,
    "DataLoader, memory map, 0 workers": data_loader,
    "DataLoader, memory map, 2 workers": data_loader_2,
    "WebDataset, 2 workers": webdataset,
    "LitData, 0 workers": litdata,
}


def measure(way: Callable[[Reading, int], Epochs], reading: Reading, epochs: int) -> tuple[float, float]:
    """Return rows per second over the epochs after the first, and the median seconds to their first batches."""
    firsts, rows, begun = [], 0, 0.0
    for number, epoch in enumerate(way(reading, epochs)):
        started = time.perf_counter()
        begun = started if number == 1 else begun
        for index, _ in enumerate(epoch):
            if number and index == 0:
                firsts.append(time.perf_counter() - started)
            rows += BATCH if number else 0
    return rows / (time.perf_counter() - begun), statistics.median(firsts)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reading", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--storage", nargs="+", default=["spectrogram", "waveform"])
    parser.add_argument("--clips", type=int, default=2048, help="(default: 2048)")
    parser.add_argument("--epochs", type=int, default=4, help="of each measurement (default: 4)")
    parser.add_argument("--repeats", type=int, default=3, help="(default: 3)")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--json", type=Path, default=None, help="also write the results there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["ARSPM_CACHE"] = str(arguments.folder / "cache")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    results = []
    for storage in arguments.storage:
        config = override(PRESETS["paper"], {"data.storage": storage})
        run = arguments.folder / storage
        if not run.exists():
            write_corpus(config, arguments.clips, run)
        reading = reading_of(config, run)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in arguments.ways}
        for _ in range(arguments.repeats):
            for name in found:
                found[name].append(measure(WAYS[name], reading, arguments.epochs))
        rates = {name: [rate for rate, _ in own] for name, own in found.items()}
        base = statistics.median(rates["plain pyarrow"]) if "plain pyarrow" in rates else None
        print(f"\n{storage}{'':<28} rows/s (lowest to highest)   first batch   of pyarrow")
        for name, own in found.items():
            median = statistics.median(rates[name])
            first = 1000 * statistics.median(seconds for _, seconds in own)
            ratio = None if base is None else median / base
            spread = f"({min(rates[name]):,.0f} to {max(rates[name]):,.0f})"
            shown = "" if ratio is None else f"{ratio:8.2f}"
            print(f"{name:<36} {median:8,.0f} {spread:>20} {first:10.1f} ms {shown}", flush=True)
            results.append(
                {"storage": storage, "way": name, "rows_per_second": rates[name], "first_ms": first, "ratio": ratio}
            )
    if arguments.json is not None:
        about = {"machine": platform.machine(), "cpus": os.cpu_count(), "arguments": vars(arguments), "rows": results}
        arguments.json.write_text(json.dumps(about, indent=2, default=str))
    ray.shutdown()


class _Rows(torch.utils.data.Dataset):
    def __init__(self, columns: dict[str, np.ndarray]):
        self._columns = columns

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        return {name: np.array(values[row]) for name, values in self._columns.items()}


def _by_epoch(batches: Iterator[dict[str, Any]], num_steps: int, epochs: int) -> Epochs:
    def epoch() -> Iterator[dict[str, torch.Tensor]]:
        for _ in range(num_steps):
            batch = next(batches)
            yield {name: host_tensor(value) for name, value in batch.items() if isinstance(value, np.ndarray)}

    return (epoch() for _ in range(epochs))


def _wanted(reading: Reading) -> list[tuple[str, Any]]:
    return list(reading.wanted.items())


def _rows(reading: Reading) -> Iterator[dict[str, np.ndarray]]:
    arrays = node_cache.read_arrays(reading)
    for row in range(reading.split.num_rows):
        yield {name: np.array(values[row]) for name, values in arrays.columns.items()}


def _peers(reading: Reading) -> Path:
    return Path(reading.split.uri).parents[1] / "peers"


if __name__ == "__main__":
    main()

"""Ways of reading a training's rows, ours and those of other libraries, which `python -m benchmarks.reading` compares.

Each way is a function of a reading and a number of epochs, and returns the epochs, each with its batches on the host. A
batch is a dict of tensors, column -> (rows, *shape), or the speech alone. Every epoch has each row at least once. The
peers' files are written on first use, beside the corpus; WebDataset and LitData need the extra `bench`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray.data
import torch

from arspm.config import Config, override
from arspm.config.presets import PRESETS
from arspm.corpus import schema, tables
from arspm.distributed.data import ingest, node_cache
from arspm.distributed.data.readings import Plan, Reading, kinds
from arspm.distributed.train.feed import open_feed
from arspm.distributed.train.rows import Rows
from arspm.runs import stages
from arspm.training.batch import host_tensor
from arspm.training.checkpoint import TrainingState
from arspm.training.columns import Picked
from arspm.training.fit import WorkerContext
from arspm.training.order import Order, groups

BATCH, LANES = 16, 8
_FORK = "fork"  # importing LitData changes the default to spawn, which would copy memory maps into each worker
Epochs = Iterator[Iterator[Any]]  # of batches


def reading_of(config: Config, run: Path) -> Reading:
    """Return the speech and the features of the training split, shuffled, in batches of BATCH."""
    split = tables.open_split(stages.corpus(str(run)), "train")
    order = Order(groups(split.group_sizes()), BATCH, LANES, config.window_rows, 0)
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
    context = ray.data.DataContext()  # without the settings of `stream`, which are this process's
    context.enable_progress_bars = context.print_on_execution_start = False
    with ray.data.DataContext.current(context):
        files = [reading.split.path("speech", shard) for shard in range(len(reading.split.shards))]
        data = ray.data.read_parquet(files)

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
    return _fed("cache", reading, epochs, torch.device("cpu"))


def resident(reading: Reading, epochs: int) -> Epochs:
    """Ours: ingest.path=resident, on the GPU if there is one. Its batches stay there."""
    return _fed("resident", reading, epochs, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def data_loader(reading: Reading, epochs: int, num_workers: int = 0) -> Epochs:
    """torch.utils.data.DataLoader over the cache's memory-mapped arrays, shuffled by row."""
    arrays = node_cache.open_arrays(reading, node_cache.default_folder(), 2.0**40)
    loader = torch.utils.data.DataLoader(
        _Rows(dict(arrays.columns)),
        batch_size=BATCH,
        shuffle=True,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        multiprocessing_context=_FORK if num_workers else None,
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

    data = wds.WebDataset(urls, shardshuffle=100, empty_check=False, workersplitter=wds.split_by_worker).shuffle(256)
    loader = torch.utils.data.DataLoader(
        data,
        batch_size=BATCH,
        num_workers=2,
        collate_fn=partial(_collate, types),
        persistent_workers=True,
        multiprocessing_context=_FORK,
    )
    return (iter(loader) for _ in range(epochs))


def litdata(reading: Reading, epochs: int, num_workers: int = 0) -> Epochs:
    """LitData's chunks of NumPy arrays, shuffled, in this process."""
    import litdata

    folder = _peers(reading) / "litdata"
    if not folder.exists():
        rows = list(_rows(reading))
        litdata.optimize(
            rows.__getitem__, list(range(len(rows))), str(folder), chunk_bytes="64MB", num_workers=1, verbose=False
        )
    data = litdata.StreamingDataset(str(folder), shuffle=True, max_cache_size="50GB")
    loader = litdata.StreamingDataLoader(
        data, batch_size=BATCH, num_workers=num_workers, persistent_workers=num_workers > 0
    )
    return (iter(loader) for _ in range(epochs))


def litdata_2(reading: Reading, epochs: int) -> Epochs:
    """The same with two worker processes."""
    return litdata(reading, epochs, 2)


OURS: dict[str, Callable[[Reading, int], Epochs]] = {"stream": stream, "cache": cache, "resident": resident}
PEERS: dict[str, Callable[[Reading, int], Epochs]] = {
    "plain Ray Data": plain_ray_data,
    "DataLoader, memory map, 0 workers": data_loader,
    "DataLoader, memory map, 2 workers": data_loader_2,
    "WebDataset, 2 workers": webdataset,
    "LitData, 0 workers": litdata,
    "LitData, 2 workers": litdata_2,
}
BASE = "plain pyarrow"
WAYS = {BASE: plain_pyarrow} | OURS | PEERS


class _Rows(torch.utils.data.Dataset):
    def __init__(self, columns: dict[str, np.ndarray]):
        self._columns = columns

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        return {name: np.array(values[row]) for name, values in self._columns.items()}


def _collate(types: Mapping[str, schema.TensorType], samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Return a batch of WebDataset's samples, which hold raw bytes."""
    return {
        name: torch.from_numpy(
            np.stack([np.frombuffer(each[name], kind.dtype).reshape(kind.shape) for each in samples])
        )
        for name, kind in types.items()
    }


def _by_epoch(batches: Iterator[dict[str, Any]], num_steps: int, epochs: int) -> Epochs:
    def epoch() -> Iterator[dict[str, torch.Tensor]]:
        for _ in range(num_steps):
            batch = next(batches)
            found = {
                name: value for name, value in batch.items() if isinstance(value, (np.ndarray, Picked, torch.Tensor))
            }
            yield {
                name: value if isinstance(value, torch.Tensor) else host_tensor(value) for name, value in found.items()
            }

    return (epoch() for _ in range(epochs))


def _fed(path: str, reading: Reading, epochs: int, device: torch.device) -> Epochs:
    """The product's own feed of one worker, without Ray."""
    config = override(PRESETS["paper"], {"ingest.path": path, "training.encoder.epochs": epochs})
    feed = open_feed("encoder", config, Rows(reading, None, 0, {}), WorkerContext(device=device), share=None)
    return _by_epoch(feed(TrainingState()), reading.order.num_steps, epochs)


def _wanted(reading: Reading) -> list[tuple[str, Any]]:
    return list(reading.wanted.items())


def _rows(reading: Reading) -> Iterator[dict[str, np.ndarray]]:
    arrays = node_cache.read_arrays(reading)
    for row in range(reading.split.num_rows):
        yield {name: np.array(values[row]) for name, values in arrays.columns.items()}


def _peers(reading: Reading) -> Path:
    return Path(reading.split.uri).parents[1] / "peers"

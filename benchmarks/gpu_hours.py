"""Predicts hours and USD of a training with the preset `paper` on GPUs, by the model of `benchmarks.step_model`.

Steps and loop are those of docs/figures.md, which were measured on one H100. Reading and preparing come from the
results of `python -m benchmarks`, and prices from cluster/prices.yaml and below. No network between GPUs was measured,
so it is an option. docs/performance.md lists the assumptions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import yaml

from arspm.config import Config
from arspm.config.presets import PRESETS
from benchmarks import results
from benchmarks.step_model import Line, Network, Traffic, exchange_seconds, fit_line, ring, step_seconds
from cluster.cost import PRICES

CLIPS = (10_000, 30_000, 100_000, 290_000, 1_000_000)
GPUS = (1, 2, 4, 8, 16, 32, 64)
STAGES = ("decoder", "encoder")  # one after the other
LARGE_BATCH = 64  # rows of a GPU

# Milliseconds of a step on one H100, bf16, by batch: docs/figures.md, "On a GPU".
STEP_MS = {"encoder": {16: 8.6, 64: 15.7}, "decoder": {16: 27.8, 64: 65.0}}
# Clips per second of the same encoder in the training loop, and without reading: the same page, waveforms.
LOOP_RATES = {16: (1353, 1980), 64: (2848, 4507)}
GPU_MEMORY_GIB = 79.6  # of an H100
# USD per hour of an H100: p5.4xlarge (1 GPU) 6.88 and p5.48xlarge (8 GPUs) 55.04, on demand, us-west-2. The source is
# that of cluster/prices.yaml, the same file at the same commit.
H100_USD = 6.88
HEAD, PREPARING = ("m6i.2xlarge", "on_demand"), ("c6i.4xlarge", "spot")
PREPARING_CORES = 64  # the preset's 64 tasks, on four nodes
_CORES_OF_NODE = 16
_CACHE_THREADS = 4  # that fill a node's cache; arspm/distributed/data/node_cache.py
_RESIDENT_FRACTION = 0.6  # arspm/distributed/train/feed.py


class Measured(NamedTuple):
    """What the prediction takes from the results of `python -m benchmarks`, rows and clips per second.

    `fill_rate`: rows that one thread decodes into the cache. `cache_rate`: of one worker that reads the cache.
    `stream_rate`: of one read task. `row_bytes`: a decoded row. `prepare_seconds`: of one core, for one clip.
    """

    fill_rate: float
    cache_rate: float
    stream_rate: float
    row_bytes: int
    prepare_seconds: float


def measured(sections: Mapping[str, results.Section]) -> Measured:
    """Return what the prediction needs. Raises SystemExit if a benchmark that it needs was not run."""
    missing = [name for name in ("reading", "clip_seconds") if name not in sections]
    if missing:
        raise SystemExit(
            f"the prediction needs the results of python -m benchmarks {' '.join(missing)}: run that first"
        )
    waveform = sections["reading"]["figures"]["waveform"]
    cores = sections["reading"]["machine"]["cores"]
    rates = {name: waveform["ways"][name]["rows_per_second"]["median"] for name in ("cache", "stream")}
    [kind] = [kind for kind in sections["clip_seconds"]["figures"] if "video" in kind and "VP9" in kind]
    return Measured(
        waveform["fill"]["median"] / min(cores, _CACHE_THREADS),
        rates["cache"],
        rates["stream"] / cores,
        waveform["row_bytes"],
        sections["clip_seconds"]["figures"][kind]["prepared"]["median"],
    )


def gpu_compute(stage: str) -> Line:
    """Return a step of one H100 in the training loop, by rows. It takes no less for fewer than 16 rows.

    The loop's own time is that of the encoder: measured in the loop, less measured without reading.
    """
    loop = {rows: rows / whole - rows / unfed for rows, (whole, unfed) in LOOP_RATES.items()}
    return fit_line({float(rows): ms / 1000 + loop[rows] for rows, ms in STEP_MS[stage].items()}, least=16.0)


def read_rates(found: Measured, rows: float, storage_gb: float) -> tuple[str, float, float]:
    """Return the path that `ingest.path=auto` takes, the seconds to fill memory or cache, and rows/s of a GPU then."""
    config = PRESETS["paper"]
    size = rows * found.row_bytes
    limit = storage_gb * 1e9 / found.row_bytes  # rows per second from storage
    fill = rows / min(limit, found.fill_rate * _CACHE_THREADS)
    if size <= _RESIDENT_FRACTION * GPU_MEMORY_GIB * 2**30:
        return "resident", fill, math.inf
    if size <= config.ingest.cache_gib * 2**30:
        return "cache", fill, found.cache_rate
    return "stream", 0.0, min(limit, found.stream_rate * config.resources.read.num_tasks)


def predict(
    clips: int,
    gpus: int,
    batch: int,
    found: Measured,
    traffic: Mapping[str, Traffic],
    network: Network,
    storage_gb: float,
) -> dict[str, Any] | None:
    """Return hours and USD of a run of the preset `paper` with this global batch; None if a GPU would have no row."""
    if gpus > batch:
        return None
    config: Config = PRESETS["paper"]
    train = clips * (1 - config.data.val_fraction - config.data.test_fraction)
    val = clips * config.data.val_fraction
    path, fill, read_rate = read_rates(found, train + val, storage_gb)
    hours = {}
    for stage in STAGES:
        exchange = exchange_seconds(traffic[stage], ring(gpus, network))
        seconds = step_seconds(
            gpu_compute(stage), batch / gpus, gpus, math.inf, exchange, network.overlap, read_rate=read_rate
        )
        steps = getattr(config.training, stage).epochs * (math.ceil(train / batch) + math.ceil(val / batch))
        hours[stage] = (fill + steps * seconds) / 3600
    prepare = clips * found.prepare_seconds / PREPARING_CORES / 3600
    training = sum(hours.values())
    usd = {
        "prepare": prepare * PREPARING_CORES / _CORES_OF_NODE * usd_per_hour(*PREPARING),
        "gpus": training * gpus * H100_USD,
        "head": (prepare + training) * usd_per_hour(*HEAD),
    }
    return {
        "clips": clips,
        "gpus": gpus,
        "batch": batch,
        "path": path,
        "hours": {"prepare": prepare, **hours, "all": prepare + training},
        "usd": {**usd, "all": sum(usd.values())},
    }


def usd_per_hour(instance: str, market: str) -> float:
    """Return a price of cluster/prices.yaml."""
    return yaml.safe_load(PRICES.read_text())["usd_per_hour"][instance][market]


def predictions(
    found: Measured, traffic: Mapping[str, Traffic], network: Network, storage_gb: float, batch_of: Callable[[int], int]
) -> list[dict[str, Any]]:
    """Return the predictions for all numbers of clips and GPUs. batch_of: number of GPUs -> global batch."""
    rows = (
        predict(clips, gpus, batch_of(gpus), found, traffic, network, storage_gb) for clips in CLIPS for gpus in GPUS
    )
    return [row for row in rows if row is not None]

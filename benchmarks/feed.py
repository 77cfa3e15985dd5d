"""Measures how fast training is fed: `python -m benchmarks.feed`.

Trains the encoder with the stage's own code (Parquet, Ray Data, Ray Train, one worker, on the GPU if there is one) on a
corpus of random numbers in the preset's sizes, on this machine's disk. Prints one line per stored form, batch size,
path of the rows and number of tasks that read a stream:

    stored       batch     path  readers    clips/s no reading  ratio   wait

`clips/s` is the throughput and `wait` the fraction of time that training waited for batches, both medians over the
epochs after the first. `no reading` is the throughput of the same loop over batches that are already on the device,
which is the upper limit; the goal is a ratio of 0.95.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import safetensors.torch
import torch

from arspm import storage
from arspm.config import Config, override
from arspm.config.presets import PRESETS
from arspm.corpus import schema, tables
from arspm.distributed.train.launch import train_stage
from arspm.model import speech_portrait
from arspm.runs import stages
from arspm.training import artifacts
from benchmarks import results
from benchmarks.overhead import Fit
from benchmarks.paper_size import make_task

KINDS = ("waveform", "spectrogram")
PATHS = ("stream", "cache", "resident")
_ROUNDS = 5  # of the loop without reading, each as many steps as an epoch has


def write_corpus(config: Config, clips: int, run: Path) -> None:
    """Write a corpus whose shards all hold the same random speech and features, with different clip ids."""
    rng = np.random.default_rng(config.seed)
    rows = config.data.rows_per_shard
    speech = schema.speech_schema(config.data.storage)
    kind = schema.tensor_type(speech.field(config.data.storage))
    numbers = rng.integers(-3000, 3000, (rows, *kind.shape), np.int16)
    values = numbers if kind.dtype == "<i2" else (numbers / 3000).astype(kind.dtype)
    features = rng.standard_normal((rows, config.feature_dim)).astype(config.vggface.feature_dtype)
    splits: dict[str, Any] = {}
    files: dict[str, dict[str, Any]] = {
        "speech": {},
        "features": {},
    }  # of each family: path in the run -> size and hash
    for split, count in (("train", -(-clips // rows)), ("val", 1)):
        shards = [{"name": f"shard-{shard:05d}", "rows": rows} for shard in range(count)]
        splits[split] = {"rows": rows * count, "shards": shards}
        for shard in shards:
            ids = [f"{split}-{shard['name']}-{row}" for row in range(rows)]
            id_columns = [field.name for field in speech if field.name != config.data.storage]
            families = {
                "speech": pa.table([*([ids] * len(id_columns)), schema.tensor_column(values)], schema=speech),
                "features": pa.table(
                    [ids, schema.tensor_column(features)],
                    schema=schema.features_schema(config.feature_dim, config.vggface.feature_dtype),
                ),
            }
            for family, table in families.items():
                path = f"{stages.CORPUS}/{split}/{family}/{shard['name']}.parquet"
                uri = storage.join(str(run), path)
                tables.write_table(uri, table, config.data.rows_per_group)
                files[family][path] = storage.describe(uri)
    manifest = {"rows_per_group": config.data.rows_per_group, "splits": splits}
    storage.write_json(storage.join(stages.corpus(str(run)), tables.MANIFEST), manifest)
    for stage, family in (("preprocess", "speech"), ("features", "features")):  # a node's cache needs the files' hashes
        stages.commit(str(run), stage, fingerprint="", config=config, files=files[family], seconds=0.0, figures={})


def write_upstream(config: Config, run: Path) -> None:
    """Write the results of other stages that the encoder needs, with random weights."""
    hidden, identity = speech_portrait.face_decoder(config).fc1, torch.nn.Linear(config.feature_dim, 2)
    for stage, name, tensors in (
        ("decoder", artifacts.MODEL, {"fc1.weight": hidden.weight, "fc1.bias": hidden.bias}),
        ("vggface", artifacts.MODEL, {"fc8.weight": identity.weight, "fc8.bias": identity.bias}),
        ("prior", artifacts.PRIORS, {"neutral": torch.randn(config.feature_dim)}),
    ):
        (run / stage).mkdir()
        contiguous = {layer: tensor.detach().contiguous() for layer, tensor in tensors.items()}
        safetensors.torch.save_file(contiguous, run / stage / name)


def speeds_without_reading(config: Config, clips: int, device: torch.device) -> list[float]:
    """Return clips per second of the training loop over batches on the device, for each round after the first."""
    steps = clips // config.training.encoder.global_batch_size
    loop = Fit(make_task("encoder", config, device), config, "encoder", steps, device, resident=True)
    return [loop.measure() for _ in range(_ROUNDS + 1)][1:]


def train(config: Config, clips: int) -> tuple[list[float], list[float]]:
    """Return clips per second and the fraction of time spent waiting for batches, for each epoch after the first.

    The first epoch includes start-up.
    """
    with tempfile.TemporaryDirectory(prefix="arspm-") as folder:
        run = Path(folder)
        write_corpus(config, clips, run)
        write_upstream(config, run)
        train_stage("encoder", config, str(run), "0" * 64)
        epochs = json.loads((run / "encoder" / artifacts.HISTORY).read_text())["epochs"][1:]
    return [each["clips_per_second"] for each in epochs], [each["data_wait"] for each in epochs]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.feed", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--preset", choices=list(PRESETS), default="paper", help="sizes of the network and the data (default: paper)"
    )
    parser.add_argument("--clips", type=int, default=2048, help="clips per epoch (default: 2048)")
    parser.add_argument("--epochs", type=int, default=4, help="epochs per measurement (default: 4)")
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 64], help="batch sizes (default: 16 64)")
    parser.add_argument(
        "--paths", nargs="+", choices=PATHS, default=list(PATHS), help="how rows reach training (default: all)"
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="stored speech (default: both)")
    parser.add_argument(
        "--readers", type=int, nargs="+", default=[4, 8], help="numbers of tasks that read a stream (default: 4 8)"
    )
    parser.add_argument("--graph", action="store_true", help="replay the steps as a CUDA graph (needs a GPU)")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="bf16", help="precision of training (default: bf16)"
    )
    parser.add_argument("--json", type=Path, default=None, help="also write the results there")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="warning")
    titles = ("stored", "batch", "path", "readers", "clips/s", "no reading", "ratio", "wait")
    print("{:<12} {:>5} {:>8} {:>8} {:>10} {:>10} {:>6} {:>6}".format(*titles))
    figures: list[dict[str, Any]] = []
    ratios: dict[str, results.Spread] = {}
    for rows, kind in product(arguments.rows, arguments.kinds):
        changes: dict[str, Any] = {
            "data.storage": kind,
            "resources.encoder.num_workers": 1,
            "resources.encoder.gpus": int(device.type == "cuda"),
            "resources.encoder.cuda_graph": arguments.graph,
            "training.encoder.epochs": arguments.epochs,
            "training.encoder.global_batch_size": rows,
            "training.encoder.precision": arguments.precision,
        }
        config = override(PRESETS[arguments.preset], changes)
        unfed = results.spread(speeds_without_reading(config, arguments.clips, device))
        if device.type == "cuda":
            torch.cuda.empty_cache()  # the worker is another process
        streams = [("stream", readers) for readers in arguments.readers if "stream" in arguments.paths]
        others = [(path, 1) for path in arguments.paths if path != "stream"]
        for path, readers in streams + others:
            reading = {"resources.read.num_tasks": readers, "ingest.path": path}
            speeds, waits = train(override(config, reading), arguments.clips)
            name = f"{kind}, batch {rows}, {path}" + (f", {readers} readers" if path == "stream" else "")
            ratio = ratios[f"{name}: clips/s / no reading"] = results.spread(each / unfed["median"] for each in speeds)
            speed, wait = results.spread(speeds), results.spread(waits)
            figures.append(
                {"stored": kind, "batch": rows, "path": path, "readers": readers}
                | {"clips_per_second": speed, "no_reading": unfed, "wait": wait}
            )
            shown = f"{speed['median']:>10.0f} {unfed['median']:>10.0f} {ratio['median']:>6.2f} {wait['median']:>6.0%}"
            print(f"{kind:<12} {rows:>5} {path:>8} {readers:>8} {shown}", flush=True)
    results.write(arguments.json, figures, ratios)


if __name__ == "__main__":
    main()

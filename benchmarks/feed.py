"""Measures how fast Ray Data feeds training: `python -m benchmarks.feed`.

Trains the encoder with the stage's own code (Parquet, Ray Data, Ray Train, one worker, on the GPU if there is one) on a
corpus of random numbers in the preset's sizes, on this machine's disk. Prints one line per stored form, batch size and
number of read tasks:

    stored         batch  readers    clips/s no reading   wait

`clips/s` is the throughput and `wait` the fraction of time that training waited for batches, both medians over the
epochs after the first. `no reading` is the throughput of the same steps on one batch that is already on the device,
which is the upper limit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import safetensors.torch
import torch

from arspm import storage
from arspm.config import Config, Recipe, override
from arspm.config.presets import PRESETS
from arspm.corpus import schema, tables
from arspm.distributed.train.launch import train_stage
from arspm.model import speech_portrait
from arspm.runs import stages
from arspm.training import artifacts
from benchmarks import results
from benchmarks.paper_size import measure

KINDS = ("waveform", "spectrogram")
_STEPS = 60  # timed steps without reading


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
                uri = storage.join(str(run), "corpus", split, family, f"{shard['name']}.parquet")
                tables.write_table(uri, table, config.data.rows_per_group)
    manifest = {"rows_per_group": config.data.rows_per_group, "splits": splits}
    storage.write_json(storage.join(stages.corpus(str(run)), tables.MANIFEST), manifest)


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
    parser.add_argument("--readers", type=int, nargs="+", default=[4, 8], help="numbers of read tasks (default: 4 8)")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="bf16", help="precision of training (default: bf16)"
    )
    parser.add_argument("--json", type=Path, default=None, help="also write the results there")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="warning")
    print(
        "{:<12} {:>5} {:>8} {:>10} {:>10} {:>6}".format("stored", "batch", "readers", "clips/s", "no reading", "wait")
    )
    figures: list[dict[str, Any]] = []
    ratios: dict[str, results.Spread] = {}
    for rows in arguments.rows:
        recipe = Recipe(precision=arguments.precision)
        unfed = measure("encoder", rows, _STEPS, recipe, device, PRESETS[arguments.preset])
        torch.cuda.empty_cache()
        for kind in KINDS:
            for readers in arguments.readers:
                changes: dict[str, Any] = {
                    "data.storage": kind,
                    "resources.encoder.num_workers": 1,
                    "resources.encoder.gpus": int(device.type == "cuda"),
                    "resources.read.num_tasks": readers,
                    "ingest.path": "stream",
                    "training.encoder.epochs": arguments.epochs,
                    "training.encoder.global_batch_size": rows,
                    "training.encoder.precision": arguments.precision,
                }
                speeds, waits = train(override(PRESETS[arguments.preset], changes), arguments.clips)
                speed, wait = statistics.median(speeds), statistics.median(waits)
                limit = rows / unfed["seconds_median"]
                name = f"{kind}, batch {rows}, {readers} readers"
                ratios[f"{name}: clips/s / no reading"] = results.spread(each / limit for each in speeds)
                figures.append(
                    {"stored": kind, "batch": rows, "readers": readers}
                    | {"clips_per_second": results.spread(speeds), "no_reading": limit, "wait": results.spread(waits)}
                )
                print(f"{kind:<12} {rows:>5} {readers:>8} {speed:>10.0f} {limit:>10.0f} {wait:>6.0%}", flush=True)
    results.write(arguments.json, figures, ratios)


if __name__ == "__main__":
    main()

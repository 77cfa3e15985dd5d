"""How well Ray Data feeds a training step: `python -m benchmarks.feed`.

A made-up corpus of random numbers, of the preset's sizes, on this machine's disk, and the encoder trained on it by the
stage's own code: Parquet, Ray Data, Ray Train, one worker, on a GPU where there is one. Beside it the same steps on one
batch that is on the device already, which no reading can beat. Epochs after the first are counted.
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
from benchmarks.paper_size import measure

KINDS = ("waveform", "spectrogram")
_STEPS = 60  # of the batch in memory


def write_corpus(config: Config, clips: int, run: Path) -> None:
    """Shards that all hold the same random speech and features, under ids of their own."""
    rng = np.random.default_rng(config.seed)
    rows = config.data.rows_per_shard
    speech = schema.speech_schema(config.data.storage)
    kind = schema.tensor_type(speech.field(config.data.storage))
    numbers = rng.integers(-3000, 3000, (rows, *kind.shape), np.int16)
    values = numbers if kind.dtype == "<i2" else (numbers / 3000).astype(kind.dtype)
    features = rng.standard_normal((rows, config.feature_dim)).astype(config.vggface.feature_dtype)
    described: dict[str, Any] = {}
    for split, count in (("train", -(-clips // rows)), ("val", 1)):
        shards = [{"name": f"shard-{shard:05d}", "rows": rows} for shard in range(count)]
        described[split] = {"rows": rows * count, "shards": shards}
        for shard in shards:
            ids = [f"{split}-{shard['name']}-{row}" for row in range(rows)]
            whose = dict.fromkeys(field.name for field in speech if field.name != config.data.storage)
            families = {
                "speech": pa.table([*([ids] * len(whose)), schema.tensor_column(values)], schema=speech),
                "features": pa.table(
                    [ids, schema.tensor_column(features)],
                    schema=schema.features_schema(config.feature_dim, config.vggface.feature_dtype),
                ),
            }
            for family, table in families.items():
                uri = storage.join(str(run), "corpus", split, family, f"{shard['name']}.parquet")
                tables.write_table(uri, table, config.data.rows_per_group)
    manifest = {"rows_per_group": config.data.rows_per_group, "splits": described}
    storage.write_json(storage.join(stages.corpus(str(run)), tables.MANIFEST), manifest)


def write_guides(config: Config, run: Path) -> None:
    """What the encoder learns by, with random weights."""
    hidden, identity = speech_portrait.face_decoder(config).fc1, torch.nn.Linear(config.feature_dim, 2)
    for stage, name, tensors in (
        ("decoder", artifacts.MODEL, {"fc1.weight": hidden.weight, "fc1.bias": hidden.bias}),
        ("vggface", artifacts.MODEL, {"fc8.weight": identity.weight, "fc8.bias": identity.bias}),
        ("prior", artifacts.PRIORS, {"neutral": torch.randn(config.feature_dim)}),
    ):
        (run / stage).mkdir()
        contiguous = {layer: tensor.detach().contiguous() for layer, tensor in tensors.items()}
        safetensors.torch.save_file(contiguous, run / stage / name)


def fed(config: Config, clips: int) -> tuple[float, float]:
    """Clips a second, and the share of the time that training waited for them: medians over epochs but the first."""
    with tempfile.TemporaryDirectory(prefix="arspm-") as folder:
        run = Path(folder)
        write_corpus(config, clips, run)
        write_guides(config, run)
        train_stage("encoder", config, str(run), "0" * 64)
        epochs = json.loads((run / "encoder" / artifacts.HISTORY).read_text())["epochs"][1:]
    return tuple(statistics.median(epoch[name] for epoch in epochs) for name in ("clips_per_second", "data_wait"))  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.feed", description=__doc__)
    parser.add_argument("--preset", choices=list(PRESETS), default="paper")
    parser.add_argument("--clips", type=int, default=2048, help="of an epoch")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 64], help="the batch")
    parser.add_argument("--readers", type=int, nargs="+", default=[4, 8], help="Ray Data's tasks at once")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="warning")
    print(
        "{:<12} {:>5} {:>8} {:>10} {:>10} {:>6}".format("stored", "batch", "readers", "clips/s", "no reading", "wait")
    )
    for rows in arguments.rows:
        recipe = Recipe(precision=arguments.precision)
        alone = measure("encoder", rows, _STEPS, recipe, device, PRESETS[arguments.preset])
        torch.cuda.empty_cache()
        for kind in KINDS:
            for readers in arguments.readers:
                changes: dict[str, Any] = {
                    "data.storage": kind,
                    "resources.encoder.num_workers": 1,
                    "resources.encoder.gpus": int(device.type == "cuda"),
                    "resources.read.num_tasks": readers,
                    "training.encoder.epochs": arguments.epochs,
                    "training.encoder.global_batch_size": rows,
                    "training.encoder.precision": arguments.precision,
                }
                speed, wait = fed(override(PRESETS[arguments.preset], changes), arguments.clips)
                most = rows / alone["seconds_median"]
                print(f"{kind:<12} {rows:>5} {readers:>8} {speed:>10.0f} {most:>10.0f} {wait:>6.0%}", flush=True)


if __name__ == "__main__":
    main()

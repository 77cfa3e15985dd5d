"""Every stage learns the same on one, two and three workers: with BatchNorm, labels, and rows that have none.

The rows are those that `gather_rows` gives each worker of a real corpus. The workers are processes over gloo.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from arspm.config import TRAINED_STAGES, override
from arspm.config.presets import preset
from arspm.corpus import schema
from arspm.distributed.data.node_cache import read_arrays
from arspm.distributed.data.readings import Plan
from arspm.distributed.train.feed import array_batches
from arspm.distributed.train.rows import Rows, gather_rows
from arspm.training.order import lanes
from tests.training.conftest import progress_of

WORLD_SIZES = (1, 2, 3)  # three workers have one, one and two of the four lanes
CONFIG = override(
    preset("smoke"),
    {"data.storage": "waveform", "vggface.dropout": 0.0}
    | {f"training.{stage}.augment": False for stage in TRAINED_STAGES}
    # With a large eps Adam's steps are proportional to the gradients, instead of to their signs: the difference of two
    # weights is then that of the gradients.
    | {f"training.{stage}.eps": 1.0 for stage in TRAINED_STAGES}
    | {f"training.{stage}.learning_rate": 0.1 for stage in TRAINED_STAGES}
    | {f"training.{stage}.epochs": 1 for stage in TRAINED_STAGES},
)

# In float64, because ReLU and max pooling amplify the rounding of float32 to a tenth of some weights' changes.
WORKER = """
import gc, pickle, sys
from pathlib import Path
import torch
import torch.distributed
from arspm.training import checkpoint, tasks
from arspm.training.fit import WorkerContext, fit
from tests.training.random_data import make_task

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
torch.Tensor.float = torch.Tensor.double
rank, world_size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
if world_size > 1:
    meeting = f"file://{folder}/meeting-{world_size}"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
for path in sorted(folder.glob(f"*-{rank}-of-{world_size}.pickle")):
    told = pickle.loads(path.read_bytes())
    stage, config = told["stage"], told["config"]
    torch.manual_seed(0)
    task = tasks.vggface_task(config, told["num_classes"], True) if stage == "vggface" else make_task(stage, config)
    if world_size == 1:
        checkpoint.write_weights(folder / f"{stage}-before.safetensors", task.model.state_dict())
    [report] = fit(
        task, getattr(config.training, stage), seed=0, num_steps=told["num_steps"],
        num_score_steps=told["num_score_steps"], batches=lambda _: iter(told["batches"]),
        worker=WorkerContext(rank, world_size, loss_weight=told["loss_weight"]), config={},
    )
    if rank == 0:
        report.save(folder / f"{stage}-{world_size}")
gc.collect()  # a live DDP network would keep gloo's threads running at interpreter exit, which aborts
if world_size > 1:
    torch.distributed.destroy_process_group()
"""


def write_batches(folder: Path, stage: str, rows: Rows, rank: int, world_size: int) -> None:
    """Write what a worker reads in an epoch."""
    order = rows.train.order
    num_rows = len(lanes(order, rank, world_size)) * order.lane_batch
    arrays = [read_arrays(reading) for reading in rows.readings]
    batches = list(array_batches(rows.readings, Plan(rows.readings, 1), arrays, rank, world_size))
    for batch in batches:
        if schema.WAVEFORM in batch:
            batch[schema.WAVEFORM] = batch[schema.WAVEFORM][:, : 2 * schema.SAMPLE_RATE_HZ]  # two seconds, for speed
    told = {
        "stage": stage,
        "config": CONFIG,
        "num_classes": rows.num_classes,
        "num_steps": order.num_steps,
        "num_score_steps": 0 if rows.val is None else rows.val.order.num_steps,
        "loss_weight": num_rows * world_size / order.global_batch,
        "batches": batches,
    }
    (folder / f"{stage}-{rank}-of-{world_size}.pickle").write_bytes(pickle.dumps(told))


def train(folder: Path) -> None:
    """Train all stages on each number of workers."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "GLOO_SOCKET_IFNAME": "lo"}
    for world_size in WORLD_SIZES:
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER, str(rank), str(world_size), str(folder)],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(world_size)
        ]
        for worker in workers:
            _, errors = worker.communicate(timeout=300)
            assert worker.returncode == 0, errors


def check_same(folder: Path, stage: str, world_size: int) -> None:
    before = safetensors.torch.load_file(folder / f"{stage}-before.safetensors")
    one, other = (
        safetensors.torch.load_file(folder / f"{stage}-{number}" / "model.safetensors") for number in (1, world_size)
    )
    moved = {name: (one[name] - before[name]).abs() for name in one if one[name].is_floating_point()}
    learnt = [move.max().item() for name, move in moved.items() if "running" not in name]
    assert max(learnt) > 1e-3, "the weights must move for the comparison to mean something"
    for name, move in moved.items():
        difference = (one[name] - other[name]).abs().max()
        assert difference <= 1e-9 * max(learnt), f"{stage}: {name} differs by {difference:.3g} of {move.max():.3g}"
    figures, others = (progress_of(folder / f"{stage}-{number}")["epochs"][0] for number in (1, world_size))
    assert others == pytest.approx(figures, rel=1e-9)


def test_every_stage_learns_the_same_on_any_number_of_workers(write_corpus: Callable[..., Any], tmp_path: Path) -> None:
    _, columns = write_corpus({"train": (13, 11), "val": (7,)}, feature_dim=64)
    assert None in columns["train"][schema.GENDER]
    assert None in columns["val"][schema.GENDER]
    folder = tmp_path / "trained"
    folder.mkdir()
    for stage in TRAINED_STAGES:
        rows = gather_rows(stage, CONFIG, str(tmp_path))
        assert rows.train.order.num_steps >= 3
        for world_size in WORLD_SIZES:
            for rank in range(world_size):
                write_batches(folder, stage, rows, rank, world_size)
    torch.set_num_threads(1)
    train(folder)
    for stage in TRAINED_STAGES:
        assert stage == "vggface" or any(
            "running_mean" in name for name in safetensors.torch.load_file(folder / f"{stage}-1" / "model.safetensors")
        ), "a stage with BatchNorm"
        for world_size in WORLD_SIZES[1:]:
            check_same(folder, stage, world_size)

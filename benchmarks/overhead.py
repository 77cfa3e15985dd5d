"""Measures what the training loop costs beside the training itself: `python -m benchmarks.overhead`.

Trains the encoder and the decoder on random batches in memory, in the preset's sizes, on the GPU if there is one:
once with `training.fit`, and once with a bare loop of the same network, loss and optimiser over one batch that is
already on the device. The two alternate in this process, on the same cores. Prints a line per network:

    network     fit clips/s  bare clips/s  ratio       low     high    cpu

Both have the memory settings of a job of `arspm up`, unless these are set. Without them, the ratio also depends on the
pages that glibc returns and gets again in each step. The speeds are medians over the rounds. `ratio` is the median of
the rounds' ratios, each of two measurements that follow each other; the goal is 0.95 or more. `low` and `high` are the
ratio's quartiles. `cpu` is the median ratio of the processor times, bare to fit: where other programs use the same
cores, it is the steadier figure.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from arspm.config import Config, override
from arspm.config.presets import PRESETS
from arspm.corpus import schema
from arspm.training.batch import host_tensor, to_batch
from arspm.training.columns import FACE, WEIGHT
from arspm.training.fit import WorkerContext, fit
from arspm.training.train_step import Task, autocast, make_optimizer
from benchmarks import results
from benchmarks.paper_size import make_task
from cluster.head_environment import MEMORY_SETTINGS

NETWORKS = ("encoder", "decoder")
_NUM_BATCHES = 4  # different ones, which `fit` is given in turn


def make_columns(stage: str, config: Config, rows: int, seed: int) -> dict[str, Any]:
    """Return a batch of random values as the reader gives them: stored dtypes, read-only arrays."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {
        schema.FACE_FEATURE: rng.standard_normal((rows, config.feature_dim)).astype(config.vggface.feature_dtype),
        WEIGHT: np.ones(rows, np.float32),
    }
    if stage == "encoder" and config.data.storage == "waveform":
        columns[schema.WAVEFORM] = rng.integers(-3000, 3000, (rows, *schema.WAVEFORM_SHAPE), dtype=np.int16)
    elif stage == "encoder":
        columns[schema.SPECTROGRAM] = rng.standard_normal((rows, *schema.SPECTROGRAM_SHAPE)).astype(np.float16)
    else:
        columns[FACE] = rng.integers(0, 256, (rows, config.image_size, config.image_size, 3), dtype=np.uint8)
    for values in columns.values():
        values.setflags(write=False)
    return columns | {schema.CLIP_ID: [str(row) for row in range(rows)]}


def _on(device: torch.device, values: Any) -> Any:
    return host_tensor(values).to(device) if isinstance(values, np.ndarray) else values


class Fit:
    """`training.fit` over batches in memory, one epoch of `steps` per measurement, without validation.

    With several workers, every one of them measures at the same time, and the clips are those of all. `resident`: the
    batches are on the device already. `resources.STAGE.cuda_graph` says whether steps are replayed as a CUDA graph.
    """

    def __init__(
        self,
        task: Task,
        config: Config,
        stage: str,
        steps: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        resident: bool = False,
    ):
        recipe = getattr(config.training, stage).model_copy(update={"epochs": 1_000_000})
        rows = recipe.global_batch_size // world_size
        columns = [make_columns(stage, config, rows, seed) for seed in range(_NUM_BATCHES)]
        if resident:
            columns = [{name: _on(device, values) for name, values in each.items()} for each in columns]

        def batches(_: Any) -> Iterator[dict[str, Any]]:
            while True:
                yield from columns

        self._reports = fit(
            task._replace(objective="train_loss", maximise=False),
            recipe,
            seed=0,
            num_steps=steps,
            num_score_steps=0,
            batches=batches,
            worker=WorkerContext(rank, world_size, device),
            config={},
            cuda_graph=getattr(config.resources, stage).cuda_graph,
        )

    def measure(self) -> float:
        """Return clips per second of one epoch, as `fit` reports them."""
        return next(self._reports).figures["clips_per_second"]


class Bare:
    """The least that trains a network: zero the gradients, loss, backward, optimiser step."""

    def __init__(self, task: Task, config: Config, stage: str, steps: int, device: torch.device):
        self._task, self._steps, self._device = task, steps, device
        self._recipe = getattr(config.training, stage)
        self._rows = self._recipe.global_batch_size
        channels_last = self._recipe.channels_last
        self._model = task.model.to(device)
        if channels_last:
            self._model = self._model.to(memory_format=torch.channels_last)
        self._optimizer = make_optimizer(self._model, self._recipe)
        self._batch = to_batch(make_columns(stage, config, self._rows, 0), device, channels_last=channels_last)

    def measure(self) -> float:
        """Return clips per second over the steps."""
        self._model.train()
        started = time.monotonic()
        for _ in range(self._steps):
            self._optimizer.zero_grad(set_to_none=True)
            with autocast(self._device, self._recipe.precision):
                loss = self._task.loss(self._model, self._batch)["loss"]
            loss.backward()
            self._optimizer.step()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._steps * self._rows / (time.monotonic() - started)


class Round(NamedTuple):
    """A measurement of both loops: clips per second, and seconds of processor time."""

    fit_speed: float
    bare_speed: float
    fit_cpu: float
    bare_cpu: float


def compare(stage: str, config: Config, steps: int, rounds: int, device: torch.device) -> list[Round]:
    """Return the measurements of each round. A first round of both is left out."""
    contenders = []
    for kind in (Fit, Bare):
        torch.manual_seed(0)
        contenders.append(kind(make_task(stage, config, device), config, stage, steps, device))
    found = []
    for number in range(rounds + 1):
        order = (0, 1) if number % 2 else (1, 0)  # neither profits from being the first
        speeds, seconds = [0.0, 0.0], [0.0, 0.0]
        for each in order:
            before = time.process_time()
            speeds[each] = contenders[each].measure()
            seconds[each] = time.process_time() - before
        found.append(Round(*speeds, *seconds))
    return found[1:]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--preset", choices=list(PRESETS), default="demo", help="sizes of the networks and the data (default: demo)"
    )
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="networks to train (default: both)"
    )
    parser.add_argument("--steps", type=int, default=10, help="steps per measurement (default: 10)")
    parser.add_argument("--rounds", type=int, default=16, help="measurements of each loop (default: 16)")
    parser.add_argument("--rows", type=int, help="batch size (default: the preset's)")
    parser.add_argument("--storage", choices=("waveform", "spectrogram"), help="of the speech (default: the preset's)")
    parser.add_argument("--threads", type=int, help="torch's threads (default: torch's own choice)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="precision of training (default: the preset's)")
    parser.add_argument("--graph", action="store_true", help="let `fit` replay steps as a CUDA graph (needs a GPU)")
    parser.add_argument("--json", type=Path, default=None, help="also write the results there")
    arguments = parser.parse_args()
    if not MEMORY_SETTINGS.keys() <= os.environ.keys():  # glibc reads them when a program starts
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**MEMORY_SETTINGS, **os.environ})
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    titles = ("network", "fit clips/s", "bare clips/s", "ratio", "low", "high", "cpu")
    print("{:<10} {:>12} {:>13} {:>6} {:>9} {:>8} {:>6}".format(*titles))
    figures: dict[str, Any] = {}
    ratios: dict[str, results.Spread] = {}
    for stage in arguments.networks:
        changes: dict[str, Any] = {f"resources.{stage}.cuda_graph": arguments.graph}
        if arguments.rows:
            changes[f"training.{stage}.global_batch_size"] = arguments.rows
        if arguments.storage:
            changes["data.storage"] = arguments.storage
        if arguments.precision:
            changes[f"training.{stage}.precision"] = arguments.precision
        found = compare(stage, override(PRESETS[arguments.preset], changes), arguments.steps, arguments.rounds, device)
        speeds = [results.spread(each) for each in list(zip(*found, strict=True))[:2]]
        ratio = results.spread(each.fit_speed / each.bare_speed for each in found)
        cpu = results.spread(each.bare_cpu / each.fit_cpu for each in found)
        figures[stage] = {"clips_per_second": speeds[0], "bare_clips_per_second": speeds[1]}
        ratios |= {f"{stage}: fit / bare loop": ratio, f"{stage}: fit / bare loop, processor time": cpu}
        shown = f"{ratio['median']:>6.3f} {ratio['low']:>9.3f} {ratio['high']:>8.3f} {cpu['median']:>6.3f}"
        print(f"{stage:<10} {speeds[0]['median']:>12.1f} {speeds[1]['median']:>13.1f} {shown}", flush=True)
    results.write(arguments.json, figures, ratios)


if __name__ == "__main__":
    main()

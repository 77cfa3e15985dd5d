"""One worker process of `benchmarks.scaling`: python -m benchmarks.workers RANK WORLD_SIZE FILE.

The processes of a group meet at FILE, over gloo. Each line on standard input is a turn, in which all of them measure
at the same time: steps without communication for each number of rows on the line, then all-reduces, then the training
loop itself. Rank 0 prints the results of each turn as a line of JSON.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from typing import Any

import torch
import torch.distributed

from arspm.config import Config, override
from arspm.config.presets import PRESETS
from arspm.training.batch_norm import _BatchNorm
from benchmarks.overhead import Fit
from benchmarks.paper_size import make_task

PRESET, STAGE = "demo", "encoder"
STEPS = 6  # of a measurement
MESSAGE_BYTES = (4 << 10, 256 << 10, 1 << 20, 4 << 20)
_MESSAGES = 10  # of each size
_CPU = torch.device("cpu")


def config_of(rows: int) -> Config:
    """Return the preset with this global batch size, a multiple of 4."""
    return override(PRESETS[PRESET], {f"training.{STAGE}.global_batch_size": rows, f"training.{STAGE}.num_lanes": 4})


def traffic(config: Config, stage: str) -> dict[str, int]:
    """Return what a step of several workers exchanges: bytes of gradients, and the number of collective calls.

    The calls: two of each BatchNorm, DDP's buckets (a small one, then 25 MiB each), and the check of the step.
    """
    model = make_task(stage, config, _CPU).model
    size = sum(4 * parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    norms = sum(isinstance(module, _BatchNorm) for module in model.modules())
    return {"bytes": size, "messages": 2 * norms + 1 + -(-size // (25 << 20)) + 1}


class Worker:
    """The measurements of one process."""

    def __init__(self, rank: int, world_size: int):
        self._rank, self._world_size = rank, world_size
        self._training = self._fit(16, rank, world_size)
        self._alone: dict[int, Fit] = {}

    def turn(self, rows: list[int]) -> dict[str, Any]:
        """Return seconds of a step by rows, seconds of an all-reduce by bytes, and clips per second of training."""
        return {
            "step": {number: self._step(number) for number in rows},
            "all_reduce": {size: self._all_reduce(size) for size in MESSAGE_BYTES} if self._world_size > 1 else {},
            "clips_per_second": self._measure(self._training),
        }

    def _fit(self, batch: int, rank: int = 0, world_size: int = 1) -> Fit:
        torch.manual_seed(0)
        config = config_of(batch)
        return Fit(make_task(STAGE, config, _CPU), config, STAGE, STEPS, _CPU, rank, world_size)

    def _step(self, rows: int) -> float:
        if rows not in self._alone:
            self._alone[rows] = self._fit(rows)
            self._alone[rows].measure()  # creates Adam's state
        return rows / self._measure(self._alone[rows])

    def _measure(self, fit: Fit) -> float:
        self._meet()
        return fit.measure()

    def _all_reduce(self, size: int) -> float:
        values = torch.zeros(size // 4)
        torch.distributed.all_reduce(values)
        self._meet()
        started = time.perf_counter()
        for _ in range(_MESSAGES):
            torch.distributed.all_reduce(values)
        return (time.perf_counter() - started) / _MESSAGES

    def _meet(self) -> None:
        if self._world_size > 1:
            torch.distributed.barrier()


def main() -> None:
    rank, world_size, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    if world_size > 1:
        torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world_size)
    worker = Worker(rank, world_size)
    for line in sys.stdin:
        found = worker.turn(json.loads(line))
        if rank == 0:
            print(json.dumps(found), flush=True)
    del worker
    gc.collect()  # a live DDP network would keep gloo's threads running at interpreter exit, which aborts
    if world_size > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()

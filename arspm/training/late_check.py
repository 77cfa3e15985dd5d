"""Check a step's loss and gradient while the next step runs, so that the host never waits for the device.

A step puts its verdict and its loss into a small tensor, whose copy to the host is only started. They are read one step
later, or at a report. With several workers the verdict is theirs together, so all of them raise at the same step.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.distributed
from torch import Tensor

from arspm.training.checkpoint import TrainingState
from arspm.training.train_step import NonFiniteLoss, non_finite_error


class _Step(NamedTuple):
    """A step that is not verified yet. `result`: on the host once `ready`; see `LateCheck.add`."""

    step: int
    clip_ids: list[str]
    loss: Tensor
    num_losses: float
    result: Tensor
    ready: Any  # the event of its copy on CUDA, the collective call on several CPU workers, or None


class LateCheck:
    """Verifies steps, each while the next one runs, and adds the losses of verified steps to the history.

    The history, `progress.losses`, has one point, the mean loss, per `point_steps` steps. Losses are summed on the
    device in float64.
    """

    def __init__(self, device: torch.device, world_size: int, progress: TrainingState, point_steps: int):
        self._device, self._world_size = device, world_size
        self._progress, self._point_steps = progress, point_steps
        total, self._num_losses = progress.pending
        self._total = torch.tensor(total, dtype=torch.float64, device=device)
        self._unverified: _Step | None = None
        self._num_added = 0
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
            self._results = [torch.empty(2, dtype=torch.float64, pin_memory=True) for _ in range(2)]  # two in flight

    def add(self, step: int, clip_ids: list[str], loss: Tensor, finite: Tensor) -> None:
        """Start the check of a step and finish that of the step before. Raises NonFiniteLoss for that one.

        finite: whether the step's loss and gradients are finite, a boolean scalar on the device.
        """
        self._total = self._total + loss.double()
        self._num_losses += 1
        result, ready = self._to_host(torch.stack([finite.double(), self._total]))
        last, self._unverified = self._unverified, _Step(step, clip_ids, loss, self._num_losses, result, ready)
        if self._num_losses >= self._point_steps:
            self._total, self._num_losses = torch.zeros_like(self._total), 0.0
        if last is not None:
            self._verify(last)

    def finish(self) -> None:
        """Verify the last step. Call it before a report, and before validation. Raises NonFiniteLoss."""
        last, self._unverified = self._unverified, None
        if last is not None:
            self._verify(last)

    def _to_host(self, result: Tensor) -> tuple[Tensor, Any]:
        """Start the agreement of all workers on the first number, and the copy of both to the host."""
        if self._device.type != "cuda":
            return result, self._agreed(result)
        host = self._results[self._num_added % 2]
        self._num_added += 1
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):  # so that the next step does not wait for the other workers' verdict
            if (call := self._agreed(result)) is not None:
                call.wait()  # only the stream waits
            host.copy_(result, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record(self._stream)
        result.record_stream(self._stream)
        return host, copied

    def _agreed(self, result: Tensor) -> Any:
        """Start the minimum of the first number over all workers, in place. A collective call."""
        if self._world_size == 1:
            return None
        return torch.distributed.all_reduce(result[:1], op=torch.distributed.ReduceOp.MIN, async_op=True)

    def _verify(self, step: _Step) -> None:
        if step.ready is not None:
            step.ready.synchronize() if self._device.type == "cuda" else step.ready.wait()
        finite, total = step.result.tolist()  # of a tensor on the host
        if not finite:
            raise _step_error(float(step.loss), step.step, step.clip_ids, self._world_size)
        self._progress.pending = [total, step.num_losses]
        if step.num_losses >= self._point_steps:
            self._progress.losses.append([step.step + 1, total / step.num_losses])
            self._progress.pending = [0.0, 0.0]


def gathered(value: Any, world_size: int) -> list[Any]:
    """Return every worker's value, by rank. A collective call."""
    if world_size == 1:
        return [value]
    values: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(values, value)
    return values


def _step_error(loss: float, step: int, clip_ids: list[str], world_size: int) -> NonFiniteLoss:
    """Return the error of a step that is not finite, the same on all workers. A collective call.

    It names the clips of the workers whose loss is not finite. If all losses are finite, it names the clips of all
    workers, because the gradient is that of all.
    """
    workers = gathered((loss, clip_ids), world_size)
    broken = [each for each in workers if not math.isfinite(each[0])] or workers
    return non_finite_error(broken[0][0], step, [clip for _, clips in broken for clip in clips])

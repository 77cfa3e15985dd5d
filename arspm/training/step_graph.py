"""Forward pass, loss and backward pass of a training step as a CUDA graph.

A step of a small batch is bound by the launches of its kernels. A graph launches all of them at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from arspm.training.batch import Batch

_WARMUP_STEPS = 3  # cuDNN and cuBLAS choose and allocate in the first ones, which must not happen during the capture


class StepGraph:
    """Calls `gradients(batch)` for the first batch, and from then on replays the kernels that it launched.

    The results are those of `gradients`. The gradients have their places in the graph's memory: nothing else may set
    them to None. `gradients` must not wait for the device, and takes random numbers only from the device's generator,
    whose state a replay reads as a launch does.

    gradients: sets the gradients of `model` and returns scalars; see `train_step.step_gradients`.
    """

    def __init__(self, gradients: Callable[[Batch], dict[str, Tensor]], model: nn.Module):
        self._gradients, self._model = gradients, model
        self._graph = torch.cuda.CUDAGraph()
        self._inputs: dict[str, Tensor] = {}
        self._terms: dict[str, Tensor] = {}

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Set the gradients and return the scalars.

        Raises ValueError if the batch's shapes are not those of the first batch.
        """
        values = _tensors(batch)
        if not self._inputs:
            self._capture(batch, values)
        shapes, first = ({name: tuple(each.shape) for name, each in of.items()} for of in (values, self._inputs))
        if shapes != first:
            raise ValueError(f"the batch's shapes {shapes} are not those of the first batch, {first}")
        for name, value in values.items():
            self._inputs[name].copy_(value)
        self._graph.replay()
        copied = torch.stack(list(self._terms.values())).unbind()  # the next replay writes over the terms
        return dict(zip(self._terms, copied, strict=True))

    def _capture(self, batch: Batch, values: dict[str, Tensor]) -> None:
        """Record the graph. Neither the model's buffers nor the generator's state keep anything of the warm-up."""
        self._inputs = {name: value.clone() for name, value in values.items()}
        static: Batch = dataclasses.replace(batch, **cast(Any, self._inputs))
        device = batch.weight.device
        buffers, generator = [each.clone() for each in self._model.buffers()], torch.cuda.get_rng_state(device)
        current, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
        side.wait_stream(current)
        with torch.cuda.stream(side):  # a graph cannot be captured on the default stream
            for _ in range(_WARMUP_STEPS):
                self._gradients(static)
            self._model.zero_grad(set_to_none=True)
        current.wait_stream(side)
        # Other threads, such as the one that stages batches, may allocate pinned memory and wait for events meanwhile.
        with torch.cuda.graph(self._graph, stream=side, capture_error_mode="thread_local"):
            self._terms = self._gradients(static)
        torch.cuda.set_rng_state(generator, device)
        for buffer, before in zip(self._model.buffers(), buffers, strict=True):
            buffer.copy_(before)


def _tensors(batch: Batch) -> dict[str, Tensor]:
    return {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}

"""Nothing in a training step or a validation batch waits for the device, except at a report.

On a GPU, reading a tensor's value and any result whose shape depends on values would wait. So would a copy from the
device, which on a CPU cannot be told from others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from arspm.training import losses, ms_ssim, zhao
from arspm.training.checkpoint import TrainingState
from tests.training.random_data import STAGES, columns, make_task, smoke, train

# What a value or a shape that depends on values is read by, and `is_nonzero` and `equal`, which read it themselves.
WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero", "aten::equal"}
NUM_STEPS, NUM_SCORE_STEPS = 6, 4


class Waits(TorchDispatchMode):
    """Notes the operations that wait for the device, with the number of batches read before each."""

    def __init__(self) -> None:
        super().__init__()
        self.num_operations = 0
        self.found: list[tuple[int, str]] = []
        self.num_batches = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num_operations += 1
        name = func.name().partition(".")[0]
        index = args[1] if name in ("aten::index", "aten::index_put_") else []
        if name in WAITING or any(each is not None and each.dtype in (torch.bool, torch.uint8) for each in index):
            self.found.append((self.num_batches, name))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("stage", "form"), [*((stage, "wang") for stage in STAGES), ("decoder", "zhao")])
def test_no_step_waits_for_the_device(stage, form, precision):
    """Between the first batch and the last: then the epoch's figures are read, once."""
    augment = {f"training.{name}.augment": True for name in STAGES}
    config = smoke(**augment, decoder_loss__form=form)
    recipe = getattr(config.training, stage).model_copy(update={"epochs": 1, "precision": precision})
    waits = Waits()

    def batches(progress: TrainingState) -> Iterator[dict[str, Any]]:
        return (columns(stage, 0, step) for step in range(NUM_STEPS + NUM_SCORE_STEPS))

    def on_wait(seconds: float) -> None:
        waits.num_batches += 1

    task = make_task(stage, config)
    with waits:
        list(
            train(
                task,
                recipe,
                stage,
                batches=batches,
                num_steps=NUM_STEPS,
                num_score_steps=NUM_SCORE_STEPS,
                on_wait=on_wait,
            )
        )
    assert waits.num_batches == NUM_STEPS + NUM_SCORE_STEPS
    assert waits.num_operations > 100 * waits.num_batches
    assert [name for number, name in waits.found if 0 < number < waits.num_batches] == []


def test_the_check_sees_what_waits() -> None:
    """Each of these would have the host wait for a GPU."""
    values = torch.arange(4.0)
    for wait in (
        lambda: float(values[0]),
        lambda: bool((values > 1).any()),
        lambda: values[values > 1],
        lambda: int(values.sum().item()),
        lambda: torch.where(values > 1),
    ):
        with Waits() as waits:
            wait()
        assert waits.found


@pytest.mark.parametrize("form", ["wang", "zhao"])
def test_the_constants_of_the_image_loss_are_made_once(form):
    """And not once per step, when on a GPU they would be copied to the device."""
    makers = (ms_ssim._window, ms_ssim._exponents, losses._border_weights, zhao._smoothing)
    x, y = torch.rand(2, 3, 64, 64, requires_grad=True), torch.rand(2, 3, 64, 64)
    losses.image_loss(x, y, window_size=3, form=form).sum().backward()
    made = [maker.cache_info().misses for maker in makers]
    operations = []

    class Operations(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            operations.append(func.name().partition(".")[0])
            return func(*args, **(kwargs or {}))

    with Operations():
        losses.image_loss(x, y, window_size=3, form=form).sum().backward()
    assert [maker.cache_info().misses for maker in makers] == made
    # pytorch-msssim copies the exponents, once and on the device.
    assert "aten::arange" not in operations
    assert operations.count("aten::_to_copy") <= 1
    assert operations.count("aten::lift_fresh") <= 1

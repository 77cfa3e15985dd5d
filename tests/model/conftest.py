from __future__ import annotations

import pytest
import torch

from arspm.model.vggface import VGGFace
from tests.model.small_vggface import SMALL


@pytest.fixture(autouse=True)
def _one_thread_and_a_fixed_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def network() -> VGGFace:
    """A small VGGFace with random weights and random biases."""
    model = VGGFace(**SMALL).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

TIMINGS = ("clips_per_second", "data_wait", "epoch_seconds")  # figures that depend on the clock


@pytest.fixture(autouse=True)
def _one_thread_and_a_fixed_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def progress_of(folder: Path) -> dict[str, Any]:
    """Return the training state in a checkpoint's progress.json, without the figures that depend on the clock."""
    found = json.loads((folder / "progress.json").read_text())["progress"]
    for figures in found["epochs"]:
        for name in TIMINGS:
            assert figures.pop(name) >= 0
    return found

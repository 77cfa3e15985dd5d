"""A run to sweep over, and a sweep that stands in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arspm import stages, storage
from arspm.config import Config, override
from arspm.presets import preset
from jobs.sweep import save
from jobs.sweep_plan import Options, plan


def commit(run: str, stage: str, config: Config) -> None:
    stages.commit(run, stage, fingerprint=stage[0] * 64, config=config, files={}, seconds=1.0, figures={})


@pytest.fixture
def encoded_run(write_corpus: Callable[..., Any], tmp_path: Path) -> str:
    """A run with what an encoder rests on, as far as a plan looks at it, and the speed of its own encoder."""
    write_corpus({"train": (13, 11), "val": (6,)}, feature_dim=64)
    config = override(preset("smoke"), {"data.csv": f"{tmp_path}/no.csv", "data.clips": f"{tmp_path}/clips"})
    for stage in ("gender", "prior", "decoder", "encoder"):
        commit(str(tmp_path), stage, config)
    epochs = [{"epoch": n, "val_cos_degrees": 40.0, "val_l2": 3.0, "clips_per_second": 20.0 * n} for n in (1, 2, 3)]
    storage.write_json(f"{tmp_path}/encoder/history.json", {"epochs": epochs})
    return str(tmp_path)


def keep(run: str, space: str = "loss_weights", **options: Any) -> tuple[str, dict[str, Any]]:
    """Plan a sweep and let it stand, as a command that is then cut off."""
    place, sweep = plan(run, space, Options(**options), {})
    save(place, sweep)
    return place, sweep

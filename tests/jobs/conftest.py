"""The `arspm` command, a run of the whole chain by it, and a run to sweep over with a sweep that stands in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from arspm import storage
from arspm.config import Config, override
from arspm.config.presets import preset
from arspm.runs import stages
from jobs.sweep import save
from jobs.sweep_plan import Options, plan
from tests.training.conftest import TIMINGS


def arspm(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name("arspm")), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=1200,
        env={**os.environ, "COLUMNS": "120", **environment},
    )


def submit(clips: Path, run: Path, *more: object) -> subprocess.CompletedProcess[str]:
    where = ["--csv", clips / "avspeech.csv", "--clips", clips / "clips", "--run", run, "--preset", "smoke"]
    return arspm("submit", *where, *more)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up speakers: `clips/`, avspeech.csv, labels.csv and speakers.parquet."""
    folder = tmp_path_factory.mktemp("cli") / "made-up"
    done = arspm("synth", folder, "--num-speakers", 14, "--clips-per-speaker", 2)
    assert done.returncode == 0, done.stderr
    return folder


class Chain(NamedTuple):
    """A run of the whole chain: its folder, what its submission printed, and what it had left when it ended."""

    run: Path
    said: str
    left: dict[str, Any]


@pytest.fixture(scope="session")
def chain(clips: Path, head: Any) -> Chain:
    """The whole chain on one node, on its disk."""
    run = clips.parent / "run"
    done = submit(clips, run)
    assert done.returncode == 0, done.stdout + done.stderr
    return Chain(run, done.stdout, left_by(str(run)))


def left_by(run: str) -> dict[str, Any]:
    """What a chain made: the hash of each table, network and picture, the histories without the clock's figures, and
    the report's figures."""
    found: dict[str, Any] = {}
    for stage in stages.STAGES:
        done = stages.success(run, stage)
        assert done is not None, stage
        for path, described in done.files.items():
            if path.endswith((".parquet", ".safetensors", ".jpg")):
                found[path] = described["sha256"]
            elif path.endswith("history.json"):
                found[path] = storage.read_json(storage.join(run, path))
                for epoch in found[path]["epochs"]:
                    for name in TIMINGS:
                        del epoch[name]
    metrics = storage.read_json(storage.join(run, "report", "metrics.json"))
    return found | {name: metrics[name] for name in ("table4", "table5", "table6")}


def commit(run: str, stage: str, config: Config) -> None:
    stages.commit(run, stage, fingerprint=stage[0] * 64, config=config, files={}, seconds=1.0, figures={})


@pytest.fixture
def encoded_run(write_corpus: Callable[..., Any], tmp_path: Path) -> str:
    """A run with what an encoder rests on, as far as a plan looks at it, and the speed of its own encoder."""
    write_corpus({"train": (13, 11), "val": (6,)}, feature_dim=64)
    config = override(preset("smoke"), {"data.csv": f"{tmp_path}/no.csv", "data.clips": f"{tmp_path}/clips"})
    for stage in ("gender", "prior", "decoder", "encoder"):
        commit(str(tmp_path), stage, config)
    figures = {"val_cos_degrees": 40.0, "val_l2": 3.0}
    epochs = [{"epoch": n, "step": 3 * n, "clips_per_second": 20.0 * n} | figures for n in (1, 2, 3)]
    storage.write_json(f"{tmp_path}/encoder/history.json", {"epochs": epochs, "losses": [], "best_epoch": 1})
    return str(tmp_path)


def keep(run: str, space: str = "loss_weights", **options: Any) -> tuple[str, dict[str, Any]]:
    """Plan a sweep and let it stand, as a command that is then cut off."""
    place, sweep = plan(run, space, Options(**options), {})
    save(place, sweep)
    return place, sweep

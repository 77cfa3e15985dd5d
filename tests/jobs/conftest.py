"""The `arspm` command, a run of all stages, and a run to sweep over, with a planned sweep."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from arspm import storage
from arspm.config import Config, override
from arspm.config.presets import preset
from arspm.runs import stages
from jobs.cli import app, readable
from jobs.sweep_options import Options
from jobs.sweep_plan import plan, save
from tests.training.conftest import TIMINGS


def arspm(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name("arspm")), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=1200,
        env={**os.environ, "COLUMNS": "120", **environment},
    )


def arspm_in_process(*words: object) -> int:
    """Run `arspm` in this process, so that `capsys` has its output; return the exit status."""

    def command() -> None:
        if status := app(list(map(str, words)), standalone_mode=False):  # of a typer.Exit
            raise typer.Exit(status)

    return readable(command)


def submit(clips: Path, run: Path, *more: object) -> subprocess.CompletedProcess[str]:
    where = ["--csv", clips / "avspeech.csv", "--clips", clips / "clips", "--run", run, "--preset", "smoke"]
    return arspm("submit", *where, *more)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic speakers: `clips/`, avspeech.csv, labels.csv and speakers.parquet."""
    folder = tmp_path_factory.mktemp("cli") / "made-up"
    done = arspm("synth", folder, "--num-speakers", 14, "--clips-per-speaker", 2)
    assert done.returncode == 0, done.stderr
    return folder


class Chain(NamedTuple):
    """A finished run: its folder, the output of `arspm submit`, and its artifacts (see `artifacts_of`)."""

    run: Path
    output: str
    artifacts: dict[str, Any]


@pytest.fixture(scope="session")
def chain(clips: Path, head: Any) -> Chain:
    """All stages on one node, on a local disk."""
    run = clips.parent / "run"
    done = submit(clips, run)
    assert done.returncode == 0, done.stdout + done.stderr
    return Chain(run, done.stdout, artifacts_of(str(run)))


def artifacts_of(run: str) -> dict[str, Any]:
    """The hashes of a run's tables, networks and pictures, its histories without timings, and the report's tables."""
    artifacts: dict[str, Any] = {}
    for stage in stages.STAGES:
        done = stages.success(run, stage)
        assert done is not None, stage
        for path, described in done.files.items():
            if path.endswith((".parquet", ".safetensors", ".jpg")):
                artifacts[path] = described["sha256"]
            elif path.endswith("history.json"):
                artifacts[path] = storage.read_json(storage.join(run, path))
                for epoch in artifacts[path]["epochs"]:
                    for name in TIMINGS:
                        del epoch[name]
    metrics = storage.read_json(storage.join(run, "report", "metrics.json"))
    return artifacts | {name: metrics[name] for name in ("table4", "table5", "table6")}


def commit(run: str, stage: str, config: Config) -> None:
    stages.commit(run, stage, fingerprint=stage[0] * 64, config=config, files={}, seconds=1.0, figures={})


@pytest.fixture
def encoded_run(write_corpus: Callable[..., Any], tmp_path: Path) -> str:
    """A run with the manifests that a sweep's plan reads, and a history of its own encoder."""
    write_corpus({"train": (13, 11), "val": (6,)}, feature_dim=64)
    config = override(preset("smoke"), {"data.csv": f"{tmp_path}/no.csv", "data.clips": f"{tmp_path}/clips"})
    for stage in ("gender", "prior", "decoder", "encoder"):
        commit(str(tmp_path), stage, config)
    figures = {"val_cos_degrees": 40.0, "val_l2": 3.0}
    epochs = [{"epoch": n, "step": 3 * n, "clips_per_second": 20.0 * n} | figures for n in (1, 2, 3)]
    storage.write_json(f"{tmp_path}/encoder/history.json", {"epochs": epochs, "losses": [], "best_epoch": 1})
    return str(tmp_path)


def plan_and_save(run: str, space: str = "loss_weights", **options: Any) -> tuple[str, dict[str, Any]]:
    """Plan a sweep and write its sweep.json, as a command does that is then interrupted."""
    folder, sweep = plan(run, space, Options(**options), {})
    save(folder, sweep)
    return folder, sweep

"""Sweeps on a real Ray: the ways a trial can run, what a sweep leaves, and what it goes on from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from arspm import schema, stages, storage, sweeps
from arspm.config import Config, ConfigError, override
from arspm.learning import artifacts, checkpoint
from arspm.model import speech_portrait
from arspm.presets import preset
from arspm.scale import in_memory, search, tuning
from arspm.scale.ingest import plan, stream
from arspm.scale.training import gather_rows

pytestmark = pytest.mark.ray
EPOCHS = 3
WEIGHTS = {"loss.lambda1": {"kind": "loguniform", "low": 0.1, "high": 10.0, "fields": ["loss.lambda1"]}}


@pytest.fixture
def run(driver: None, write_corpus: Callable[..., Any], tmp_path: Path) -> tuple[str, Config]:
    """A run with all that an encoder rests on, of random numbers, and its configuration."""
    torch.manual_seed(0)
    write_corpus({"train": (13, 11), "val": (6,)}, feature_dim=64)
    config = override(
        preset("smoke"),
        {
            "data.storage": "waveform",
            "training.encoder.epochs": EPOCHS,
            "training.encoder.augment": False,
            "resources.trial.cpus": 0.9,
        },
    )
    networks = {
        "vggface": speech_portrait.vggface(config, 5),
        "gender": speech_portrait.gender_classifier(config),
        "decoder": speech_portrait.face_decoder(config),
    }
    for name, model in networks.items():
        (tmp_path / name).mkdir()
        checkpoint.write_weights(tmp_path / name / artifacts.MODEL, model.state_dict())
    (tmp_path / "prior").mkdir()
    priors = {name: torch.randn(64) for name in ("neutral", *schema.GENDERS)}
    checkpoint.write_weights(tmp_path / "prior" / artifacts.PRIORS, priors)
    for stage in ("prior", "gender", "decoder"):
        stages.commit(str(tmp_path), stage, fingerprint="f" * 64, config=config, files={}, seconds=1.0, figures={})
    return str(tmp_path), config


def sweep_of(config: Config, **changed: Any) -> dict[str, Any]:
    return {
        "name": "one",
        "run": "run",
        "preset": "smoke",
        "space": WEIGHTS,
        "search": "random",
        "scheduler": "none",
        "num_trials": 2,
        "metric": "val_cos_degrees",
        "mode": "min",
        "seed": 0,
        "epochs": EPOCHS,
        "steps_per_epoch": 3,
        "max_concurrent": 1,
        "created": 0.0,
        "clips": [],
        "paper": {"loss.lambda1": 1.0},
        "warm_start": None,
        "config": config.model_dump(mode="json"),
    } | changed


def go(run: str, config: Config, samples: list[dict[str, Any]], **changed: Any) -> dict[str, Any]:
    """Run a sweep of listed samples in `<run>/sweeps/one`."""
    sweep = sweep_of(config, num_trials=len(samples), **changed)
    place = sweeps.folder(run, sweep["name"])
    storage.write_json(storage.join(place, sweeps.SWEEP), sweep)
    return tuning.run_sweep(
        place,
        run,
        config,
        sweep,
        search.Listed(samples),
        lambda sample: sample,
        is_paper=lambda sample: sample == sweep["paper"],
    )


def test_batches_from_memory_are_those_that_are_streamed(run: tuple[str, Config]) -> None:
    uri, config = run
    rows = gather_rows("encoder", config, uri)
    held = in_memory.hold(rows.readings)
    progress = checkpoint.Progress(epoch=0, step_in_epoch=1)
    expected = list(
        stream(
            rows.readings,
            plan(rows.readings, EPOCHS, 0, 1),
            rank=0,
            world_size=1,
            tasks=config.resources.read,
            prefetch_batches=2,
        )
    )
    found = list(in_memory.batches(rows, held, EPOCHS, progress))
    assert len(found) == len(expected) == EPOCHS * 4 - 1
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert np.asarray(one[name]).dtype == np.asarray(other[name]).dtype, name
            assert np.array_equal(one[name], other[name]), name


def test_a_sweep_leaves_records_a_page_portraits_and_curves(run: tuple[str, Config]) -> None:
    uri, config = run
    samples = [{"loss.lambda1": 1.0}, {"loss.lambda1": 3.0}, {"loss.lambda1": 0.3}]
    results = go(uri, config, samples)
    place = sweeps.folder(uri, "one")
    assert results["state"] == "finished"
    assert results["counts"]["finished"] == 3
    assert [trial["sample"] for trial in results["trials"]] == samples
    for trial in results["trials"]:
        assert [epoch["epoch"] for epoch in trial["epochs"]] == [1, 2, 3]
        assert trial["best"] == min(epoch["val_cos_degrees"] for epoch in trial["epochs"])
        assert trial["attempts"] == 1
        assert storage.exists(storage.join(place, f"tensorboard/{trial['number']:05d}"))
    assert results["paper"] == {"numbers": [0], "mean": results["trials"][0]["best"], "sd": None}
    assert set(results["pictures"]["trials"]) == {"0", "1", "2"}
    assert results["pictures"]["real"].startswith("data:image/jpeg;base64,")
    assert results["config_of_best"]["loss"]["lambda1"] == samples[results["best"]]["loss.lambda1"]
    assert sweeps.read_records(place) == {trial["number"]: trial for trial in results["trials"]}
    assert "<!doctype html>" in Path(place, "index.html").read_text()[:20].lower()
    left = {path.name for path in Path(place).iterdir()}
    assert left == {"sweep.json", "results.json", "index.html", "clips.jpg", "trials", "tensorboard"}

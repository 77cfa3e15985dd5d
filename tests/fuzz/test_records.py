"""JSON files of stages, sweeps and users: configurations, manifests, histories, records."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from arspm import config as configuration
from arspm import storage
from arspm.config import ConfigError, presets
from arspm.model.vggface_check import NUM_STATED, parse_stated
from arspm.report import charts, gather
from arspm.runs import optuna_journal, spent, stages, sweeps
from arspm.runs.usage import Requested
from tests.fuzz.entry_points import Mutated, num_inputs, try_inputs
from tests.fuzz.mutations import BYTES, DEEP, JSON, ODD_TEXTS, json_field
from tune_spaces import space as spaces

pytestmark = pytest.mark.slow  # thousands of inputs, each in a child process


def with_file_name(path: Path, error: Exception) -> ValueError:
    """Add the file's name to an error of a function that reads text, as its callers do."""
    return ValueError("\n".join(f"{path.name}: {line}" for line in str(error).splitlines()))


# --- configurations


def config_file(path: Path) -> None:
    try:
        found = configuration.load(path.read_bytes())
    except ConfigError as error:
        raise with_file_name(path, error) from None
    assert configuration.load(configuration.dump(found)) == found


def changes(path: Path) -> None:
    """Apply lines `name=value`, as after --set."""
    lines = path.read_bytes().decode("utf-8", "replace").split("\n")
    pairs = dict(line.partition("=")[::2] for line in lines)
    try:
        found = configuration.override(presets.preset("smoke"), pairs)
    except ConfigError as error:
        raise with_file_name(path, error) from None
    assert configuration.load(configuration.dump(found)) == found


def test_configurations() -> None:
    seeds = tuple(configuration.dump(preset).encode() for preset in presets.PRESETS.values())
    tally = try_inputs(config_file, Mutated(seeds, JSON, num_inputs(200)), name="config.json")
    assert tally["refused"] > tally.total() // 10
    many = json.dumps({f"field{n}" * 20: n for n in range(20_000)}).encode()
    bombs = [
        DEEP,
        many,
        json.dumps({"x" * 2_000_000: 1}).encode(),
        b'{"seed":' * 50_000,
        b'{"seed": ' + b"9" * 10**6 + b"}",
    ]
    bombs += [json.dumps({"preset": "x" * 10**6, "seed": "y" * 10**6}).encode(), b'{"a\\nb\\u001b[31m": 1}']
    assert try_inputs(config_file, bombs, name="config.json")["refused"] == len(bombs)


def test_changes_of_a_configuration() -> None:
    names = configuration.field_names()
    seeds = ("\n".join(f"{name}=1" for name in names[:20]).encode(), b"loss.lambda1=0.5\nprior.kind=gender\nseed=3")
    seeds += tuple(f"{name}={value}".encode() for name in names[::9] for value in ODD_TEXTS[::4])
    tally = try_inputs(changes, Mutated(seeds, BYTES, num_inputs(150)), name="changes")
    assert tally["refused"] > tally.total() // 10


# --- stages


def stage_manifest(path: Path) -> None:
    run = path.parent / "run"
    (run / "encoder").mkdir(parents=True, exist_ok=True)
    (run / "encoder" / stages.SUCCESS).write_bytes(path.read_bytes())
    found = stages.success(str(run), "encoder")
    assert found is not None
    assert isinstance(found.fingerprint, str)
    assert all(isinstance(value, str) for value in found.upstream.values())
    assert math.isfinite(found.seconds)
    assert isinstance(found.figures, dict)
    summed = spent.total(spent.own_entries(str(run), {"encoder": found}))
    assert summed.gpu_hours is None or math.isfinite(summed.gpu_hours)
    assert summed.usd is None or math.isfinite(summed.usd)
    assert all(isinstance(each, dict) for each in found.files.values())
    stages.done(str(run), "encoder", "x")
    assert stages.finished_config(str(run), "encoder").seed >= 0


def test_manifests_of_stages(tmp_path: Path) -> None:
    stages.commit(
        str(tmp_path),
        "encoder",
        fingerprint="f" * 64,
        config=presets.preset("smoke"),
        files={"encoder/model.safetensors": {"bytes": 3, "sha256": "0" * 64}},
        seconds=1.5,
        figures={"val_loss": 0.5},
        usage=Requested(workers=2, least_workers=1, cpus=4, gpus=2).used(1.5, ["A10G"]),
    )
    seeds = ((tmp_path / "encoder" / stages.SUCCESS).read_bytes(),)
    tally = try_inputs(stage_manifest, Mutated(seeds, JSON, num_inputs(200)), name=stages.SUCCESS)
    assert tally["refused"] > tally.total() // 10
    assert try_inputs(stage_manifest, [DEEP, b"null", b"[]", b'"x"'], name=stages.SUCCESS)["refused"] == 4


def history_file(path: Path) -> None:
    """Draw the report's charts from a training history."""
    run = path.parent / "run"
    for stage in configuration.TRAINED_STAGES:
        (run / stage).mkdir(parents=True, exist_ok=True)
        (run / stage / path.name).write_bytes(path.read_bytes())
    found = gather.histories(str(run))
    assert set(found) == set(configuration.TRAINED_STAGES)
    for stage, history in found.items():
        json.dumps(charts.loss_chart(stage, history), allow_nan=False)
        assert math.isfinite(sum(epoch["clips_per_second"] for epoch in history["epochs"]))


def test_histories_of_trainings() -> None:
    epochs = [
        {"train_loss": 3.0 / n, objective: 0.5, "epoch": n, "step": 10 * n, "clips_per_second": 51.2, "data_wait": 0.0}
        for n, objective in enumerate(gather.OBJECTIVES.values(), 1)
    ]
    history = {"epochs": epochs, "losses": [[step, 3.0 / step] for step in range(1, 9)], "best_epoch": 2}
    seeds = (json.dumps(history).encode(),)
    tally = try_inputs(history_file, Mutated(seeds, JSON, num_inputs(125)), name=stages.HISTORY)
    assert min(tally["refused"], tally["accepted"]) > tally.total() // 10
    inputs = [DEEP, b"null", b"[]", b"{}", json.dumps(history | {"epochs": []}).encode()]
    for odd in ("NaN", "1e999", "-1e308", '"1"', "9" * 400, "true", "[]", "null", "0"):
        inputs.append(seeds[0].replace(b"51.2", odd.encode()))
    for odd in ("a\n\u001b[31m", "x" * 5000, "<script>", ""):
        inputs.append(json.dumps(history | {"epochs": [epochs[0] | {odd: 1.0}]}).encode())
        inputs.append(json.dumps(history | {"epochs": [epochs[0] | {odd: "x" * 5000}]}).encode())
    assert try_inputs(history_file, inputs, name=stages.HISTORY)["refused"] == len(inputs)
    for value in (1e308, -1.7e308, 1.7e308, 0):  # these become an axis
        inputs = [seeds[0].replace(b"0.5", json.dumps(value).encode())]
        assert try_inputs(history_file, inputs, name=stages.HISTORY)["accepted"] == 1


# --- sweeps


def sweep_file(path: Path) -> None:
    found = sweeps.load(str(path.parent))
    assert {"space", "metric", "mode", "config"} <= found.keys()


def sweep_results(path: Path) -> None:
    folder = path.parent / sweeps.FOLDER / "s"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / sweeps.RESULTS).write_bytes(path.read_bytes())
    found = sweeps.read_results(str(folder))
    assert found is not None
    assert "\n" not in sweeps.summary(found, running=False)


SPACE = {"loss.lambda1": {"kind": "loguniform", "low": 0.1, "high": 10.0}}


def trial_record(path: Path) -> None:
    folder = path.parent / sweeps.TRIALS
    folder.mkdir(exist_ok=True)
    (folder / path.name).write_bytes(path.read_bytes())
    found = sweeps.read_records(str(path.parent))
    sweep = {"num_trials": 3, "mode": "min", "metric": "val_loss", "max_concurrent": 1}
    every = list(found.values())
    results = sweeps.results(
        sweep, every, state="done", updated=1.0, spent_seconds=1.0, importance=None, pictures={}, config_of_best=None
    )
    json.dumps(results, allow_nan=False)
    sweeps.best(every, "min")
    optuna_journal.journal(sweep | {"space": SPACE}, found)


def test_sweeps(tmp_path: Path) -> None:
    record = sweeps.new_record(3, {"loss.lambda1": 0.5}, {"loss.lambda1": 0.5}, True)
    sweeps.add_epoch(record, {"epoch": 1, "val_loss": 0.5, "seconds": 2.0}, "val_loss", "min")
    record |= {"state": "finished", "started": 1.0, "ended": 3.0}
    sweep = {"num_trials": 3, "mode": "min", "metric": "val_loss", "max_concurrent": 1, "config": {}, "space": {}}
    results = sweeps.results(
        sweep, [record], state="done", updated=1.0, spent_seconds=1.0, importance=None, pictures={}, config_of_best=None
    )
    for entry_point, seed, name in (
        (trial_record, record, "00003.json"),
        (sweep_results, results, sweeps.RESULTS),
        (sweep_file, sweep, sweeps.SWEEP),
    ):
        seeds = (json.dumps(seed).encode(),)
        tally = try_inputs(entry_point, Mutated(seeds, JSON, num_inputs(125)), name=name)
        assert tally["refused"] > tally.total() // 10
        assert try_inputs(entry_point, [DEEP, b"null", b"[]", b"{}"], name=name)["refused"] == 4


def sample(path: Path) -> None:
    """Apply a sample of a shipped space, as a search or an earlier sweep provides it."""
    _, space = spaces.load("joint")
    try:
        loaded = json.loads(path.read_bytes())
        if not isinstance(loaded, dict):
            raise ValueError("a sample is an object")
        configuration.override(presets.preset("smoke"), spaces.changes(space, loaded))
    except (ConfigError, ValueError, RecursionError):
        raise ValueError(f"{path.name}: refused") from None  # its message is not for users


def test_samples_of_a_space() -> None:
    _, space = spaces.load("joint")
    seeds = tuple(json.dumps(each).encode() for each in spaces.random_samples(space, 5, 0))
    tally = try_inputs(sample, Mutated(seeds, JSON, num_inputs(100)), name="sample.json")
    assert tally["refused"] > tally.total() // 10


# --- stated activations


def stated(path: Path) -> None:
    parse_stated(storage.read_json(str(path)), path.name)


def test_stated_activations() -> None:
    seeds = (json.dumps({"fc7": [0.5] * NUM_STATED, "image": "x.jpg", "tolerance": 0.1}).encode(),)
    tally = try_inputs(stated, Mutated(seeds, (*BYTES, json_field), num_inputs(75)), name="weights.check.json")
    assert tally["refused"] > tally.total() // 10

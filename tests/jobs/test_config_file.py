"""Configuration files in YAML, TOML and JSON: types, precedence, and errors with file and field."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from arspm.config import ConfigError, dump
from arspm.config.presets import PRESETS, preset
from jobs.commands.config_file import read_config
from jobs.commands.settings import resolve_config

YAML = """
seed: 3
loss: {lambda1: 1e-4}
training:
  encoder: {learning_rate: 5e-5, epochs: 7, num_lanes: null}
resources:
  encoder: {num_workers: [1, 4]}
prior: {kind: none}
"""
TOML = """
seed = 3
prior.kind = "none"
loss.lambda1 = 1e-4
[training.encoder]
learning_rate = "5e-5"
epochs = 7
num_lanes = "null"
[resources.encoder]
num_workers = [1, 4]
"""


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_yaml_toml_and_json_give_the_same_typed_configuration(tmp_path: Path) -> None:
    in_json = json.dumps(
        {
            "seed": 3,
            "loss": {"lambda1": 1e-4},
            "training": {"encoder": {"learning_rate": 5e-5, "epochs": 7, "num_lanes": None}},
            "resources": {"encoder": {"num_workers": [1, 4]}},
            "prior": {"kind": "none"},
        }
    )
    files = {"a.yaml": YAML, "b.yml": YAML, "c.toml": TOML, "d.json": in_json, "e.conf": in_json}
    found = [read_config(write(tmp_path, name, text), "demo") for name, text in files.items()]
    assert all(config == found[0] for config in found)
    config = found[0]
    assert (config.loss.lambda1, config.training.encoder.learning_rate) == (1e-4, 5e-5), "a number, not text"
    assert (config.seed, config.prior.kind, config.training.encoder.num_lanes) == (3, "none", None)
    assert config.resources.encoder.most == 4
    assert config.image_size == preset("demo").image_size, "what the file leaves out is the preset's"


def test_the_preset_is_overridden_by_the_file_and_the_file_by_set(tmp_path: Path) -> None:
    file = write(tmp_path, "mine.yaml", "seed: 3\nloss: {lambda1: 0.5}\ndata: {csv: /x.csv, clips: /x}")
    config = resolve_config("demo", file, {}, {"seed": "4"})
    assert (config.preset, config.seed, config.loss.lambda1) == ("demo", 4, 0.5)
    assert config.loss.lambda2 == preset("demo").loss.lambda2
    assert resolve_config(None, file, {}, {}).preset == "paper"
    named = write(tmp_path, "named.toml", 'preset = "smoke"\n[data]\ncsv = "/x.csv"\nclips = "/x"\n')
    assert resolve_config(None, named, {}, {}).image_size == 64


@pytest.mark.parametrize("name", PRESETS)
def test_a_complete_configuration_is_read_back(name: str, tmp_path: Path) -> None:
    file = write(tmp_path, "whole.json", dump(preset(name)))
    assert read_config(file, None) == read_config(file, "smoke") == preset(name)


def test_a_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    tree = json.loads(dump(preset("smoke")))
    tree["ingest"]["num_lanes"] = 2
    config = read_config(write(tmp_path, "old.json", json.dumps(tree)), None)
    assert config.training.encoder.num_lanes == 2


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.yaml", "loss: {lamda1: 1}", "a.yaml: loss.lamda1: there is no such field; did you mean loss.lambda1"),
        ("a.toml", "[los]\nlambda1 = 1", "a.toml: los: there is no such field"),
        ("a.yaml", "loss: 3", "a.yaml: loss: a section, not a field; its fields: loss.lambda1"),
        ("a.yaml", "seed: many", "a.yaml: seed: Input should be a valid integer"),
        ("a.yaml", "loss: {lambda1: much}", "a.yaml: loss.lambda1: Input should be a valid number"),
        ("a.yaml", "data: {csv: 3}", "a.yaml: data.csv: Input should be a valid string"),
        ("a.yaml", "seed: 1\nseed: 2", "a.yaml: not a configuration: the text is not YAML (a key occurs twice"),
        ("a.yaml", "a: &x 1\nb: *x", "a.yaml: not a configuration: the text is not YAML (aliases"),
        ("a.yaml", "- 1", "a.yaml: not a configuration: the YAML text is not an object"),
        ("a.yaml", "3: 4", "a.yaml: 3: not a name of a field"),
        ("a.yaml", "seed: !!python/object:os.system {}", "a.yaml: not a configuration: the text is not YAML"),
        ("a.toml", "seed = ", "a.toml: not a configuration: the text is not TOML"),
        ("a.json", "{", "a.json: not a configuration: the text is not JSON"),
        ("a.yaml", "x" * 300_000, "a.yaml: not a configuration: more than 256 KiB"),
    ],
)
def test_an_error_names_the_file_and_the_field(name: str, text: str, says: str, tmp_path: Path) -> None:
    file = write(tmp_path, name, text)
    with pytest.raises(ConfigError, match=re.escape(says)) as caught:
        read_config(file, None)
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_all_problems_of_a_file_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(write(tmp_path, "a.yaml", "seed: many\nloss: {lambda1: much, lambda2: 0.1}"), None)
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == ["seed", "loss.lambda1"]
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_config(str(tmp_path / "none.yaml"), None)

"""The samples of a space, and how a space is found. `test_space_check.py` has the problems of invalid spaces."""

from __future__ import annotations

import importlib.util
import json
import marshal
import math
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from arspm.config import Config, ConfigError, override
from arspm.config.presets import PAPER, preset
from arspm.runs.stages import STAGES
from tune_spaces import space as spaces
from tune_spaces.space import Choice, LogUniform, Uniform

VARIES = STAGES["encoder"].reads
PRIORS = ("prior.kind", "speech_encoder.fusion")


def value(config: Config, name: str) -> Any:
    found: Any = config
    for part in name.split("."):
        found = getattr(found, part)
    return found


# --- samples


def test_names_labels_and_changes_of_a_sample():
    space = {
        PRIORS: Choice({"bare": ("none", "fc"), "mean face": ("neutral", "sum")}),
        ("loss.lambda1", "loss.identity"): Choice([(1, "cosine"), (0.5, "distillation")]),
        "training.encoder.augment": Choice([True, False]),
        "ingest.subset": Choice([None, 100]),
        "training.encoder.learning_rate": Choice({"slow": 1e-4, "fast": "1e-3"}),
        "loss.lambda2": Uniform(0, 1),
    }
    spaces.check(space, PAPER, varies=VARIES)
    assert [each.name for each in spaces.dimensions(space)] == [
        "prior.kind+speech_encoder.fusion",
        "loss.lambda1+loss.identity",
        "training.encoder.augment",
        "ingest.subset",
        "training.encoder.learning_rate",
        "loss.lambda2",
    ]
    sample = {
        "prior.kind+speech_encoder.fusion": "mean face",
        "loss.lambda1+loss.identity": "0.5+distillation",
        "training.encoder.augment": "true",
        "ingest.subset": "null",
        "training.encoder.learning_rate": "fast",
        "loss.lambda2": 0.25,
    }
    found = spaces.changes(space, json.loads(json.dumps(sample)))
    assert found == {
        "prior.kind": "neutral",
        "speech_encoder.fusion": "sum",
        "loss.lambda1": 0.5,
        "loss.identity": "distillation",
        "training.encoder.augment": True,
        "ingest.subset": None,
        "training.encoder.learning_rate": "1e-3",
        "loss.lambda2": 0.25,
    }
    config = override(PAPER, found)
    assert spaces.sample_of(space, config) == sample
    assert value(config, "training.encoder.learning_rate") == 1e-3


def test_samples_are_json_and_are_recovered_from_the_configuration():
    for name in spaces.shipped():
        space = spaces.load(name)[1]
        for sample in spaces.random_samples(space, 40, seed=7):
            again = json.loads(json.dumps(sample, allow_nan=False))
            assert again == sample
            assert spaces.sample_of(space, override(PAPER, spaces.changes(space, again))) == sample


def test_a_sample_of_another_space_is_refused_with_all_its_problems():
    space = {"speech_encoder.cbam": Choice(["parallel", "none"]), "loss.lambda1": Uniform(0, 1), "seed": Choice([0])}
    with pytest.raises(ConfigError) as caught:
        spaces.changes(space, {"speech_encoder.cbam": "both", "loss.lambda1": "much", "loss.lambda2": 1})
    assert str(caught.value).splitlines() == [
        "loss.lambda2: not a dimension of the space",
        "speech_encoder.cbam: 'both' is none of parallel, none",
        "loss.lambda1: must be a number, got 'much'",
        "seed: missing in the sample",
    ]


def test_the_grid_is_every_combination_the_last_dimension_fastest():
    space = {
        "speech_encoder.cbam": Choice(["parallel", "none"]),
        PRIORS: Choice({"a": ("none", "fc"), "b": ("neutral", "fc"), "c": ("neutral", "sum")}),
        "seed": Choice([3, 1]),
    }
    expected = []
    for cbam in ("parallel", "none"):
        for prior in ("a", "b", "c"):
            for seed in (3, 1):
                expected.append({"speech_encoder.cbam": cbam, "prior.kind+speech_encoder.fusion": prior, "seed": seed})
    assert spaces.grid(space) == expected


def test_a_grid_refuses_ranges_by_name():
    with pytest.raises(ConfigError) as caught:
        spaces.grid({"loss.lambda1": LogUniform(1, 2), "seed": Choice([0]), "loss.lambda2": Uniform(0, 1)})
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["loss.lambda1", "loss.lambda2"]
    assert "LogUniform" in lines[0]
    assert "Choice" in lines[0]


def test_a_grid_has_a_largest_size():
    space = {"loss.lambda1": Choice(range(100)), "loss.lambda2": Choice(range(100))}
    assert len(spaces.grid(space)) == 10_000
    with pytest.raises(
        ConfigError, match=r"^SPACE: a grid of 20,000 trials, at most 10,000 are allowed; remove values"
    ):
        spaces.grid(space | {"seed": Choice([0, 1])})


@pytest.mark.parametrize(("low", "high"), [(0.004, 0.4), (1e-6, 30.0), (2, 3)])
def test_log_uniform_is_scipys(low, high):
    drawn = [each["loss.lambda1"] for each in spaces.random_samples({"loss.lambda1": LogUniform(low, high)}, 4000, 5)]
    assert stats.kstest(drawn, stats.loguniform(low, high).cdf).pvalue > 0.01
    if high > 2 * low:  # otherwise the test could not tell the two distributions apart
        assert stats.kstest(drawn, stats.uniform(low, high - low).cdf).pvalue < 1e-6


def test_uniform_is_scipys():
    drawn = [each["loss.lambda1"] for each in spaces.random_samples({"loss.lambda1": Uniform(0.5, 4)}, 4000, 5)]
    assert stats.kstest(drawn, stats.uniform(0.5, 3.5).cdf).pvalue > 0.01


def test_choices_are_equally_likely_and_dimensions_independent():
    space = {"seed": Choice([0, 1, 2]), "speech_encoder.cbam": Choice(["parallel", "none"])}
    drawn = spaces.random_samples(space, 3000, 11)
    table = np.array(
        [
            [
                sum(each == {"seed": seed, "speech_encoder.cbam": cbam} for each in drawn)
                for cbam in ("parallel", "none")
            ]
            for seed in (0, 1, 2)
        ]
    )
    assert table.sum() == 3000
    assert stats.chisquare(table.ravel()).pvalue > 0.01


def test_a_sample_depends_on_the_seed_and_its_number_only():
    space = spaces.load("joint")[1]
    whole = spaces.random_samples(space, 30, seed=3)
    assert spaces.random_samples(space, 5, seed=3) == whole[:5]
    others = spaces.random_samples(space, 30, seed=4)
    for dimension in ("loss.lambda1", "loss.lambda3"):
        assert len({each[dimension] for each in (*whole, *others)}) == 60
    # NumPy's own stream for (seed, number), first dimension first
    part = np.random.default_rng([3, 17]).random()
    assert whole[17]["loss.lambda1"] == pytest.approx(stats.loguniform(0.1, 10).ppf(part), rel=1e-12)


def test_rounding_never_leaves_the_range():
    for low, high in ((0.1, 0.1 + 1e-16), (0.3, math.nextafter(0.3, 1)), (1e-300, 1e300), (3, 7)):
        for kind in (LogUniform, Uniform):
            found = [each["x"] for each in spaces.random_samples({"x": kind(low, high)}, 200, 0)]
            assert low <= min(found) <= max(found) <= high


def test_values_outside_the_space_are_left_out():
    space = {
        "loss.lambda1": LogUniform(2, 3),
        "loss.lambda2": LogUniform(0.04, 1),
        "speech_encoder.cbam": Choice(["parallel", "none"]),
        PRIORS: Choice([("neutral", "sum"), ("none", "fc")]),
        "seed": Choice([1, 0]),
    }
    assert spaces.sample_of(space, PAPER) == {"loss.lambda2": 0.04, "seed": 0}


def test_a_description_is_complete_json():
    space = {"loss.lambda1": LogUniform(0.1, 10), "loss.lambda2": Uniform(0, 1), PRIORS: Choice({"n": ("none", "fc")})}
    assert json.loads(json.dumps(spaces.describe(space))) == {
        "loss.lambda1": {"kind": "loguniform", "low": 0.1, "high": 10, "fields": ["loss.lambda1"]},
        "loss.lambda2": {"kind": "uniform", "low": 0, "high": 1, "fields": ["loss.lambda2"]},
        "prior.kind+speech_encoder.fusion": {"kind": "choice", "values": ["n"], "fields": list(PRIORS)},
    }


# --- finding a space


def write(folder: Path, text: str, name: str = "my_space.py") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


OWN = """
from tune_spaces.loss_weights import SPACE as WEIGHTS
from tune_spaces.space import Choice, LogUniform, Space

SPACE: Space = {
    **WEIGHTS,
    "training.encoder.learning_rate": LogUniform(1e-4, 1e-2),
    ("prior.kind", "speech_encoder.fusion"): Choice({"alone": ("none", "fc"), "mean": ("neutral", "sum")}),
}
"""


def test_a_user_s_own_file_is_loaded(tmp_path, monkeypatch):
    path = write(tmp_path, OWN)
    name, space = spaces.load(path)
    assert name == "my_space"
    assert list(space)[3:] == ["training.encoder.learning_rate", PRIORS]
    for each in ("demo", "smoke", "paper"):
        spaces.check(space, preset(each), varies=VARIES)
    monkeypatch.chdir(tmp_path)
    assert spaces.load("my_space.py") == spaces.load("./my_space.py") == (name, space)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("SPACES = {}", ": defines no SPACE; write SPACE = {field: domain}"),
        ("", ": defines no SPACE"),
        ("SPACE = {\n  'seed': Choice([1]),\n}", ", line 2: NameError: name 'Choice' is not defined"),
        ("x = 1\nSPACE = {'seed': }\n", ", line 2: SyntaxError: "),
        ("from tune_spaces.space import LogUniform\n\nSPACE = {'seed': LogUniform(1)}", ", line 3: TypeError: "),
        ("import nowhere_to_be_found", ", line 1: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("\nraise ValueError('a\\nb')", ", line 2: ValueError: a b"),
        ("import sys\nsys.exit()", ", line 2: SystemExit: no message"),
        ("SPACE = 3", ": SPACE: must be a dict"),
        ("SPACE = {'seed': [1]}", ": seed: a domain must be LogUniform"),
    ],
)
def test_an_invalid_file_gives_one_line_with_its_line_number(tmp_path, text, told):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        spaces.load(path)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(path + told), line
    cause = caught.value.__cause__  # the log has the whole traceback
    assert (cause is None) == ("Error" not in told and "SystemExit" not in told)


def test_the_reported_line_is_in_the_user_s_file(tmp_path):
    """Not the line in the library that the user's line calls."""
    path = write(tmp_path, "import json\n\n\nSPACE = json.loads('{')\n")
    with pytest.raises(ConfigError, match=r"my_space\.py, line 4: JSONDecodeError: "):
        spaces.load(path)


def test_only_source_text_is_run(tmp_path):
    """An archive that contains a program, and a compiled program, both named .py."""
    with zipfile.ZipFile(tmp_path / "archive.py", "w") as file:
        file.writestr("__main__.py", OWN)
    compiled = importlib.util.MAGIC_NUMBER + bytes(12) + marshal.dumps(compile(OWN, "x", "exec"))
    (tmp_path / "compiled.py").write_bytes(compiled)
    for name in ("archive.py", "compiled.py"):
        with pytest.raises(ConfigError, match=rf"{name}: \w+Error: source code string cannot contain null bytes$"):
            spaces.load(str(tmp_path / name))


def test_a_file_may_define_classes(tmp_path):
    program = "from __future__ import annotations\nimport dataclasses\n\n@dataclasses.dataclass\nclass A:\n    x: int\n"
    assert spaces.load(write(tmp_path, program + OWN))[0] == "my_space"


def test_missing_files_and_unknown_names_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.py: no such file"):
        spaces.load(str(tmp_path / "nothing.py"))
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(FileNotFoundError, match=r"folder\.py: no such file"):
        spaces.load(str(tmp_path / "folder.py"))
    for name in ("los_weights", "space", "domains", "samples", "files", "", "os", "./my_space"):
        with pytest.raises(ConfigError) as caught:
            spaces.load(name)
        (line,) = str(caught.value).splitlines()
        assert line.startswith(f"{name}: no such space; the spaces are {', '.join(spaces.shipped())}")
        assert ".py" in line


def test_spaces_import_neither_ray_nor_torch_nor_optuna():
    code = (
        "import sys; from tune_spaces import space; [space.load(name) for name in space.shipped()]; "
        "sys.exit(str({'ray', 'torch', 'optuna'} & set(sys.modules)) if {'ray', 'torch', 'optuna'} & set(sys.modules)"
        " else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr

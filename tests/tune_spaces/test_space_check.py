"""Every problem of a space is reported before anything runs, one line each."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from arspm.config import Config, ConfigError
from arspm.config.presets import PAPER
from arspm.runs.stages import STAGES
from tune_spaces import space as spaces
from tune_spaces.space import Choice, LogUniform, Uniform

VARIES = STAGES["encoder"].reads
PRIORS = ("prior.kind", "speech_encoder.fusion")


def problems(space: Any, config: Config = PAPER) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        spaces.check(space, config, varies=VARIES)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("space", "parts"),
    [
        ({"los.lambda1": Uniform(0, 1)}, ["los.lambda1: there is no such field; did you mean", "loss.lambda1"]),
        ({"loss": Uniform(0, 1)}, ["loss: a section, not a field; its fields: loss.lambda1"]),
        ({("prior.kind", "x.y"): Choice([("none", 1)])}, ["x.y: there is no such field"]),
        ({"face_decoder.width": Uniform(0.1, 1)}, ["face_decoder.width: belongs to another stage", "another run"]),
        ({"prior.num_faces": Choice([10])}, ["prior.num_faces: belongs to another stage", "prior.kind"]),
        ({"training.encoder_.x": Uniform(0, 1)}, ["training.encoder_.x: there is no such field"]),
        (
            {"loss.lambda1": Uniform(0, 1), ("loss.lambda2", "loss.lambda1"): Choice([(1, 2)])},
            ["loss.lambda2+loss.lambda1: loss.lambda1 is also varied by loss.lambda1"],
        ),
        ({("seed", "seed"): Choice([(1, 1)])}, ["seed+seed: seed is in the key twice"]),
        ({("seed",): Choice([1])}, ["seed: a tuple of one field; write 'seed' without the tuple"]),
        ({(): Choice([1])}, ["(): a key must be a field's name"]),
        ({3: Choice([1])}, ["3: a key must be a field's name"]),
        ({"": Choice([1])}, ["'': a key must be a field's name"]),
        ({}, ["SPACE: must be a dict with at least one entry"]),
        ([("seed", Choice([1]))], ["SPACE: must be a dict"]),
        ({"seed": Choice([])}, ["seed: a Choice without values"]),
        ({"seed": Choice({})}, ["seed: a Choice without values"]),
        ({"seed": Choice("012")}, ["seed: a Choice takes a list of values", "'012'"]),
        ({"seed": Choice(7)}, ["seed: a Choice takes a list of values", "7"]),
        ({"seed": Choice(np.arange(40))}, ["seed: a Choice takes a list of values"]),
        ({"seed": Choice([1, 1.0])}, ["seed: 1 is listed twice"]),
        ({"seed": Choice({1: 1})}, ["seed: a label must be text, got 1"]),
        ({"seed": Choice({"a\nb": 1})}, ["seed: a label must be text, got 'a\\nb'"]),
        ({"seed": Choice([{1}])}, ["seed: a value must be text, a finite number, a bool or None, got {1}"]),
        ({"seed": Choice([(1, 2)])}, ["seed: a value must be text, a finite number", "(1, 2)"]),
        ({"loss.lambda1": Choice([math.nan])}, ["loss.lambda1: a value must be text, a finite number", "nan"]),
        ({PRIORS: Choice(["none"])}, ["fusion: each value must be a tuple of 2, one per field, got 'none'"]),
        ({PRIORS: Choice([("none", "fc", 1)])}, ["fusion: each value must be a tuple of 2, one per field"]),
        ({("loss.lambda1", "loss.lambda2"): Uniform(0, 1)}, ["fields that vary together need a Choice"]),
        ({"seed": [0, 1]}, ["seed: a domain must be LogUniform(low, high)", "[0, 1]"]),
        ({"loss.lambda1": Uniform(2, 1)}, ["loss.lambda1: low must be less than high, got 2 and 1"]),
        ({"loss.lambda1": LogUniform(1, 1)}, ["loss.lambda1: low must be less than high, got 1 and 1"]),
        ({"loss.lambda1": LogUniform(0, 1)}, ["loss.lambda1: low of a LogUniform must be greater than 0, got 0"]),
        ({"loss.lambda1": Uniform(0, math.inf)}, ["loss.lambda1: low and high must be finite", "inf"]),
        ({"loss.lambda1": Uniform(math.nan, 1)}, ["loss.lambda1: low and high must be finite", "nan"]),
        ({"loss.lambda1": Uniform("0", 1)}, ["loss.lambda1: low and high must be finite", "'0'"]),
        ({"loss.lambda1": Uniform(0, 10**400)}, ["loss.lambda1: low and high must be finite"]),
        ({"seed": Choice(b"012")}, ["seed: a Choice takes a list of values", "b'012'"]),
        ({"seed": Choice(range(10**30))}, ["seed: a Choice of more than 1000 values"]),
        ({"seed": Choice([0] * 100_000)}, ["seed: a Choice of more than 1000 values"]),
        ({"seed": Choice(range(600)), "loss.lambda1": Choice(range(600))}, ["SPACE: 1200 values in all Choices"]),
        ({"seed": Choice({"x" * 201: 1})}, ["seed: a label or a value of 201 characters; at most 200"]),
        ({"speech_encoder.cbam": Choice(["x" * 201])}, ["cbam: a label or a value of 201 characters; at most 200"]),
        ({"speech_encoder.cbam_reduction": Uniform(4, 16)}, ["cbam_reduction: Uniform is for", "use Choice here"]),
        ({"training.encoder.epochs": LogUniform(1, 30)}, ["epochs: LogUniform is for", "use Choice here"]),
        ({"prior.kind": Uniform(0, 1)}, ["prior.kind: Uniform is for", "use Choice here"]),
        ({"ingest.subset": Uniform(1, 9)}, ["ingest.subset: Uniform is for", "use Choice here"]),
        ({"loss.lambda1": Uniform(-1, 1)}, ["loss.lambda1: Input should be greater than or equal to 0 (got -1)"]),
        ({"training.encoder.beta1": Uniform(0.5, 1)}, ["training.encoder.beta1: Input should be less than 1 (got 1)"]),
        ({"speech_encoder.cbam": Choice(["none", "both"])}, ["speech_encoder.cbam: ", "'both'", "in 1 of 2 samples"]),
        ({"training.encoder.augment": Choice([3])}, ["training.encoder.augment: ", "(got 3)"]),
        ({"seed": Choice([-1])}, ["seed: ", "(got -1)"]),
        ({"training.encoder.num_lanes": Choice([8, 3])}, ["must be a multiple of training.encoder.num_lanes = 3"]),
    ],
)
def test_a_problem_is_one_clear_line(space, parts):
    lines = problems(space)
    for part in parts:
        assert any(part in line for line in lines), lines
    assert len(lines) == 1, lines


def test_long_values_are_shortened():
    (line,) = problems({"loss.lambda1": Uniform(0, 10**5000)})
    assert line == "loss.lambda1: low and high must be finite numbers, got 0 and a value of type int"
    lines = problems({("seed",) * 50_000: Choice([1])})
    assert [line.partition(" ...: ")[2] for line in lines] == [
        "each value must be a tuple of 50000, one per field, got 1",
        "seed is in the key twice",
    ]
    assert max(map(len, lines)) < 600


def test_only_the_first_of_many_problems_are_reported():
    lines = problems({f"x{n}": Uniform(1, 0) for n in range(1000)})
    assert lines[19:] == ["x19: low must be less than high, got 1 and 0", "and more problems"]
    lines = problems({"loss.lambda1": Choice([-n for n in range(1, 500)])})
    assert len(lines) == 21
    assert lines[0].endswith("(got -1); in 1 of 499 samples tried, the first loss.lambda1 = -1")


def test_all_problems_are_reported_together():
    lines = problems(
        {
            "los.lambda1": Uniform(0, 1),
            "loss.lambda2": Uniform(2, 1),
            "seed": Choice([]),
            "vggface.width": Uniform(0.5, 1),
            "training.encoder.epochs": Uniform(1, 3),
            "speech_encoder.cbam": Choice(["none", "both"]),
            "loss.lambda3": LogUniform(-1, -2),
        }
    )
    assert sorted(line.split(":")[0] for line in lines) == [
        "los.lambda1",
        "loss.lambda2",
        "loss.lambda3",
        "loss.lambda3",
        "seed",
        "speech_encoder.cbam",
        "training.encoder.epochs",
        "vggface.width",
    ]


def test_invalid_combinations_are_found():
    space = {
        "seed": Choice([0, 1]),
        "speech_encoder.architecture": Choice(["arspm", "speech2face"]),
        "prior.kind": Choice(["none", "neutral", "gender"]),
        "speech_encoder.head": Choice(["fc2", "none"]),
        "speech_encoder.fusion": Choice(["fc", "sum"]),
    }
    for line, count in zip(sorted(problems(space)), (2 * 1 * 2 * 2 * 2, 2 * 2 * 3 * 1 * 1), strict=True):
        assert line.startswith(("prior.kind: must be none, because", "speech_encoder.fusion: must be sum, because"))
        assert f"in {count} of 48 samples tried, the first seed = 0, speech_encoder.architecture = " in line


def test_fields_that_vary_together_are_checked_together():
    """Alone, head = none would contradict fusion = fc of the configuration."""
    assert PAPER.speech_encoder.fusion == "fc"
    both = ("speech_encoder.head", "speech_encoder.fusion")
    spaces.check({both: Choice([("none", "sum"), ("fc2", "fc")])}, PAPER, varies=VARIES)
    assert len(problems({"speech_encoder.head": Choice(["none", "fc2"])})) == 1


def test_every_value_of_a_large_space_is_checked():
    """160,000 combinations, more than are tried; in each dimension the last value is invalid."""
    fields = ("loss.lambda1", "loss.lambda2", "loss.lambda3", "training.encoder.decay")
    space = {field: Choice([*(0.5 + index / 64 for index in range(19)), -1.0]) for field in fields}
    assert [line.split(":")[0] for line in problems(space)] == list(fields)


def test_problems_that_only_drawn_samples_show_are_found():
    """Each value alone is valid; one pair of values is not, among 40,000 combinations."""
    space = {f"loss.lambda{index}": Choice([float(each) for each in range(10)]) for index in (1, 2, 3)}
    space |= {"speech_encoder.head": Choice(["fc2", "none"]), "speech_encoder.fusion": Choice(["sum", "fc"])}
    space["training.encoder.epochs"] = Choice(list(range(1, 11)))
    (line,) = problems(space)
    assert line.startswith("speech_encoder.fusion: must be sum, because head = none")
    tried, refused = re.search(r"in (\d+) of (\d+) samples", line).groups()[::-1]
    assert int(tried) == sum(map(len, (domain.values for domain in space.values()))) + 512
    assert int(refused) == pytest.approx(0.25 * 512, rel=0.2)
    with pytest.raises(ConfigError) as caught:
        spaces.check(space, PAPER, seed=1, varies=VARIES)
    assert str(caught.value) != line, "the draws follow from the seed"
    assert problems(space) == [line]


def test_an_invalid_range_end_is_reported_once():
    (line,) = problems({"loss.lambda1": Uniform(-1, 1), "seed": Choice([0, 1])})
    assert line.endswith("(got -1); in 2 of 4 samples tried, the first loss.lambda1 = -1, seed = 0")


def test_varies_alone_decides_which_fields_may_vary():
    space = {"loss.lambda1": Uniform(0, 1), "seed": Choice([0, 1])}
    spaces.check(space, PAPER, varies=("loss",))
    spaces.check(space, PAPER, varies=("loss.lambda1",))
    with pytest.raises(
        ConfigError, match=r"^loss\.lambda1: belongs to another stage.*may vary seed, loss\.lambda, pri"
    ):
        spaces.check(space, PAPER, varies=("loss.lambda", "prior"))

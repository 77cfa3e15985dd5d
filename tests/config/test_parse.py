"""Converting text and plain values to a configuration, and the errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from arspm.config import (
    Config,
    ConfigError,
    from_dict,
    load,
    override,
)


def value(config: Config, name: str) -> Any:
    found: Any = config
    for part in name.split("."):
        found = getattr(found, part)
    return found


def problems(changes: dict[str, Any], config: Config | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        override(config or Config(), changes)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("los.lambda1", "loss.lambda1"),
        ("training.encoder.learning_rates", "training.encoder.learning_rate"),
        ("speech_encoder.cbam_reducton", "speech_encoder.cbam_reduction"),
        ("imagesize", "image_size"),
        ("seed.x", "seed"),
    ],
)
def test_an_unknown_name_is_refused_with_similar_names(wrong, meant):
    (line,) = problems({wrong: "1"})
    assert line.startswith(f"{wrong}: ")
    assert meant in line


def test_an_unknown_name_without_similar_names_lists_its_section():
    (line,) = problems({"loss.qqqqqqqq": "1"})
    assert "loss.lambda1, loss.lambda2, loss.lambda3, loss.identity" in line


def test_an_unknown_key_in_a_tree_is_refused_with_similar_names():
    with pytest.raises(ConfigError, match=r"^loss\.lamda1: there is no such field; did you mean .*loss\.lambda1"):
        from_dict({"loss": {"lamda1": 1}})


def test_a_section_is_not_a_field():
    (line,) = problems({"loss": "{}"})
    assert line == "loss: a section, not a field; its fields: loss.lambda1, loss.lambda2, loss.lambda3, loss.identity"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("training.encoder.learning_rate", "1e-4", 1e-4),
        ("training.encoder.epochs", "7", 7),
        ("ingest.subset", "null", None),
        ("ingest.subset", "None", None),
        ("ingest.subset", "10", 10),
        ("training.decoder.fused", "false", False),
        ("training.decoder.compile", "true", True),
        ("prior.kind", "none", "none"),
        ("prior.kind", "gender", "gender"),
        ("data.csv", "null", "null"),
        ("data.csv", "10", "10"),
        ("face.detector", "", ""),
        ("resources.encoder.cpus", "0.5", 0.5),
        ("seed", "4294967295", 2**32 - 1),
    ],
)
def test_text_becomes_a_value_by_the_fields_type(name, text, expected):
    found = value(override(Config(), {name: text}), name)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("training.encoder.epochs", "1.5"),
        ("training.encoder.epochs", "0"),
        ("training.encoder.epochs", ""),
        ("training.encoder.epochs", "null"),
        ("training.encoder.learning_rate", "fast"),
        ("training.encoder.learning_rate", "0"),
        ("loss.lambda1", "nan"),
        ("loss.lambda1", "inf"),
        ("loss.lambda1", -1.0),
        ("training.encoder.beta1", "1"),
        ("prior.kind", "Neutral"),
        ("training.decoder.fused", "maybe"),
        ("ingest.subset", "0"),
        ("seed", 2**32),
        ("image_size", "100"),
        ("image_size", [64]),
    ],
)
def test_an_invalid_value_is_refused(name, bad):
    (line,) = problems({name: bad})
    assert line.startswith(f"{name}: ")
    assert repr(bad) in line


def test_one_error_lists_all_invalid_fields():
    lines = problems({"nope": 1, "loss.lamda1": "1", "seed": -1, "prior.kind": "x", "training.gender.epochs": "many"})
    assert [line.split(":")[0] for line in lines] == [
        "nope",
        "loss.lamda1",
        "seed",
        "prior.kind",
        "training.gender.epochs",
    ]


def test_errors_do_not_mention_pydantic():
    with pytest.raises(ConfigError) as caught:
        from_dict({"seed": "x", "loss": {"lambda1": -1}, "surprise": 1, "image_size": 100})
    text = str(caught.value)
    assert len(text.splitlines()) == 4
    for word in ("pydantic", "http", "validation error", "Value error", "function-after"):
        assert word not in text


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", b"\xff\xfe", '{"seed": NaN}', '{"seed": 0, "extra": 1}', json.dumps({"loss": 3})],
)
def test_text_that_is_not_a_configuration_is_refused(text):
    with pytest.raises(ConfigError):
        load(text)


def test_a_manifest_of_an_earlier_version_still_loads():
    """`resources.trial.share_gib` is no more; as a setting it is unknown. Recipes had no `warmup_epochs`."""
    tree = Config().model_dump()
    tree["resources"]["trial"]["share_gib"] = 2.0
    for recipe in tree["training"].values():
        del recipe["warmup_epochs"]
    assert from_dict(tree) == Config()
    with pytest.raises(ConfigError, match=r"resources\.trial\.share_gib"):
        override(Config(), {"resources.trial.share_gib": 1})


def test_one_number_of_threads_for_all_as_earlier_versions_had_it():
    tree = Config().model_dump()
    for section in tree["resources"].values():
        if isinstance(section, dict):
            del section["threads"]
    tree["resources"]["threads_per_worker"] = 3
    resources = from_dict(tree).resources
    assert (resources.encoder.threads, resources.trial.threads, resources.infer.threads) == (3, 3, 3)
    with pytest.raises(ConfigError, match=r"resources\.threads_per_worker"):
        override(Config(), {"resources.threads_per_worker": 3})

"""A space as JSON, and back."""

from __future__ import annotations

import json

import pytest

from tune_spaces import space as spaces
from tune_spaces.space import Choice, LogUniform, Space, Uniform, pack, unpack


@pytest.mark.parametrize("name", spaces.shipped())
def test_a_space_survives_json(name: str) -> None:
    space = spaces.load(name)[1]
    again = unpack(json.loads(json.dumps(pack(space))))
    assert spaces.describe(again) == spaces.describe(space)
    for sample in spaces.random_samples(space, 20, 0):
        assert spaces.changes(again, sample) == spaces.changes(space, sample)
    assert spaces.random_samples(again, 20, 3) == spaces.random_samples(space, 20, 3)


def test_values_of_every_kind_survive_json() -> None:
    space: Space = {
        "a": Choice([None, True, False, 1, 0.5, "word"]),
        ("b", "c"): Choice([(1, None), (2, "x")]),
        ("d", "e"): Choice({"one": (1, 2), "two": (3, 4)}),
        "f": Choice({"label": None}),
        "g": Uniform(0, 1),
        "h": LogUniform(1e-9, 1e9),
    }
    again = unpack(json.loads(json.dumps(pack(space))))
    assert spaces.describe(again) == spaces.describe(space)
    sample = {"a": "null", "b+c": "2+x", "d+e": "two", "f": "label", "g": 0.5, "h": 2.0}
    assert spaces.changes(again, sample) == spaces.changes(space, sample)
    assert spaces.changes(again, sample)["e"] == 4

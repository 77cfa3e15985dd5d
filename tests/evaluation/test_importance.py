"""Parameter importance, against functions whose variance decomposition is known."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import optuna
import pytest

from arspm.evaluation.importance import importance

UNIT = {"kind": "uniform", "low": 0.0, "high": 1.0}
DECADES = {"kind": "loguniform", "low": 0.01, "high": 100.0}


def trial(sample: dict[str, Any], best: float | None, state: str = "finished") -> dict[str, Any]:
    return {"state": state, "sample": sample, "best": best}


def uniform_trials(weights: list[float], num_trials: int, seed: int = 0, noise: float = 0.0) -> list[dict[str, Any]]:
    """Trials of f = sum(weight * uniform), whose importances are proportional to the squared weights."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(size=(num_trials, len(weights)))
    values = points @ np.array(weights) + noise * rng.standard_normal(num_trials)
    return [
        trial({f"x{i}": float(x) for i, x in enumerate(point)}, float(value))
        for point, value in zip(points, values, strict=True)
    ]


def squared_fractions(weights: list[float]) -> list[float]:
    return [weight**2 / sum(w**2 for w in weights) for weight in weights]


@pytest.mark.parametrize("weights", [[2.0, 1.0], [1.0, -1.0], [3.0, 2.0, 1.0]])
def test_importances_of_a_linear_function_are_its_squared_slopes(weights: list[float]) -> None:
    found = importance(uniform_trials(weights, 400), {f"x{i}": UNIT for i in range(len(weights))}, mode="min")
    assert found is not None
    assert list(found["shares"].values()) == pytest.approx(squared_fractions(weights), abs=0.07)
    assert sum(found["shares"].values()) == pytest.approx(1.0)
    assert found["num_trials"] == 400
    assert found["warning"] is None


def test_a_single_relevant_dimension_has_all_the_importance() -> None:
    found = importance(uniform_trials([0.0, 1.0, 0.0], 200), {f"x{i}": UNIT for i in range(3)}, mode="min")
    assert found is not None
    assert found["shares"]["x1"] > 0.97


def test_a_logarithmic_dimension_is_analysed_on_the_logarithm() -> None:
    """Two step functions: half of the decades are below a = 1 (0.01 of the values), a quarter above b = 10 (0.9)."""
    exponents = np.random.default_rng(0).uniform(-2, 2, (400, 2)).tolist()
    trials = [trial({"a": 10.0**a, "b": 10.0**b}, 2 * (a < 0) + 2 * (b > 1)) for a, b in exponents]
    found = importance(trials, {"a": DECADES, "b": DECADES}, mode="min")
    by_a, by_b = 4 * 0.5 * 0.5, 4 * 0.25 * 0.75
    assert found is not None
    assert found["shares"]["a"] == pytest.approx(by_a / (by_a + by_b), abs=0.06)


def test_importances_of_choices_agree_with_an_analysis_of_variance() -> None:
    """A grid of two choices with repeats, against a classical two-way analysis of variance."""
    rows, columns = [0.0, 3.0, 1.0], [0.0, 0.5, -1.5, 1.0]
    table = np.add.outer(rows, columns)
    by_row = np.mean((table.mean(1) - table.mean()) ** 2)
    by_column = np.mean((table.mean(0) - table.mean()) ** 2)
    space = {
        "prior.kind+speech_encoder.fusion": {"kind": "choice", "values": ["none", "gender", "neutral+fc"]},
        "width": {"kind": "choice", "values": [1, 2, 4, 8]},
    }
    labels, widths = (domain["values"] for domain in space.values())
    trials = [
        trial({"prior.kind+speech_encoder.fusion": label, "width": width}, table[i, j])
        for i, label in enumerate(labels)
        for j, width in enumerate(widths)
        for _ in range(8)
    ]
    found = importance(trials, space, mode="max")
    assert found is not None
    assert found["shares"]["width"] == pytest.approx(by_column / (by_row + by_column), abs=0.06)


def test_choices_and_numbers_can_be_mixed() -> None:
    rng = np.random.default_rng(0)
    trials = []
    for _ in range(400):
        a, label = rng.uniform(), rng.choice(["low", "high"])
        trials.append(trial({"a": float(a), "kind": str(label)}, math.sqrt(12) * a + 2 * (label == "high")))
    space = {"a": UNIT, "kind": {"kind": "choice", "values": ["low", "high"]}}
    found = importance(trials, space, mode="min")  # both have variance 1
    assert found is not None
    assert found["shares"]["kind"] == pytest.approx(0.5, abs=0.07)


def test_more_trials_reduce_the_error() -> None:
    """This justifies the threshold of the warning."""

    def error(num_trials: int) -> float:
        weights, errors = [3.0, 2.0, 1.0], []
        for seed in range(12):
            found = importance(uniform_trials(weights, num_trials, seed, noise=0.3), SPACE, mode="min", seed=seed)
            assert found is not None
            errors.append(max(abs(np.array(list(found["shares"].values())) - squared_fractions(weights))))
        return float(np.mean(errors))

    few, enough, many = error(9), error(30), error(120)
    assert few > enough > many
    assert enough < 0.2


SPACE = {f"x{i}": UNIT for i in range(3)}


def test_the_same_seed_gives_the_same_importances() -> None:
    trials = uniform_trials([3.0, 2.0, 1.0], 40)
    assert importance(trials, SPACE, mode="min", seed=1) == importance(trials, SPACE, mode="min", seed=1)
    assert importance(trials, SPACE, mode="min", seed=1) == importance(trials, SPACE, mode="max", seed=1)
    assert importance(trials, SPACE, mode="min", seed=1) != importance(trials, SPACE, mode="min", seed=2)
    with pytest.raises(ValueError, match="mode must be min or max, not 'least'"):
        importance(trials, SPACE, mode="least")


def test_the_scale_of_the_values_does_not_matter() -> None:
    trials = uniform_trials([3.0, 2.0, 1.0], 40)
    plain = importance(trials, SPACE, mode="min")
    for factor in (1e-200, 1e300):
        scaled = importance([{**each, "best": each["best"] * factor} for each in trials], SPACE, mode="min")
        assert plain is not None
        assert scaled is not None
        assert scaled["shares"] == pytest.approx(plain["shares"], abs=0.02)


def test_few_trials_and_early_stops_give_a_warning() -> None:
    found = importance(uniform_trials([3.0, 2.0, 1.0], 29), SPACE, mode="min")
    assert found is not None
    assert found["warning"] == "29 trials for 3 dimensions: below 30 these are rough estimates."
    trials = uniform_trials([3.0, 2.0, 1.0], 30)
    found = importance(trials, SPACE, mode="min")
    assert found is not None
    assert found["warning"] is None
    trials[3]["state"] = trials[7]["state"] = "stopped"
    found = importance(trials, SPACE, mode="min")
    assert found is not None
    assert found["warning"].startswith("2 of 30 trials were stopped early: ")


def test_the_seed_is_excluded() -> None:
    trials = uniform_trials([2.0, 1.0], 30)
    plain = importance(trials, {"x0": UNIT, "x1": UNIT}, mode="min")
    for each in trials:
        each["sample"]["seed"] = 0
    found = importance(trials, {"x0": UNIT, "seed": {"kind": "choice", "values": [0, 1]}, "x1": UNIT}, mode="min")
    assert plain is not None
    assert found is not None
    assert found["shares"] == plain["shares"]
    assert found["warning"] == "The seed is excluded: it is noise, not a choice."
    assert importance(trials, {"seed": {"kind": "choice", "values": [0, 1]}}, mode="min") is None


def test_unusable_trials_are_left_out() -> None:
    trials = uniform_trials([2.0, 1.0], 40)
    space = {"x0": UNIT, "x1": UNIT}
    odd = [
        trial({"x0": 0.5, "x1": 0.5}, None),
        trial({"x0": 0.5, "x1": 0.5}, float("nan")),
        trial({"x0": 0.5, "x1": 0.5}, float("inf")),
        trial({"x0": 0.5, "x1": 0.5}, 1e9, "failed"),
        trial({"x0": 0.5, "x1": 0.5}, 1e9, "running"),
        trial({"x0": 1.5, "x1": 0.5}, 1e9),
        trial({"x0": float("nan"), "x1": 0.5}, 1e9),
        trial({"x0": "high", "x1": 0.5}, 1e9),
        trial({"x1": 0.5}, 1e9),
    ]
    assert importance(trials + odd, space, mode="min") == importance(trials, space, mode="min")


def test_too_few_trials_or_no_variation_give_none() -> None:
    space = {"x0": UNIT, "x1": UNIT}
    trials = uniform_trials([2.0, 1.0], 4)
    assert importance(trials, space, mode="min") is not None
    assert importance(trials[:3], space, mode="min") is None
    assert importance([], space, mode="min") is None
    assert importance(trials, {}, mode="min") is None
    assert importance([{**each, "best": 0.0} for each in trials], space, mode="min") is None
    assert importance([{**each, "best": 7.5} for each in trials], space, mode="min") is None
    assert importance([{**trials[0], "best": float(i)} for i in range(9)], space, mode="min") is None


def test_a_constant_dimension_has_no_importance() -> None:
    trials = uniform_trials([2.0, 1.0], 30)
    for each in trials:
        each["sample"]["order"] = "CSF"
    space = {"x0": UNIT, "order": {"kind": "choice", "values": ["CSF", "SFC"]}, "x1": UNIT}
    found = importance(trials, space, mode="min")
    assert found is not None
    assert found["shares"]["order"] == 0.0


def test_optunas_logging_is_silenced_and_restored(capfd: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    importance(uniform_trials([2.0, 1.0], 20), {"x0": UNIT, "x1": UNIT}, mode="min")
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr() == ("", "")


def test_a_thousand_trials_take_no_more_than_fifteen_times_as_long_as_a_hundred() -> None:
    """With trees of unlimited depth, time grows with the square of the trials: 17 s on one core for a thousand."""
    space = {f"x{i}": UNIT for i in range(5)}

    def seconds(num_trials: int) -> float:
        trials = uniform_trials([5.0, 4.0, 3.0, 2.0, 1.0], num_trials, noise=0.3)
        begun = time.process_time()
        importance(trials, space, mode="min")
        return time.process_time() - begun

    assert seconds(1000) < 15 * min(seconds(100) for _ in range(2))

"""The choice of samples: lists, and Optuna over several sessions."""

from __future__ import annotations

import json
import logging
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from arspm.distributed.tune.search import Listed, Optuna, Sample, Search
from arspm.runs import sweeps

NUMBER = {"x": {"kind": "uniform", "low": 0.0, "high": 1.0}}
MIXED = {
    "loss.lambda1": {"kind": "loguniform", "low": 0.1, "high": 10.0},
    "training.encoder.decay": {"kind": "uniform", "low": 0.5, "high": 1},
    "speech_encoder.cbam_reduction": {"kind": "choice", "values": [8, 16, 32]},
    "training.encoder.augment": {"kind": "choice", "values": ["true", "false"]},
    "prior.kind+speech_encoder.fusion": {"kind": "choice", "values": ["none", "neutral", "neutral+fc"]},
}
PAPER = {
    "loss.lambda1": 1.0,
    "training.encoder.decay": 0.9,
    "speech_encoder.cbam_reduction": 16,
    "training.encoder.augment": "false",
    "prior.kind+speech_encoder.fusion": "neutral+fc",
}


def ended(number: int, sample: Sample, value: float | None, state: str = "finished") -> sweeps.Record:
    return sweeps.new_record(number, sample, {}, False) | {"state": state, "best": value}


def hill(sample: Sample) -> float:
    """Return a value that is lowest at lambda1 = 2 without a prior."""
    prior = ["none", "neutral", "neutral+fc"].index(sample["prior.kind+speech_encoder.fusion"])
    return math.log(sample["loss.lambda1"] / 2) ** 2 + 0.3 * prior


def go(search: Search, numbers: range) -> list[sweeps.Record]:
    """Run trials one after the other."""
    records = []
    for number in numbers:
        sample = search.suggest(number)
        records.append(ended(number, sample, hill(sample)))
        search.observe(records[-1])
    return records


def test_a_list_gives_each_number_its_own_sample() -> None:
    samples = [{"x": number} for number in range(3)]
    search = Listed(samples)
    assert [search.suggest(number) for number in (2, 0, 1, 2)] == [samples[number] for number in (2, 0, 1, 2)]
    search.suggest(0)["x"] = 9
    assert search.suggest(0) == {"x": 0}


def test_samples_are_in_the_space_and_valid_json() -> None:
    for number in range(25):
        sample = Optuna(MIXED, "min", seed=3).suggest(number)
        assert list(sample) == list(MIXED)
        assert json.loads(json.dumps(sample)) == sample
        for name, domain in MIXED.items():
            if domain["kind"] == "choice":
                [label] = [each for each in domain["values"] if each == sample[name]]
                assert type(label) is type(sample[name])  # 8, not 8.0
            else:
                assert domain["low"] <= sample[name] <= domain["high"]


def test_first_samples_are_uniform_or_uniform_in_the_logarithm() -> None:
    """Tests the first trials of 200 sweeps by Kolmogorov-Smirnov at the 0.1 % level."""
    drawn = [Optuna(MIXED, "min", seed).suggest(0) for seed in range(200)]
    logs = np.log10([sample["loss.lambda1"] for sample in drawn])
    assert stats.kstest(logs, "uniform", (-1, 2)).pvalue > 1e-3
    assert stats.kstest([sample["training.encoder.decay"] for sample in drawn], "uniform", (0.5, 0.5)).pvalue > 1e-3
    counts = [sum(sample["speech_encoder.cbam_reduction"] == each for sample in drawn) for each in (8, 16, 32)]
    assert stats.chisquare(counts).pvalue > 1e-3


def test_the_paper_s_values_come_first_and_once() -> None:
    search = Optuna(MIXED, "min", seed=0, first=[PAPER])
    samples = [record["sample"] for record in go(search, range(8))]
    assert samples[0] == PAPER
    assert PAPER not in samples[1:]
    again = Optuna(MIXED, "min", seed=0, first=[PAPER])
    again.observe(ended(0, PAPER, 1.0))
    assert PAPER not in [record["sample"] for record in go(again, range(1, 8))]


def test_the_same_seed_draws_the_same_and_another_seed_another() -> None:
    one, same, other = (go(Optuna(MIXED, "min", seed), range(13)) for seed in (5, 5, 6))
    assert one == same
    assert all(a["sample"] != b["sample"] for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("cut", [1, 4, 12, 15])
def test_an_interrupted_sweep_draws_the_same_samples(cut: int) -> None:
    """Interrupted during Optuna's ten random trials, and after them."""
    uninterrupted = go(Optuna(MIXED, "min", seed=1, first=[PAPER]), range(18))
    resumed = Optuna(MIXED, "min", seed=1, first=[PAPER])
    for record in json.loads(json.dumps(uninterrupted[:cut])):
        resumed.observe(record)
    assert go(resumed, range(cut, 18)) == uninterrupted[cut:]
    drawn = [record["sample"]["loss.lambda1"] for record in uninterrupted]
    assert len(set(drawn)) == len(drawn)


def test_concurrent_trials_differ() -> None:
    search = Optuna(MIXED, "min", seed=0)
    go(search, range(12))
    samples = [search.suggest(number) for number in range(12, 20)]
    assert len({sample["loss.lambda1"] for sample in samples}) == 8


@pytest.mark.parametrize(("mode", "sign"), [("min", 1.0), ("max", -1.0)])
def test_it_learns_where_the_optimum_is(mode: str, sign: float) -> None:
    """After 40 trials of a parabola around 0.8, samples are closer to 0.8 than random ones (mean distance 0.34)."""
    search = Optuna(NUMBER, mode, seed=0)
    rng = np.random.default_rng(0)
    for number, x in enumerate(rng.random(40).tolist()):
        search.observe(ended(number, {"x": x}, sign * (x - 0.8) ** 2, ("finished", "stopped")[number % 2]))
    drawn = [search.suggest(number)["x"] for number in range(40, 60)]
    assert np.abs(np.array(drawn) - 0.8).mean() < 0.15


def test_failed_trials_and_those_without_a_value_are_ignored() -> None:
    """Twelve failed trials with good values at 0.8: if they counted, half of the samples would be there."""
    taught, untaught = Optuna(NUMBER, "min", seed=2), Optuna(NUMBER, "min", seed=2)
    for number in range(12):
        taught.observe(ended(number, {"x": 0.8 + number / 1000}, 0.0, "failed"))
        taught.observe(ended(number, {"x": 0.8 + number / 1000}, None))
    assert [taught.suggest(number) for number in range(12, 20)] == [
        untaught.suggest(number) for number in range(12, 20)
    ]


def test_the_search_continues_after_failed_trials() -> None:
    search = Optuna(NUMBER, "min", seed=0)
    for number in range(30):
        sample = search.suggest(number)
        value = None if number % 2 else 0.1
        search.observe(ended(number, sample, value, ("failed", "finished", "stopped")[number % 3]))


def test_trials_of_another_space_are_ignored_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    search = Optuna(MIXED, "min", seed=0)
    strangers: list[dict[str, Any]] = [
        {},
        PAPER | {"loss.lambda1": 99.0},
        PAPER | {"loss.lambda1": None},
        PAPER | {"loss.lambda1": "much"},
        PAPER | {"speech_encoder.cbam_reduction": 64},
    ]
    with caplog.at_level(logging.WARNING, "arspm.distributed.tune.search"):
        for number, sample in enumerate(strangers):
            search.observe(ended(number, sample, 1.0))
        search.observe(ended(9, PAPER | {"loss.lambda9": 1.0}, 1.0))  # an additional dimension is ignored
    assert [record.args for record in caplog.records] == [(number,) for number in range(len(strangers))]


def test_numbers_beyond_a_hundred_thousand_and_large_seeds_are_drawn() -> None:
    assert Optuna(NUMBER, "min", seed=2**40).suggest(123_456) != Optuna(NUMBER, "min", seed=2**40).suggest(123_457)

"""A study's outcomes and comparisons against values computed by hand."""

import statistics

import numpy as np
import pytest
from scipy import stats

from arspm.config import override
from arspm.config.presets import preset
from arspm.config.studies import STUDIES
from arspm.config.variants import VARIANTS
from arspm.corpus.schema import CLIP_ID, SPEAKER
from arspm.evaluation.comparisons import holm, over_seeds_and_speakers
from arspm.evaluation.study import final_loss, loss_at, num_spikes, study_results
from arspm.evaluation.trained import FIGURES, TrainedModel

PRIOR = STUDIES["prior"]
SPEAKERS = np.repeat([f"speaker {number}" for number in range(12)], 2)
CLIPS = np.array([f"clip {number}" for number in range(24)])
LOSSES = [[6, 14.0], [12, 9.0], [18, 7.0], [24, 8.5], [30, 8.4], [36, 6.0], [104, 5.0]]


def model(variant, seed, *, losses=LOSSES, shift=0.0, final=4.0):
    rng = np.random.default_rng([seed, *variant.encode()])
    by_clip = 30.0 + shift + seed + 0.1 * rng.standard_normal(24)
    row = {"model": variant, "n": 24, **{figure: float(by_clip.mean()) for figure in FIGURES}}
    epochs = [{"step": step, "val_cos_degrees": 40.0 + shift + step / 100, "train_loss": final} for step in (52, 104)]
    history = {"epochs": epochs, "losses": losses, "best_epoch": 1}
    clips = {CLIP_ID: CLIPS, SPEAKER: SPEAKERS, **dict.fromkeys(FIGURES, by_clip)}
    return TrainedModel(variant, seed, f"/run/{variant}-{seed}", {"table4": [row]}, history, clips)


def results(models, num_clips=2000):
    return study_results(PRIOR, models, num_clips=num_clips, num_resamples=400, seed=0)


def arms(seeds=5, names=PRIOR.variants, **shifts):
    return [model(name, seed, shift=shifts.get(name, 0.0)) for name in names for seed in range(seeds)]


def test_the_loss_at_a_step_is_the_recorded_mean_that_contains_it():
    assert [loss_at(model("neutral", 0), step) for step in (1, 6, 7, 12, 100, 104, 105)] == [
        14.0, 14.0, 9.0, 9.0, 5.0, 5.0, None
    ]  # fmt: skip
    assert final_loss(model("neutral", 0, final=3.5)) == 3.5


def test_a_spike_is_a_loss_a_fifth_above_the_one_before():
    assert num_spikes(model("neutral", 0)) == 1  # 7.0 to 8.5
    assert num_spikes(model("neutral", 0, losses=[[1, 10.0], [2, 12.0], [3, 14.5], [4, 30.0], [5, 1.0]])) == 2


def test_outcomes_are_means_over_seeds_and_those_that_were_not_run_are_left_out():
    found = results([model("non-prior", seed, final=4.0 + seed) for seed in range(5)])
    assert [outcome["name"] for outcome in found["outcomes"]] == [
        "loss_10", "loss_100", "loss_final", "spikes", "val_cos_degrees", "cos_degrees"
    ]  # fmt: skip
    values = found["rows"][0]["values"]
    assert values["loss_final"] == {"mean": 6.0, "sd": pytest.approx(statistics.stdev(range(5)))}
    assert values["loss_10"] == {"mean": 9.0, "sd": 0.0}
    assert values["loss_1000"] is None
    assert found["findings"] == found["pairs"] == []


def test_comparisons_are_paired_by_seed_and_corrected_over_the_studys_pairs():
    models = arms(adaptive=-2.0, constant=1.0)
    models = [each._replace(history=each.history | {"losses": [[12, 5.0 + each.seed**2]]}) for each in models]
    for number, each in enumerate(models):
        if each.variant == "neutral":  # 1 less on average, by a different amount for each seed
            losses = [[12, 5.0 + each.seed**2 - 1 - (each.seed - 2) / 10]]
            models[number] = each._replace(history=each.history | {"losses": losses})
    found = results(models)
    assert [(pair["variant"], pair["reference"]) for pair in found["pairs"]] == list(PRIOR.pairs)
    by_pair = {(pair["variant"], pair["reference"]): pair["differences"] for pair in found["pairs"]}

    entry = by_pair["neutral", "non-prior"]["loss_10"]
    differences = [-1 - (seed - 2) / 10 for seed in range(5)]
    assert entry["difference"] == pytest.approx(-1)
    assert entry["interval"] == pytest.approx(stats.t.interval(0.95, 4, -1, stats.sem(differences)))
    assert entry["p"] == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    assert entry["comparisons"] == len(PRIOR.pairs) == 7

    test = by_pair["adaptive", "neutral"]["cos_degrees"]
    clips = {(each.variant, each.seed): each.clips["cos_degrees"] for each in models}
    values = np.stack([clips["adaptive", seed] - clips["neutral", seed] for seed in range(5)])
    expected = over_seeds_and_speakers(values, SPEAKERS, num_resamples=400, seed=0)
    assert (test["difference"], test["interval"], test["p"]) == (expected.mean, expected.interval, expected.p)
    entries = [pair["differences"]["cos_degrees"] for pair in found["pairs"]]
    assert [entry["p_holm"] for entry in entries] == holm([entry["p"] for entry in entries])

    sentences = dict(sentence.split(": ", 1) for sentence in found["findings"])
    assert sentences["Test angle, degrees"] == (
        "smaller for adaptive than non-prior, neutral than constant and adaptive than neutral; larger for constant "
        "than non-prior; not shown to differ in 3 of 7 comparisons."
    )
    assert sentences["Loss spikes"] == ("smaller for none; larger for none; not shown to differ in 7 of 7 comparisons.")


def test_what_is_below_the_protocol_is_said():
    assert results(arms(5))["shortfalls"] == []
    found = results(arms(2, names=PRIOR.variants[:-1]), num_clips=480)["shortfalls"]
    assert found == [
        "Not trained: adaptive.",
        "An arm has 2 seeds; the protocol asks for at least 5.",
        "Trained on 480 clips; the protocol asks for at least 2,000.",
    ]


def test_the_studys_recipe_is_the_papers():
    """Every arm is valid, and the recipe is that of the paper's preset, except what does not change a result."""
    paper = preset("paper").training.encoder
    for name in PRIOR.variants:
        config = override(preset("demo"), {**VARIANTS[name].changes, **PRIOR.fixed})
        for field, value in PRIOR.fixed.items():
            name = field.rpartition(".")[2]
            assert getattr(config.training.encoder, name) == getattr(paper, name) == value
    assert {name for pair in PRIOR.pairs for name in pair} == set(PRIOR.variants)

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import kendalltau
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from arspm.evaluation.probes import concordance, fit_probe, probes


def value(truth, score) -> float:
    return concordance(np.asarray(truth), np.asarray(score))(np.ones((1, len(truth))))[0]


# --- concordance


def test_concordance_of_two_classes_is_the_area_under_the_roc_curve():
    rng = np.random.default_rng(0)
    for classes in (np.repeat([0, 1], [12, 30]), np.repeat([False, True], 20)):
        score = rng.standard_normal(len(classes)).round(1) + classes  # rounded: some are equal
        assert len(np.unique(score)) < len(score)
        assert value(classes, score) == pytest.approx(roc_auc_score(classes, score))


def test_concordance_of_numbers_agrees_with_a_loop_over_pairs_and_with_kendalls_tau():
    rng = np.random.default_rng(1)
    truth, score = rng.uniform(20, 80, 60), rng.standard_normal(60)
    score += 0.03 * truth
    assert value(truth, score) == pytest.approx((kendalltau(truth, score).statistic + 1) / 2)
    truth, score = truth.round(-1), score.round(1)  # with equal ages and equal scores
    pairs = [(i, j) for i in range(60) for j in range(60) if truth[i] > truth[j]]
    naive = np.mean([0.5 if score[i] == score[j] else float(score[i] > score[j]) for i, j in pairs])
    assert value(truth, score) == pytest.approx(naive)


def test_weights_repeat_the_speakers_of_a_resample():
    rng = np.random.default_rng(2)
    truth, score = rng.integers(0, 4, 15), rng.integers(0, 6, 15)
    weights = rng.multinomial(15, np.full(15, 1 / 15), size=5)
    expected = [value(np.repeat(truth, often), np.repeat(score, often)) for often in weights]
    np.testing.assert_allclose(concordance(truth, score)(weights.astype(float)), expected)


# --- probes

CAUSES = ("age", "glasses", "hair_colour", "unseen")


def make_people(num_speakers: int, seed: int, dim: int = 512, clips: int = 2, noise: float = 1.0):
    """Noisy features in which each cause but "unseen" has a direction of its own; causes and speakers of the rows."""
    rng, directions = np.random.default_rng(seed), np.random.default_rng(99).standard_normal((5, dim))
    speakers = np.repeat(np.arange(num_speakers), clips)
    age, glasses = rng.uniform(20, 80, num_speakers), rng.random(num_speakers) < 0.3
    colours = rng.integers(0, 3, num_speakers)
    features = np.outer((age - 50) / 60, directions[0]) + np.outer(glasses, directions[1]) + directions[2 + colours]
    features = features[speakers] + 2 * noise * rng.standard_normal((len(speakers), dim))
    causes = {
        "age": age[speakers],
        "glasses": glasses[speakers],
        "hair_colour": np.array(["black", "brown", "blond"])[colours][speakers],
        "unseen": rng.standard_normal(num_speakers)[speakers],
    }
    return features, causes, speakers


def probed(num_speakers: int = 100, **changes):
    train, train_causes, _ = make_people(250, seed=0)
    features, causes, speakers = make_people(num_speakers, seed=1)
    blind = np.random.default_rng(3).standard_normal(features.shape)
    options = {"num_resamples": 300, "seed": 0}
    pictures = {"real": features, "blind": blind}
    changes = {"train_causes": train_causes, "causes": causes, "pictures": pictures} | changes
    rows = probes(train, speakers=speakers, **(options | changes))
    return {row["cause"]: row for row in rows}


def test_visible_causes_are_predicted_and_invisible_ones_are_at_chance_level():
    rows = probed()
    assert [*rows] == list(CAUSES)
    for cause in ("age", "glasses", "hair_colour"):
        assert rows[cause]["real"] > 0.9
        low, high = rows[cause]["real_interval"]
        assert 0.85 < low <= rows[cause]["real"] <= high <= 1
        low, high = rows[cause]["blind_interval"]
        assert low < 0.5 < high
    low, high = rows["unseen"]["real_interval"]
    assert low < 0.5 < high
    assert {row["num_speakers"] for row in rows.values()} == {100}
    assert [row["carried"] for row in rows.values()] == [True, False, False, None]
    json.dumps([*rows.values()], allow_nan=False)


@pytest.mark.parametrize("dim", [512, pytest.param(4096, marks=pytest.mark.slow)])
@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_500_training_rows_are_enough_for_any_number_of_features(dim, noise):
    """With strong nuisance factors (pose, light) and noise, no other penalty orders ages much better than ours."""
    (train, train_causes, _), (features, causes, speakers) = (make_people(n, n, dim, noise=noise) for n in (250, 150))
    rng = np.random.default_rng(7)
    nuisances = 3 * rng.standard_normal((30, dim)) * np.geomspace(1, 0.1, 30)[:, None]
    train, features = (x + rng.standard_normal((len(x), 30)) @ nuisances for x in (train, features))
    (row, *_) = probes(train, train_causes, {"real": features}, causes, speakers, num_resamples=2, seed=0)
    others = []
    for penalty in 10.0 ** np.arange(-5, 3):
        ridge = make_pipeline(StandardScaler(), Ridge(alpha=penalty * dim)).fit(train, train_causes["age"])
        scores = ridge.predict(features).reshape(150, 2).mean(axis=1)
        others.append((kendalltau(causes["age"][::2], scores).statistic + 1) / 2)
    assert row["real"] > max(others) - 0.02
    assert max(others) > min(others) + 0.02  # the penalty matters


def test_concordance_is_of_the_speakers_mean_scores():
    train, train_causes, _ = make_people(250, seed=0)
    features, causes, speakers = make_people(40, seed=1)
    order = np.random.default_rng(4).permutation(len(speakers))
    features, speakers = features[order], speakers[order]
    causes = {cause: values[order] for cause, values in causes.items()}
    rows = probes(train, train_causes, {"real": features}, causes, speakers, num_resamples=9, seed=0)
    for row in rows:
        cause = row["cause"]
        probe = fit_probe(train, train_causes[cause], np.ones(len(train), bool))
        scores = probe.scores(features.astype(np.float32))
        by_speaker = np.array([scores[speakers == speaker].mean(axis=0) for speaker in range(40)])
        truth = np.array([causes[cause][speakers == speaker][0] for speaker in range(40)])
        if probe.classes is None:
            expected = (kendalltau(truth, by_speaker[:, 0]).statistic + 1) / 2
        else:
            by_class = [roc_auc_score(truth == name, by_speaker[:, n]) for n, name in enumerate(probe.classes)]
            expected = np.mean(by_class)
        assert row["real"] == pytest.approx(expected), cause


def test_unknown_causes_are_left_out():
    _, causes, _ = make_people(100, seed=1)
    _, train_causes, _ = make_people(250, seed=0)
    causes["age"][:20] = np.nan
    train_causes["age"][:20] = np.nan
    words = causes["hair_colour"].astype(object)
    words[:40] = None
    causes["hair_colour"] = words
    rows = probed(causes=causes, train_causes=train_causes)
    assert (rows["age"]["num_speakers"], rows["hair_colour"]["num_speakers"]) == (90, 80)
    assert rows["age"]["real"] > 0.9
    assert rows["hair_colour"]["real"] > 0.9


def test_a_cause_that_does_not_vary_has_no_concordance():
    _, causes, _ = make_people(100, seed=1)
    _, train_causes, _ = make_people(250, seed=0)
    train_causes["glasses"][:] = True
    causes["age"][:] = 40.0
    causes["hair_colour"][:] = "blond"
    causes["unseen"][:] = np.nan
    rows = probed(causes=causes, train_causes=train_causes)
    for cause in CAUSES:
        assert rows[cause]["real"] is None
        assert rows[cause]["real_interval"] is None
    assert rows["unseen"]["num_speakers"] == 0


def test_a_class_absent_from_training_is_left_out_of_the_mean():
    _, causes, _ = make_people(100, seed=1)
    causes["hair_colour"] = np.where(np.arange(200) < 20, "green", causes["hair_colour"])
    rows = probed(causes=causes)
    assert rows["hair_colour"]["num_speakers"] == 100
    assert rows["hair_colour"]["real"] > 0.8


def test_many_speakers_are_sampled(monkeypatch):
    monkeypatch.setattr("arspm.evaluation.probes.MAX_SPEAKERS", 60)
    rows = probed()
    assert {row["num_speakers"] for row in rows.values()} == {60}
    assert rows["age"]["real"] > 0.9


def test_causes_as_integers_are_an_error():
    _, causes, _ = make_people(100, seed=1)
    causes["age"] = causes["age"].astype(int)
    with pytest.raises(ValueError, match="cause 'age': expected floats, bools or strings, got int64"):
        probed(causes=causes)


def test_bools_and_strings_may_be_objects():
    _, causes, _ = make_people(100, seed=1)
    objects = {cause: causes[cause].astype(object) for cause in ("glasses", "hair_colour")}
    rows, expected = probed(causes=objects), probed()
    for cause in objects:
        assert rows[cause] == expected[cause]

from __future__ import annotations

import json
import math
import statistics

import numpy as np
import pytest
from scipy.spatial import distance

from arspm.evaluation.metrics import mean_and_interval
from arspm.evaluation.table4 import (
    distances,
    learnt_fraction,
    other_speakers,
    similarity,
    table4_row,
)


def features(rows: int = 12, dim: int = 20, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    values.setflags(write=False)  # arrays read from Parquet are read-only
    return values


def row_of(**changes):
    truth = features()
    arguments = {"feature": features(seed=1), "portrait": features(seed=2), "num_resamples": 300, "seed": 5}
    return table4_row("model", truth, np.arange(12) // 3, **arguments | changes)


def test_a_row_of_table_4_agrees_with_scipy_and_with_naive_numpy():
    row = row_of()
    assert (row["model"], row["n"]) == ("model", 12)
    for prefix, seed in (("", 1), ("portrait_", 2)):
        pairs = list(zip(features().astype(float), features(seed=seed).astype(float), strict=True))
        naive = {
            "l1": [np.abs(a - b).sum() for a, b in pairs],
            "l2": [math.sqrt(((a - b) ** 2).sum()) for a, b in pairs],
            "cos_degrees": [math.degrees(math.acos(a @ b / math.sqrt((a @ a) * (b @ b)))) for a, b in pairs],
        }
        assert row[f"{prefix}l1"] == pytest.approx(np.mean([distance.cityblock(*pair) for pair in pairs]))
        assert row[f"{prefix}l2"] == pytest.approx(np.mean([distance.euclidean(*pair) for pair in pairs]))
        for figure, values in naive.items():
            assert row[prefix + figure] == pytest.approx(np.mean(values))
            low, high = row[f"{prefix}{figure}_interval"]
            speakers = [np.mean(values[begin : begin + 3]) for begin in range(0, 12, 3)]
            assert min(speakers) <= low < row[prefix + figure] < high <= max(speakers)
        cosines = [1 - distance.cosine(*pair) for pair in pairs]
        assert row[f"{prefix}cos_degrees_sd"] == pytest.approx(statistics.stdev(naive["cos_degrees"]))
        assert row[f"{prefix}cos_degrees_of_mean"] == pytest.approx(math.degrees(math.acos(statistics.mean(cosines))))
    json.dumps(row, allow_nan=False)


def test_a_row_has_the_columns_of_the_report():
    figures = ("l1", "l2", "cos_degrees", "portrait_l1", "portrait_l2", "portrait_cos_degrees")
    beside = {f"{prefix}cos_degrees_{end}" for prefix in ("", "portrait_") for end in ("sd", "of_mean")}
    assert set(row_of()) == {"model", "n", *figures, *(f"{figure}_interval" for figure in figures), *beside}


@pytest.mark.parametrize(("absent", "there"), [("feature", "portrait_"), ("portrait", "")])
def test_columns_of_an_absent_feature_are_none(absent, there):
    row = row_of(**{absent: None})
    missing = {key for key, value in row.items() if value is None}
    other = "" if there else "portrait_"
    wanted = {f"{other}{figure}{end}" for figure in ("l1", "l2", "cos_degrees") for end in ("", "_interval")}
    assert missing == wanted | {f"{other}cos_degrees_{end}" for end in ("sd", "of_mean")}


def test_one_speaker_has_means_but_no_interval():
    row = table4_row(
        "model", features(), np.zeros(12), feature=features(seed=1), portrait=None, num_resamples=10, seed=0
    )
    assert row["l1"] > 0
    assert row["l1_interval"] is None
    json.dumps(row, allow_nan=False)


def test_the_same_seed_gives_the_same_row():
    assert row_of() == row_of()
    assert row_of()["l1_interval"] != row_of(seed=6)["l1_interval"]


# --- shuffled speech


@pytest.mark.parametrize("sizes", [[1, 1], [3, 3], [1, 5], [4, 1, 1, 7, 2]])
def test_shuffled_speech_is_always_of_another_speaker(sizes):
    speakers = np.repeat([f"speaker {n}" for n in range(len(sizes))], sizes)
    np.random.default_rng(0).shuffle(speakers)
    for seed in range(30):
        rows = other_speakers(speakers, seed)
        assert rows.shape == speakers.shape
        assert (speakers[rows] != speakers).all()


def test_shuffling_uses_every_speaker_equally_often():
    speakers = np.repeat(np.arange(10), 4)
    rows = other_speakers(speakers, 0)
    assert np.bincount(speakers[rows]).tolist() == [4] * 10
    assert len(np.unique(rows)) > 20  # several clips of each speaker


def test_shuffling_is_deterministic_in_the_seed():
    speakers = np.repeat(np.arange(10), 4)
    np.testing.assert_array_equal(other_speakers(speakers, 3), other_speakers(speakers, 3))
    assert (other_speakers(speakers, 3) != other_speakers(speakers, 4)).any()


def test_one_speaker_cannot_be_shuffled():
    assert other_speakers(np.array(["a", "a"]), 0) is None


# --- comparisons of the same clips


def test_a_row_holds_the_means_of_the_distances():
    truth = features()
    by_column = distances(truth, features(seed=1), features(seed=2))
    assert {figure: values.mean() for figure, values in by_column.items()} == {
        figure: value for figure, value in row_of().items() if figure in by_column
    }
    assert len(by_column) == 6
    assert set(distances(truth, None, truth)) == {"portrait_l1", "portrait_l2", "portrait_cos_degrees"}
    assert distances(truth, None, None) == {}


def test_paired_differences_cancel_the_difficulty_of_clips():
    rng = np.random.default_rng(0)
    hard = rng.normal(40, 10, 90)  # clips differ far more than the models do
    a, b = hard + rng.normal(0, 0.1, 90), hard - 1 + rng.normal(0, 0.1, 90)
    mean, (low, high) = mean_and_interval(a - b, np.arange(90) // 3, num_resamples=500, seed=0)
    assert mean == pytest.approx(np.mean(a - b))
    assert 0.9 < low < mean < high < 1.1


def test_the_learnt_fraction_is_a_ratio_with_a_bootstrap_interval():
    rng = np.random.default_rng(1)
    speakers = np.repeat(np.arange(20), rng.integers(1, 6, 20))
    hard = rng.normal(0, 5, 20)[speakers]
    prior_only, model, oracle = (mean + hard + rng.normal(0, 1, len(speakers)) for mean in (40, 34, 30))
    fraction, (low, high) = learnt_fraction(model, prior_only, oracle, speakers, num_resamples=5000, seed=0)
    assert fraction == pytest.approx((prior_only.mean() - model.mean()) / (prior_only.mean() - oracle.mean()))
    ratios = []
    for _ in range(5000):
        rows = np.concatenate([np.flatnonzero(speakers == one) for one in rng.integers(20, size=20)])
        means = [values[rows].mean() for values in (prior_only, model, oracle)]
        ratios.append((means[0] - means[1]) / (means[0] - means[2]))
    assert (low, high) == pytest.approx(np.quantile(ratios, (0.025, 0.975)), abs=0.01)
    assert high - low < 0.2  # the difficulty of speakers cancels


@pytest.mark.parametrize(("model", "fraction"), [(30.0, 1.0), (40.0, 0.0), (45.0, -0.5), (25.0, 1.5)])
def test_the_learnt_fraction_may_be_below_0_or_above_1(model, fraction):
    rows = np.ones(6)
    found, interval = learnt_fraction(model * rows, 40 * rows, 30 * rows, np.arange(6), num_resamples=9, seed=0)
    assert found == pytest.approx(fraction)
    assert interval == pytest.approx([fraction, fraction])


def test_without_a_gain_of_the_oracle_there_is_no_learnt_fraction():
    rng = np.random.default_rng(2)
    speakers, prior_only = np.arange(30), rng.normal(40, 5, 30)
    for oracle in (prior_only, prior_only + 1):
        assert learnt_fraction(prior_only - 1, prior_only, oracle, speakers, num_resamples=50, seed=0) == (None, None)
    noise = rng.normal(0, 1, 30)
    doubtful = prior_only - 0.2 + noise - noise.mean()  # better overall, but not in many resamples
    fraction, interval = learnt_fraction(prior_only - 0.1, prior_only, doubtful, speakers, num_resamples=500, seed=0)
    assert fraction is not None
    assert interval is None


# --- similarity


def degrees_between(a: np.ndarray, b: np.ndarray) -> float:
    return math.degrees(math.acos(1 - distance.cosine(a.astype(float), b.astype(float))))


def test_similarity_is_the_mean_over_pairs():
    values = features(rows=14, dim=9)
    speakers = np.array(list("abcabcaabdddea"))
    found = similarity(values, speakers, num_resamples=200, seed=0)
    pairs = [(i, j) for i in range(14) for j in range(i)]
    angles = {pair: degrees_between(*values[list(pair)]) for pair in pairs}
    between = [pair for pair in pairs if speakers[pair[0]] != speakers[pair[1]]]
    within = [np.mean([angles[i, j] for i, j in pairs if speakers[i] == speakers[j] == speaker]) for speaker in "abcd"]
    assert found["within"] == pytest.approx(np.mean(within))
    assert found["between"] == pytest.approx(np.mean([angles[pair] for pair in between]))
    cosines = [1 - distance.cosine(*values[list(pair)].astype(float)) for pair in between]
    assert found["between_cosine"] == pytest.approx(np.mean(cosines))
    for figure in ("within", "between", "between_cosine"):
        low, high = found[f"{figure}_interval"]
        assert low < found[figure] < high
    json.dumps(found, allow_nan=False)


def test_an_interval_of_pairs_is_the_bootstrap_over_speakers():
    """A speaker that was drawn twice is not a pair of different speakers."""
    rng = np.random.default_rng(3)
    values = (rng.standard_normal((25, 1, 6)) + 0.5 * rng.standard_normal((25, 2, 6)) + 0.7).reshape(50, 6)
    speakers = np.repeat(np.arange(25), 2)
    found = similarity(values, speakers, num_resamples=4000, seed=0)
    cosines = 1 - distance.squareform(distance.pdist(values, "cosine"))
    means: dict[str, list[float]] = {"between": [], "between_cosine": []}
    for _ in range(1500):
        rows = np.repeat(rng.integers(25, size=25) * 2, 2) + np.tile([0, 1], 25)
        different = speakers[rows][:, None] != speakers[rows][None]
        drawn = cosines[np.ix_(rows, rows)][different]
        means["between_cosine"].append(drawn.mean())
        means["between"].append(np.degrees(np.arccos(drawn)).mean())
    for figure, resampled in means.items():
        low, high = found[f"{figure}_interval"]
        assert (low, high) == pytest.approx(np.quantile(resampled, (0.025, 0.975)), abs=0.1 * (high - low))


def test_identical_portraits_have_angle_0():
    found = similarity(np.ones((20, 5), np.float16), np.arange(20) // 2, num_resamples=20, seed=0)
    assert (found["within"], found["between"]) == pytest.approx((0, 0), abs=1e-5)
    assert found["between_cosine"] == pytest.approx(1)
    assert found["between_cosine_interval"] == pytest.approx([1, 1])


def test_angles_of_many_rows_are_sampled_but_cosines_are_exact():
    rng = np.random.default_rng(4)
    speakers = np.repeat(np.arange(100), 6)
    values = (rng.standard_normal((100, 8))[speakers] + rng.standard_normal((600, 8)) + 0.5).astype(np.float32)
    exact = similarity(values, speakers, num_resamples=50, seed=0)
    sampled = similarity(values, speakers, num_resamples=50, seed=0, max_compared=200)
    assert sampled["between"] != exact["between"]
    assert sampled["between"] == pytest.approx(exact["between"], abs=3)
    assert (sampled["within"], sampled["between_cosine"]) == (exact["within"], exact["between_cosine"])
    again = similarity(values, speakers, num_resamples=50, seed=0, max_compared=200)
    assert again == sampled
    assert similarity(values, speakers, num_resamples=50, seed=1, max_compared=200)["between"] != sampled["between"]


def test_without_pairs_similarity_is_none():
    one_each = similarity(features(), np.arange(12), num_resamples=20, seed=0)
    assert one_each["within"] is None
    assert one_each["within_interval"] is None
    assert one_each["between"] > 0
    one_speaker = similarity(features(), np.zeros(12), num_resamples=20, seed=0)
    assert one_speaker["within"] > 0
    assert one_speaker["within_interval"] is None
    for figure in ("between", "between_cosine"):
        assert one_speaker[figure] is None
        assert one_speaker[f"{figure}_interval"] is None

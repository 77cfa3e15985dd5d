from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.spatial import distance
from sklearn.pipeline import Pipeline

from arspm.learning.evaluation import fit_judge, judged, other_speakers, table4_row


def features(rows: int = 12, dim: int = 20, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    values.setflags(write=False)  # as Parquet gives them
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
    json.dumps(row, allow_nan=False)


def test_the_columns_are_the_reports():
    figures = ("l1", "l2", "cos_degrees", "portrait_l1", "portrait_l2", "portrait_cos_degrees")
    assert set(row_of()) == {"model", "n", *figures, *(f"{figure}_interval" for figure in figures)}


@pytest.mark.parametrize(("absent", "there"), [("feature", "portrait_"), ("portrait", "")])
def test_figures_that_a_row_does_not_have_are_none(absent, there):
    row = row_of(**{absent: None})
    missing = {key for key, value in row.items() if value is None}
    other = "" if there else "portrait_"
    assert missing == {f"{other}{figure}{end}" for figure in ("l1", "l2", "cos_degrees") for end in ("", "_interval")}


def test_one_speaker_has_figures_but_no_interval():
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
def test_speech_is_always_anothers(sizes):
    speakers = np.repeat([f"speaker {n}" for n in range(len(sizes))], sizes)
    np.random.default_rng(0).shuffle(speakers)
    for seed in range(30):
        rows = other_speakers(speakers, seed)
        assert rows.shape == speakers.shape
        assert (speakers[rows] != speakers).all()


def test_every_speaker_is_taken_from():
    speakers = np.repeat(np.arange(10), 4)
    rows = other_speakers(speakers, 0)
    assert np.bincount(speakers[rows]).tolist() == [4] * 10
    assert len(np.unique(rows)) > 20  # and not one clip of each


def test_shuffling_follows_from_the_seed():
    speakers = np.repeat(np.arange(10), 4)
    np.testing.assert_array_equal(other_speakers(speakers, 3), other_speakers(speakers, 3))
    assert (other_speakers(speakers, 3) != other_speakers(speakers, 4)).any()


def test_one_speaker_cannot_be_shuffled():
    assert other_speakers(np.array(["a", "a"]), 0) is None


# --- the judge


class Sign(Pipeline):
    """A judge that can be followed by hand: the sign of the first number."""

    def __init__(self):
        pass

    def predict(self, features: np.ndarray) -> np.ndarray:
        return (features[:, 0] > 0).astype(int)


def test_shares_judged_right_are_counted():
    genders = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    firsts = np.array([-1, -1, 1, 1, 1, 1, -1, 1])
    table = judged(
        Sign(),
        {"real": np.stack([firsts, firsts], 1), "none right": np.stack([1 - 2 * genders] * 2, 1)},
        genders,
        np.arange(8) // 2,
        num_resamples=200,
        seed=0,
    )
    assert [row["pictures"] for row in table] == ["real", "none right"]
    assert (table[0]["n"], table[0]["accuracy"]) == (8, 6 / 8)
    assert (table[0]["female"], table[0]["male"]) == (2 / 3, 4 / 5)
    low, high = table[0]["accuracy_interval"]
    assert 0.5 <= low < 0.75 < high <= 1
    assert (table[1]["accuracy"], table[1]["accuracy_interval"]) == (0, [0, 0])
    json.dumps(table, allow_nan=False)


def test_a_sex_or_an_interval_that_there_is_not_is_none():
    (row,) = judged(Sign(), {"x": np.ones((3, 2))}, np.array([1, 1, 1]), np.zeros(3), num_resamples=10, seed=0)
    assert row["female"] is None
    assert row["accuracy_interval"] is None
    assert row["male"] == 1


def test_the_judge_learns_what_tells_the_sexes_apart():
    rng = np.random.default_rng(0)
    genders = np.repeat([0, 1], [150, 50])
    values = rng.standard_normal((200, 30)) * 10 + 40
    values[:, 4] += 50 * genders
    judge = fit_judge(values[::2], genders[::2])
    assert (judge.predict(values[1::2]) == genders[1::2]).mean() > 0.85
    assert (judge.predict(values[1::2])[genders[1::2] == 1] == 1).mean() > 0.8  # the rarer one too

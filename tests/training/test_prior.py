from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arspm.training.prior import TABLE1_COUNTS, choose_rows, convergence, running_means

LABELS = st.lists(st.sampled_from(["female", "male", None]), min_size=1, max_size=40)


@given(LABELS, st.integers(1, 50), st.integers(0, 5))
def test_the_neutral_prior_has_as_many_of_each_sex(labels, num_faces, seed):
    choice = choose_rows(labels, num_faces, seed)["neutral"]
    sexes = [labels[row] for row in choice.rows]
    assert len(set(choice.rows)) == len(choice.rows) <= num_faces
    if choice.balanced:
        assert sexes.count("female") == sexes.count("male") == len(sexes) // 2 > 0
        # as many as num_faces and the labels allow
        assert len(sexes) // 2 == min(num_faces // 2, labels.count("female"), labels.count("male"))
    else:
        assert num_faces < 2 or not {"female", "male"} <= set(labels)
        assert len(sexes) == min(num_faces, len(labels))


@given(LABELS, st.integers(1, 50), st.integers(0, 5))
def test_the_prior_of_a_sex_has_only_that_sex(labels, num_faces, seed):
    found = choose_rows(labels, num_faces, seed)
    assert set(found) == {"neutral"} | {label for label in labels if label}
    for sex in found.keys() - {"neutral"}:
        assert {labels[row] for row in found[sex].rows} == {sex}
        assert len(set(found[sex].rows)) == len(found[sex].rows) == min(num_faces, labels.count(sex))
        assert not found[sex].balanced


@given(LABELS, st.integers(2, 40), st.integers(2, 40), st.integers(0, 5))
def test_a_smaller_prior_uses_the_first_rows_of_a_larger_one(labels, fewer, more, seed):
    fewer, more = sorted((fewer, more))
    small, large = choose_rows(labels, fewer, seed), choose_rows(labels, more, seed)
    for name, choice in small.items():
        np.testing.assert_array_equal(choice.rows, large[name].rows[: len(choice.rows)])


def test_the_seed_determines_the_rows():
    labels = ["female", "male"] * 50
    assert choose_rows(labels, 20, 1)["neutral"].rows.tolist() == choose_rows(labels, 20, 1)["neutral"].rows.tolist()
    assert choose_rows(labels, 20, 1)["neutral"].rows.tolist() != choose_rows(labels, 20, 2)["neutral"].rows.tolist()
    assert choose_rows(labels, 20, 1)["neutral"].rows.tolist() != list(range(20))


def test_convergence_is_the_distance_of_means():
    features = np.random.default_rng(0).standard_normal((600, 8)).astype(np.float32)
    found = convergence(features)
    assert [entry["n"] for entry in found] == [10, 50, 100, 500]
    final = [sum(float(row[k]) for row in features) / 600 for k in range(8)]
    for entry in found:
        mean = [sum(float(row[k]) for row in features[: entry["n"]]) / entry["n"] for k in range(8)]
        assert entry["l1"] == pytest.approx(sum(abs(a - b) for a, b in zip(mean, final, strict=True)), rel=1e-9)


def test_a_prior_is_equation_3_of_each_number_of_faces():
    features = np.random.default_rng(0).standard_normal((120, 5)).astype(np.float32)
    found = running_means(features)
    assert list(found) == [10, 50, 100, 120]
    for n, mean in found.items():
        expected = [math.fsum(float(row[k]) for row in features[:n]) / n for k in range(5)]
        np.testing.assert_allclose(mean, expected, rtol=1e-12)


def test_the_counts_are_table_1s():
    assert TABLE1_COUNTS == (10, 50, 100, 500, 1000, 5000, 10_000)  # reading P
    assert convergence(np.zeros((10, 4))) == []


def test_half_precision_features_are_summed_in_float64():
    features = np.full((3000, 2), 0.1, np.float16)
    assert [entry["l1"] for entry in convergence(features)] == pytest.approx([0] * 5, abs=1e-12)

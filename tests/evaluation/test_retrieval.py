from __future__ import annotations

import json
from itertools import combinations
from math import comb

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from arspm.evaluation.retrieval import ranks, recall_at_k, retrieval

SCIPY = {"cosine": "cosine", "l1": "cityblock", "l2": "euclidean"}


def make_speakers(num_speakers: int = 30, clips: int = 3, dim: int = 8, noise: float = 5.0, seed: int = 0):
    rng = np.random.default_rng(seed)
    gallery = rng.standard_normal((num_speakers, dim)).astype(np.float32)
    truth = np.repeat(np.arange(num_speakers), clips)
    queries = (3 * gallery[truth] + noise * rng.standard_normal((len(truth), dim))).astype(np.float32)
    return queries, gallery, truth


def rows_of(**changes):
    queries, gallery, truth = make_speakers()
    options = {"num_resamples": 200, "seed": 0} | changes
    rows = retrieval(queries, gallery, truth, np.array([f"speaker {n}" for n in truth]), **options)
    return {(row["distance"], row["gallery"]): row for row in rows}


def test_the_full_gallery_agrees_with_a_loop_over_scipys_distances():
    queries, gallery, truth = make_speakers()
    rows = rows_of(gallery_sizes=(None,))
    assert set(rows) == {(name, 30) for name in (*SCIPY, "random")}
    for name, metric in SCIPY.items():
        apart = cdist(queries.astype(float), gallery.astype(float), metric)
        for k in (1, 2, 5, 10):
            hits = [own in np.argsort(line)[:k] for own, line in zip(truth, apart, strict=True)]
            assert 0 < np.mean(hits) < 1
            assert rows[name, 30][f"r{k}"] == pytest.approx(np.mean(hits))
            by_speaker = np.reshape(hits, (30, 3)).mean(axis=1)
            low, high = rows[name, 30][f"r{k}_interval"]
            assert low <= np.mean(hits) <= high
            half = 1.96 * by_speaker.std() / np.sqrt(30)
            assert high - low == pytest.approx(2 * half, rel=0.3)
    assert len({rows[name, 30]["r1"] for name in SCIPY}) > 1  # otherwise the test could not tell the distances apart


def test_a_smaller_gallery_agrees_with_sampled_galleries():
    queries, gallery, truth = make_speakers()
    rows = rows_of(gallery_sizes=(12,))
    rng = np.random.default_rng(1)
    apart = cdist(queries.astype(float), gallery.astype(float))
    for k in (1, 5):
        hits = []
        for _ in range(300):
            for own, line in zip(truth, apart, strict=True):
                others = rng.choice(np.delete(np.arange(30), own), 11, replace=False)
                hits.append((line[others] < line[own]).sum() < k)
        assert rows["l2", 12][f"r{k}"] == pytest.approx(np.mean(hits), abs=4 * np.std(hits) / len(hits) ** 0.5)


@pytest.mark.parametrize(("nearer", "tied"), [(0, 0), (2, 0), (5, 0), (1, 3), (0, 5), (3, 2)])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_recall_at_k_agrees_with_enumerating_all_galleries_and_tie_orders(nearer, tied, k):
    """Enumerate every gallery of 4 of 6 faces that contains the speaker's, and every order of the ties."""
    others = ["nearer"] * nearer + ["tied"] * tied + ["farther"] * (5 - nearer - tied)
    total = 0.0
    for chosen in combinations(others, 3):
        num_nearer, num_tied = chosen.count("nearer"), chosen.count("tied")
        total += sum(num_nearer + before < k for before in range(num_tied + 1)) / (num_tied + 1)
    (found,) = recall_at_k(np.array([nearer]), np.array([tied]), k, 4, 6)
    assert found == pytest.approx(total / comb(5, 3))


def test_equal_faces_are_ties():
    gallery = np.repeat(np.random.default_rng(0).standard_normal((1, 300)), 7, axis=0).astype(np.float16)
    queries = np.random.default_rng(1).standard_normal((5, 300)).astype(np.float16)
    for distance in SCIPY:
        nearer, tied = ranks(queries, gallery, np.arange(5), distance)
        assert nearer.tolist() == [0] * 5
        assert tied.tolist() == [6] * 5
    rows = retrieval(queries, gallery, np.arange(5), np.arange(5), gallery_sizes=(4, None), num_resamples=9, seed=0)
    for row in rows:  # with identical faces, R@K is at chance level
        assert row["r1"] == pytest.approx(1 / row["gallery"])
        assert row["r2"] == pytest.approx(2 / row["gallery"])


def test_many_queries_are_processed_in_blocks(monkeypatch):
    queries, gallery, truth = make_speakers()
    in_one_block = ranks(queries, gallery, truth, "l1")
    monkeypatch.setattr("arspm.evaluation.retrieval._MAX_QUERIES", 7)
    np.testing.assert_array_equal(ranks(queries, gallery, truth, "l1"), in_one_block)


def test_too_large_and_duplicate_gallery_sizes_are_left_out():
    assert {size for _, size in rows_of()} == {30}
    assert {size for _, size in rows_of(gallery_sizes=(30, 10, None, 31))} == {10, 30}


def test_a_random_guess_has_k_over_the_gallery_size_and_no_interval():
    rows = rows_of(gallery_sizes=(4, 20))
    assert [rows["random", 20][f"r{k}"] for k in (1, 2, 5, 10)] == [0.05, 0.1, 0.25, 0.5]
    assert [rows["random", 4][f"r{k}"] for k in (1, 2, 5, 10)] == [0.25, 0.5, 1, 1]
    assert rows["random", 4]["r1_interval"] is None
    assert rows["l1", 4]["r10"] == 1
    json.dumps([*rows.values()], allow_nan=False)


def test_a_truth_outside_the_gallery_is_an_error():
    queries, gallery, truth = make_speakers()
    with pytest.raises(ValueError, match="gallery of 30, got 1 to 30"):
        retrieval(queries, gallery, truth + 1, truth, num_resamples=9, seed=0)


def test_a_gallery_of_one_speaker_is_always_right():
    queries, gallery, truth = make_speakers(num_speakers=1)
    rows = retrieval(queries, gallery, truth, np.array(["only"] * 3), num_resamples=50, seed=0)
    assert {row["gallery"] for row in rows} == {1}
    assert {row[f"r{k}"] for row in rows for k in (1, 2, 5, 10)} == {1.0}

from __future__ import annotations

import json
from itertools import combinations
from math import comb

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from arspm.evaluation.retrieval import ranks, recalls, retrieval

SCIPY = {"cosine": "cosine", "l1": "cityblock", "l2": "euclidean"}


def people(num_speakers: int = 30, clips: int = 3, dim: int = 8, noise: float = 5.0, seed: int = 0):
    rng = np.random.default_rng(seed)
    gallery = rng.standard_normal((num_speakers, dim)).astype(np.float32)
    truth = np.repeat(np.arange(num_speakers), clips)
    queries = (3 * gallery[truth] + noise * rng.standard_normal((len(truth), dim))).astype(np.float32)
    return queries, gallery, truth


def rows_of(**changes):
    queries, gallery, truth = people()
    options = {"num_resamples": 200, "seed": 0} | changes
    rows = retrieval(queries, gallery, truth, np.array([f"speaker {n}" for n in truth]), **options)
    return {(row["distance"], row["gallery"]): row for row in rows}


def test_the_whole_gallery_agrees_with_a_loop_over_scipys_distances():
    queries, gallery, truth = people()
    rows = rows_of(gallery_sizes=(None,))
    assert set(rows) == {(name, 30) for name in (*SCIPY, "random")}
    for name, metric in SCIPY.items():
        apart = cdist(queries.astype(float), gallery.astype(float), metric)
        for recall in (1, 2, 5, 10):
            hits = [own in np.argsort(line)[:recall] for own, line in zip(truth, apart, strict=True)]
            assert 0 < np.mean(hits) < 1
            assert rows[name, 30][f"r{recall}"] == pytest.approx(np.mean(hits))
            by_speaker = np.reshape(hits, (30, 3)).mean(axis=1)
            low, high = rows[name, 30][f"r{recall}_interval"]
            assert low <= np.mean(hits) <= high
            half = 1.96 * by_speaker.std() / np.sqrt(30)
            assert high - low == pytest.approx(2 * half, rel=0.3)
    assert len({rows[name, 30]["r1"] for name in SCIPY}) > 1  # or one distance could stand for another


def test_a_smaller_gallery_is_what_drawing_galleries_gives():
    queries, gallery, truth = people()
    rows = rows_of(gallery_sizes=(12,))
    rng = np.random.default_rng(1)
    apart = cdist(queries.astype(float), gallery.astype(float))
    for recall in (1, 5):
        hits = []
        for _ in range(300):
            for own, line in zip(truth, apart, strict=True):
                others = rng.choice(np.delete(np.arange(30), own), 11, replace=False)
                hits.append((line[others] < line[own]).sum() < recall)
        assert rows["l2", 12][f"r{recall}"] == pytest.approx(np.mean(hits), abs=4 * np.std(hits) / len(hits) ** 0.5)


@pytest.mark.parametrize(("nearer", "tied"), [(0, 0), (2, 0), (5, 0), (1, 3), (0, 5), (3, 2)])
@pytest.mark.parametrize("recall", [1, 2, 3])
def test_a_chance_is_the_share_of_all_galleries_and_orders(nearer, tied, recall):
    """Every gallery of 4 of 6 faces that holds the speaker's, and every place among those that are as near."""
    others = ["nearer"] * nearer + ["tied"] * tied + ["farther"] * (5 - nearer - tied)
    share = 0.0
    for chosen in combinations(others, 3):
        before, level = chosen.count("nearer"), chosen.count("tied")
        share += sum(before + place < recall for place in range(level + 1)) / (level + 1)
    (found,) = recalls(np.array([nearer]), np.array([tied]), recall, 4, 6)
    assert found == pytest.approx(share / comb(5, 3))


def test_equal_faces_are_equally_far():
    gallery = np.repeat(np.random.default_rng(0).standard_normal((1, 300)), 7, axis=0).astype(np.float16)
    queries = np.random.default_rng(1).standard_normal((5, 300)).astype(np.float16)
    for distance in SCIPY:
        nearer, tied = ranks(queries, gallery, np.arange(5), distance)
        assert nearer.tolist() == [0] * 5
        assert tied.tolist() == [6] * 5
    rows = retrieval(queries, gallery, np.arange(5), np.arange(5), gallery_sizes=(4, None), num_resamples=9, seed=0)
    for row in rows:  # who cannot tell them apart does as well as chance
        assert row["r1"] == pytest.approx(1 / row["gallery"])
        assert row["r2"] == pytest.approx(2 / row["gallery"])


def test_many_queries_are_looked_at_in_parts(monkeypatch):
    queries, gallery, truth = people()
    whole = ranks(queries, gallery, truth, "l1")
    monkeypatch.setattr("arspm.evaluation.retrieval._MAX_QUERIES", 7)
    np.testing.assert_array_equal(ranks(queries, gallery, truth, "l1"), whole)


def test_sizes_that_there_are_not_are_left_out_and_none_is_twice():
    assert {size for _, size in rows_of()} == {30}
    assert {size for _, size in rows_of(gallery_sizes=(30, 10, None, 31))} == {10, 30}


def test_chance_is_the_recall_over_the_gallery_and_has_no_interval():
    rows = rows_of(gallery_sizes=(4, 20))
    assert [rows["random", 20][f"r{recall}"] for recall in (1, 2, 5, 10)] == [0.05, 0.1, 0.25, 0.5]
    assert [rows["random", 4][f"r{recall}"] for recall in (1, 2, 5, 10)] == [0.25, 0.5, 1, 1]
    assert rows["random", 4]["r1_interval"] is None
    assert rows["l1", 4]["r10"] == 1
    json.dumps([*rows.values()], allow_nan=False)


def test_a_truth_outside_the_gallery_is_an_error():
    queries, gallery, truth = people()
    with pytest.raises(ValueError, match="gallery of 30, got 1 to 30"):
        retrieval(queries, gallery, truth + 1, truth, num_resamples=9, seed=0)

"""Measures of other work against loops over scipy's distances, and the VGGFace Score against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import distance
from scipy.stats import entropy

from arspm.evaluation.recognition import NUM_PARTS, identities, portrait_row, random_row, unit, vggface_score

RESAMPLING = {"num_resamples": 300, "seed": 0}


def made_up(num_speakers: int = 20, clips: int = 3, size: int = 16) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings of real faces of any length, portraits that are somewhat like them, and each row's speaker."""
    rng = np.random.default_rng(0)
    people = rng.standard_normal((num_speakers, size)).repeat(clips, axis=0)
    real = (people + 0.5 * rng.standard_normal(people.shape)) * rng.uniform(0.1, 30, (len(people), 1))
    portraits = (people + 2.0 * rng.standard_normal(people.shape)) * rng.uniform(0.1, 30, (len(people), 1))
    return real, portraits, np.arange(num_speakers).repeat(clips)


def test_a_row_has_the_distances_to_the_mean_of_the_speakers_unit_embeddings() -> None:
    real, portraits, speakers = made_up()
    names = np.unique(speakers)
    gallery = identities(real, speakers, names)
    row = portrait_row("model", portraits, gallery, speakers, **RESAMPLING)
    means = [np.mean([each / np.linalg.norm(each) for each in real[speakers == name]], axis=0) for name in names]
    np.testing.assert_allclose(gallery, means)
    scaled = [each / np.linalg.norm(each) for each in portraits]
    pairs = [(each, means[speaker]) for each, speaker in zip(scaled, speakers, strict=True)]
    assert row["cosine"] == pytest.approx(np.mean([1 - distance.cosine(*pair) for pair in pairs]))
    assert row["l1"] == pytest.approx(np.mean([distance.cityblock(*pair) for pair in pairs]))
    assert row["l2"] == pytest.approx(np.mean([distance.euclidean(*pair) for pair in pairs]))
    order = distance.cdist(portraits, np.array(means), "cosine").argsort(axis=1)
    for k in (1, 2, 5, 10):
        assert row[f"r{k}"] == pytest.approx((order[:, :k] == speakers[:, None]).any(axis=1).mean()), k
    assert 0.1 < row["r1"] < 0.9
    assert (row["model"], row["n"], row["gallery"]) == ("model", 60, 20)
    for name in ("cosine", "l1", "l2", "r10"):
        low, high = row[f"{name}_interval"]
        assert low < row[name] < high
    assert random_row(20) | {"r1": 0.05, "r2": 0.1, "r5": 0.25, "r10": 0.5} == random_row(20)


def test_equal_portraits_have_the_recall_of_chance() -> None:
    real, portraits, speakers = made_up()
    gallery = identities(real, speakers, np.unique(speakers))
    same = np.repeat(portraits[:1], len(speakers), axis=0)
    row = portrait_row("prior-only", same, gallery, speakers, **RESAMPLING)
    assert row["r10"] == pytest.approx(0.5)


def test_unit_vectors_have_norm_1_and_zero_stays_zero() -> None:
    np.testing.assert_allclose(unit(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0, 0]])


@pytest.mark.parametrize("count", [5, 23, 60])
def test_the_vggface_score_is_the_inception_score_over_five_parts(count: int) -> None:
    logits = 3 * np.random.default_rng(1).standard_normal((count, 12))
    found = vggface_score(logits, seed=4)
    assert found is not None
    shuffled = np.exp(logits[np.random.default_rng(4).permutation(count)])
    p = shuffled / shuffled.sum(axis=1, keepdims=True)
    parts = [p[count * index // NUM_PARTS : count * (index + 1) // NUM_PARTS] for index in range(NUM_PARTS)]
    scores = [np.exp(np.mean([entropy(each, part.mean(axis=0)) for each in part])) for part in parts]
    assert found == pytest.approx((np.mean(scores), np.std(scores)))


def test_the_score_of_certain_pictures_is_the_number_of_identities_and_of_equal_ones_is_1() -> None:
    certain = 1e4 * np.eye(4)[np.arange(400) % 4]  # probabilities of exactly 0 and 1
    score, _ = vggface_score(certain, seed=0) or (0.0, 0.0)
    assert score == pytest.approx(4, rel=0.05)
    assert vggface_score(np.ones((20, 1)) * np.arange(7), seed=0) == pytest.approx((1.0, 0.0))
    assert vggface_score(certain[:4], seed=0) is None

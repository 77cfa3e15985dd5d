from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial import distance

from arspm.evaluation.metrics import (
    bootstrap_interval,
    cos_degrees,
    l1_distance,
    l2_distance,
    mean_and_interval,
    pair_ratio,
    percentile_interval,
    ratio_or_nan,
    statistic_and_interval,
)


def pairs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(6, 50, generator=generator), 3 * torch.randn(6, 50, generator=generator)


def test_distances_agree_with_scipy():
    a, b = pairs()
    rows = list(zip(a.double().numpy(), b.double().numpy(), strict=True))
    np.testing.assert_allclose(l1_distance(a, b), [distance.cityblock(*row) for row in rows], rtol=1e-12)
    np.testing.assert_allclose(l2_distance(a, b), [distance.euclidean(*row) for row in rows], rtol=1e-12)
    degrees = [math.degrees(math.acos(1 - distance.cosine(*row))) for row in rows]
    np.testing.assert_allclose(cos_degrees(a, b), degrees, rtol=1e-9)


def test_features_stored_in_half_precision_are_compared_in_float64():
    a, b = (t.half() for t in pairs())
    for metric in (l1_distance, l2_distance, cos_degrees):
        assert metric(a, b).dtype == torch.float64
        assert torch.equal(metric(a, b), metric(a.double(), b.double()))


@pytest.mark.parametrize("radians", [0.0, 1e-12, 1e-9, 1e-5, 0.3, math.pi / 2, 2.0])
def test_the_angle_is_accurate_everywhere(radians):
    a = torch.tensor([[2.0, 0.0, 0.0], [1.0, 1.0, 0.0]], dtype=torch.float64)
    across = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, math.sqrt(2)]], dtype=torch.float64)
    b = math.cos(radians) * a + math.sin(radians) * across * torch.tensor([[2.0], [1.0]])
    degrees = torch.full((2,), math.degrees(radians), dtype=torch.float64)
    torch.testing.assert_close(cos_degrees(a, 7 * b), degrees, rtol=1e-6, atol=1e-13)
    # 180 itself is only known to 180 * 2^-53, so the distance from it is absolute
    torch.testing.assert_close(cos_degrees(a, -7 * b), 180 - degrees, rtol=0, atol=1e-12)


def test_the_mean_angle_is_not_the_angle_of_the_mean_cosine():
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    b = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert cos_degrees(a, b).tolist() == pytest.approx([0, 90])


def test_a_zero_feature_is_at_90_degrees():
    assert cos_degrees(torch.zeros(1, 4), torch.randn(1, 4)).item() == pytest.approx(90)


# --- bootstrap


def test_one_clip_per_speaker_gives_the_textbook_interval():
    values = np.random.default_rng(1).normal(20, 3, size=2000)
    interval = bootstrap_interval(values, np.arange(2000), num_resamples=4000)
    half = 1.96 * values.std() / math.sqrt(2000)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_more_clips_of_the_same_speakers_do_not_narrow_the_interval():
    values = np.random.default_rng(1).normal(size=40)
    once = bootstrap_interval(values, np.arange(40))
    ten_times = bootstrap_interval(np.repeat(values, 10), np.repeat(np.arange(40), 10))
    assert ten_times == pytest.approx(once)


def test_the_interval_agrees_with_a_loop_over_resamples():
    """Speakers have different numbers of clips: a resample's mean is over clips, not over speakers."""
    generator = np.random.default_rng(2)
    speakers = [f"speaker-{i}" for i in range(12)]
    clips = {speaker: generator.normal(i, 1, size=1 + 2 * i) for i, speaker in enumerate(speakers)}
    rows = [(value, speaker) for speaker, values in clips.items() for value in values]
    generator.shuffle(rows)
    values, groups = [float(value) for value, _ in rows], [str(speaker) for _, speaker in rows]
    interval = bootstrap_interval(values, groups, num_resamples=20_000, level=0.9)

    means = []
    for _ in range(20_000):
        drawn = [clips[speakers[i]] for i in generator.integers(12, size=12)]
        means.append(sum(v.sum() for v in drawn) / sum(map(len, drawn)))
    assert interval.mean == pytest.approx(np.mean(values))
    width = interval.high - interval.low
    assert interval.low == pytest.approx(np.quantile(means, 0.05), abs=0.03 * width)
    assert interval.high == pytest.approx(np.quantile(means, 0.95), abs=0.03 * width)


def test_the_order_of_the_rows_does_not_matter():
    values, groups = np.random.default_rng(3).normal(size=60), np.arange(60) // 4
    order = np.random.default_rng(4).permutation(60)
    assert bootstrap_interval(values[order], groups[order]) == pytest.approx(bootstrap_interval(values, groups))


def test_the_interval_is_deterministic_in_the_seed():
    values, groups = np.random.default_rng(5).normal(size=30), np.arange(30)
    assert bootstrap_interval(values, groups) == bootstrap_interval(values, groups, seed=0)
    assert bootstrap_interval(values, groups, seed=1) != bootstrap_interval(values, groups, seed=0)


def test_many_groups_are_resampled_in_chunks(monkeypatch):
    monkeypatch.setattr("arspm.evaluation.metrics._MAX_DRAWS", 350)  # 3 of 1000 resamples at a time
    values = np.random.default_rng(6).normal(size=100)
    interval = bootstrap_interval(values, np.arange(100), num_resamples=1000)
    half = 1.96 * values.std() / 10
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.1)


def test_one_speaker_has_a_mean_but_no_interval():
    mean, low, high = bootstrap_interval([1.0, 2.0], ["a", "a"])
    assert mean == 1.5
    assert math.isnan(low)
    assert math.isnan(high)


def test_mean_and_interval_agrees_with_bootstrap_interval():
    values, groups = np.random.default_rng(7).normal(size=30), np.arange(30) // 3
    mean, low, high = bootstrap_interval(values, groups, num_resamples=300, seed=4)
    assert mean_and_interval(values, groups, num_resamples=300, seed=4) == (mean, [low, high])
    assert mean_and_interval([1.0, 2.0], ["a", "a"], num_resamples=300, seed=4) == (1.5, None)


# --- intervals of other statistics


def test_resamples_draw_all_groups_with_replacement():
    seen = []

    def statistic(weights):
        seen.append(weights)
        return weights[:, 0]

    percentile_interval(statistic, 7, num_resamples=5000, seed=0)
    weights = np.concatenate(seen)
    assert weights.shape == (5000, 7)
    assert (weights.sum(axis=1) == 7).all()
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.06)
    np.testing.assert_allclose((weights == 0).mean(axis=0), (6 / 7) ** 7, atol=0.03)  # with replacement


def test_the_interval_of_a_ratio_agrees_with_a_loop_over_resamples():
    generator = np.random.default_rng(8)
    a, b = generator.normal(5, 1, 40), generator.normal(2, 1, 40)
    found, (low, high) = statistic_and_interval(lambda w: ratio_or_nan(w @ a, w @ b), 40, num_resamples=20_000, seed=0)
    assert found == pytest.approx(a.sum() / b.sum())
    ratios = []
    for _ in range(20_000):
        drawn = generator.integers(40, size=40)
        ratios.append(a[drawn].sum() / b[drawn].sum())
    assert (low, high) == pytest.approx(np.quantile(ratios, (0.025, 0.975)), rel=0.02)


def test_a_few_undefined_resamples_are_left_out_and_many_give_no_interval():
    values = np.arange(10.0)
    few = percentile_interval(lambda w: np.where(w[:, 0] > 3, np.nan, w @ values / 10), 10, num_resamples=4000, seed=0)
    full = percentile_interval(lambda w: w @ values / 10, 10, num_resamples=4000, seed=0)
    assert few == pytest.approx(full, abs=0.3)
    assert (
        percentile_interval(lambda w: np.where(w[:, 0] > 0, np.nan, w @ values), 10, num_resamples=400, seed=0) is None
    )
    assert statistic_and_interval(lambda w: np.full(len(w), np.nan), 10, num_resamples=9, seed=0) == (None, None)
    assert statistic_and_interval(lambda w: w[:, 0], 1, num_resamples=9, seed=0) == (1, None)


def test_pair_ratio_uses_pairs_of_different_groups():
    generator = np.random.default_rng(9)
    numerator, denominator = (generator.uniform(size=(6, 6)) for _ in range(2))
    for pairs in (numerator, denominator):
        np.fill_diagonal(pairs, 0)
    statistic = pair_ratio(numerator, denominator)
    often = np.array([[1, 1, 1, 1, 1, 1], [2, 0, 3, 1, 0, 0], [6, 0, 0, 0, 0, 0]])
    expected = []
    for counts in often[:2]:
        drawn = np.repeat(np.arange(6), counts)
        pairs = [(i, j) for i in drawn for j in drawn if i != j]
        expected.append(sum(numerator[pair] for pair in pairs) / sum(denominator[pair] for pair in pairs))
    found = statistic(often.astype(float))
    np.testing.assert_allclose(found[:2], expected)
    assert np.isnan(found[2])


# --- wrong input


@pytest.mark.parametrize(
    ("values", "groups", "options", "message"),
    [
        ([], [], {}, "n > 0"),
        ([1.0, 2.0], [1], {}, "n > 0"),
        ([1.0, math.nan], [1, 2], {}, "1 of 2 values are not finite"),
        ([1.0, 2.0], [1, 2], {"level": 95.0}, "level"),
    ],
)
def test_wrong_input_is_an_error(values, groups, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(values, groups, **options)

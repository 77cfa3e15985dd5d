"""Intervals over seeds and speakers against loops over resamples and known variances; Holm by hand."""

import numpy as np
import pytest
from scipy import stats

from arspm.evaluation.comparisons import add_holm, difference_entry, holm, over_seeds, over_seeds_and_speakers


def crossed(rng, seeds, speakers, *, of_seeds, of_speakers, of_both):
    """Return one value per seed and speaker whose mean is 0, with these standard deviations of its parts."""
    return (
        of_seeds * rng.standard_normal((seeds, 1))
        + of_speakers * rng.standard_normal((1, speakers))
        + of_both * rng.standard_normal((seeds, speakers))
    )


def test_it_agrees_with_a_loop_over_resamples():
    """Speakers have different numbers of clips; a resample's mean is over the clips of all drawn seeds and speakers."""
    rng = np.random.default_rng(0)
    speakers = np.repeat(np.array(["d", "a", "c", "b", "e", "f"]), [1, 5, 2, 3, 4, 2])
    rng.shuffle(speakers)
    values = 20 + crossed(rng, 4, len(speakers), of_seeds=0.7, of_speakers=2, of_both=1)
    found = over_seeds_and_speakers(values, speakers, num_resamples=20_000, seed=1)

    names = sorted(set(speakers))
    means = []
    for _ in range(20_000):
        clips = np.concatenate([np.flatnonzero(speakers == names[i]) for i in rng.integers(6, size=5)])
        means.append(np.mean([values[seed, clips].mean() for seed in rng.integers(4, size=3)]))
    error = np.std(means)
    share = values.mean(axis=1).var(ddof=1) / 4 / error**2
    freedom = 1 / (share**2 / 3 + (1 - share) ** 2 / 5)
    half = stats.t.ppf(0.975, freedom) * error
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.03 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03 * half)


def test_the_p_value_and_the_interval_agree():
    """p is 0.05 for the value at the interval's end."""
    values = crossed(np.random.default_rng(1), 3, 30, of_seeds=1, of_speakers=1, of_both=1)
    speakers = np.arange(30)
    low = over_seeds_and_speakers(values, speakers, num_resamples=500, seed=0).low
    assert over_seeds_and_speakers(values - low, speakers, num_resamples=500, seed=0).p == pytest.approx(0.05)


def test_a_single_seed_has_the_textbook_interval_over_speakers():
    values = np.random.default_rng(2).normal(20, 3, size=(1, 400))
    found = over_seeds_and_speakers(values, np.arange(400), num_resamples=20_000, seed=0)
    expected = stats.t.interval(0.95, 399, values.mean(), values.std(ddof=1) / 20)
    assert (found.low, found.high) == pytest.approx(expected, abs=0.02 * (expected[1] - expected[0]))


def test_seeds_that_differ_widen_the_interval_and_seeds_that_agree_do_not():
    rng = np.random.default_rng(3)
    speakers = rng.standard_normal((1, 50))
    alike = np.repeat(speakers, 3, axis=0)
    once, thrice, apart = (
        over_seeds_and_speakers(values, np.arange(50), num_resamples=20_000, seed=0)
        for values in (speakers, alike, alike + np.array([[-2.0], [0.0], [2.0]]))
    )
    assert thrice.interval == pytest.approx(once.interval, rel=0.03)
    assert apart.high - apart.low > 6 * (once.high - once.low)


def test_more_clips_of_the_same_speakers_do_not_narrow_the_interval():
    values = crossed(np.random.default_rng(4), 3, 20, of_seeds=1, of_speakers=1, of_both=1)
    once = over_seeds_and_speakers(values, np.arange(20), num_resamples=500, seed=0)
    repeated = over_seeds_and_speakers(
        np.repeat(values, 7, axis=1), np.repeat(np.arange(20), 7), num_resamples=500, seed=0
    )
    assert repeated == pytest.approx(once)


def test_differences_of_two_models_are_paired():
    """Both vary by far more than their difference does: seeds and speakers that both share cancel."""
    rng = np.random.default_rng(5)
    shared = crossed(rng, 5, 40, of_seeds=3, of_speakers=5, of_both=2)
    better = shared - 0.5 + 0.1 * rng.standard_normal(shared.shape)
    alone, difference = (
        over_seeds_and_speakers(values, np.arange(40), num_resamples=2000, seed=0)
        for values in (better, better - shared)
    )
    assert alone.high - alone.low > 3
    assert difference.low == pytest.approx(-0.5, abs=0.06)
    assert difference.high < -0.45
    assert difference.p < 0.001


def test_equal_values_have_an_interval_of_no_width():
    same = np.full((2, 3), -2.5)
    assert over_seeds_and_speakers(same, np.arange(3), num_resamples=9, seed=0) == (-2.5, -2.5, -2.5, 0)
    assert over_seeds_and_speakers(np.zeros((2, 3)), np.arange(3), num_resamples=9, seed=0) == (0, 0, 0, 1)


def test_a_single_speaker_or_seed_has_no_interval():
    assert over_seeds_and_speakers(np.ones((3, 2)), ["a", "a"], num_resamples=9, seed=0) == (1, None, None, None)
    assert over_seeds([4.0]) == (4, None, None, None)


def test_figures_without_clips_have_students_interval_over_seeds():
    values = [1.0, 2.5, 0.5, 3.0]
    found = over_seeds(values)
    assert found.interval == pytest.approx(stats.t.interval(0.95, 3, np.mean(values), stats.sem(values)))
    assert found.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


@pytest.mark.parametrize(
    ("values", "speakers", "message"),
    [
        (np.ones(3), ["a", "b", "c"], r"values must be \(seeds, n\)"),
        (np.ones((0, 3)), ["a", "b", "c"], r"at least one seed, got \(0, 3\)"),
        ([[1.0, np.nan]], ["a", "b"], "1 of 2 values are not finite"),
        (np.ones((2, 3)), ["a", "b"], "values and groups"),
    ],
)
def test_unusable_values_are_refused(values, speakers, message):
    with pytest.raises(ValueError, match=message):
        over_seeds_and_speakers(values, speakers, num_resamples=9, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "speakers", "of_seeds", "of_speakers", "of_both", "least", "most"),
    [
        # Three seeds that contribute most of the variance are the hardest case.
        (3, 40, 1.0, 0.0, 0.5, 0.88, 0.97),
        (3, 40, 1.0, 1.0, 1.0, 0.89, 0.97),
        (5, 40, 1.0, 1.0, 1.0, 0.92, 0.985),
        (5, 100, 0.2, 3.0, 1.0, 0.92, 0.98),
        (5, 100, 0.0, 0.0, 3.0, 0.97, 1.0),  # the interaction counts three times, so the interval is too wide
        (1, 40, 0.0, 1.0, 0.5, 0.92, 0.98),
    ],
)
def test_it_covers_the_true_mean_as_often_as_it_says(seeds, speakers, of_seeds, of_speakers, of_both, least, most):
    rng = np.random.default_rng(6)
    covered = 0
    for _ in range(1000):
        values = crossed(rng, seeds, speakers, of_seeds=of_seeds, of_speakers=of_speakers, of_both=of_both)
        found = over_seeds_and_speakers(values, np.arange(speakers), num_resamples=400, seed=0)
        covered += found.low <= 0 <= found.high
    assert least <= covered / 1000 <= most


def test_over_speakers_only_several_seeds_are_covered_too_rarely():
    """Why seeds are resampled: with seeds averaged first, an interval over speakers misses the mean of all seeds."""
    rng = np.random.default_rng(7)
    covered = {"both": 0, "speakers": 0}
    for _ in range(200):
        values = crossed(rng, 5, 40, of_seeds=1, of_speakers=1, of_both=0.5)
        for name, seen in (("both", values), ("speakers", values.mean(axis=0, keepdims=True))):
            found = over_seeds_and_speakers(seen, np.arange(40), num_resamples=200, seed=0)
            covered[name] += found.low <= 0 <= found.high
    assert covered["speakers"] / 200 < 0.65
    assert covered["both"] / 200 > 0.88


def test_holms_correction_by_hand():
    """Sorted: 0.005 * 4, 0.01 * 3, 0.03 * 2, 0.04 * 1, each at least the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([None, 0.02, None]) == [None, 0.02, None]
    assert holm([]) == []


def test_entries_of_a_family_get_their_corrected_p_values():
    entries = [
        difference_entry(over_seeds(values), len(values), over_speakers=False)
        for values in ([1.0, 1.1, 0.9], [0.1, -0.1, 0.2], [5.0])
    ]
    add_holm([*entries, None])
    small, large = entries[0]["p"], entries[1]["p"]
    assert [entry["p_holm"] for entry in entries] == [2 * small, pytest.approx(large), None]
    assert [entry["comparisons"] for entry in entries] == [2, 2, 2]

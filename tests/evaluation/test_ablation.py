"""Variants over seeds: means, standard deviations, paired differences and steps, against hand-computed values."""

import statistics

import numpy as np
import pytest

from arspm.corpus.schema import CLIP_ID, SPEAKER
from arspm.evaluation.ablation import FIGURES, TrainedModel, compare_variants, steps_to_reach

SPEAKERS = np.repeat(["ann", "bob", "cid", "dot"], [2, 3, 1, 2])
CLIPS = np.array([f"{speaker}{row}" for row, speaker in enumerate(SPEAKERS)])


def trained(variant, seed, angles, curve, *, shift=0.0, own=slice(None), share=None, accuracy=None):
    """A model whose distances are all 30 + seed + shift, plus 0.1 per clip."""
    by_clip = (30.0 + seed + shift + np.arange(len(CLIPS)) / 10)[own]
    row = {"model": variant, "n": len(by_clip), **{figure: float(by_clip.mean()) for figure in FIGURES}}
    row["cos_degrees_learnt_share"] = share
    measured = {"table4": [row, {"model": "prior-only", "n": len(by_clip), "cos_degrees": 40.0}], "table5": None}
    if accuracy is not None:
        measured["table5"] = [
            {"pictures": "real", "accuracy": 1.0},
            {"pictures": variant, "accuracy": accuracy, "female": accuracy - 0.1, "male": None},
        ]
    epochs = [{"step": step, "val_cos_degrees": angle} for step, angle in curve]
    history = {"epochs": epochs, "losses": [[1, 2.0]], "best_epoch": 1 + int(np.argmin([a for _, a in curve]))}
    clips = {CLIP_ID: CLIPS[own], SPEAKER: SPEAKERS[own], **dict.fromkeys(FIGURES, by_clip)}
    return TrainedModel(variant, seed, f"/run/_variants/{variant}-{seed}", measured, history, clips)


def models():
    return [
        trained("non-prior", 0, 30, [(10, 50.0), (20, 42.0), (30, 40.0)], accuracy=0.5),
        trained("non-prior", 1, 30, [(10, 52.0), (20, 40.0), (30, 41.0)], accuracy=0.7),
        trained("neutral+fc", 0, 30, [(10, 40.5), (20, 38.0), (30, 37.0)], shift=-2.5, share=0.5),
        trained("neutral+fc", 1, 30, [(10, 39.0), (20, 37.0), (30, 39.0)], shift=-2.5, share=0.7),
        trained("female", 0, 30, [(10, 39.0)], shift=1.0, own=slice(2, 6)),
    ]


def compared(chosen=None):
    return compare_variants(chosen or models(), num_resamples=300, seed=0)


def by_name(found):
    return {row["variant"]: row for row in found["variants"]}


def test_the_angle_of_a_model_is_that_of_its_kept_epoch():
    """Not the least one: with few validation rows, the training loss chooses the epoch that is kept."""
    model = trained("neutral", 0, 30, [(10, 50.0), (20, 38.0), (30, 41.0)])
    assert model.best_angle == 38.0
    kept = model._replace(history={**model.history, "best_epoch": 3})
    assert kept.best_angle == 41.0
    figures = by_name(compared([kept]))["neutral"]["figures"]
    assert figures["val_cos_degrees"]["mean"] == 41.0


def test_means_and_standard_deviations_are_over_seeds():
    row = by_name(compared())["neutral+fc"]
    values = [27.5 + seed + statistics.mean(np.arange(8) / 10) for seed in (0, 1)]
    for figure in FIGURES:
        assert row["figures"][figure]["mean"] == pytest.approx(statistics.mean(values))
        assert row["figures"][figure]["sd"] == pytest.approx(statistics.stdev(values))
        assert row["figures"][figure]["low"] < row["figures"][figure]["mean"] < row["figures"][figure]["high"]
    assert row["figures"]["val_cos_degrees"]["mean"] == pytest.approx(37.0)  # the best of each seed
    assert row["figures"]["cos_degrees_learnt_share"]["mean"] == pytest.approx(0.6)
    assert [run["best_epoch"] for run in row["runs"]] == [3, 2]


def test_one_seed_has_no_standard_deviation_and_without_oracle_no_fraction_learnt():
    row = by_name(compared())["female"]
    assert row["figures"]["l2"]["sd"] is None
    assert row["figures"]["cos_degrees_learnt_share"] is None
    assert row["n"] == 4


def test_differences_are_paired_by_clip():
    """Every clip differs by the same amount, so the interval has width zero although distances vary between clips."""
    rows = by_name(compared())
    assert rows["non-prior"]["against_non_prior"] is None
    difference = rows["neutral+fc"]["against_non_prior"]["cos_degrees"]
    assert difference["difference"] == pytest.approx(-2.5)
    assert difference["interval"] == pytest.approx([-2.5, -2.5])
    assert (difference["num_seeds"], difference["over_speakers"], difference["comparisons"]) == (2, True, 2)
    # Only the seed that both have, on clips of one sex only.
    assert rows["female"]["against_non_prior"]["l1"]["difference"] == pytest.approx(1.0)
    assert rows["female"]["against_non_prior"]["l1"]["num_seeds"] == 1
    validation = rows["neutral+fc"]["against_non_prior"]["val_cos_degrees"]
    assert validation["difference"] == pytest.approx(37.0 - 40.0)
    # By hand: both seeds differ by -3, so the interval has no width.
    assert (validation["interval"], validation["over_speakers"]) == ([-3.0, -3.0], False)


def test_seeds_are_paired_whatever_their_order():
    chosen = models()
    chosen[0], chosen[1] = chosen[1], chosen[0]
    difference = by_name(compared(chosen))["neutral+fc"]["against_non_prior"]["cos_degrees"]
    assert difference["interval"] == pytest.approx([-2.5, -2.5])  # wrong pairs differ by -1.5 and -3.5
    assert by_name(compared(models()[1:3]))["neutral+fc"]["against_non_prior"] == dict.fromkeys(
        (*FIGURES, "val_cos_degrees")  # seed 0 against seed 1
    )


def test_a_model_of_one_sex_is_also_compared_with_non_prior_of_that_sex():
    control = trained("non-prior-female", 0, 30, [(10, 40.0)], shift=1.5, own=slice(2, 6))
    found = compared([*models(), control])
    [row] = found["controls"]
    assert (row["variant"], row["reference"]) == ("female", "non-prior-female")
    assert row["differences"]["cos_degrees"]["difference"] == pytest.approx(-0.5)
    assert row["differences"]["val_cos_degrees"]["difference"] == pytest.approx(-1.0)  # validated on the same clips
    assert row["differences"]["cos_degrees"]["comparisons"] == 4
    assert any("female minus non-prior-female is −0.50°" in sentence for sentence in found["findings"])
    assert compared()["controls"] == []


def test_a_difference_of_one_of_many_variants_needs_stronger_evidence():
    """The same figures with one variant and with eight: the interval stays, Holm's p-value is eight times as large."""
    rng = np.random.default_rng(1)

    def noisy(variant, seed, shift):
        model = trained(variant, seed, 30, [(10, 40.0 + shift)], shift=shift)
        noise = 0.2 * rng.standard_normal(len(CLIPS))
        return model._replace(clips=model.clips | {figure: model.clips[figure] + noise for figure in FIGURES})

    reference = [noisy("non-prior", seed, 0.0) for seed in range(4)]
    fused = [noisy("neutral+fc", seed, -0.4) for seed in range(4)]
    others = [noisy(f"other-{number}", seed, 0.0) for number in range(7) for seed in range(4)]
    alone, among = (
        by_name(compared([*reference, *fused, *more]))["neutral+fc"]["against_non_prior"]["l2"] for more in ([], others)
    )
    assert alone["interval"] == among["interval"]
    assert alone["p"] == alone["p_holm"] == among["p"]
    assert among["p_holm"] == pytest.approx(8 * among["p"])


def test_validation_angles_of_one_sex_are_not_compared_with_the_reference():
    found = compared()
    assert by_name(found)["female"]["against_non_prior"]["val_cos_degrees"] is None
    for target in found["convergence"]["targets"]:
        assert [row["variant"] for row in target["variants"]] == ["non-prior", "neutral+fc"]


def test_accuracy_is_of_the_variants_own_portraits():
    rows = by_name(compared())
    assert rows["non-prior"]["gender"] == pytest.approx(
        {"accuracy": 0.6, "sd": statistics.stdev([0.5, 0.7]), "female": 0.5, "male": None}
    )
    assert rows["neutral+fc"]["gender"] is None


def test_steps_to_reach_a_validation_angle():
    curve = [(10, 50.0), (20, 42.0), (30, 40.0), (40, 41.0)]
    assert [steps_to_reach(curve, angle) for angle in (60.0, 42.0, 41.9, 39.9)] == [10, 20, 30, None]


def test_targets_are_between_the_references_first_epoch_and_its_best():
    found = compared()["convergence"]
    values = [target["value"] for target in found["targets"]]
    assert values == pytest.approx([51 - fraction * (51 - 40) for fraction in (0.5, 0.75, 0.9, 1.0)])
    last = {row["variant"]: row for row in found["targets"][-1]["variants"]}
    assert last["non-prior"]["steps"] == [30, 20]
    assert (last["non-prior"]["mean"], last["non-prior"]["reached"]) == (25, 2)
    assert last["neutral+fc"]["steps"] == [20, 10]
    assert len(found["curves"]) == 5


def test_a_target_that_a_seed_never_reaches_has_no_mean():
    chosen = models()
    chosen[2] = trained("neutral+fc", 0, 30, [(10, 60.0)])
    last = {row["variant"]: row for row in compared(chosen)["convergence"]["targets"][-1]["variants"]}["neutral+fc"]
    assert (last["steps"], last["mean"], last["reached"]) == ([None, 10], None, 1)


def test_findings_agree_with_the_numbers():
    text = " ".join(compared()["findings"])
    assert (
        "On the test split, closer to the true face than non-prior: neutral+fc; further from it: female; not shown to "
        "differ from it: 0 of 2 variants." in text
    )
    assert (
        "neutral+fc minus non-prior is −2.50° (95 % interval over 2 seeds and the speakers: −2.50 to −2.50; p < 0.001 "
        "after Holm's correction for 2 comparisons): closer to the true face." in text
    )
    assert (
        "After the same 30 steps, neutral+fc has a validation angle of 37.00 ± 0.00°, non-prior 40.00 ± 0.00°, smaller "
        "for 2 of 2 seeds. The difference is −3.00° (95 % interval over 2 seeds: −3.00 to −3.00; p < 0.001): smaller."
        in text
    )
    worse = models()
    worse[2:4] = [trained("neutral+fc", seed, 30, [(30, 45.0 + seed)], shift=1.5) for seed in (0, 1)]
    text = " ".join(compared(worse)["findings"])
    assert "closer to the true face than non-prior: none; further from it: neutral+fc and female" in text
    assert "smaller for 0 of 2 seeds" in text
    assert "further from the true face" in text
    assert "more steps than were run for 2 of 2 seeds" in text


def test_findings_claim_no_difference_that_the_seeds_do_not_support():
    """Closer with each of two seeds, for every speaker by the same amount, but by 0.2 and 2.0: other seeds may vary."""
    chosen = models()
    chosen[2:4] = [trained("neutral+fc", seed, 30, [(30, 38.0 + seed)], shift=(-0.2, -2.0)[seed]) for seed in (0, 1)]
    text = " ".join(compared(chosen[:4])["findings"])
    assert "neutral+fc minus non-prior is −1.10°" in text
    assert "closer to the true face than non-prior: none" in text
    assert text.count("not shown to differ.") == 2  # the test angle, and the validation angle


def test_findings_of_one_seed_say_so():
    text = " ".join(compared([models()[0], models()[2]])["findings"])
    assert "For a single seed, so nothing is known of other seeds." in text
    assert "95 % interval over the speakers, for a single seed: −2.50 to −2.50" in text
    assert "The difference is −3.00° (one seed, so no interval): no verdict." in text


def test_findings_give_the_head_start_of_a_prior_in_steps():
    chosen = models()
    for seed, losses in enumerate(([[1, 14.0], [2, 9.0], [3, 5.0]], [[1, 15.0], [2, 8.0], [3, 7.5], [5, 4.0]])):
        chosen[seed] = chosen[seed]._replace(history=chosen[seed].history | {"losses": losses})
        added = trained("neutral", seed, 30, [(30, 38.0)])
        chosen.append(added._replace(history=added.history | {"losses": [[1, 5.5], [2, 5.0]]}))
    sentence = "starts at a training loss of 5.5, non-prior at 14.5; non-prior reaches 5.5 after 4 ± 1 steps of 30."
    assert any(sentence in finding for finding in compared(chosen)["findings"])
    assert not any("head start" in finding or "starts at" in finding for finding in compared()["findings"])


def test_without_the_reference_there_are_no_findings():
    found = compared(models()[2:])
    assert found["findings"] == []
    assert found["convergence"]["targets"] == []
    assert by_name(found)["female"]["against_non_prior"] is None


def test_seeds_with_different_clips_are_an_error():
    chosen = models()
    chosen[1] = chosen[1]._replace(clips=chosen[1].clips | {CLIP_ID: CLIPS[::-1]})
    with pytest.raises(ValueError, match=r"_variants/non-prior-1: evaluated on other clips"):
        compared(chosen)

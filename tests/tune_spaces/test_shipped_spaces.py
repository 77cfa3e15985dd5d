"""The shipped spaces: what they vary, and that every sample is a valid configuration."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
from scipy import stats

from arspm.config import Cbam, override
from arspm.config.presets import PAPER, PRESETS, preset
from arspm.config.studies import STUDIES
from arspm.config.variants import TABLE4, VARIANTS
from arspm.runs.stages import STAGES
from tune_spaces import space as spaces
from tune_spaces.space import Choice, LogUniform

PRIOR = "prior.kind+speech_encoder.fusion"
CBAM = "speech_encoder.cbam"


def load(name: str) -> spaces.Space:
    return spaces.load(name)[1]


def test_all_shipped_spaces_are_listed():
    assert spaces.shipped() == [
        "cbam_ordering",
        "joint",
        "loss_weights",
        "paper_ablation",
        "prior_by_cbam",
        "prior_type",
        "prior_variants",
    ]
    assert all(spaces.load(name)[0] == name for name in spaces.shipped())


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("space", spaces.shipped())
def test_every_sample_is_a_valid_configuration(space, name):
    """Every combination of choices with every end of the ranges, and draws from within; then `check` agrees."""
    config, found = preset(name), load(space)
    ends = {
        each.name: spaces.describe(found)[each.name].get("values") or [each.domain.low, each.domain.high]
        for each in spaces.dimensions(found)
    }
    samples = [dict(zip(ends, each, strict=True)) for each in itertools.product(*ends.values())]
    for sample in [*samples, *spaces.random_samples(found, 100, seed=1)]:
        trial = override(config, spaces.changes(found, sample))
        assert spaces.sample_of(found, trial) == sample
        allowed = {"seed", "speech_encoder", "prior", "loss"}
        assert {section for section, kept in config if getattr(trial, section) != kept} <= allowed
        assert trial.prior.num_faces == config.prior.num_faces
    spaces.check(found, config, varies=STAGES["encoder"].reads)


def test_every_space_contains_the_papers_values():
    paper = {"loss.lambda1": 1.0, "loss.lambda2": 0.04, "loss.lambda3": 1.2, PRIOR: "neutral+fc", CBAM: "channel_first"}
    variants = "+".join(VARIANTS["neutral"].changes)
    assert spaces.sample_of(load("loss_weights"), PAPER) == {name: paper[name] for name in list(paper)[:3]}
    assert spaces.sample_of(load("prior_type"), PAPER) == {PRIOR: "neutral+fc"}
    fields = f"{PRIOR}+speech_encoder.fc2_init+speech_encoder.prior_weight"
    assert spaces.sample_of(load("prior_variants"), PAPER) == {fields: "neutral+fc"}
    assert spaces.sample_of(load("cbam_ordering"), PAPER) == {CBAM: "channel_first"}
    assert spaces.sample_of(load("joint"), PAPER) == paper
    assert spaces.sample_of(load("prior_by_cbam"), PAPER) == {PRIOR: "neutral+fc", CBAM: "channel_first", "seed": 0}
    assert spaces.sample_of(load("paper_ablation"), PAPER) == {variants: "neutral+fc", "seed": 0}


def test_the_papers_weights_are_the_median():
    """The median of scipy's distribution over the same range; a factor of ten to either side."""
    for name, paper in (("loss.lambda1", 1), ("loss.lambda2", 0.04), ("loss.lambda3", 1.2)):
        domain = load("loss_weights")[name]
        assert isinstance(domain, LogUniform)
        assert stats.loguniform(domain.low, domain.high).median() == pytest.approx(paper)
        assert domain.high / domain.low == pytest.approx(100)


def test_the_priors_match_the_variants_of_the_same_names():
    for label in ("none", "neutral", "neutral+fc", "gender", "gender+fc"):
        variant = VARIANTS["non-prior" if label == "none" else label]
        changes = spaces.changes(load("prior_type"), {PRIOR: label})
        assert changes == {name: variant.changes[name] for name in ("prior.kind", "speech_encoder.fusion")}
    assert len(spaces.grid(load("prior_type"))) == 5


def test_every_variant_of_the_prior_is_a_sample_of_prior_variants():
    space = load("prior_variants")
    (dimension,) = spaces.dimensions(space)
    labels = [each[dimension.name] for each in spaces.grid(space)]
    assert {*STUDIES["prior"].variants, "gender", "gender+fc"} == set(labels)
    for label in labels:
        trial = override(PAPER, spaces.changes(space, {dimension.name: label}))
        assert trial == override(PAPER, VARIANTS[label].changes)


def test_all_orderings_are_in_the_space():
    assert {each[CBAM] for each in spaces.grid(load("cbam_ordering"))} == set(get_args(Cbam))


def test_prior_by_cbam_combines_both_with_two_seeds():
    grid = spaces.grid(load("prior_by_cbam"))
    assert len(grid) == 5 * 5 * 2
    assert [{PRIOR: each[PRIOR]} for each in grid[::10]] == spaces.grid(load("prior_type"))
    assert [{CBAM: each[CBAM]} for each in grid[:10:2]] == spaces.grid(load("cbam_ordering"))
    assert [each["seed"] for each in grid] == [0, 1] * 25


def test_joint_combines_all_spaces():
    parts = {**load("loss_weights"), **load("prior_type"), **load("cbam_ordering")}
    assert load("joint") == parts
    assert len(parts) == 5


def test_paper_ablation_is_table_4_without_the_models_of_one_sex():
    space = load("paper_ablation")
    grid = spaces.grid(space)
    (variant, seeds) = spaces.dimensions(space)
    assert isinstance(seeds.domain, Choice)
    labels = [each[variant.name] for each in grid[::3]]
    assert set(labels) == set(TABLE4) - {"female", "male"}
    assert len(grid) == 6 * 3
    for label in labels:
        changes = spaces.changes(space, {variant.name: label, "seed": 2})
        assert changes == VARIANTS[label].changes | {"seed": 2}

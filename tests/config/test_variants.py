"""Each variant against the paper's text: where the prior is added (section 3.1), which loss it is trained with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from arspm.config import ConfigError, override
from arspm.config.presets import preset
from arspm.config.variants import TABLE4, VARIANTS
from arspm.model import speech_portrait
from arspm.model.gender_classifier import FEMALE, MALE, GenderClassifier
from arspm.model.speech_encoder import Speech2FaceEncoder
from arspm.model.speech_portrait import FacePrior
from arspm.report import published

# Which mean each adds, and on which side of Fc2 (eq. 2, section 4.3.2). All others are neutral+fc with one other part.
ADDED = {
    "non-prior": (None, "nowhere"),
    "neutral": ("neutral", "after"),
    "neutral+fc": ("neutral", "before"),
    "gender": ("heard", "after"),
    "gender+fc": ("heard", "before"),
    "female": ("female", "after"),
    "male": ("male", "after"),
    "neutral-bare": ("neutral", "instead"),
    "neutral-residual": ("neutral", "after"),
    "adaptive": ("neutral", "weighted"),
    "constant": ("constant", "after"),
    "non-prior-female": (None, "nowhere"),
    "non-prior-male": (None, "nowhere"),
}
ORDERS = {f"cbam-{order.replace('_', '-')}": order for order in ("spatial_first", "parallel", "channel_only", "none")}
NETWORKS = ("resnet18", "resnet34", "densenet121")


class Heard(GenderClassifier):
    """Stub: predicts male for the first row, female for the second."""

    def forward(self, spectrogram: Tensor) -> Tensor:
        return nn.functional.one_hot(torch.tensor([MALE, FEMALE]), 2).float()


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "speech2face"])
def test_the_feature_is_the_equation_of_its_variant(name):
    torch.manual_seed(0)
    config = override(preset("smoke"), VARIANTS[name].changes)
    encoder = speech_portrait.speech_encoder(config).eval()
    means = {kind: torch.randn(64) for kind in ("neutral", "female", "male")}
    prior = speech_portrait.face_prior(config, means, Heard(width=0.0625))
    means["constant"] = FacePrior("constant", means)(torch.empty(1, 2, 1, 1))
    if encoder.prior_weight is not None:  # starts at zero
        nn.init.normal_(encoder.prior_weight.weight)
    speech = torch.randn(2, 2, 257, 98)
    found = encoder(speech, prior(speech))

    attended = encoder.cbam(encoder.trunk(speech))  # (batch, channels, freq, time)
    assert isinstance(encoder.fc1, nn.Conv2d)
    pooled = attended.mean(dim=(2, 3)) @ encoder.fc1.weight[:, :, 0, 0].T + encoder.fc1.bias  # (batch, feature)
    kind, side = ADDED.get(name, ("neutral", "before"))
    mean = torch.stack([means["male"], means["female"]]) if kind == "heard" else means.get(str(kind))

    def fc2(x: Tensor) -> Tensor:
        return x @ encoder.fc2.weight.T + encoder.fc2.bias

    expected = {
        "nowhere": lambda: fc2(pooled),
        "before": lambda: fc2(pooled + mean),
        "after": lambda: fc2(pooled) + mean,
        "instead": lambda: pooled + mean,
        "weighted": lambda: fc2(pooled) + torch.sigmoid(encoder.prior_weight(pooled)) * mean,
    }[side]()
    torch.testing.assert_close(found, expected)
    assert encoder.cbam.order == ORDERS.get(name, "channel_first")
    assert encoder.architecture == (name if name in NETWORKS else "arspm")


def test_every_variant_is_tested():
    assert set(VARIANTS) == {*ADDED, *ORDERS, *NETWORKS, "distillation", "speech2face"}


def test_the_loss_is_the_papers_unless_the_variant_is_about_the_loss():
    paper = {"lambda1": 1.0, "lambda2": 0.04, "lambda3": 1.2, "identity": "cosine"}  # eq. 7
    others = {
        "distillation": paper | {"identity": "distillation"},  # section 3.4.2
        # Oh et al. 2019: L1 of the decoder's first layer + 0.025 unit L2 + 200 distillation
        "speech2face": {"lambda1": 0.025, "lambda2": 1.0, "lambda3": 200.0, "identity": "distillation"},
    }
    for name, variant in VARIANTS.items():
        loss = override(preset("smoke"), variant.changes).loss
        assert loss.model_dump() == others.get(name, paper), name


def test_the_peer_is_speech2faces_encoder_without_a_prior():
    config = override(preset("smoke"), VARIANTS["speech2face"].changes)
    encoder = speech_portrait.speech_encoder(config)
    assert isinstance(encoder, Speech2FaceEncoder)
    assert config.speech_encoder.architecture == "speech2face"
    assert config.prior.kind == "none"
    assert not hasattr(encoder, "cbam")


def test_the_rows_of_table_4_are_the_papers():
    rows = {row.model for row in published.TABLE4} - {"Face-to-Face"}  # which needs no encoder
    assert {name for name, variant in VARIANTS.items() if variant.published} == rows
    assert set(TABLE4) == rows | {"speech2face"}


def test_only_the_scale_comes_from_the_changed_configuration():
    """A run whose own encoder is another gives the same variants."""
    odd = override(
        preset("smoke"),
        {
            "prior.kind": "male",
            "speech_encoder.architecture": "resnet18",
            "speech_encoder.cbam": "parallel",
            "speech_encoder.fusion": "sum",
            "speech_encoder.head": "none",
            "speech_encoder.prior_weight": "learned",
            "ingest.sex": "male",
            "loss.lambda1": 9,
            "loss.lambda2": 9,
            "loss.lambda3": 9,
            "loss.identity": "distillation",
        },
    )
    for name, variant in VARIANTS.items():
        assert override(odd, variant.changes) == override(preset("smoke"), variant.changes), name


def test_the_variants_of_a_prior_start_with_the_same_random_weights():
    """With one seed, arms differ in the prior only: what a variant adds is created last, or zeroed once drawn."""

    def weights(name):
        torch.manual_seed(3)
        return speech_portrait.speech_encoder(override(preset("smoke"), VARIANTS[name].changes)).state_dict()

    reference = weights("non-prior")
    for name in ("neutral", "neutral+fc", "neutral-residual", "constant", "adaptive"):
        found = weights(name)
        assert reference.keys() <= found.keys()
        zeroed = {"fc2.weight", "fc2.bias"} if name == "neutral-residual" else set()
        for key, value in reference.items():
            torch.testing.assert_close(found[key], torch.zeros_like(value) if key in zeroed else value, rtol=0, atol=0)


def test_neutral_residual_starts_at_the_prior_and_adaptive_at_half_of_it():
    speech, mean = torch.randn(2, 2, 97, 65), torch.randn(64)
    for name in ("neutral-residual", "adaptive"):
        torch.manual_seed(0)
        encoder = speech_portrait.speech_encoder(override(preset("smoke"), VARIANTS[name].changes)).eval()
        expected = mean.expand(2, 64) if name == "neutral-residual" else encoder(speech) + mean / 2
        torch.testing.assert_close(encoder(speech, mean), expected)


def test_only_non_prior_of_one_sex_and_the_priors_of_one_sex_restrict_the_speakers():
    sexes = {name: override(preset("smoke"), variant.changes).encoder_sex for name, variant in VARIANTS.items()}
    assert {name: sex for name, sex in sexes.items() if sex} == {
        "female": "female",
        "male": "male",
        "non-prior-female": "female",
        "non-prior-male": "male",
    }


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"prior.kind": "none", "speech_encoder.prior_weight": "learned"}, "prior_weight: learned needs a prior"),
        ({"speech_encoder.fc2_init": "zero"}, "fc2_init: zero needs a prior, fusion = sum"),
        (
            {"speech_encoder.fc2_init": "zero", "speech_encoder.fusion": "sum", "prior.kind": "none"},
            "fc2_init: zero needs a prior",
        ),
        (
            {"speech_encoder.fc2_init": "zero", "speech_encoder.fusion": "sum", "speech_encoder.head": "none"},
            "fc2_init: zero needs a prior",
        ),
        ({"prior.kind": "male", "ingest.sex": "female"}, "ingest.sex: must be any or male"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, problem):
    with pytest.raises(ConfigError, match=problem):
        override(preset("smoke"), changes)

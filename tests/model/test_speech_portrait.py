from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from arspm.config import Config, override
from arspm.config.presets import preset
from arspm.corpus.schema import GENDERS
from arspm.model import speech_portrait
from arspm.model.gender_classifier import FEMALE, MALE, GenderClassifier
from arspm.model.speech_portrait import FacePrior, SpeechPortrait

SMOKE = preset("smoke")
SPEECH = torch.randn(3, 2, 97, 65, generator=torch.Generator().manual_seed(1))
MEANS = {
    name: torch.randn(64, generator=torch.Generator().manual_seed(n)) for n, name in enumerate(("neutral", *GENDERS))
}


class FixedClassifier(GenderClassifier):
    """A gender classifier that always predicts the given classes."""

    def __init__(self, *classes: int):
        super().__init__(width=0.0625)
        self.classes = classes

    def forward(self, spectrogram):
        return nn.functional.one_hot(torch.tensor(self.classes), 2).float()


def test_class_numbers_are_indices_into_genders():
    assert (GENDERS[FEMALE], GENDERS[MALE]) == ("female", "male")


@pytest.mark.parametrize("kind", ["neutral", "female", "male"])
def test_one_prior_for_all(kind):
    prior = FacePrior(kind, MEANS)
    assert torch.equal(prior(SPEECH), MEANS[kind])
    assert torch.equal(FacePrior(kind, {kind: MEANS[kind]})(SPEECH), MEANS[kind])  # other means are not needed


def test_no_prior():
    assert FacePrior("none", {})(SPEECH) is None


def test_the_gender_prior_follows_the_prediction():
    prior = FacePrior("gender", MEANS, FixedClassifier(MALE, FEMALE, MALE))
    assert torch.equal(prior(SPEECH), torch.stack([MEANS["male"], MEANS["female"], MEANS["male"]]))


def test_an_unsure_prediction_has_the_neutral_prior():
    """With the default, the paper's, every prediction counts."""
    classifier = FixedClassifier(MALE, FEMALE, MALE)
    logits = torch.tensor([[0.0, 3.0], [0.1, 0.0], [0.0, 0.0]])  # of probabilities 0.95, 0.52 and 0.5
    classifier.forward = lambda spectrogram: logits
    by_sex = [MEANS["male"], MEANS["female"], MEANS["female"]]
    assert torch.equal(FacePrior("gender", MEANS, classifier)(SPEECH), torch.stack(by_sex))
    sure = FacePrior("gender", MEANS, classifier, min_confidence=0.9)
    assert torch.equal(sure(SPEECH), torch.stack([MEANS["male"], MEANS["neutral"], MEANS["neutral"]]))
    without_neutral = {name: MEANS[name] for name in GENDERS}
    FacePrior("gender", without_neutral, classifier)
    with pytest.raises(ValueError, match="the mean face of neutral"):
        FacePrior("gender", without_neutral, classifier, min_confidence=0.9)


def test_the_gender_prior_lets_no_gradient_through():
    prior = FacePrior("gender", MEANS, speech_portrait.gender_classifier(SMOKE))
    assert not prior(SPEECH.clone().requires_grad_()).requires_grad


def test_an_unused_classifier_is_not_kept():
    assert list(FacePrior("neutral", MEANS, FixedClassifier(0)).parameters()) == []


@pytest.mark.parametrize(
    ("kind", "means", "classifier", "words"),
    [
        ("neutral", {}, None, "prior.kind=neutral needs the mean face of neutral"),
        ("gender", {"neutral": MEANS["neutral"]}, FixedClassifier(0), "the mean face of female and male"),
        ("gender", MEANS, None, "needs a trained gender classifier"),
        ("child", MEANS, None, "the mean face of child"),
    ],
)
def test_a_prior_without_its_means_or_classifier_is_refused(kind, means, classifier, words):
    with pytest.raises(ValueError, match=words):
        FacePrior(kind, means, classifier)


def test_the_means_move_with_the_module():
    prior = FacePrior("gender", MEANS, FixedClassifier(FEMALE, MALE, MALE)).double()
    assert prior(SPEECH).dtype == torch.float64
    assert [name for name, _ in FacePrior("gender", MEANS, FixedClassifier(0)).named_buffers() if name == "means"] == [
        "means"
    ]


def test_the_constant_prior_is_a_random_direction_with_the_neutral_priors_norm():
    constant = FacePrior("constant", MEANS, seed=1)(SPEECH)
    assert float(constant.norm()) == pytest.approx(float(MEANS["neutral"].norm()))
    assert torch.equal(constant, FacePrior("constant", {"neutral": MEANS["neutral"]}, seed=1)(SPEECH))
    cosines = [
        float(torch.cosine_similarity(MEANS["neutral"], FacePrior("constant", MEANS, seed=seed)(SPEECH), dim=0))
        for seed in range(300)
    ]
    assert np.mean(cosines) == pytest.approx(0, abs=0.03)  # a cosine's standard deviation is 1 / 8 in 64 dimensions
    assert np.std(cosines) == pytest.approx(1 / 8, rel=0.15)
    config = override(SMOKE, {"prior.kind": "constant", "seed": 1})
    assert torch.equal(speech_portrait.face_prior(config, MEANS, None)(SPEECH), constant)


@pytest.mark.parametrize("kind", ["none", "neutral", "gender"])
def test_the_complete_model_is_the_decoder_of_the_encoder_with_the_prior(kind):
    encoder, decoder = speech_portrait.speech_encoder(SMOKE), speech_portrait.face_decoder(SMOKE)
    model = SpeechPortrait(encoder, FacePrior(kind, MEANS, FixedClassifier(MALE, FEMALE, MALE)), decoder).eval()
    added = {
        "none": None,
        "neutral": MEANS["neutral"],
        "gender": torch.stack([MEANS["male"], MEANS["female"], MEANS["male"]]),
    }[kind]
    with torch.no_grad():
        expected = encoder(SPEECH, added)
        torch.testing.assert_close(model.feature(SPEECH), expected)
        torch.testing.assert_close(model(SPEECH), decoder(expected))
        assert model(SPEECH).shape == (3, 3, 64, 64)


@pytest.mark.parametrize(
    ("changes", "build"),
    [
        ({"speech_encoder.width": 0.125}, speech_portrait.speech_encoder),
        ({"speech_encoder.architecture": "resnet18"}, speech_portrait.speech_encoder),
        ({"speech_encoder.cbam": "none"}, speech_portrait.speech_encoder),
        ({"speech_encoder.cbam_reduction": 2}, speech_portrait.speech_encoder),
        ({"speech_encoder.fusion": "sum", "speech_encoder.head": "none"}, speech_portrait.speech_encoder),
        ({"speech_encoder.prior_weight": "learned"}, speech_portrait.speech_encoder),
        ({"feature_dim": 32}, speech_portrait.speech_encoder),
        ({"feature_dim": 32}, speech_portrait.face_decoder),
        ({"image_size": 96}, speech_portrait.face_decoder),
        ({"face_decoder.width": 0.125}, speech_portrait.face_decoder),
        ({"face_decoder.cbam": "none"}, speech_portrait.face_decoder),
        ({"face_decoder.cbam_reduction": 2}, speech_portrait.face_decoder),
        ({"face_decoder.cbam_position": "output"}, speech_portrait.face_decoder),
        ({"face_decoder.batch_norm": False}, speech_portrait.face_decoder),
        ({"gender.width": 0.125}, speech_portrait.gender_classifier),
        ({"vggface.width": 0.125}, lambda config: speech_portrait.vggface(config, 5)),
        ({"feature_dim": 32}, lambda config: speech_portrait.vggface(config, 5)),
        ({"image_size": 96}, lambda config: speech_portrait.vggface(config, 5)),
    ],
)
def test_every_setting_of_a_network_reaches_it(changes, build):
    def shapes(config: Config) -> dict[str, torch.Size]:
        return {name: tensor.shape for name, tensor in build(config).state_dict().items()}

    assert shapes(override(SMOKE, changes)) != shapes(SMOKE)


def test_settings_without_parameters_reach_their_network():
    config = override(
        SMOKE,
        {
            "vggface.feature": "post_relu",
            "vggface.dropout": 0.25,
            "face_decoder.as_printed": True,
            "image_size": 96,
            "speech_encoder.fusion": "sum",
            "speech_encoder.fc2_init": "zero",
        },
    )
    network = speech_portrait.vggface(config, 7)
    assert (network.feature, network.dropout.p, network.fc8.out_features) == ("post_relu", 0.25, 7)
    assert speech_portrait.face_decoder(config).output_size == 48
    encoder = speech_portrait.speech_encoder(config)
    assert encoder.fusion == "sum"
    assert not any(parameter.any() for parameter in encoder.fc2.parameters())

"""The assembled model (Figure 1), and functions that build its networks from the configuration."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from arspm.config import Config
from arspm.corpus import schema
from arspm.model.face_decoder import FaceDecoder
from arspm.model.gender_classifier import GenderClassifier
from arspm.model.speech_encoder import Speech2FaceEncoder, SpeechEncoder
from arspm.model.vggface import VGGFace


def speech_encoder(config: Config) -> SpeechEncoder | Speech2FaceEncoder:
    """Return a new speech encoder; `speech_encoder.architecture` chooses its class."""
    settings = config.speech_encoder
    if settings.architecture == "speech2face":
        return Speech2FaceEncoder(width=settings.width, feature_dim=config.feature_dim)
    return SpeechEncoder(
        architecture=settings.architecture,
        width=settings.width,
        feature_dim=config.feature_dim,
        cbam=settings.cbam,
        cbam_reduction=settings.cbam_reduction,
        fusion=settings.fusion,
        head=settings.head,
        fc2_init=settings.fc2_init,
        prior_weight=settings.prior_weight,
    )


def face_decoder(config: Config) -> FaceDecoder:
    """Return a new face decoder."""
    settings = config.face_decoder
    return FaceDecoder(
        feature_dim=config.feature_dim,
        width=settings.width,
        image_size=config.image_size,
        as_printed=settings.as_printed,
        cbam=settings.cbam,
        cbam_reduction=settings.cbam_reduction,
        cbam_position=settings.cbam_position,
        batch_norm=settings.batch_norm,
    )


def vggface(config: Config, num_identities: int) -> VGGFace:
    """Return a new VGGFace with `num_identities` outputs."""
    settings = config.vggface
    return VGGFace(
        width=settings.width,
        image_size=config.image_size,
        feature_dim=config.feature_dim,
        num_identities=num_identities,
        feature=settings.feature,
        dropout=settings.dropout,
    )


def gender_classifier(config: Config) -> GenderClassifier:
    """Return a new gender classifier."""
    return GenderClassifier(width=config.gender.width)


class FacePrior(nn.Module):
    """f_prior of eq. 2: one mean face for all speakers, or the mean face of the sex predicted from the speech.

    Args:
        kind: "none", "neutral", "female", "male", "constant", or "gender", which needs `classifier` (section 3.1).
        means: the mean face features "neutral", "female" and "male", each (feature,). Only those that `kind` uses
            are needed.
        seed: of the random direction of kind "constant", which has the norm of the mean "neutral".
        classifier: the gender network. Its prediction chooses the prior in training and in use; labels never do.
        min_confidence: if the prediction's probability is smaller, the prior is the neutral mean, for kind "gender".
            The default of 0.5 accepts every prediction, as the paper does.

    Raises:
        ValueError: a mean or the classifier that `kind` needs is missing.
    """

    means: Tensor

    def __init__(
        self,
        kind: str,
        means: Mapping[str, Tensor],
        classifier: GenderClassifier | None = None,
        *,
        seed: int = 0,
        min_confidence: float = 0.5,
    ):
        super().__init__()
        by_gender = (*schema.GENDERS, "neutral") if min_confidence > 0.5 else schema.GENDERS
        needed = {"none": (), "gender": by_gender, "constant": ("neutral",)}.get(kind, (kind,))
        if missing := [name for name in needed if name not in means]:
            raise ValueError(
                f"prior.kind={kind} needs the mean face of {' and '.join(missing)}, which the priors do not contain; "
                "label the speakers' gender in labels.csv, let a network of another run predict it (gender.weights), "
                "or choose another prior.kind"
            )
        if kind == "gender" and classifier is None:
            raise ValueError(
                "prior.kind=gender needs a trained gender classifier, but the corpus has no gender labels; "
                "label the speakers' gender in labels.csv, take the network of another run (gender.weights), or "
                "choose another prior.kind"
            )
        self.kind, self.min_confidence = kind, min_confidence
        self.classifier = classifier if kind == "gender" else None
        used = torch.stack([means[name] for name in needed]) if needed else torch.empty(0)
        self.register_buffer("means", _random_direction(used, seed) if kind == "constant" else used)

    def forward(self, spectrogram: Float[Tensor, "batch 2 freq time"]) -> Float[Tensor, "*batch feature"] | None:
        """Return the prior of each row: (batch, feature) for kind "gender", None for "none", otherwise (feature,)."""
        if self.kind == "none":
            return None
        if self.classifier is None:
            return self.means[0]
        with torch.no_grad():
            confidence, number = self.classifier.predict(spectrogram)
            return self.means[number.masked_fill(confidence < self.min_confidence, len(schema.GENDERS))]


def face_prior(config: Config, means: Mapping[str, Tensor], classifier: GenderClassifier | None) -> FacePrior:
    """Return the prior that `prior.kind` selects. The seed determines the direction of a random constant."""
    kind, sure = config.prior.kind, config.gender.min_confidence
    return FacePrior(kind, means, classifier, seed=config.seed, min_confidence=sure)


def _random_direction(vectors: Tensor, seed: int) -> Tensor:
    """Return vectors of the same norms in random directions, which are the same on every device."""
    drawn = torch.from_numpy(np.random.default_rng(seed).standard_normal(vectors.shape))
    norms = vectors.double().norm(dim=-1, keepdim=True)
    return (drawn / drawn.norm(dim=-1, keepdim=True) * norms).to(vectors)


class SpeechPortrait(nn.Module):
    """The complete model, from speech to portrait: FD(SE(s) + f_prior) (eq. 2)."""

    def __init__(self, encoder: SpeechEncoder | Speech2FaceEncoder, prior: FacePrior, decoder: FaceDecoder):
        super().__init__()
        self.encoder, self.prior, self.decoder = encoder, prior, decoder

    def feature(self, spectrogram: Float[Tensor, "batch 2 freq time"]) -> Float[Tensor, "batch feature"]:
        """Return the speech feature of each row."""
        return self.encoder(spectrogram, self.prior(spectrogram))

    def forward(self, spectrogram: Float[Tensor, "batch 2 freq time"]) -> Float[Tensor, "batch 3 height width"]:
        """Return the portrait of each row, RGB in [0, 1]."""
        return self.decoder(self.feature(spectrogram))

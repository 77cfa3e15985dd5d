"""The assembled model (Figure 1), and each of its networks as the configuration wants it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from arspm.config import Config
from arspm.corpus import schema
from arspm.model.face_decoder import FaceDecoder
from arspm.model.gender_classifier import GenderClassifier
from arspm.model.speech_encoder import SpeechEncoder
from arspm.model.vggface import VGGFace


def speech_encoder(config: Config) -> SpeechEncoder:
    settings = config.speech_encoder
    return SpeechEncoder(
        architecture=settings.architecture,
        width=settings.width,
        feature_dim=config.feature_dim,
        cbam=settings.cbam,
        cbam_reduction=settings.cbam_reduction,
        fusion=settings.fusion,
        head=settings.head,
    )


def face_decoder(config: Config) -> FaceDecoder:
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
    return GenderClassifier(width=config.gender.width)


class FacePrior(nn.Module):
    """f_prior of eq. 2: one mean face for all, or for each speaker that of the sex heard in the speech (section 3.1).

    Parameters
    ----------
    kind
        "none", "neutral", "female", "male", or "gender", which needs `classifier`.
    means
        The mean face features "neutral", "female" and "male", each (feature,); those that `kind` needs.
    classifier
        The gender network. Its prediction decides, in training as in use, never a label.
    """

    means: Tensor

    def __init__(self, kind: str, means: Mapping[str, Tensor], classifier: GenderClassifier | None = None):
        super().__init__()
        needed = {"none": (), "gender": schema.GENDERS}.get(kind, (kind,))
        if missing := [name for name in needed if name not in means]:
            raise ValueError(f"prior.kind={kind} needs the mean face of {' and '.join(missing)}, which nobody labelled")
        if kind == "gender" and classifier is None:
            raise ValueError("prior.kind=gender needs a trained gender classifier: the corpus has no gender labels")
        self.kind = kind
        self.classifier = classifier if kind == "gender" else None
        self.register_buffer("means", torch.stack([means[name] for name in needed]) if needed else torch.empty(0))

    def forward(self, spectrogram: Float[Tensor, "batch 2 freq time"]) -> Float[Tensor, "*batch feature"] | None:
        """The prior of each row, (feature,) where it is one for all, or None."""
        if self.kind == "none":
            return None
        if self.classifier is None:
            return self.means[0]
        with torch.no_grad():
            return self.means[self.classifier(spectrogram).argmax(dim=1)]


class SpeechPortrait(nn.Module):
    """Speech to portrait: FD(SE(s) with the prior) (eq. 2)."""

    def __init__(self, encoder: SpeechEncoder, prior: FacePrior, decoder: FaceDecoder):
        super().__init__()
        self.encoder, self.prior, self.decoder = encoder, prior, decoder

    def feature(self, spectrogram: Float[Tensor, "batch 2 freq time"]) -> Float[Tensor, "batch feature"]:
        """The speech feature of each row."""
        return self.encoder(spectrogram, self.prior(spectrogram))

    def forward(self, spectrogram: Float[Tensor, "batch 2 freq time"]) -> Float[Tensor, "batch 3 height width"]:
        """The portrait of each row, RGB in [0, 1]."""
        return self.decoder(self.feature(spectrogram))

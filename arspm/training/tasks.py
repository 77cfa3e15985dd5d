"""What each stage learns: the network, its loss and its validation figures."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arspm.config import Config
from arspm.evaluation import metrics
from arspm.model.speech_portrait import (
    FacePrior,
    face_decoder,
    gender_classifier,
    speech_encoder,
    vggface,
)
from arspm.model.vggface import VGGFace
from arspm.training.batch import UNKNOWN, Batch
from arspm.training.losses import cosine_loss, face_decoder_loss, image_loss, tri_item_loss
from arspm.training.train_step import Task


def encoder_task(config: Config, prior: FacePrior, hidden: nn.Linear, identity: nn.Linear) -> Task:
    """The speech encoder (eq. 7). `hidden`: the trained decoder's Fc1. `identity`: VGGFace's fc8.

    Of the decoder and of VGGFace just these two layers are needed: none of their convolutions runs.
    """
    for frozen in (prior, hidden, identity):
        freeze(frozen)
    weights, augments = config.loss, config.training.encoder.augment

    def loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        speech = excerpt(batch.spectrogram) if augments else batch.spectrogram
        feature = model(speech, prior(batch.spectrogram))
        terms = tri_item_loss(
            feature,
            batch.face_feature,
            hidden=hidden,
            logits=lambda features: identity(torch.relu(features)),  # V_Fc3, reading I
            lambda1=weights.lambda1,
            lambda2=weights.lambda2,
            lambda3=weights.lambda3,
            identity=weights.identity,
        )
        return _named(terms)

    def score(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        feature = model(batch.spectrogram, prior(batch.spectrogram)).float()
        return {
            "cos_degrees": metrics.cos_degrees(feature, batch.face_feature),
            "l1": metrics.l1_distance(feature, batch.face_feature),
            "l2": metrics.l2_distance(feature, batch.face_feature),
        }

    return Task(speech_encoder(config), loss, score, "val_cos_degrees", False)


def decoder_task(config: Config, network: VGGFace) -> Task:
    """The face decoder (eq. 6). `network`: the trained VGGFace, which sees the generated images only."""
    freeze(network)
    numbers = config.decoder_loss
    settings: dict[str, Any] = {
        "alpha": numbers.alpha,
        "window_size": numbers.ms_ssim_window,
        "window_sigma": numbers.ms_ssim_sigma,
        "l1_sigma": numbers.l1_sigma,
    }

    def real(batch: Batch, portrait: Tensor) -> Tensor:
        """The real face at the decoder's size, which reading A's printed strides make half of VGGFace's."""
        if batch.face.shape[-1] == portrait.shape[-1]:
            return batch.face
        return F.interpolate(batch.face, size=portrait.shape[-2:], mode="bilinear", antialias=True)

    def loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        portrait = model(batch.face_feature)
        terms = face_decoder_loss(
            portrait,
            real(batch, portrait),
            portrait_feature=network.features(portrait),
            image_feature=batch.face_feature,
            **settings,
        )
        return _named(terms)

    def score(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        portrait = model(batch.face_feature)
        feature = network.features(portrait).float()
        image = image_loss(portrait, real(batch, portrait), **settings)
        cosine = cosine_loss(feature, batch.face_feature)
        return {
            "loss": image + cosine,
            "image": image,
            "cos_degrees": metrics.cos_degrees(feature, batch.face_feature),
        }

    return Task(face_decoder(config), loss, score, "val_loss", False)


def gender_task(config: Config) -> Task:
    """The gender classifier, on speech (section 3.1, reading G). Rows without a label teach nothing."""

    augments = config.training.gender.augment

    def loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = model(excerpt(batch.spectrogram) if augments else batch.spectrogram).float()
        known = (batch.gender != UNKNOWN).sum().clamp(min=1)
        total = F.cross_entropy(logits, batch.gender.long(), ignore_index=UNKNOWN, reduction="sum")
        right = (logits.argmax(dim=1) == batch.gender).sum()
        return {"loss": total / known, "accuracy": right / known}

    def score(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        right = (model(batch.spectrogram).argmax(dim=1) == batch.gender).double()
        return {"accuracy": right.masked_fill(batch.gender == UNKNOWN, torch.nan)}

    return Task(gender_classifier(config), loss, score, "val_accuracy", True)


def vggface_task(config: Config, num_identities: int, held_out: bool) -> Task:
    """VGGFace as an identity classifier, for want of published weights. `held_out`: there are clips to validate on."""
    augments = config.training.vggface.augment

    def loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        face = augment(batch.face) if augments else batch.face
        return {"loss": F.cross_entropy(model(face).float(), batch.identity.long())}

    def score(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"accuracy": (model(batch.face).argmax(dim=1) == batch.identity).double()}

    objective, maximise = ("val_accuracy", True) if held_out else ("train_loss", False)
    return Task(vggface(config, num_identities), loss, score, objective, maximise)


def excerpt(spectrogram: Tensor) -> Tensor:
    """A random half of the speech (torch's generator), the same for all rows: the same voice, other words.

    spectrogram: (batch, 2, freq, time); the result (batch, 2, freq, time // 2).
    """
    frames = spectrogram.shape[-1] // 2
    first = int(torch.randint(spectrogram.shape[-1] - frames + 1, ()))
    return spectrogram[..., first : first + frames]


def augment(face: Tensor) -> Tensor:
    """Mirror, shift, zoom and re-light each face at random (torch's generator): the same person still.

    face: (batch, 3, height, width) in [0, 1]; the result likewise.
    """
    rows = face.shape[0]

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(rows, device=face.device).uniform_(low, high)

    zoom, mirror = uniform(0.9, 1.1), torch.where(uniform(-1.0, 1.0) < 0, -1.0, 1.0)
    zero = torch.zeros_like(zoom)
    turn = torch.stack(
        [
            torch.stack([zoom * mirror, zero, uniform(-0.1, 0.1)], 1),
            torch.stack([zero, zoom, uniform(-0.1, 0.1)], 1),
        ],
        1,
    )
    grid = F.affine_grid(turn, list(face.shape), align_corners=False)
    moved = F.grid_sample(face, grid, padding_mode="border", align_corners=False)
    gain, shift = uniform(0.8, 1.2)[:, None, None, None], uniform(-0.1, 0.1)[:, None, None, None]
    return (moved * gain + shift).clamp(0, 1)


def freeze(module: nn.Module) -> None:
    """Hold a network still: eval mode and no gradients of its own, though gradients pass through it."""
    module.eval().requires_grad_(False)


def _named(terms: tuple) -> dict[str, Tensor]:
    """A typed loss as the training loop wants it: "loss" and its terms."""
    found = terms._asdict()  # type: ignore[attr-defined]
    return {"loss": found.pop("total"), **found}

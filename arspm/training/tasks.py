"""The training task of each stage: its network, loss and validation figures."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

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
from arspm.training.batch import Batch
from arspm.training.losses import cosine_loss, face_decoder_loss, image_loss, tri_item_loss
from arspm.training.train_step import Task

M = TypeVar("M", bound=nn.Module)


def encoder_task(config: Config, prior: FacePrior, hidden: nn.Linear, identity: nn.Linear) -> Task:
    """Return the task of the speech encoder (eq. 7).

    `prior`, `hidden` (the trained decoder's Fc1) and `identity` (VGGFace's fc8) are frozen here. The loss needs no
    other layer of the decoder or of VGGFace, so none of their convolutions runs.
    """
    for module in (prior, hidden, identity):
        freeze(module)
    prior = in_precision(prior, config.training.encoder.precision)
    weights, use_excerpts = config.loss, config.training.encoder.augment

    def loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        speech = excerpt(batch.spectrogram) if use_excerpts else batch.spectrogram
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
    """Return the task of the face decoder (eq. 6).

    `network`: the trained VGGFace; frozen here. It runs on generated images only, since the batch contains the features
    of the real ones.
    """
    freeze(network)
    network = in_precision(network, config.training.decoder.precision)
    settings: dict[str, Any] = {
        "alpha": config.decoder_loss.alpha,
        "window_size": config.decoder_loss.ms_ssim_window,
        "window_sigma": config.decoder_loss.ms_ssim_sigma,
        "l1_sigma": config.decoder_loss.l1_sigma,
        "form": config.decoder_loss.form,
    }

    def resized_face(batch: Batch, portrait: Tensor) -> Tensor:
        """Return the real faces at the portraits' size, which is half of VGGFace's with the strides as printed."""
        if batch.face.shape[-1] == portrait.shape[-1]:
            return batch.face
        return F.interpolate(batch.face, size=portrait.shape[-2:], mode="bilinear", antialias=True)

    def loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        portrait = model(batch.face_feature)
        terms = face_decoder_loss(
            portrait,
            resized_face(batch, portrait),
            portrait_feature=network.features(portrait),
            image_feature=batch.face_feature,
            **settings,
        )
        return _named(terms)

    def score(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        portrait = model(batch.face_feature)
        feature = network.features(portrait).float()
        image = image_loss(portrait, resized_face(batch, portrait), **settings)
        cosine = cosine_loss(feature, batch.face_feature)
        return {
            "loss": image + cosine,
            "image": image,
            "cos_degrees": metrics.cos_degrees(feature, batch.face_feature),
        }

    return Task(face_decoder(config), loss, score, "val_loss", False)


def gender_task(config: Config) -> Task:
    """Return the task of the gender classifier (section 3.1, reading G). Every row must have a label.

    Workers would otherwise have different numbers of labelled rows, and the mean of their gradients would not be that
    of the global batch.
    """
    use_excerpts = config.training.gender.augment

    def loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = model(excerpt(batch.spectrogram) if use_excerpts else batch.spectrogram).float()
        return {
            "loss": F.cross_entropy(logits, batch.gender.long()),
            "accuracy": (logits.argmax(dim=1) == batch.gender).float().mean(),
        }

    def score(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"accuracy": _correct(model(batch.spectrogram), batch.gender)}

    return Task(gender_classifier(config), loss, score, "val_accuracy", True)


def vggface_task(config: Config, num_identities: int, held_out: bool) -> Task:
    """Return the task of VGGFace as an identity classifier, which is used if there are no published weights.

    `held_out`: whether there are validation clips. If not, the training loss selects the best epoch.
    """
    use_augmentation = config.training.vggface.augment

    def loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        face = augment(batch.face) if use_augmentation else batch.face
        return {"loss": F.cross_entropy(model(face).float(), batch.identity.long())}

    def score(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"accuracy": _correct(model(batch.face), batch.identity)}

    objective, maximise = ("val_accuracy", True) if held_out else ("train_loss", False)
    return Task(vggface(config, num_identities), loss, score, objective, maximise)


def excerpt(spectrogram: Tensor) -> Tensor:
    """Return half of the speech, (batch, 2, freq, time // 2), from a random start that is the same for all rows.

    spectrogram: (batch, 2, freq, time). The excerpt keeps the voice but not all words. Uses torch's default generator
    of the spectrogram's device.
    """
    frames = spectrogram.shape[-1] // 2
    first = torch.randint(spectrogram.shape[-1] - frames + 1, (1,), device=spectrogram.device)
    if spectrogram.is_cuda:  # a slice would wait for the device
        return spectrogram.index_select(-1, first + torch.arange(frames, device=spectrogram.device))
    [start] = first.tolist()
    return spectrogram[..., start : start + frames]


def augment(face: Tensor) -> Tensor:
    """Return the faces, each randomly mirrored, shifted, zoomed and changed in contrast and brightness.

    face: (batch, 3, height, width) in [0, 1]; the result likewise. Uses torch's default generator of the faces' device.
    """

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(face.shape[0], device=face.device).uniform_(low, high)

    zoom, mirror = uniform(0.9, 1.1), torch.where(uniform(-1.0, 1.0) < 0, -1.0, 1.0)
    zero = torch.zeros_like(zoom)
    affine = torch.stack(  # (batch, 2, 3)
        [
            torch.stack([zoom * mirror, zero, uniform(-0.1, 0.1)], 1),
            torch.stack([zero, zoom, uniform(-0.1, 0.1)], 1),
        ],
        1,
    )
    grid = F.affine_grid(affine, list(face.shape), align_corners=False)
    moved = F.grid_sample(face, grid, padding_mode="border", align_corners=False)
    contrast, brightness = uniform(0.8, 1.2)[:, None, None, None], uniform(-0.1, 0.1)[:, None, None, None]
    return (moved * contrast + brightness).clamp(0, 1)


def freeze(module: nn.Module) -> None:
    """Freeze: eval mode, no parameter gradients. Gradients still flow through the module to its inputs."""
    module.eval().requires_grad_(False)


def in_precision(module: M, precision: str) -> M:
    """Return a frozen module for use under `autocast` with this precision. For "bf16", a copy; otherwise the module.

    Autocast casts weights that need no gradient again at every use. In the copy, the layers that autocast runs in
    bfloat16 have such weights already, so the results are the same. All other layers and buffers stay in float32.
    """
    if precision != "bf16":
        return module
    cast = copy.deepcopy(module)
    for layer in cast.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            layer.to(torch.bfloat16)
    return cast


def _correct(logits: Tensor, classes: Tensor) -> Tensor:
    """Return 1 for each row whose largest logit is its class, otherwise 0, and NaN if a logit is not finite.

    logits: (batch, classes). Without the NaN, the class of a broken row would be that of a NaN.
    """
    correct = (logits.argmax(dim=1) == classes).double()
    return correct.masked_fill(~logits.isfinite().all(dim=1), torch.nan)


def _named(terms: tuple) -> dict[str, Tensor]:
    """Return the terms of a loss by name, with its total as "loss"."""
    by_name = terms._asdict()  # type: ignore[attr-defined]
    return {"loss": by_name.pop("total"), **by_name}

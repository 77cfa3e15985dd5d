"""Trained networks and priors as the stages leave them in a run, read back."""

from __future__ import annotations

import re
from typing import TypeVar

import torch
from torch import Tensor, nn

from arspm import storage
from arspm.config import Config
from arspm.model import speech_portrait
from arspm.model.face_decoder import FaceDecoder
from arspm.model.gender_classifier import GenderClassifier
from arspm.model.speech_portrait import FacePrior, SpeechPortrait
from arspm.model.vggface import VGGFace
from arspm.runs import stages
from arspm.training import checkpoint

M = TypeVar("M", bound=nn.Module)
MODEL = "model.safetensors"
HISTORY = stages.HISTORY
PRIORS = "priors.safetensors"
PRIORS_BY_COUNT = "priors_by_count.safetensors"  # "neutral/100": the mean of a hundred faces


def load_vggface(run: str, config: Config) -> VGGFace:
    """The run's VGGFace, trained here or published; the number of identities is the file's."""
    weights = _weights(run, "vggface")
    uri = storage.join(stages.folder(run, "vggface"), MODEL)
    if not (identities := weights.get("fc8.bias", torch.empty(0)).numel()):
        raise ValueError(f"{uri}: fc8.bias is missing")
    model = speech_portrait.vggface(config, identities)
    checkpoint.restore(model, weights, uri)
    return model.eval()


def load_face_decoder(run: str, config: Config) -> FaceDecoder:
    return _load(speech_portrait.face_decoder(config), run, "decoder")


def load_gender_classifier(run: str, config: Config) -> GenderClassifier | None:
    """The run's gender classifier, or None where the corpus had no labels to train one."""
    if not storage.exists(storage.join(stages.folder(run, "gender"), MODEL)):
        return None
    return _load(speech_portrait.gender_classifier(config), run, "gender")


def load_priors(run: str) -> dict[str, Tensor]:
    """The mean face features there are: "neutral" and, with labels, "female" and "male"."""
    with storage.local_copy(storage.join(stages.folder(run, "prior"), PRIORS)) as path:
        return checkpoint.read_weights(path)


def load_priors_by_count(run: str) -> dict[str, dict[int, Tensor]]:
    """The mean of the first n faces behind each prior: name -> n -> (feature,), n rising (Figure 2)."""
    uri = storage.join(stages.folder(run, "prior"), PRIORS_BY_COUNT)
    with storage.local_copy(uri) as path:
        weights = checkpoint.read_weights(path)
    found: dict[str, dict[int, Tensor]] = {}
    if strange := [key for key in weights if not re.fullmatch(r"\w+/[1-9]\d{0,17}", key, re.ASCII)]:
        raise ValueError(f"{uri}: {strange[0][:100]!r} is no prior and its number of faces")
    for key in sorted(weights, key=lambda key: int(key.partition("/")[2])):
        name, _, count = key.partition("/")
        found.setdefault(name, {})[int(count)] = weights[key]
    return found


def load_face_prior(run: str, config: Config) -> FacePrior:
    classifier = load_gender_classifier(run, config) if config.prior.kind == "gender" else None
    return FacePrior(config.prior.kind, load_priors(run), classifier).eval()


def load_speech_portrait(run: str, config: Config) -> SpeechPortrait:
    """The whole trained model."""
    encoder = _load(speech_portrait.speech_encoder(config), run, "encoder")
    return SpeechPortrait(encoder, load_face_prior(run, config), load_face_decoder(run, config)).eval()


def load_linear(run: str, stage: str, name: str) -> nn.Linear:
    """One linear layer of a stage's network, without the rest of it."""
    uri = storage.join(stages.folder(run, stage), MODEL)
    with storage.local_copy(uri) as path:
        weights = checkpoint.read_weights(path, (f"{name}.weight", f"{name}.bias"))
    weight = weights[f"{name}.weight"]
    if weight.ndim != 2:
        raise ValueError(f"{uri}: {name}.weight is {tuple(weight.shape)}, not a linear layer's")
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    checkpoint.restore(layer, {"weight": weight, "bias": weights[f"{name}.bias"]}, uri)
    return layer.eval()


def _weights(run: str, stage: str) -> dict[str, Tensor]:
    with storage.local_copy(storage.join(stages.folder(run, stage), MODEL)) as path:
        return checkpoint.read_weights(path)


def _load(model: M, run: str, stage: str) -> M:
    checkpoint.restore(model, _weights(run, stage), storage.join(stages.folder(run, stage), MODEL))
    return model.eval()

"""Load the trained networks and priors that a run's stages have written."""

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
PRIORS_BY_COUNT = "priors_by_count.safetensors"  # "neutral/100" is the mean of 100 faces


def load_vggface(run: str, config: Config) -> VGGFace:
    """Return the run's VGGFace, trained or published. The file determines the number of identities."""
    weights = _weights(run, "vggface")
    uri = storage.join(stages.folder(run, "vggface"), MODEL)
    if not (identities := weights.get("fc8.bias", torch.empty(0)).numel()):
        raise ValueError(f"{uri}: fc8.bias is missing; run the stage vggface again")
    model = speech_portrait.vggface(config, identities)
    checkpoint.restore(model, weights, uri)
    return model.eval()


def load_face_decoder(run: str, config: Config) -> FaceDecoder:
    """Return the run's face decoder."""
    return _load(speech_portrait.face_decoder(config), run, "decoder")


def load_gender_classifier(run: str, config: Config) -> GenderClassifier | None:
    """Return the run's gender classifier, or None if it has none: no labels to train one, and no `gender.weights`."""
    if not storage.exists(storage.join(stages.folder(run, "gender"), MODEL)):
        return None
    return _load(speech_portrait.gender_classifier(config), run, "gender")


def load_priors(run: str) -> dict[str, Tensor]:
    """Return the mean face features, (feature,) each: "neutral" and, if there were labels, "female" and "male"."""
    with storage.local_copy(storage.join(stages.folder(run, "prior"), PRIORS)) as path:
        return checkpoint.read_weights(path)


def load_priors_by_count(run: str) -> dict[str, dict[int, Tensor]]:
    """Return the mean of the first n faces of each prior: name -> n -> (feature,), with n ascending (Figure 2)."""
    uri = storage.join(stages.folder(run, "prior"), PRIORS_BY_COUNT)
    with storage.local_copy(uri) as path:
        weights = checkpoint.read_weights(path)
    by_name: dict[str, dict[int, Tensor]] = {}
    if invalid := [key for key in weights if not re.fullmatch(r"\w+/[1-9]\d{0,17}", key, re.ASCII)]:
        raise ValueError(f"{uri}: {invalid[0][:100]!r} is not of the form <prior>/<number of faces>")
    for key in sorted(weights, key=lambda key: int(key.partition("/")[2])):
        name, _, count = key.partition("/")
        by_name.setdefault(name, {})[int(count)] = weights[key]
    return by_name


def load_face_prior(run: str, config: Config) -> FacePrior:
    """Return the prior that `prior.kind` selects, with the gender classifier if it needs one."""
    classifier = load_gender_classifier(run, config) if config.prior.kind == "gender" else None
    return speech_portrait.face_prior(config, load_priors(run), classifier).eval()


def load_speech_portrait(run: str, config: Config) -> SpeechPortrait:
    """Return the complete trained model: encoder, prior and decoder."""
    encoder = _load(speech_portrait.speech_encoder(config), run, "encoder")
    return SpeechPortrait(encoder, load_face_prior(run, config), load_face_decoder(run, config)).eval()


def load_linear(run: str, stage: str, name: str) -> nn.Linear:
    """Return one linear layer of a stage's network, without loading the other layers."""
    uri = storage.join(stages.folder(run, stage), MODEL)
    with storage.local_copy(uri) as path:
        weights = checkpoint.read_weights(path, (f"{name}.weight", f"{name}.bias"))
    weight = weights[f"{name}.weight"]
    if weight.ndim != 2:
        raise ValueError(f"{uri}: {name}.weight is {tuple(weight.shape)}, but a linear layer needs two dimensions")
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    checkpoint.restore(layer, {"weight": weight, "bias": weights[f"{name}.bias"]}, uri)
    return layer.eval()


def _weights(run: str, stage: str) -> dict[str, Tensor]:
    with storage.local_copy(storage.join(stages.folder(run, stage), MODEL)) as path:
        return checkpoint.read_weights(path)


def _load(model: M, run: str, stage: str) -> M:
    checkpoint.restore(model, _weights(run, stage), storage.join(stages.folder(run, stage), MODEL))
    return model.eval()

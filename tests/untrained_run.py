"""A run of an untrained model, written with the product's own writers: what is needed to draw portraits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from arspm.config import Config, override
from arspm.config.presets import preset
from arspm.model import speech_portrait
from arspm.runs import stages
from arspm.training import artifacts, checkpoint


def write_untrained_run(folder: Path, changes: dict[str, Any] | None = None) -> str:
    """Write a run whose encoder, decoder and, if the prior needs one, gender classifier are random; return its URI."""
    data = {"data.csv": "/somewhere/secret/clips.csv", "data.clips": "/somewhere/secret/clips"}
    config = override(preset("smoke"), data | (changes or {}))
    write_networks(folder, config)
    for stage in ("gender", "prior", "decoder", "encoder"):
        stages.commit(str(folder), stage, fingerprint=stage[0] * 64, config=config, files={}, seconds=1.0, figures={})
    return str(folder)


def write_networks(folder: Path, config: Config, *, seed: int = 0) -> None:
    """Write random weights where the stages write trained ones."""
    torch.manual_seed(seed)
    encoder = speech_portrait.speech_encoder(config)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    weights: dict[str, dict[str, torch.Tensor]] = {
        "encoder": encoder.state_dict(),
        "decoder": speech_portrait.face_decoder(config).state_dict(),
        "prior": {name: torch.randn(config.feature_dim) for name in ("neutral", "female", "male")},
    }
    if config.prior.kind == "gender":
        weights["gender"] = speech_portrait.gender_classifier(config).state_dict()
    for stage, tensors in weights.items():
        file = artifacts.PRIORS if stage == "prior" else artifacts.MODEL
        (folder / stage).mkdir(parents=True, exist_ok=True)
        checkpoint.write_weights(folder / stage / file, tensors)

"""Each stage's task with random frozen networks, random batches, and the training loop over them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arspm.config import Config, Recipe, override
from arspm.config.presets import preset
from arspm.corpus.schema import CLIP_ID, FACE_FEATURE, GENDER, IDENTITY, SPECTROGRAM
from arspm.model import speech_portrait
from arspm.model.speech_portrait import FacePrior
from arspm.training import tasks
from arspm.training.checkpoint import TrainingState
from arspm.training.columns import FACE, WEIGHT
from arspm.training.fit import Report, WorkerContext, fit
from arspm.training.train_step import Task

STAGES = ("vggface", "gender", "decoder", "encoder")


ROWS = 4


NUM_STEPS, NUM_SCORE_STEPS = 4, 2


def smoke(**changes: Any) -> Config:
    return override(preset("smoke"), {name.replace("__", "."): value for name, value in changes.items()})


def make_task(stage: str, config: Config, device: str = "cpu") -> Task:
    if stage == "vggface":
        return tasks.vggface_task(config, num_identities=3, held_out=True)
    if stage == "gender":
        return tasks.gender_task(config)
    state = torch.get_rng_state()
    torch.manual_seed(99)  # for the networks of earlier stages
    network = speech_portrait.vggface(config, 3)
    hidden, means = speech_portrait.face_decoder(config).fc1, {"neutral": torch.randn(config.feature_dim)}
    torch.set_rng_state(state)
    if stage == "decoder":
        return tasks.decoder_task(config, network.to(device))
    prior = FacePrior("neutral", means).to(device)
    return tasks.encoder_task(config, prior, hidden.to(device), network.fc8.to(device))


def columns(stage: str, *key: int) -> dict[str, Any]:
    """Return a batch of random rows, determined by `key`."""
    rng = np.random.default_rng(key)
    found: dict[str, Any] = {
        CLIP_ID: [f"clip {key} {row}" for row in range(ROWS)],
        WEIGHT: np.ones(ROWS, np.float32),
    }
    if stage in ("vggface", "decoder"):
        found[FACE] = rng.integers(0, 256, (ROWS, 64, 64, 3), dtype=np.uint8)
    if stage in ("gender", "encoder"):
        size = (2, 97, 130) if stage == "encoder" else (2, 20, 40)  # half of it is enough for the networks
        found[SPECTROGRAM] = rng.standard_normal((ROWS, *size)).astype(np.float16)
    if stage in ("decoder", "encoder"):
        found[FACE_FEATURE] = rng.standard_normal((ROWS, 64)).astype(np.float32)
    if stage == "vggface":
        found[IDENTITY] = rng.integers(0, 3, ROWS)
    if stage == "gender":
        found[GENDER] = np.array([0, 1, *rng.integers(0, 2, 2)])
    return found


def stream(stage: str, epochs: int, progress: TrainingState) -> Iterator[dict[str, Any]]:
    """Yield the batches for `fit` from `progress` on. The validation batches are the same in every epoch."""
    first = progress.epoch, progress.step_in_epoch
    return (
        columns(stage, epoch, step) if step < NUM_STEPS else columns(stage, 1000, step)
        for epoch in range(epochs)
        for step in range(NUM_STEPS + NUM_SCORE_STEPS)
        if (epoch, step) >= first
    )


def train(task: Task, recipe: Recipe, stage: str, resume: Path | None = None, **changes: Any) -> Iterator[Report]:
    """Return the reports of `fit` over random batches. `changes`: arguments of `fit` that differ from the default."""
    settings: dict[str, Any] = {
        "seed": 3,
        "num_steps": NUM_STEPS,
        "num_score_steps": NUM_SCORE_STEPS,
        "batches": lambda progress: stream(stage, recipe.epochs, progress),
        "worker": WorkerContext(),
        "config": {"preset": "smoke"},
    }
    return fit(task, recipe, resume=resume, **settings | changes)


def plain_batches(count: int) -> list[dict[str, Any]]:
    """Return batches of four rows without columns to train on."""
    return [{CLIP_ID: list("abcd"), WEIGHT: np.ones(4, np.float32)}] * count

"""The encoder can learn what it is shown: every clip of a small training set by heart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from arspm.config import override
from arspm.config.presets import preset
from arspm.media.audio import spectrogram
from arspm.model import speech_portrait
from arspm.model.speech_portrait import FacePrior
from arspm.synthetic.people import sample_speakers
from arspm.synthetic.voice import speak
from arspm.training import tasks
from arspm.training.batch import Batch
from arspm.training.train_step import Task, make_optimizer, score_batch, train_step

CLIPS, SECONDS, STEPS = 32, 1.0, 150
LENGTH = 6.3  # of a face feature, on the mean: what eq. 7's weights are balanced for


def made_up_clips(feature_dim: int) -> Batch:
    """A second of speech of as many people, with faces that have nothing to do with them."""
    voices = [
        speak(speaker, SECONDS, np.random.default_rng(row)) for row, speaker in enumerate(sample_speakers(CLIPS, 0))
    ]
    feature = torch.randn(CLIPS, feature_dim)
    return Batch(
        clip_ids=[f"clip {row}" for row in range(CLIPS)],
        weight=torch.ones(CLIPS),
        spectrogram=spectrogram(torch.from_numpy(np.stack(voices))),
        face_feature=feature * LENGTH / feature.norm(dim=1).mean(),
    )


def angle(task: Task, rows: Batch) -> float:
    """Mean angle between speech and face features in eval mode, in degrees."""
    total, count = score_batch(task, task.model.eval(), rows, precision="fp32")["cos_degrees"]
    assert count == CLIPS
    return float(total / count)


def test_the_encoder_learns_a_small_training_set_by_heart():
    config = override(preset("demo"), {"feature_dim": 64, "training.encoder.augment": False})
    rows = made_up_clips(config.feature_dim)
    hidden = speech_portrait.face_decoder(config).fc1
    identity = speech_portrait.vggface(config, 100).fc8
    prior = FacePrior("neutral", {"neutral": rows.face_feature.mean(dim=0)})
    task = tasks.encoder_task(config, prior, hidden, identity)
    optimizer = make_optimizer(task.model, config.training.encoder)
    assert angle(task, rows) > 60

    losses = []
    for step in range(STEPS):
        rate = 3e-3 * (1 - step / STEPS)  # to zero, or the absolute differences of eq. 7 keep Adam moving
        terms = train_step(task, task.model.train(), optimizer, rows, rate=rate, precision="fp32")
        losses.append(float(terms["loss"]))

    assert losses[-1] < losses[0] / 50
    assert angle(task, rows) < 5
    # It knows each clip, not what they have in common: another clip's face is far.
    others = replace(rows, face_feature=rows.face_feature.roll(1, dims=0))
    assert angle(task, others) > 60

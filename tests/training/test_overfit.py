"""The encoder can overfit a small training set."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
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
from arspm.training.train_step import Task, make_optimizer, score_batch, step_gradients, train_step

CLIPS, SECONDS, STEPS = 32, 1.0, 150
FEATURE_NORM = 6.3  # mean norm of the paper's face features, which the weights of eq. 7 assume


def made_up_clips(feature_dim: int) -> Batch:
    """Return a second of speech by each of CLIPS people, with random face features."""
    voices = [
        speak(speaker, SECONDS, np.random.default_rng(row)) for row, speaker in enumerate(sample_speakers(CLIPS, 0))
    ]
    feature = torch.randn(CLIPS, feature_dim)
    return Batch(
        clip_ids=[f"clip {row}" for row in range(CLIPS)],
        weight=torch.ones(CLIPS),
        spectrogram=spectrogram(torch.from_numpy(np.stack(voices))),
        face_feature=feature * FEATURE_NORM / feature.norm(dim=1).mean(),
    )


def angle(task: Task, rows: Batch) -> float:
    """Return the mean angle between speech and face features in eval mode, in degrees."""
    scores = score_batch(task, task.model.eval(), rows, precision="fp32")
    total, count = scores.totals[scores.names.index("cos_degrees")]
    assert count == CLIPS
    return float(total / count)


@pytest.mark.slow
@pytest.mark.long
def test_the_encoder_overfits_a_small_training_set():
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
        rate = 3e-3 * (1 - step / STEPS)  # decays to zero; otherwise eq. 7's L1 term keeps Adam moving
        terms = train_step(
            partial(step_gradients, task, task.model.train(), precision="fp32"), optimizer, rows, rate=rate
        )
        losses.append(float(terms["loss"]))

    assert losses[-1] < losses[0] / 50
    assert angle(task, rows) < 5
    # It has learnt each clip, not only their mean: other clips' faces are far away.
    others = replace(rows, face_feature=rows.face_feature.roll(1, dims=0))
    assert angle(task, others) > 60

"""A constant prior is a bias: the models `neutral` and `neutral+fc` are `non-prior` with other initial biases.

`docs/prior.md` derives it. Here the real classes train side by side. float64 keeps rounding from growing over the
steps; the loss itself is computed in float32.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from arspm import storage
from arspm.config import Config, Recipe, override
from arspm.config.presets import preset
from arspm.config.variants import VARIANTS
from arspm.model import speech_portrait
from arspm.model.speech_encoder import SpeechEncoder
from arspm.model.speech_portrait import SpeechPortrait
from arspm.training import artifacts, checkpoint, tasks
from arspm.training.batch import Batch
from arspm.training.train_step import Task, learning_rate, make_optimizer, step_gradients, train_step

SMOKE = override(preset("smoke"), {"training.encoder.augment": False})
STEPS, ROWS = 12, 4


def means() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {"neutral": torch.randn(64, generator=generator) * 6.3 / 8}  # a norm of about 6.3


def variant(name: str) -> Config:
    return override(SMOKE, VARIANTS[name].changes)


def make_task(config: Config) -> Task:
    """Return the encoder's task with the encoder in float64 and the same random networks for every variant."""
    torch.manual_seed(11)
    hidden, identity = speech_portrait.face_decoder(config).fc1, speech_portrait.vggface(config, 5).fc8
    prior = speech_portrait.face_prior(config, means(), None)
    torch.manual_seed(config.seed)
    task = tasks.encoder_task(config, prior.double(), hidden, identity)
    task.model.double()
    return task


def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(7)
    speech = torch.randn(STEPS, ROWS, 2, 97, 65, generator=generator, dtype=torch.float64)
    features = means()["neutral"] + torch.randn(STEPS, ROWS, 64, generator=generator, dtype=torch.float64)
    return [
        Batch([""] * ROWS, torch.ones(ROWS, dtype=torch.float64), spectrogram=speech[step], face_feature=features[step])
        for step in range(STEPS)
    ]


def train(task: Task, recipe: Recipe) -> tuple[list[float], Tensor]:
    """Train on the batches. Returns each step's loss and the features of the last batch afterwards."""
    optimizer = make_optimizer(task.model, recipe)
    losses = []
    for step, batch in enumerate(batches()):
        rate = learning_rate(recipe, step, steps_per_epoch=3)
        terms = train_step(
            partial(step_gradients, task, task.model.train(), precision="fp32"), optimizer, batch, rate=rate
        )
        losses.append(float(terms["loss"]))
    return losses, task.model.eval()(batches()[-1].spectrogram).detach()


def shifted(name: str) -> Task:
    """Return non-prior with the prior added to one bias: Fc2's for `neutral`, Fc1's for `neutral+fc`."""
    task = make_task(variant("non-prior"))
    model = task.model
    assert isinstance(model, SpeechEncoder)
    with torch.no_grad():
        if name == "neutral-residual":
            model.fc2.weight.zero_()
            model.fc2.bias.copy_(means()["neutral"])
        else:
            layer = model.fc1 if name == "neutral+fc" else model.fc2
            constant = speech_portrait.face_prior(variant(name), means(), None)(torch.empty(1, 2, 1, 1))
            assert constant is not None
            layer.bias.add_(constant)
    return task


@pytest.mark.parametrize("eps", [1e-8, 1e-4])
@pytest.mark.parametrize("name", ["neutral", "neutral+fc", "neutral-residual", "constant"])
def test_a_constant_prior_is_a_bias(name: str, eps: float) -> None:
    """With Adam of the paper's betas, the losses of all steps and the trained functions are the same."""
    recipe = Recipe(eps=eps, learning_rate=1e-2)
    task = make_task(variant(name))
    with_prior, _ = train(task, recipe)
    with_bias, features = train(shifted(name), recipe)
    assert with_bias == pytest.approx(with_prior, rel=1e-6)
    prior = speech_portrait.face_prior(variant(name), means(), None).double()
    model = task.model.eval()
    speech = batches()[-1].spectrogram
    torch.testing.assert_close(model(speech, prior(speech)), features, rtol=1e-4, atol=1e-5)

    unshifted, _ = train(make_task(variant("non-prior")), recipe)
    assert abs(unshifted[0] - with_prior[0]) > 0.01 * with_prior[0]  # without the shift the losses differ
    untrained = shifted(name).model.eval()(speech).detach()
    assert float((features - untrained).norm() / untrained.norm()) > 0.05  # the steps changed the function


@pytest.mark.parametrize("eps", [1e-8, 1e-4])
def test_an_adaptive_prior_is_not_a_bias(eps: float) -> None:
    """Its weight depends on the clip, so no constant shift of a bias gives the same features for two clips."""
    recipe = Recipe(eps=eps, learning_rate=1e-2)
    task = make_task(variant("adaptive"))
    train(task, recipe)
    model = task.model.eval()
    speech = batches()[-1].spectrogram
    mean = means()["neutral"].double()
    shift = ((model(speech, mean) - model(speech)) / mean).detach()  # each clip's weight, in every dimension
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), rtol=1e-6, atol=1e-9)
    assert ((shift > 0) & (shift < 1)).all()
    assert float(shift[:, 0].max() - shift[:, 0].min()) > 1e-3


@pytest.mark.parametrize("name", ["neutral-residual", "adaptive", "constant", "non-prior-female"])
def test_a_runs_model_of_every_new_variant_is_loaded_as_it_was_trained(tmp_path: Path, name: str) -> None:
    """What `arspm generate` and the evaluate stage load: the encoder's weights, and the prior from the run's means."""
    config = override(variant(name), {"seed": 4})
    torch.manual_seed(0)
    encoder, decoder = speech_portrait.speech_encoder(config), speech_portrait.face_decoder(config)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    written: dict[str, Any] = {"encoder": encoder.state_dict(), "decoder": decoder.state_dict(), "prior": means()}
    for stage, weights in written.items():
        file = artifacts.PRIORS if stage == "prior" else artifacts.MODEL
        checkpoint.write_weights(tmp_path / "weights", {key: value.contiguous() for key, value in weights.items()})
        storage.upload(tmp_path / "weights", str(tmp_path / stage / file))
    loaded = artifacts.load_speech_portrait(str(tmp_path), config)
    expected = SpeechPortrait(encoder, speech_portrait.face_prior(config, means(), None), decoder).eval()
    speech = torch.randn(2, 2, 257, 98)
    with torch.no_grad():
        torch.testing.assert_close(loaded.feature(speech), expected.feature(speech))
        torch.testing.assert_close(loaded(speech), expected(speech))

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from arspm.config import TRAINED_STAGES, Config, override
from arspm.config.presets import preset
from arspm.corpus.genders import UNKNOWN
from arspm.corpus.schema import GENDERS
from arspm.model import speech_portrait
from arspm.model.speech_portrait import FacePrior
from arspm.model.vggface import VGGFace
from arspm.training import tasks
from arspm.training.batch import Batch
from arspm.training.losses import face_decoder_loss, tri_item_loss
from arspm.training.train_step import score_batch, step_gradients, train_step

SMOKE = override(preset("smoke"), {f"training.{stage}.augment": False for stage in TRAINED_STAGES})
ROWS = 4


def batch(**tensors: torch.Tensor) -> Batch:
    return Batch(clip_ids=[f"clip {row}" for row in range(ROWS)], weight=torch.ones(ROWS), **tensors)


def speech_batch() -> Batch:
    return batch(spectrogram=torch.randn(ROWS, 2, 97, 65), face_feature=torch.randn(ROWS, 64))


def face_batch() -> Batch:
    return batch(face=torch.rand(ROWS, 3, 64, 64), face_feature=torch.randn(ROWS, 64))


def encoder(config: Config = SMOKE, kind: str = "gender"):
    """Return the encoder's task, the prior, and the complete networks whose frozen layers the task uses."""
    decoder, network = speech_portrait.face_decoder(config), speech_portrait.vggface(config, 5)
    means = {name: torch.randn(64) for name in ("neutral", *GENDERS)}
    prior = FacePrior(kind, means, speech_portrait.gender_classifier(config))
    return tasks.encoder_task(config, prior, decoder.fc1, network.fc8), prior, decoder, network


def weights(*modules: nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for module in modules for tensor in module.state_dict().values()]


def step(task: tasks.Task, rows: Batch) -> dict[str, torch.Tensor]:
    optimizer = torch.optim.Adam(task.model.parameters(), lr=1e-2)
    return train_step(partial(step_gradients, task, task.model.train(), precision="fp32"), optimizer, rows, rate=1e-2)


# --- the encoder


@pytest.mark.parametrize("identity", ["cosine", "distillation"])
def test_the_encoders_loss_is_equation_7_over_the_frozen_networks(identity):
    changes = {"loss.lambda1": 2.0, "loss.lambda2": 0.3, "loss.lambda3": 0.7, "loss.identity": identity}
    task, prior, decoder, network = encoder(override(SMOKE, changes))
    rows = speech_batch()
    found = task.loss(task.model, rows)
    expected = tri_item_loss(
        task.model(rows.spectrogram, prior(rows.spectrogram)),
        rows.face_feature,
        hidden=decoder.hidden,
        logits=network.identity_logits,
        lambda1=2.0,
        lambda2=0.3,
        lambda3=0.7,
        identity=identity,
    )
    assert set(found) == {"loss", "unit_l2", "hidden_l1", "identity"}
    for name, value in expected._asdict().items():
        torch.testing.assert_close(found["loss" if name == "total" else name], value)


def test_training_the_encoder_runs_no_convolution_of_other_networks(monkeypatch):
    task, _, decoder, _ = encoder()

    def refuse(*_, **__):
        raise AssertionError("another network ran")

    monkeypatch.setattr(VGGFace, "_fc6", refuse)
    monkeypatch.setattr(type(decoder), "forward", refuse)
    rows = speech_batch()
    step(task, rows)
    score_batch(task, task.model.eval(), rows, precision="fp32")


def test_training_the_encoder_does_not_change_the_frozen_networks():
    task, prior, decoder, network = encoder()
    frozen = (prior, decoder.fc1, network.fc8)
    before, own = weights(*frozen), weights(task.model)
    step(task, speech_batch())
    for module in frozen:
        assert not module.training
        assert all(parameter.grad is None and not parameter.requires_grad for parameter in module.parameters())
    assert all(
        torch.equal(a, b) for a, b in zip(before, weights(*frozen), strict=True)
    )  # including BatchNorm's statistics
    assert any(not torch.equal(a, b) for a, b in zip(own, weights(task.model), strict=True))


def test_the_encoder_is_scored_per_row():
    task, *_ = encoder(kind="none")
    rows = speech_batch()
    with torch.no_grad():
        found = task.score(task.model, rows)
        feature = task.model(rows.spectrogram, None).double().numpy()
    target = rows.face_feature.double().numpy()
    assert set(found) == {"l1", "l2", "cos_degrees"}
    np.testing.assert_allclose(found["l1"], np.abs(feature - target).sum(1), rtol=1e-6)
    np.testing.assert_allclose(found["l2"], np.linalg.norm(feature - target, axis=1), rtol=1e-6)


# --- the decoder


@pytest.mark.parametrize("form", ["wang", "zhao"])
def test_the_decoders_loss_is_equation_6_and_reaches_it_through_vggface(form):
    network = speech_portrait.vggface(SMOKE, 5)
    changes = {"decoder_loss.alpha": 0.3, "decoder_loss.l1_sigma": 3.0, "decoder_loss.form": form}
    task = tasks.decoder_task(override(SMOKE, changes), network)
    rows = face_batch()
    portrait = task.model(rows.face_feature)
    expected = face_decoder_loss(
        portrait,
        rows.face,
        portrait_feature=network.features(portrait),
        image_feature=rows.face_feature,
        alpha=0.3,
        window_size=3,
        l1_sigma=3.0,
        form=form,
    )
    found = task.loss(task.model, rows)
    for name, value in expected._asdict().items():
        torch.testing.assert_close(found["loss" if name == "total" else name], value)
    found["cosine"].backward()
    assert all(parameter.grad is not None for parameter in task.model.parameters())
    assert task.model.conv1.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in network.parameters())


def test_training_the_decoder_runs_vggface_only_on_the_portraits(monkeypatch):
    network = speech_portrait.vggface(SMOKE, 5)
    task = tasks.decoder_task(SMOKE, network)
    seen = []
    original = VGGFace.features
    monkeypatch.setattr(VGGFace, "features", lambda self, images: seen.append(images) or original(self, images))
    before = weights(network)
    step(task, face_batch())
    assert len(seen) == 1
    assert seen[0].requires_grad
    assert all(torch.equal(a, b) for a, b in zip(before, weights(network), strict=True))


def test_with_strides_as_printed_portraits_are_compared_with_smaller_faces():
    config = override(SMOKE, {"image_size": 96, "face_decoder.as_printed": True})
    task = tasks.decoder_task(config, speech_portrait.vggface(config, 5))
    rows = batch(face=torch.rand(ROWS, 3, 96, 96), face_feature=torch.randn(ROWS, 64))
    assert task.model(rows.face_feature).shape == (ROWS, 3, 48, 48)
    smaller = F.interpolate(rows.face, size=(48, 48), mode="bilinear", antialias=True)
    reduced = batch(face=smaller, face_feature=rows.face_feature)
    for found, expected in zip(
        task.loss(task.model, rows).values(), task.loss(task.model, reduced).values(), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_the_decoders_score_is_its_loss_by_row():
    task = tasks.decoder_task(SMOKE, speech_portrait.vggface(SMOKE, 5))
    task.model.eval()
    rows = face_batch()
    found, terms = task.score(task.model, rows), task.loss(task.model, rows)
    assert found["loss"].shape == found["cos_degrees"].shape == (ROWS,)
    torch.testing.assert_close(found["loss"].mean(), terms["loss"])
    torch.testing.assert_close(found["image"].mean(), terms["image"])


# --- the gender classifier


def test_the_gender_loss_is_the_mean_cross_entropy_of_the_rows():
    task = tasks.gender_task(SMOKE)
    task.model.eval()
    labels = [0, 1, 1, 0]
    rows = batch(spectrogram=torch.randn(ROWS, 2, 20, 20), gender=torch.tensor(labels))
    logits = task.model(rows.spectrogram).detach().double().numpy()
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    terms = task.loss(task.model, rows)
    assert terms["loss"].item() == pytest.approx(np.mean([-logs[row, label] for row, label in enumerate(labels)]))
    right = [float(logits[row].argmax() == label) for row, label in enumerate(labels)]
    assert terms["accuracy"].item() == pytest.approx(np.mean(right))
    assert task.score(task.model, rows)["accuracy"].tolist() == right


def test_a_row_without_a_label_is_refused():
    """Rows are filtered where they are gathered: ignored here, the gradient would depend on the number of workers."""
    task = tasks.gender_task(SMOKE)
    rows = batch(spectrogram=torch.randn(ROWS, 2, 20, 20), gender=torch.tensor([0, UNKNOWN, 1, 0]))
    with pytest.raises(IndexError, match="Target -1 is out of bounds"):
        task.loss(task.model, rows)


@pytest.mark.parametrize("stage", ["gender", "vggface"])
def test_the_accuracy_of_a_row_whose_logits_are_nan_is_nan(stage):
    """Not 0 or 1: argmax takes a NaN for the largest."""
    task = tasks.gender_task(SMOKE) if stage == "gender" else tasks.vggface_task(SMOKE, 3, held_out=True)
    task.model.eval()
    rows = batch(
        spectrogram=torch.randn(ROWS, 2, 20, 20),
        face=torch.rand(ROWS, 3, 64, 64),
        gender=torch.zeros(ROWS, dtype=torch.long),
        identity=torch.zeros(ROWS, dtype=torch.long),
    )
    (rows.spectrogram if stage == "gender" else rows.face)[2] = torch.nan
    with torch.no_grad():
        assert task.score(task.model, rows)["accuracy"].isnan().tolist() == [False, False, True, False]


# --- VGGFace


def test_vggfaces_objective_depends_on_validation_clips():
    assert tasks.vggface_task(SMOKE, 3, held_out=True)[3:] == ("val_accuracy", True)
    assert tasks.vggface_task(SMOKE, 3, held_out=False)[3:] == ("train_loss", False)
    assert tasks.vggface_task(SMOKE, 3, held_out=True).model.fc8.out_features == 3


@pytest.mark.parametrize("augments", [False, True])
def test_faces_are_augmented_only_in_training_and_if_configured(augments):
    config = override(SMOKE, {"training.vggface.augment": augments})
    task = tasks.vggface_task(config, 3, held_out=True)
    task.model.eval()  # no dropout
    rows = batch(face=torch.rand(ROWS, 3, 64, 64), identity=torch.tensor([0, 1, 2, 0]))
    unchanged = F.cross_entropy(task.model(rows.face), rows.identity)
    assert torch.isclose(task.loss(task.model, rows)["loss"], unchanged, rtol=1e-7).item() != augments
    right = task.model(rows.face).argmax(1) == rows.identity
    assert torch.equal(task.score(task.model, rows)["accuracy"], right.double())


def test_augmentation_keeps_faces_upright_and_in_range():
    face = torch.zeros(200, 3, 32, 32)
    face[:, :, 12:20, 4:12] = 0.5  # a patch left of the middle
    torch.manual_seed(0)
    changed = tasks.augment(face)
    assert changed.shape == face.shape
    assert ((changed >= 0) & (changed <= 1)).all()
    left, right = changed[..., :16].amax(dim=(1, 2, 3)), changed[..., 16:].amax(dim=(1, 2, 3))
    assert 70 < (right > left).sum() < 130  # about half of them are mirrored
    top, bottom = changed[:, :, :4].mean(dim=(1, 2, 3)), changed[:, :, 12:20].mean(dim=(1, 2, 3))
    assert (bottom > top).all()  # none of them is upside down
    torch.manual_seed(0)
    assert torch.equal(tasks.augment(face), changed)


@pytest.mark.parametrize("stage", ["encoder", "gender"])
@pytest.mark.parametrize("augments", [False, True])
def test_excerpts_are_used_only_in_training_and_if_configured(stage, augments):
    config = override(SMOKE, {f"training.{stage}.augment": augments})
    task = encoder(config, "neutral")[0] if stage == "encoder" else tasks.gender_task(config)
    inputs = []
    task.model.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    rows = batch(
        spectrogram=torch.randn(ROWS, 2, 97, 131), face_feature=torch.randn(ROWS, 64), gender=torch.tensor([0, 1, 1, 0])
    )
    for _ in range(20):
        task.loss(task.model, rows)
    task.score(task.model, rows)
    assert torch.equal(inputs.pop(), rows.spectrogram)
    if not augments:
        assert all(torch.equal(speech, rows.spectrogram) for speech in inputs)
        return
    starts = set()
    for speech in inputs:
        assert speech.shape == (ROWS, 2, 97, 65)
        (start,) = [t for t in range(67) if torch.equal(speech, rows.spectrogram[..., t : t + 65])]
        starts.add(start)
    assert len(starts) > 10


def test_augmentation_repeats_the_edges_of_uniform_faces():
    for value in (0.0, 1.0):
        changed = tasks.augment(torch.full((50, 3, 8, 8), value))
        assert ((changed >= 0) & (changed <= 1)).all()
        assert changed.flatten(1).std(dim=1).max() < 1e-5  # edges are repeated, not filled with black


@pytest.mark.parametrize("stage", ["encoder", "decoder"])
def test_frozen_weights_that_are_cast_once_give_the_results_of_autocast_bit_for_bit(stage):
    """Losses, gradients and validation figures; the networks that the caller passed stay in float32."""
    results = []
    for precision in ("fp32", "bf16"):  # with fp32 nothing is cast here, and autocast casts at every use
        torch.manual_seed(0)
        config = override(SMOKE, {f"training.{stage}.precision": precision})
        if stage == "encoder":
            task, frozen, *_ = encoder(config)
            rows = speech_batch()
        else:
            frozen, rows = speech_portrait.vggface(config, 5), face_batch()
            task = tasks.decoder_task(config, frozen)
        task.model.eval()
        with torch.autocast("cpu", torch.bfloat16):
            terms, figures = task.loss(task.model, rows), task.score(task.model, rows)
        terms["loss"].backward()
        gradients = [parameter.grad for parameter in task.model.parameters()]
        results.append([*terms.values(), *figures.values(), *gradients])
        assert {parameter.dtype for parameter in frozen.parameters()} == {torch.float32}
    for expected, found in zip(*results, strict=True):
        assert torch.equal(expected, found)


def test_only_the_layers_that_autocast_runs_in_bfloat16_are_cast():
    classifier = speech_portrait.gender_classifier(SMOKE)
    cast = tasks.in_precision(classifier, "bf16")
    dtypes = {name: value.dtype for name, value in cast.state_dict().items() if value.is_floating_point()}
    norms = {name for name, module in cast.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert norms
    for name, dtype in dtypes.items():
        assert dtype == (torch.float32 if name.rpartition(".")[0] in norms else torch.bfloat16), name
    network = tasks.in_precision(speech_portrait.vggface(SMOKE, 5), "bf16")
    assert network.mean.dtype == torch.float32  # pixels are normalised in float32
    assert network.fc7.weight.dtype == torch.bfloat16
    assert tasks.in_precision(classifier, "fp32") is classifier


@pytest.mark.parametrize("stage", ["encoder", "decoder", "gender", "vggface"])
def test_bf16_gives_about_the_same_loss(stage):
    if stage == "encoder":
        task, rows = encoder()[0], speech_batch()
    elif stage == "decoder":
        task, rows = tasks.decoder_task(SMOKE, speech_portrait.vggface(SMOKE, 5)), face_batch()
    elif stage == "gender":
        task = tasks.gender_task(SMOKE)
        rows = batch(spectrogram=torch.randn(ROWS, 2, 20, 20), gender=torch.tensor([0, 1, 1, 0]))
    else:
        task = tasks.vggface_task(override(SMOKE, {"training.vggface.augment": False}), 3, True)
        rows = batch(face=torch.rand(ROWS, 3, 64, 64), identity=torch.tensor([0, 1, 2, 0]))
    task.model.eval()
    with torch.autocast("cpu", torch.bfloat16):
        half = task.loss(task.model, rows)["loss"]
    assert half.dtype == torch.float32
    assert float(half.detach()) == pytest.approx(float(task.loss(task.model, rows)["loss"].detach()), rel=0.05)

"""The losses against those of `naive_losses`."""

from __future__ import annotations

import math

import numpy as np
import pytest
import pytorch_msssim
import torch

from arspm.model.face_decoder import FaceDecoder
from arspm.model.vggface import VGGFace
from arspm.training.losses import (
    cosine_loss,
    distillation_loss,
    face_decoder_loss,
    gaussian_weighted_l1,
    image_loss,
    tri_item_loss,
)
from arspm.training.ms_ssim import ms_ssim
from tests.training.naive_losses import image_pair, naive_cosine_loss, naive_ms_ssim, naive_smoothing, naive_terms

SMALL_WINDOW = {"window_size": 3, "l1_sigma": 2.0}  # for 64-pixel images


# --- eq. 5


def test_cosine_loss_is_equation_5():
    a, b = 10 * torch.randn(5, 40), torch.randn(5, 40)
    expected = [naive_cosine_loss(*pair) for pair in zip(a.tolist(), b.tolist(), strict=True)]
    np.testing.assert_allclose(cosine_loss(a, b).numpy(), expected, atol=1e-6)
    a = torch.eye(3)
    torch.testing.assert_close(cosine_loss(a, 5 * a), torch.zeros(3))
    torch.testing.assert_close(cosine_loss(a, -a), torch.full((3,), 2.0))


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-7, 1e10])
def test_cosine_loss_of_odd_lengths_has_finite_gradients(scale):
    a = (scale * torch.randn(2, 8)).requires_grad_()
    b = torch.stack((torch.zeros(8), torch.randn(8))).requires_grad_()
    loss = cosine_loss(a, b)
    loss.sum().backward()
    assert a.grad.isfinite().all()
    assert b.grad.isfinite().all()
    assert loss[0] == 1  # a zero vector has no direction
    if scale == 0:
        assert loss[1] == 1


def test_comparing_a_batch_with_one_target_is_an_error():
    # ValueError as documented; TypeError where the annotations are checked.
    with pytest.raises((ValueError, TypeError)):
        cosine_loss(torch.randn(4, 8), torch.randn(1, 8))
    with pytest.raises((ValueError, TypeError)):
        tri_item_loss(torch.randn(4, 8), torch.randn(1, 8), hidden=torch.relu, logits=torch.relu)


# --- eq. 4


@pytest.mark.parametrize("sigma", [0.5, 2.0, 8.0])
def test_gaussian_weighted_l1_is_the_mean_of_the_smoothed_error(sigma):
    x, y = torch.rand(2, 3, 9, 13), torch.rand(2, 3, 9, 13)
    error = (x.double() - y.double()).abs().numpy()
    expected = [np.mean([naive_smoothing(channel, sigma) for channel in image]) for image in error]
    np.testing.assert_allclose(gaussian_weighted_l1(x, y, sigma=sigma).numpy(), expected, rtol=1e-5)


def test_a_constant_error_is_its_own_gaussian_weighted_l1():
    x = torch.full((2, 3, 20, 30), 0.5)
    y = x + torch.tensor([0.25, -0.125]).view(2, 1, 1, 1)
    torch.testing.assert_close(gaussian_weighted_l1(x, y, sigma=8.0), torch.tensor([0.25, 0.125]))


def test_a_pixel_at_the_border_counts_less():
    x = torch.zeros(3, 1, 65, 65)
    y = x.clone()
    y[0, :, 0, 0] = y[1, :, 0, 32] = y[2, :, 32, 32] = 65 * 65
    corner, edge, middle = gaussian_weighted_l1(x, y, sigma=4.0).tolist()
    assert middle == pytest.approx(1, abs=1e-3)
    assert corner == pytest.approx(edge**2, abs=1e-3)
    assert 0.4 < corner < 0.6


@pytest.mark.parametrize(("size", "window_size"), [(64, 3), (176, 11)])
def test_the_first_term_is_ms_ssim(size, window_size):
    x, y = image_pair(2, size)
    loss = image_loss(x, y, alpha=1.0, window_size=window_size)
    similarity = [
        naive_ms_ssim(*pair, window_size, 1.5) for pair in zip(x.double().numpy(), y.double().numpy(), strict=True)
    ]
    assert all(0.05 < value < 0.95 for value in similarity)
    np.testing.assert_allclose(1 - loss.numpy(), similarity, atol=2e-5)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("height", "width", "window_size"), [(64, 64, 3), (97, 65, 5), (176, 176, 11)])
def test_ms_ssim_equals_pytorch_msssims_bit_for_bit(memory_format, height, width, window_size):
    """Value and gradient, also where the gradient is added to that of another term."""
    pairs = [torch.rand(2, 3, height, width) for _ in range(2)]
    x, y = (each.to(memory_format=memory_format) for each in (pairs[0], 0.7 * pairs[0] + 0.3 * pairs[1]))
    results = []
    for function in (
        lambda x, y: ms_ssim(x, y, window_size=window_size, window_sigma=1.2),
        lambda x, y: pytorch_msssim.ms_ssim(
            x, y, data_range=1.0, size_average=False, win_size=window_size, win_sigma=1.2
        ),
    ):
        leaf = x.clone().requires_grad_()
        similarity = function(leaf, y)
        (0.84 * (1 - similarity) + gaussian_weighted_l1(leaf, y, sigma=2.0)).mean().backward()
        results.append((similarity.detach(), leaf.grad))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("form", ["wang", "zhao"])
def test_constants_that_were_made_in_inference_mode_serve_in_training(form):
    x = torch.rand(1, 3, 48, 48)
    with torch.inference_mode():
        image_loss(x, x, window_size=3, window_sigma=1.1, l1_sigma=1.7, form=form)
    other = torch.rand(1, 3, 48, 48, requires_grad=True)
    image_loss(other, x, window_size=3, window_sigma=1.1, l1_sigma=1.7, form=form).sum().backward()
    assert other.grad.abs().max() > 0


def test_image_loss_is_equation_4():
    x, y = image_pair(1, 64)
    error = (x[0].double() - y[0].double()).abs().numpy()
    smoothed = np.mean([naive_smoothing(channel, 2.0) for channel in error])
    similarity = naive_ms_ssim(x[0].double().numpy(), y[0].double().numpy(), 3, 1.5)
    expected = 0.84 * (1 - similarity) + (1 - 0.84) * smoothed
    assert image_loss(x, y, **SMALL_WINDOW).item() == pytest.approx(expected, abs=2e-5)


def test_equal_images_have_no_loss():
    x, _ = image_pair(2, 64)
    torch.testing.assert_close(image_loss(x, x, **SMALL_WINDOW), torch.zeros(2), atol=1e-6, rtol=0)


def test_opposite_images_have_finite_gradients():
    """A negative covariance makes a scale zero, and its fractional power has no derivative there."""
    x = torch.rand(1, 3, 64, 64, requires_grad=True)
    image_loss(x, 1 - x.detach(), **SMALL_WINDOW).sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.abs().max() > 0


def test_a_window_that_does_not_fit_is_an_error():
    x = torch.rand(1, 3, 64, 64)
    with pytest.raises(ValueError, match="more than 160 pixels a side, got 64"):
        image_loss(x, x)
    with pytest.raises(ValueError, match="odd"):
        image_loss(x, x, window_size=4)
    with pytest.raises(ValueError, match="sigma must be positive"):
        image_loss(x, x, window_size=3, l1_sigma=0.0)
    assert image_loss(x[..., :33, :33], x[..., :33, :33], window_size=3).item() == pytest.approx(0, abs=1e-6)
    assert image_loss(x[..., :32, :32], x[..., :32, :32], window_size=1).item() == pytest.approx(0, abs=1e-6)


# --- eq. 6


def test_face_decoder_loss_is_equation_6():
    x, y = image_pair(3, 64)
    a, b = torch.randn(3, 16), torch.randn(3, 16)
    loss = face_decoder_loss(x, y, portrait_feature=a, image_feature=b, alpha=0.6, **SMALL_WINDOW)
    torch.testing.assert_close(loss.image, image_loss(x, y, alpha=0.6, **SMALL_WINDOW).mean())
    torch.testing.assert_close(loss.cosine, cosine_loss(a, b).mean())
    torch.testing.assert_close(loss.total, loss.image + loss.cosine)


def test_the_cosine_term_reaches_the_decoder_through_a_frozen_vggface():
    decoder = FaceDecoder(width=1 / 64, feature_dim=16, image_size=64)
    vggface = VGGFace(width=1 / 16, image_size=64, feature_dim=16, num_identities=4)
    vggface.eval().requires_grad_(False)
    _, image = image_pair(2, 64)
    image_feature = vggface.features(image)
    portrait = decoder(image_feature)
    loss = face_decoder_loss(
        portrait,
        image,
        portrait_feature=vggface.features(portrait),
        image_feature=image_feature,
        **SMALL_WINDOW,
    )
    loss.cosine.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in decoder.parameters())
    assert decoder.fc1.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in vggface.parameters())


# --- eq. 7


@pytest.fixture
def networks() -> dict[str, torch.nn.Module]:
    hidden = torch.nn.Linear(12, 7).requires_grad_(False)
    logits = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(12, 9)).requires_grad_(False)
    return {"hidden": hidden, "logits": logits}


def test_tri_item_loss_is_equation_7(networks):
    feature, target = 3 * torch.randn(5, 12), torch.randn(5, 12)
    expected = np.mean(
        [
            naive_terms(*pair, **networks)
            for pair in zip(feature.double().numpy(), target.double().numpy(), strict=True)
        ],
        axis=0,
    )
    loss = tri_item_loss(feature, target, **networks)
    np.testing.assert_allclose([loss.unit_l2, loss.hidden_l1, loss.identity], expected, rtol=1e-5)
    assert loss.total.item() == pytest.approx(expected @ (1, 0.04, 1.2), rel=1e-5)
    other = tri_item_loss(feature, target, **networks, lambda1=2.0, lambda2=0.5, lambda3=7.0)
    assert other.total.item() == pytest.approx(expected @ (2, 0.5, 7), rel=1e-5)
    np.testing.assert_allclose([other.unit_l2, other.hidden_l1, other.identity], expected, rtol=1e-5)


def test_the_right_feature_has_no_loss(networks):
    target = torch.randn(4, 12)
    for value in tri_item_loss(target, target, **networks):
        assert value.item() == pytest.approx(0, abs=1e-6)


def test_only_the_hidden_term_sees_that_a_feature_is_too_long(networks):
    networks["logits"][1].bias.zero_()
    target = torch.randn(4, 12)
    loss = tri_item_loss(3 * target, target, **networks)
    assert loss.unit_l2.item() == pytest.approx(0, abs=1e-6)
    assert loss.identity.item() == pytest.approx(0, abs=1e-6)
    assert loss.hidden_l1 > 1


@pytest.mark.parametrize("term", ["unit_l2", "hidden_l1", "identity"])
def test_every_term_moves_the_feature_and_nothing_else(networks, term):
    feature, target = torch.randn(3, 12, requires_grad=True), torch.randn(3, 12, requires_grad=True)
    getattr(tri_item_loss(feature, target, **networks), term).backward()
    assert feature.grad.abs().sum(dim=1).min() > 0
    assert target.grad is None
    assert all(p.grad is None for module in networks.values() for p in module.parameters())


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_distillation_is_cross_entropy_of_softened_logits(networks, temperature):
    logits, target = 3 * torch.randn(4, 9), 3 * torch.randn(4, 9)
    expected = []
    for predicted, true in zip(logits.tolist(), target.tolist(), strict=True):
        p, q = ([math.exp(z / temperature) for z in row] for row in (true, predicted))
        expected.append(-sum(i / sum(p) * math.log(j / sum(q)) for i, j in zip(p, q, strict=True)))
    np.testing.assert_allclose(distillation_loss(logits, target, temperature=temperature), expected, rtol=1e-5)

    feature, goal = torch.randn(4, 12), torch.randn(4, 12)
    loss = tri_item_loss(feature, goal, **networks, identity="distillation", temperature=temperature, lambda3=200.0)
    by_hand = distillation_loss(networks["logits"](feature), networks["logits"](goal), temperature=temperature).mean()
    torch.testing.assert_close(loss.identity, by_hand)
    torch.testing.assert_close(loss.total, loss.unit_l2 + 0.04 * loss.hidden_l1 + 200 * by_hand)


def test_distillation_is_least_at_the_target():
    target = torch.randn(1, 9)
    logits = target.clone().requires_grad_()
    distillation_loss(logits, target).sum().backward()
    torch.testing.assert_close(logits.grad, torch.zeros(1, 9), atol=1e-6, rtol=0)


def test_an_unknown_identity_loss_is_an_error(networks):
    with pytest.raises(ValueError, match="cosine, distillation"):
        tri_item_loss(torch.randn(2, 12), torch.randn(2, 12), **networks, identity="l2")


# --- for both losses


def evaluate(name: str, x, y, a, b, networks) -> dict[str, torch.Tensor]:
    if name == "face_decoder":
        return face_decoder_loss(x, y, portrait_feature=a, image_feature=b, **SMALL_WINDOW)._asdict()
    identity = name.removeprefix("tri_item_")
    return tri_item_loss(a, b, **networks, identity=identity)._asdict()


LOSSES = ("face_decoder", "tri_item_cosine", "tri_item_distillation")


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_of_a_batch_is_the_mean_of_the_losses_of_its_samples(name, networks):
    """Samples of very different lengths: a norm or a maximum over the whole batch would show."""
    x, y = image_pair(4, 64)
    length = torch.tensor([0.01, 1.0, 30.0, 1000.0])[:, None]
    a, b = torch.randn(4, 12) * length, torch.randn(4, 12) * length.flip(0)
    whole = evaluate(name, x, y, a, b, networks)
    singles = [evaluate(name, *(t[i : i + 1] for t in (x, y, a, b)), networks) for i in range(4)]
    for term, value in whole.items():
        torch.testing.assert_close(value, torch.stack([single[term] for single in singles]).mean(), msg=term)
    order = torch.tensor([2, 0, 3, 1, 1, 3, 0, 2])  # shuffled, then everyone twice
    again = evaluate(name, *(t[order] for t in (x, y, a, b)), networks)
    for term, value in whole.items():
        torch.testing.assert_close(value, again[term], msg=term)


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_changes_nothing(name, networks):
    x, y = image_pair(2, 64)
    a, b = torch.randn(2, 12), torch.randn(2, 12)
    plain = evaluate(name, x, y, a, b, networks)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert networks["hidden"](a).dtype == torch.bfloat16  # autocast is on
        mixed = evaluate(name, x, y, a, b, networks)
    for term, value in plain.items():
        assert mixed[term].dtype == torch.float32
        assert torch.equal(value, mixed[term]), term


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_inputs_are_computed_in_float32(name, networks):
    x, y = image_pair(2, 64)
    halves = [t.bfloat16() for t in (x, y, torch.randn(2, 12), torch.randn(2, 12))]
    half = evaluate(name, *halves, networks)
    full = evaluate(name, *(t.float() for t in halves), networks)
    for term, value in full.items():
        assert torch.equal(value, half[term]), term

"""Zhao's image loss against kornia's, and where it differs from Wang's."""

from __future__ import annotations

import pytest
import torch

from arspm.training.losses import image_loss
from arspm.training.zhao import zhao_loss
from tests.training.naive_losses import image_pair


@pytest.mark.parametrize("alpha", [0.0, 0.84, 1.0])
@pytest.mark.parametrize(("size", "sigma"), [(96, 8.0), (64, 8 * 64 / 224), (40, 3.3), (20, 8.0)])
def test_the_loss_and_its_gradient_are_kornias(alpha: float, size: int, sigma: float) -> None:
    losses = pytest.importorskip("kornia.losses", reason="kornia needs Python 3.11")
    sigmas = tuple(sigma / 2**halvings for halvings in (4, 3, 2, 1, 0))
    kornias = losses.MS_SSIMLoss(sigmas=sigmas, alpha=alpha, compensation=1.0)
    x, y = image_pair(2, size)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    loss, expected = zhao_loss(ours, y, alpha=alpha, sigma=sigma), kornias(theirs, y)
    torch.testing.assert_close(loss.mean(), expected, rtol=1e-4, atol=1e-5)
    each = torch.stack([kornias(x[row : row + 1], y[row : row + 1]) for row in range(2)])
    torch.testing.assert_close(loss, each, rtol=1e-4, atol=1e-5)
    loss.mean().backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-2, atol=1e-7)


def test_the_default_sigmas_are_kornias_and_zhaos() -> None:
    losses = pytest.importorskip("kornia.losses", reason="kornia needs Python 3.11")
    x, y = image_pair(1, 64)
    kornias = losses.MS_SSIMLoss()(x, y) / 200  # its compensation
    torch.testing.assert_close(zhao_loss(x, y, alpha=0.025).mean(), kornias, rtol=1e-4, atol=1e-6)


def test_the_two_forms_weigh_an_error_of_structure_differently() -> None:
    """The four finer scales count with exponents below 0.31 in Wang's form, and with 1 in Zhao's."""
    x, y = image_pair(2, 64)
    settings = {"alpha": 1.0, "window_size": 3, "l1_sigma": 2.0}
    wang, zhao = (image_loss(x, y, form=form, **settings) for form in ("wang", "zhao"))
    assert (zhao > wang + 0.05).all()
    torch.testing.assert_close(zhao, zhao_loss(x, y, alpha=1.0, sigma=2.0))
    torch.testing.assert_close(image_loss(x, y, **settings), wang)


def test_equal_images_have_no_loss_and_opposite_ones_finite_gradients() -> None:
    x, _ = image_pair(2, 64)
    torch.testing.assert_close(zhao_loss(x, x), torch.zeros(2), atol=1e-5, rtol=0)
    x.requires_grad_()
    zhao_loss(x, 1 - x.detach()).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad.abs().max() > 0


def test_it_is_computed_in_float32_under_autocast() -> None:
    x, y = image_pair(1, 64)
    with torch.autocast("cpu", torch.bfloat16):
        inside = zhao_loss(x, y, sigma=2.0)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, zhao_loss(x, y, sigma=2.0))


def test_unknown_forms_and_sigmas_are_errors() -> None:
    x, y = image_pair(1, 64)
    with pytest.raises(ValueError, match="form must be one of wang, zhao; got 'kornia'"):
        image_loss(x, y, form="kornia")
    with pytest.raises(ValueError, match="sigma must be positive"):
        image_loss(x, y, form="zhao", l1_sigma=0.0)

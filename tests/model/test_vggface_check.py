"""The check of a VGGFace against stated activations."""

from __future__ import annotations

import pytest
import torch

from arspm.model.vggface_check import NUM_STATED, StatedActivations, check, check_image, parse_stated
from tests.model.small_vggface import stated


def test_a_wrong_mean_is_caught(network):
    expected = stated(network)
    network.mean.copy_(network.mean.flip(0))
    with pytest.raises(ValueError, match="do not give the stated activations"):
        check(network, stated=expected)


def test_stated_activations_may_follow_the_relu_of_an_image_and_have_a_tolerance(network):
    image = torch.randint(0, 256, (80, 70, 3), dtype=torch.uint8)
    with torch.no_grad():
        fc7 = network.raw_features(image.permute(2, 0, 1)[None] / 255)[0]
    after = StatedActivations(fc7=fc7[:NUM_STATED].relu().tolist(), feature="post_relu")
    figures = check(network, image, after)
    assert figures["fc7"] == fc7[:NUM_STATED].tolist()
    assert figures["fc7_mean"] == pytest.approx(fc7.double().mean().item(), rel=1e-4, abs=1e-6)
    assert figures["fc7_std"] == pytest.approx(fc7.double().std().item(), rel=1e-4)
    assert figures["fc8_top"] == int(network.identity_logits(fc7[None]).argmax())
    with pytest.raises(ValueError, match="stated activations"):
        check(network, stated=after)  # of another image
    largest = max(map(abs, stated(network).fc7))
    off = [value + 0.02 * largest for value in stated(network).fc7]
    check(network, stated=StatedActivations(fc7=off, tolerance=0.03))
    with pytest.raises(ValueError, match=r"fc7 differs by 0\.02 .* the tolerance is 0\.01"):
        check(network, stated=StatedActivations(fc7=off))
    with pytest.raises(ValueError, match="all 0, which proves nothing"):
        check(network, stated=StatedActivations(fc7=[0.0] * NUM_STATED))


def test_without_stated_activations_the_figures_are_of_the_generated_image(network):
    figures = check(network)
    assert figures["fc7"] == stated(network).fc7
    assert figures["compared_with_stated"] is False


@pytest.mark.parametrize(("value", "message"), [(float("nan"), "not finite"), (0.0, "the same activation")])
def test_a_dead_network_is_refused(network, value, message):
    torch.nn.init.constant_(network.fc7.weight, value)
    torch.nn.init.zeros_(network.fc7.bias)
    with pytest.raises(ValueError, match=message):
        check(network)


def test_the_generated_image_distinguishes_channel_orders_and_directions():
    image = check_image(64)
    assert image.dtype == torch.uint8
    assert torch.equal(image, check_image(64))
    assert image[3, 5].tolist() == [5 * 5 + 2 * 3, 25 // 16 + 9, 255 - 5 - 21]
    others = [image.flip(2), image.roll(1, 2), image.flip(0), image.flip(1), image.transpose(0, 1)]
    for other in others:
        assert (image.float() - other.float()).abs().mean() > 30


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([], "x.json: not activations"),
        ({}, "fc7: Field required"),
        ({"fc7": [1.0] * 15}, "fc7: .*at least 16"),
        ({"fc7": [1.0] * 15 + ["nan"]}, "fc7.15: .*finite"),
        ({"fc7": [1.0] * 16, "tolerence": 1}, "tolerence: Extra"),
        ({"fc7": [1.0] * 16, "tolerance": 0}, "tolerance: .*greater than 0"),
    ],
)
def test_invalid_stated_activations_are_refused_in_one_line(tree, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse_stated(tree, "x.json")
    assert "\n" not in str(caught.value)

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from arspm.model.vggface import VGGFace, load_published
from tests.model.small_vggface import SMALL

DEPTHS = {1: 2, 2: 2, 3: 3, 4: 3, 5: 3}
CONVS = [f"conv{block}_{i + 1}" for block, depth in DEPTHS.items() for i in range(depth)]
NAMES = {f"{layer}.{part}" for layer in (*CONVS, "fc6", "fc7", "fc8") for part in ("weight", "bias")}


def reference(state: dict[str, torch.Tensor], images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return fc7 before its ReLU and the logits of the published network, layer by layer in float64."""
    w = {name: tensor.double() for name, tensor in state.items()}
    x = images.double() * 255
    x = torch.stack((x[:, 0] - 129.1863, x[:, 1] - 104.7624, x[:, 2] - 93.5940), dim=1)
    for name in CONVS:
        x = F.relu(F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1))
        if name in ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3"):
            x = F.max_pool2d(x, 2)
    x = x.reshape(len(x), -1)  # C, H, W
    x = F.relu(x @ w["fc6.weight"].T + w["fc6.bias"])
    fc7 = x @ w["fc7.weight"].T + w["fc7.bias"]
    return fc7, F.relu(fc7) @ w["fc8.weight"].T + w["fc8.bias"]


def test_parameters_at_the_papers_size():
    with torch.device("meta"):
        model = VGGFace()
    pairs = ((3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256), (256, 512))
    pairs += ((512, 512),) * 5
    convs = sum(9 * a * b + b for a, b in pairs)
    fcs = (25088 * 4096 + 4096) + (4096 * 4096 + 4096) + (4096 * 2622 + 2622)
    assert sum(p.numel() for p in model.parameters()) == convs + fcs == 145_002_878
    assert set(model.state_dict()) == NAMES


def test_agrees_with_the_published_network():
    model, images = VGGFace(**SMALL).eval(), torch.rand(3, 3, 64, 64)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    fc7, logits = reference(model.state_dict(), images)
    torch.testing.assert_close(model.features(images).double(), fc7, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(images).double(), logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.identity_logits(model.features(images)), model(images))


def test_the_feature_kinds():
    before = VGGFace(**SMALL).eval()
    after = VGGFace(**SMALL, feature="post_relu").eval()
    after.load_state_dict(before.state_dict())
    images = torch.rand(3, 3, 64, 64)
    assert before.features(images).min() < 0
    torch.testing.assert_close(after.features(images), before.features(images).clamp_min(0))
    logits = [model.identity_logits(model.features(images)) for model in (before, after)]
    torch.testing.assert_close(*logits)


def test_images_of_another_size_are_resized_smoothly():
    model = VGGFace(**SMALL).eval()
    images = torch.rand(2, 3, 160, 96, requires_grad=True)
    resized = F.interpolate(images, (64, 64), mode="bilinear", antialias=True)
    torch.testing.assert_close(model.features(images), model.features(resized))
    model.features(images).sum().backward()
    assert (images.grad != 0).float().mean() > 0.9  # without antialiasing, many pixels would get no gradient


def test_dropout_is_used_only_in_training():
    model, images = VGGFace(**SMALL).train(), torch.rand(4, 3, 64, 64)
    assert not torch.equal(model(images), model(images))
    assert torch.equal(model.features(images), model.features(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_dropout_follows_fc6_and_fc7():
    model, images = VGGFace(**SMALL, dropout=1.0).train(), torch.rand(2, 3, 64, 64)
    torch.nn.init.normal_(model.fc8.bias)
    torch.nn.init.ones_(model.fc7.bias)
    torch.testing.assert_close(model(images), model.fc8.bias.expand(2, 10))
    seen = {}
    model.fc7.register_forward_pre_hook(lambda _m, inputs: seen.update(fc7=inputs[0]))
    model(images)
    assert seen["fc7"].count_nonzero() == 0


def test_pixels_keep_their_precision_under_autocast():
    model, seen = VGGFace(**SMALL).eval(), {}
    model.conv1_1.register_forward_pre_hook(lambda _m, inputs: seen.update(pixels=inputs[0]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.features(torch.rand(1, 3, 80, 80).bfloat16())
    assert seen["pixels"].dtype == torch.float32


def test_a_narrow_network_learns_from_scratch():
    """It overfits 32 images of 8 identities, which differ in blurred patterns under noise."""
    model = VGGFace(width=1 / 8, image_size=64, feature_dim=64, num_identities=8)
    labels = torch.arange(8).repeat(4)
    patterns = F.interpolate(torch.rand(8, 3, 8, 8), (64, 64), mode="bilinear")
    images = 0.7 * patterns[labels] + 0.3 * torch.rand(32, 3, 64, 64)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(60):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    logits = model.eval()(images)
    assert (logits.argmax(dim=1) == labels).all()
    assert F.cross_entropy(logits, labels) < 0.2


@pytest.mark.parametrize("width", [1 / 8, 1.0])
def test_a_new_network_starts_at_a_sensible_scale(width):
    model = VGGFace(width=width, image_size=32, feature_dim=256, num_identities=50).eval()
    with torch.no_grad():
        features = model.features(torch.rand(4, 3, 32, 32))
        logits = model.identity_logits(features)
    assert 0.2 < features.std() < 10
    loss = F.cross_entropy(logits, torch.tensor([0, 17, 34, 49])).item()
    assert loss == pytest.approx(math.log(50), abs=0.5)  # a guess


def published(**options) -> dict[str, torch.Tensor]:
    return {name: torch.randn_like(tensor) for name, tensor in VGGFace(**options).state_dict().items()}


def test_published_weights_are_loaded_by_name():
    state = published(**SMALL)
    model = load_published(dict(reversed(state.items())), model=VGGFace(**SMALL))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_one_line_names_everything_that_does_not_fit():
    state = published(**SMALL)
    del state["conv5_3.bias"]
    state["fc6.weight"] = torch.zeros(24, 32, 2, 2)
    state["fc9.weight"] = torch.zeros(1)
    model = VGGFace(**SMALL)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"conv5_3\.bias") as caught:
        load_published(state, model=model)
    message = str(caught.value)
    assert "\n" not in message
    assert "missing conv5_3.bias" in message
    assert "unexpected fc9.weight" in message
    assert "vggface.width, feature_dim and image_size" in message
    assert "fc6.weight is (24, 32, 2, 2) instead of (24, 128)" in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"), [({"image_size": 100}, "multiple of 32"), ({"feature": "relu"}, "pre_relu, post_relu")]
)
def test_wrong_options_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        VGGFace(**SMALL | options)

"""CBAM against loops in numpy float64, written from Woo et al. 2018."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from arspm.model.cbam import CBAM, ORDERINGS


def randomised(channels: int, order: str, **options) -> CBAM:
    """Return a CBAM in eval mode with random parameters and running statistics."""
    module = CBAM(channels, order=order, **options).eval()
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(-1, 1)
        if hasattr(module, "spatial"):
            module.spatial.norm.running_var.uniform_(0.5, 2)
    return module


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def naive_channel(state: dict, x: np.ndarray) -> np.ndarray:
    """Return the channel attention, (channels,), of one map x: (channels, height, width)."""

    def perceptron(v):
        hidden = np.maximum(state["channel.mlp.0.weight"] @ v + state["channel.mlp.0.bias"], 0)
        return state["channel.mlp.2.weight"] @ hidden + state["channel.mlp.2.bias"]

    return sigmoid(perceptron(x.mean(axis=(1, 2))) + perceptron(x.max(axis=(1, 2))))


def naive_spatial(state: dict, x: np.ndarray) -> np.ndarray:
    """Return the spatial attention, (height, width), of one map x: (channels, height, width)."""
    kernel = state["spatial.conv.weight"][0]  # (max and mean, k, k)
    k = kernel.shape[-1]
    _, height, width = x.shape
    planes = np.zeros((2, height + k - 1, width + k - 1))
    planes[:, k // 2 : k // 2 + height, k // 2 : k // 2 + width] = x.max(axis=0), x.mean(axis=0)
    out = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            out[i, j] = (kernel * planes[:, i : i + k, j : j + k]).sum()
    scale = state["spatial.norm.weight"] / np.sqrt(state["spatial.norm.running_var"] + 1e-5)
    return sigmoid((out - state["spatial.norm.running_mean"]) * scale + state["spatial.norm.bias"])


def naive(order: str, state: dict, x: np.ndarray) -> np.ndarray:
    def channel(y):
        return naive_channel(state, y)[:, None, None]

    def spatial(y):
        return naive_spatial(state, y)[None]

    if order == "channel_first":
        x = channel(x) * x
        return spatial(x) * x
    if order == "spatial_first":
        x = spatial(x) * x
        return channel(x) * x
    if order == "parallel":
        return channel(x) * spatial(x) * x
    return channel(x) * x if order == "channel_only" else x


@pytest.mark.parametrize("order", ORDERINGS)
@pytest.mark.parametrize(("channels", "reduction", "kernel_size"), [(12, 4, 7), (5, 16, 3)])
def test_agrees_with_the_definition(order, channels, reduction, kernel_size):
    module = randomised(channels, order, reduction=reduction, kernel_size=kernel_size)
    x = torch.randn(3, channels, 4, 9)
    state = {name: tensor.double().numpy() for name, tensor in module.state_dict().items()}
    expected = np.stack([naive(order, state, one) for one in x.double().numpy()])
    np.testing.assert_allclose(module(x).detach().numpy(), expected, atol=1e-5)


def test_the_orderings_are_five_different_functions():
    x = torch.randn(2, 8, 6, 6)
    full = randomised(8, "channel_first", reduction=2).state_dict()
    outputs = []
    for order in ORDERINGS:
        module = CBAM(8, order=order, reduction=2).eval()
        module.load_state_dict({name: full[name] for name in module.state_dict()})
        outputs.append(module(x))
    for i, a in enumerate(outputs):
        for b in outputs[i + 1 :]:
            assert not torch.allclose(a, b, atol=1e-3)


def test_parameters_at_the_encoders_size():
    mlp = 512 * 32 + 32 + 32 * 512 + 512
    spatial = 7 * 7 * 2 + 2  # a kernel without bias, one BatchNorm channel
    count = {order: sum(p.numel() for p in CBAM(512, order=order).parameters()) for order in ORDERINGS}
    both = mlp + spatial
    assert count == {
        "channel_first": both,
        "spatial_first": both,
        "parallel": both,
        "channel_only": mlp,
        "none": 0,
    }


def test_none_returns_its_input_and_has_no_state():
    module, x = CBAM(8, order="none"), torch.randn(1, 8, 2, 2)
    assert module(x) is x
    assert not module.state_dict()


def test_the_hidden_width_is_at_least_one():
    assert CBAM(4, reduction=16).channel.mlp[0].out_features == 1


def test_spatial_attention_normalises_over_the_batch_in_training():
    module, x = CBAM(8, order="channel_first"), 5 + torch.randn(4, 8, 6, 6)
    module.train()(x)
    assert module.spatial.norm.running_mean.item() != 0


@pytest.mark.parametrize(
    ("options", "message"),
    [({"order": "both"}, "channel_first"), ({"kernel_size": 4}, "odd"), ({"reduction": 0}, "at least 1")],
)
def test_wrong_options_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        CBAM(8, **options)

from __future__ import annotations

from itertools import pairwise

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from arspm.model.trunks import ARCHITECTURES, NUM_FREQ, SPEECH2FACE_FREQ, trunk

GENERAL = ("resnet18", "resnet34", "densenet121")


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def output_channels(architecture: str, width: float) -> list[int]:
    with torch.device("meta"):
        layers = trunk(architecture, width=width).layers
    return [module.out_channels for module in layers.modules() if isinstance(module, nn.Conv2d)]


# --- sizes


@pytest.mark.parametrize(
    ("architecture", "published", "channels"),
    [("resnet18", 11_689_512, 512), ("resnet34", 21_797_672, 512), ("densenet121", 7_978_856, 1024)],
)
def test_parameter_counts_are_the_published_ones_without_classifier_and_third_channel(
    architecture, published, channels
):
    with torch.device("meta"):
        found = trunk(architecture)
    assert found.channels == channels
    assert count(found.layers) == published - (channels * 1000 + 1000) - 7 * 7 * 1 * 64


def test_parameters_of_speech2faces_convolutions():
    with torch.device("meta"):
        found = trunk("speech2face")
    channels = [2, 64, 64, 128, 128, 128, 256, 512, 512, 512]
    convs = sum(16 * a * b + b for a, b in pairwise(channels))
    assert count(found.layers) == convs + sum(2 * c for c in channels[1:]) == 11_739_904


@pytest.mark.parametrize(
    ("architecture", "six_seconds", "one_second"),
    [
        ("arspm", (512, 4, 17), (512, 4, 2)),
        ("speech2face", (512, 65, 1), (512, 65, 1)),
        ("resnet18", (512, 9, 19), (512, 9, 4)),
        ("resnet34", (512, 9, 19), (512, 9, 4)),
        ("densenet121", (1024, 8, 18), (1024, 8, 3)),
    ],
)
def test_map_shapes(architecture, six_seconds, one_second):
    with torch.device("meta"):
        layers = trunk(architecture).layers
        assert layers(torch.empty(2, 2, NUM_FREQ, 598)).shape[1:] == six_seconds
        assert layers(torch.empty(2, 2, NUM_FREQ, 98)).shape[1:] == one_second


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_width_multiplies_every_channel_count(architecture):
    # An eighth of 32, DenseNet's growth rate, is 4, the smallest allowed number of channels.
    full, eighth = output_channels(architecture, 1.0), output_channels(architecture, 1 / 8)
    assert eighth == [channels // 8 for channels in full]
    assert trunk(architecture, width=1 / 8).channels == trunk(architecture).channels // 8


@pytest.mark.parametrize("architecture", ["arspm", "densenet121"])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_size_below_the_minimum_leaves_no_value(architecture, axis):
    with torch.device("meta"):
        found = trunk(architecture)
        size = list(found.minimum)
        assert found.layers(torch.empty(2, 2, *size)).shape == (2, found.channels, 1, 1)
        size[axis] -= 1
        with pytest.raises(RuntimeError, match=r"[Oo]utput size is too small|Output size"):
            found.layers(torch.empty(2, 2, *size))


def test_an_unknown_architecture_is_refused():
    with pytest.raises(ValueError, match="arspm, speech2face, resnet18, resnet34, densenet121; got 'resnet50'"):
        trunk("resnet50")


# --- against other implementations


@pytest.mark.parametrize("architecture", GENERAL)
def test_resnets_and_densenet_are_timms_without_the_last_layers(architecture):
    layers = trunk(architecture).layers.eval()
    theirs = timm.create_model(architecture, pretrained=False, in_chans=2, num_classes=0).eval()
    with torch.no_grad():
        for tensor in theirs.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5) if tensor.ndim == 1 else tensor.normal_(std=tensor[0].numel() ** -0.5)
        names = dict(zip(layers.state_dict(), theirs.state_dict().values(), strict=True))
        layers.load_state_dict(names)
        x = torch.randn(2, 2, 70, 45)
        torch.testing.assert_close(layers(x), theirs.forward_features(x))


def test_resnet_weights_are_initialised_as_in_he_et_al():
    for module in trunk("resnet18").layers.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()


def speech2face_by_hand(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Return Table 1 of Oh et al. by arithmetic and `conv2d` in float64. `state`: the trunk's tensors in order."""
    tensors = iter(state.values())

    def relu_and_norm(x: torch.Tensor) -> torch.Tensor:
        weight, bias, mean, variance, _ = (next(tensors)[..., None, None] for _ in range(5))
        return (x.clamp(min=0) - mean) / (variance + 1e-5).sqrt() * weight + bias

    strides, pools = (1, 1, 1, 1, 1, 1, 1, 2, 2), (2, 3, 4, 5)  # `pools`: indices of convolutions followed by a pool
    for index, stride in enumerate(strides):
        weight, bias = next(tensors), next(tensors)
        height, length = x.shape[-2:]
        bordered = x.new_zeros(*x.shape[:2], height + 3, length + 3)
        bordered[..., 1 : 1 + height, 1 : 1 + length] = x
        x = F.conv2d(bordered, weight, bias, stride)
        if index < 8:
            x = relu_and_norm(x)
        if index in pools:
            even = x.shape[-1] // 2 * 2
            x = torch.maximum(x[..., 0:even:2], x[..., 1:even:2])  # pairs of frames, not of frequencies
    return relu_and_norm(x.sum(dim=-1, keepdim=True) / x.shape[-1])


@pytest.mark.parametrize("time", [16, 98, 131])
def test_speech2face_is_table_1_of_oh_et_al(time):
    layers = trunk("speech2face", width=1 / 16).layers.double().eval()
    for tensor in layers.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)
    x = torch.randn(2, 2, NUM_FREQ, time, dtype=torch.float64)
    with torch.no_grad():
        found = layers(x)
        torch.testing.assert_close(found, speech2face_by_hand(layers.state_dict(), x))
    assert found.shape == (2, 32, SPEECH2FACE_FREQ, 1)


def test_speech2face_pools_along_time_only():
    pools = [module for module in trunk("speech2face", width=1 / 16).layers if isinstance(module, nn.MaxPool2d)]
    x = torch.randn(1, 1, NUM_FREQ, 37)
    for pool in pools:
        torch.testing.assert_close(pool(x)[0, 0], torch.stack([pool(row[None, None])[0, 0] for row in x[0, 0]]))
        assert pool(x).shape == (1, 1, NUM_FREQ, 18)
    assert len(pools) == 4

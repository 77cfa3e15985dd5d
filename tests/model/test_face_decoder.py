from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from arspm.model.cbam import CBAM
from arspm.model.face_decoder import FaceDecoder

SMALL = {"width": 1 / 64, "feature_dim": 24, "image_size": 64}


def maps_of(model: FaceDecoder, feature: torch.Tensor) -> list[tuple[int, ...]]:
    """Return the output shapes of the reshape, the transposed convolutions and Conv1, in order."""
    shapes: list[tuple[int, ...]] = []
    for module in model.modules():
        if isinstance(module, nn.ConvTranspose2d | nn.Conv2d) and module.weight.shape[1] != 2:  # not CBAM's
            module.register_forward_hook(lambda _m, _i, output: shapes.append(tuple(output.shape[1:])))
    model.unflatten.register_forward_hook(lambda _m, _i, output: shapes.append(tuple(output.shape[1:])))
    model(feature)
    return shapes


@pytest.mark.parametrize(
    ("as_printed", "sizes"),
    [
        (False, (14, 14, 14, 28, 28, 56, 56, 56, 112, 112, 224)),
        (True, (14, 14, 14, 14, 14, 28, 28, 28, 56, 56, 112)),
    ],
)
def test_output_sizes_follow_table_2(as_printed, sizes):
    channels = (512, 512, 512, 512, 512, 256, 256, 256, 64, 64, 32)
    with torch.device("meta"):
        model = FaceDecoder(as_printed=as_printed)
        shapes = maps_of(model, torch.empty(2, 4096))
    expected = [(512, 7, 7)] + [(c, s, s) for c, s in zip(channels, sizes, strict=True)]
    assert shapes == [*expected, (3, sizes[-1], sizes[-1])]
    assert model.output_size == sizes[-1]


def test_parameters_at_the_papers_size():
    with torch.device("meta"):
        models = FaceDecoder(), FaceDecoder(as_printed=True), FaceDecoder(batch_norm=False)
    fcs = (4096 * 1000 + 1000) + (1000 * 25088 + 25088)
    channels = (512, 512, 512, 512, 512, 512, 256, 256, 256, 64, 64, 32)
    convs = sum(25 * a * b for a, b in pairwise(channels))
    conv1 = 32 * 3 + 3
    cbam = (512 * 32 + 32 + 32 * 512 + 512) + (7 * 7 * 2 + 2)
    per_channel = sum(channels[1:])  # a bias without BatchNorm, a scale and a shift with it
    counts = [sum(p.numel() for p in model.parameters()) for model in models]
    assert counts[0] == counts[1] == fcs + convs + conv1 + cbam + 2 * per_channel == 69_135_375
    assert counts[2] == fcs + convs + conv1 + cbam + per_channel


@pytest.mark.parametrize("image_size", [32, 64, 96])
def test_the_image_size_can_be_any_multiple_of_32(image_size):
    model = FaceDecoder(width=1 / 64, feature_dim=24, image_size=image_size)
    assert model(torch.randn(2, 24)).shape == (2, 3, image_size, image_size)
    printed = FaceDecoder(width=1 / 64, feature_dim=24, image_size=image_size, as_printed=True)
    assert printed(torch.randn(2, 24)).shape == (2, 3, image_size // 2, image_size // 2)
    assert printed.output_size == image_size // 2


@pytest.mark.parametrize("scale", [0.01, 1.0, 1000.0])
def test_portraits_are_in_range(scale):
    portrait = FaceDecoder(**SMALL)(scale * torch.randn(4, 24))
    assert portrait.min() >= 0
    assert portrait.max() <= 1


def test_portraits_are_float32_under_autocast():
    model, feature = FaceDecoder(**SMALL).eval(), torch.randn(2, 24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        portrait = model(feature)
        assert model.hidden(feature).dtype == torch.bfloat16  # shows that autocast is on
    assert portrait.dtype == torch.float32
    # a bfloat16 result cast to float32 would be equal
    assert not torch.equal(portrait, portrait.bfloat16().float())


def test_hidden_is_the_linear_output_of_fc1():
    model = FaceDecoder(**SMALL)
    feature = torch.randn(5, 24)
    hidden = model.hidden(feature)
    torch.testing.assert_close(hidden, feature @ model.fc1.weight.T + model.fc1.bias)
    assert hidden.shape == (5, round(1000 / 64))
    assert hidden.min() < 0


def test_relu_follows_both_fc():
    model, seen = FaceDecoder(**SMALL).eval(), {}
    model.fc2.register_forward_pre_hook(lambda _m, inputs: seen.update(fc2=inputs[0]))
    model.unflatten.register_forward_pre_hook(lambda _m, inputs: seen.update(unflatten=inputs[0]))
    feature = torch.randn(5, 24)
    model(feature)
    torch.testing.assert_close(seen["fc2"], model.hidden(feature).clamp_min(0))
    torch.testing.assert_close(seen["unflatten"], model.fc2(seen["fc2"]).clamp_min(0))


@pytest.mark.parametrize("batch_norm", [True, False])
def test_relu_follows_every_transposed_convolution(batch_norm):
    block = ["ConvTranspose2d", "BatchNorm2d", "ReLU"] if batch_norm else ["ConvTranspose2d", "ReLU"]
    model = FaceDecoder(**SMALL, batch_norm=batch_norm)
    assert [type(part).__name__ for part in model.conv_trans] == block * 11


def test_cbam_position():
    features = FaceDecoder(feature_dim=24, width=1 / 4, image_size=32)
    output = FaceDecoder(feature_dim=24, width=1 / 4, image_size=32, cbam_position="output")
    features.cbam_features.register_forward_hook(lambda _m, i, _o: seen.append(tuple(i[0].shape[1:])))
    output.cbam_output.register_forward_hook(lambda _m, i, _o: seen.append(tuple(i[0].shape[1:])))
    seen: list[tuple[int, ...]] = []
    features(torch.randn(2, 24))
    output(torch.randn(2, 24))
    assert seen == [(128, 1, 1), (8, 32, 32)]
    for model, used, unused in (
        (features, features.cbam_features, features.cbam_output),
        (output, output.cbam_output, output.cbam_features),
    ):
        assert model.get_parameter("fc1.weight") is model.fc1.weight
        assert used.order == "channel_first"
        assert not list(unused.parameters())


def test_the_reduction_is_at_most_8_before_conv1():
    with torch.device("meta"):
        at_output = FaceDecoder(cbam_position="output").cbam_output
        narrower = FaceDecoder(cbam_position="output", cbam_reduction=2).cbam_output
    assert at_output.channel.mlp[0].out_features == 32 // 8
    assert narrower.channel.mlp[0].out_features == 32 // 2


@pytest.mark.parametrize("order", ["channel_first", "spatial_first", "parallel", "channel_only", "none"])
def test_every_ordering_reaches_cbam(order):
    model = FaceDecoder(**SMALL, cbam=order)
    assert [m.order for m in model.modules() if isinstance(m, CBAM)] == [order, "none"]
    assert model(torch.randn(2, 24)).shape == (2, 3, 64, 64)


def test_a_new_decoder_draws_no_checkerboard():
    """With independent taps, the outputs of a block differ by as much as those of different blocks."""
    torch.manual_seed(0)
    model = FaceDecoder(**SMALL | {"width": 1 / 8})
    doubling = [layer for layer in model.conv_trans if isinstance(layer, nn.ConvTranspose2d) and layer.stride == (2, 2)]
    assert len(doubling) == 5
    for layer in doubling:
        output = layer(torch.randn(4, layer.in_channels, 6, 6))  # (4, channels, 12, 12)
        blocks = output.unfold(2, 2, 2).unfold(3, 2, 2)  # (4, channels, 6, 6, 2, 2)
        torch.testing.assert_close(blocks, blocks[..., :1, :1].expand_as(blocks))
        assert 1.5 < output[:, :, :-2, :-2].var() < 2.5, "Kaiming: twice the variance of the input"


@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_new_decoder_gives_different_images_for_different_features(batch_norm):
    """With PyTorch's default initialisation and no BatchNorm, all images are the same grey: 1e-8 here."""
    model = FaceDecoder(feature_dim=64, width=1 / 8, image_size=64, batch_norm=batch_norm)
    assert model(torch.randn(8, 64)).std(dim=0).mean() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 100}, "multiple of 32"),
        ({"image_size": 0}, "multiple of 32"),
        ({"cbam_position": "x"}, "out"),
    ],
)
def test_wrong_options_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        FaceDecoder(**SMALL | options)

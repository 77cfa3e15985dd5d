from __future__ import annotations

import pytest
import torch

from arspm.model.speech_encoder import MINIMUM_FREQ, MINIMUM_TIME, SpeechEncoder

SMALL = {"width": 1 / 16, "feature_dim": 24}


def spectrogram(batch: int = 2, freq: int = MINIMUM_FREQ, time: int = MINIMUM_TIME) -> torch.Tensor:
    return torch.randn(batch, 2, freq, time)


def test_parameters_at_the_papers_size():
    with torch.device("meta"):
        model = SpeechEncoder()
    convs = 7 * 7 * 2 * 64 + 5 * 5 * 64 * 128 + 9 * 128 * 256 + 9 * 256 * 512 + 9 * 512 * 512
    norms = 2 * (64 + 128 + 256 + 512 + 512)
    cbam = (512 * 32 + 32 + 32 * 512 + 512) + (7 * 7 * 2 + 2)
    fcs = (512 * 4096 + 4096) + (4096 * 4096 + 4096)
    assert sum(p.numel() for p in model.parameters()) == convs + norms + cbam + fcs == 22_963_844


def test_output_sizes_follow_table_3():
    sizes = {}
    with torch.device("meta"):
        model = SpeechEncoder()
        for name, module in model.named_children():
            module.register_forward_hook(
                lambda _module, _inputs, output, name=name: sizes.update({name: tuple(output.shape[1:])})
            )
        feature = model(torch.empty(3, 2, 257, 598))
    assert sizes == {
        "conv1": (64, 127, 297),  # (257 + 2 - 7) // 2 + 1, (598 + 2 - 7) // 2 + 1
        "pool1": (64, 63, 148),
        "conv2": (128, 31, 73),
        "pool2": (128, 15, 36),
        "conv3": (256, 15, 36),
        "conv4": (512, 15, 36),
        "conv5": (512, 15, 36),
        "pool3": (512, 4, 17),
        "cbam": (512, 4, 17),
        "fc1": (4096, 4, 17),
        "fc2": (4096,),
    }
    assert feature.shape == (3, 4096)


def test_batchnorm_and_relu_follow_each_convolution():
    model = SpeechEncoder(**SMALL)
    for index in range(1, 6):
        conv = getattr(model, f"conv{index}")
        assert [type(part).__name__ for part in conv] == ["Conv2d", "BatchNorm2d", "ReLU"]


def test_fc_fusion_adds_the_prior_before_fc2():
    model = SpeechEncoder(**SMALL, fusion="fc").eval()
    x, prior = spectrogram(), torch.randn(24)
    torch.testing.assert_close(model(x, prior) - model(x), (model.fc2.weight @ prior).expand(2, 24))


@pytest.mark.parametrize("head", ["fc2", "none"])
def test_sum_fusion_adds_the_prior_last(head):
    model = SpeechEncoder(**SMALL, fusion="sum", head=head).eval()
    x, prior = spectrogram(), torch.randn(24)
    torch.testing.assert_close(model(x, prior) - model(x), prior.expand(2, 24))


@pytest.mark.parametrize("fusion", ["fc", "sum"])
def test_each_sample_can_have_its_own_prior(fusion):
    model = SpeechEncoder(**SMALL, fusion=fusion).eval()
    x, priors = spectrogram(), torch.randn(2, 24)
    one_by_one = torch.cat([model(x[i : i + 1], priors[i]) for i in range(2)])
    torch.testing.assert_close(model(x, priors), one_by_one)


def test_the_residual_can_be_negative():
    model = SpeechEncoder(**SMALL, fusion="sum", head="none").eval()
    torch.nn.init.zeros_(model.fc1.weight)
    torch.nn.init.constant_(model.fc1.bias, -1.0)
    prior = torch.randn(24)
    torch.testing.assert_close(model(spectrogram(), prior), (prior - 1).expand(2, 24))


def test_every_variant_has_the_same_capacity():
    def count(**options):
        return sum(p.numel() for p in SpeechEncoder(**SMALL, **options).parameters())

    assert count(fusion="fc") == count(fusion="sum") == count(fusion="sum", head="none") + 24 * 24 + 24


@pytest.mark.parametrize("time", [MINIMUM_TIME, 66, 100, 301])
def test_speech_of_any_length(time):
    assert SpeechEncoder(**SMALL)(spectrogram(time=time)).shape == (2, 24)


def test_what_is_too_short_names_the_minimum():
    model = SpeechEncoder(**SMALL)
    with pytest.raises(ValueError, match="97 frequency bins and 65 frames, got 97 and 64"):
        model(spectrogram(time=64))
    with pytest.raises(ValueError, match="97 frequency bins and 65 frames, got 96 and 65"):
        model(spectrogram(freq=96))


def test_the_minimum_is_the_smallest_that_table_3_allows():
    def left(size, last_kernel, last_stride):
        for kernel, stride, padding in ((7, 2, 1), (3, 2, 0), (5, 2, 1), (3, 2, 0)):
            size = (size + 2 * padding - kernel) // stride + 1
        return (size - last_kernel) // last_stride + 1

    assert next(size for size in range(300) if left(size, 5, 3) >= 1) == MINIMUM_FREQ
    assert next(size for size in range(300) if left(size, 3, 2) >= 1) == MINIMUM_TIME


@pytest.mark.parametrize("shape", [(25,), (1,), (2, 1), (2, 24, 1)])
def test_a_prior_that_would_broadcast_is_an_error(shape):
    # ValueError as documented; TypeError where the annotations are checked.
    with pytest.raises((ValueError, TypeError)):
        SpeechEncoder(**SMALL)(spectrogram(), torch.zeros(shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusion": "add"}, "fc, sum"),
        ({"head": "fc"}, "fc2, none"),
        ({"fusion": "fc", "head": "none"}, "use fusion 'sum'"),
        ({"cbam": "both"}, "CBAM order"),
    ],
)
def test_wrong_options_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        SpeechEncoder(**SMALL, **options)


def test_samples_do_not_touch_each_other_in_eval():
    model, x = SpeechEncoder(**SMALL).eval(), spectrogram(batch=3)
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]))


def test_the_imaginary_part_is_read():
    model, x = SpeechEncoder(**SMALL).eval(), spectrogram()
    other = x.clone()
    other[:, 1] = 0
    assert not torch.allclose(model(x), model(other))


def test_gradients_reach_every_parameter():
    model = SpeechEncoder(**SMALL)
    model(spectrogram(), torch.randn(24)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.conv1[0].weight.grad.abs().max() > 0

from __future__ import annotations

import pytest
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from arspm.model.speech_encoder import Speech2FaceEncoder, SpeechEncoder
from arspm.model.trunks import ARCHITECTURES

SMALL = {"width": 1 / 16, "feature_dim": 24}
MINIMUM_FREQ, MINIMUM_TIME = 97, 65
WITH_PRIOR = [name for name in ARCHITECTURES if name != "speech2face"]


def spectrogram(batch: int = 2, freq: int = MINIMUM_FREQ, time: int = MINIMUM_TIME) -> torch.Tensor:
    return torch.randn(batch, 2, freq, time)


def make_encoder(architecture: str, **options) -> SpeechEncoder | Speech2FaceEncoder:
    if architecture == "speech2face":
        return Speech2FaceEncoder(**options)
    return SpeechEncoder(architecture=architecture, **options)


def inputs(architecture: str) -> tuple[torch.Tensor, ...]:
    """Return a second of speech, and a prior if the encoder takes one."""
    prior = () if architecture == "speech2face" else (torch.randn(24),)
    return spectrogram(freq=257, time=98), *prior


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
        for name, module in (*model.trunk.named_children(), *model.named_children()):
            module.register_forward_hook(
                lambda _module, _inputs, output, name=name: sizes.update({name: tuple(output.shape[1:])})
            )
        feature = model(torch.empty(3, 2, 257, 598))
    assert sizes.pop("trunk") == sizes["pool3"]
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
        conv = getattr(model.trunk, f"conv{index}")
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


def test_every_architecture_takes_speech_of_any_length_from_one_second():
    with torch.device("meta"):
        for architecture in ARCHITECTURES:
            model = make_encoder(architecture)
            assert model.minimum[1] <= 98  # the frames of a second
            for time in (98, 99, 298, 299, 598, 1001):
                assert model(torch.empty(2, 2, 257, time)).shape == (2, 4096)


@pytest.mark.parametrize(
    ("architecture", "freq", "time", "message"),
    [
        ("arspm", 97, 64, "arspm needs at least 97 frequency bins and at least 65 frames, got 97 and 64"),
        ("arspm", 96, 65, "arspm needs at least 97 frequency bins and at least 65 frames, got 96 and 65"),
        ("speech2face", 257, 15, "needs exactly 257 frequency bins and at least 16 frames, got 257 and 15"),
        ("speech2face", 256, 16, "needs exactly 257 frequency bins and at least 16 frames, got 256 and 16"),
        ("speech2face", 258, 16, "needs exactly 257 frequency bins and at least 16 frames, got 258 and 16"),
        ("resnet18", 31, 32, "at least 32 frequency bins and at least 32 frames, got 31 and 32"),
        ("resnet34", 32, 31, "at least 32 frequency bins and at least 32 frames, got 32 and 31"),
        ("densenet121", 28, 29, "at least 29 frequency bins and at least 29 frames, got 28 and 29"),
    ],
)
def test_a_spectrogram_below_the_minimum_is_refused(architecture, freq, time, message):
    with torch.device("meta"):
        model = make_encoder(architecture, **SMALL)
        with pytest.raises(ValueError, match=message):
            model(spectrogram(freq=freq, time=time))
        assert model(torch.empty(2, 2, *model.minimum)).shape == (2, 24)


def test_the_minimum_is_the_smallest_that_table_3_allows():
    def left(size, last_kernel, last_stride):
        for kernel, stride, padding in ((7, 2, 1), (3, 2, 0), (5, 2, 1), (3, 2, 0)):
            size = (size + 2 * padding - kernel) // stride + 1
        return (size - last_kernel) // last_stride + 1

    freq = next(size for size in range(300) if left(size, 5, 3) >= 1)
    time = next(size for size in range(300) if left(size, 3, 2) >= 1)
    assert SpeechEncoder(**SMALL).minimum == (freq, time) == (MINIMUM_FREQ, MINIMUM_TIME)


@pytest.mark.parametrize("architecture", WITH_PRIOR)
def test_all_architectures_except_speech2face_share_the_last_layers(architecture):
    model = SpeechEncoder(architecture=architecture, cbam="parallel", cbam_reduction=2, **SMALL).eval()
    x, prior = inputs(architecture)
    found = model(x, prior)
    attended = model.cbam(model.trunk(x))  # (batch, channels, freq, time)
    assert model.cbam.order == "parallel"
    pooled = torch.einsum("bcft,oc->bo", attended, model.fc1.weight[:, :, 0, 0]) / attended[0, 0].numel()
    torch.testing.assert_close(found, (pooled + model.fc1.bias + prior) @ model.fc2.weight.T + model.fc2.bias)


def test_speech2face_has_its_own_last_layers():
    model = Speech2FaceEncoder(**SMALL).eval()
    (x,) = inputs("speech2face")
    hidden = torch.einsum("bcf,ocf->bo", model.trunk(x)[..., 0], model.fc1.weight.view(24, 32, 65)) + model.fc1.bias
    torch.testing.assert_close(model(x), hidden.clamp(min=0) @ model.fc2.weight.T + model.fc2.bias)


def test_speech2face_takes_no_prior():
    model = Speech2FaceEncoder(**SMALL)
    with pytest.raises(ValueError, match=r"speech2face takes no prior; set prior\.kind=none"):
        model(spectrogram(freq=257), torch.zeros(24))


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
        ({"architecture": "vgg"}, "arspm, speech2face, resnet18, resnet34, densenet121; got 'vgg'"),
        ({"architecture": "speech2face"}, "use Speech2FaceEncoder"),
    ],
)
def test_wrong_options_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        SpeechEncoder(**SMALL, **options)


def test_samples_are_independent_in_eval_mode():
    model, x = SpeechEncoder(**SMALL).eval(), spectrogram(batch=3)
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]))


def test_the_imaginary_part_is_used():
    model, x = SpeechEncoder(**SMALL).eval(), spectrogram()
    other = x.clone()
    other[:, 1] = 0
    assert not torch.allclose(model(x), model(other))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_reach_every_parameter(architecture):
    model = make_encoder(architecture, **SMALL)
    model(*inputs(architecture)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if name.startswith("trunk"):
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_half_precision_and_channels_last_change_only_rounding(architecture):
    model, (x, *prior) = make_encoder(architecture, **SMALL).eval(), inputs(architecture)
    with torch.no_grad():
        expected = model(x, *prior)
        model.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(model(x, *prior), expected, atol=1e-4, rtol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            found = model(x, *prior)
    assert (found.float() - expected).norm() < 0.05 * expected.norm()
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(x, *prior).float().square().sum()
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_every_architecture_trains_under_ddp(tmp_path):
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        for architecture in ARCHITECTURES:
            model = DistributedDataParallel(make_encoder(architecture, **SMALL))
            for _ in range(2):  # in DDP, a parameter without a gradient is an error at the second step
                model(*inputs(architecture)).square().sum().backward()
    finally:
        distributed.destroy_process_group()

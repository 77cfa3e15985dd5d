from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from arspm.model.gender_classifier import FEMALE, MALE, MINIMUM_SIZE, GenderClassifier


def test_the_papers_layers():
    layers = Counter(type(module).__name__ for module in GenderClassifier().modules())
    assert (layers["Conv2d"], layers["MaxPool2d"], layers["Linear"]) == (5, 3, 2)
    assert (FEMALE, MALE) == (0, 1)


def test_parameters():
    convs = 25 * 2 * 16 + 9 * (16 * 32 + 32 * 64 + 64 * 128 + 128 * 128)
    norms = 2 * (16 + 32 + 64 + 128 + 128)
    fcs = (4 * 128 * 64 + 64) + (64 * 2 + 2)
    assert sum(p.numel() for p in GenderClassifier().parameters()) == convs + norms + fcs == 278_722


@pytest.mark.parametrize(("freq", "time"), [(MINIMUM_SIZE, MINIMUM_SIZE), (257, 40), (257, 131)])
def test_speech_of_any_length(freq, time):
    assert GenderClassifier(width=1 / 4)(torch.randn(2, 2, freq, time)).shape == (2, 2)


def test_speech_below_the_minimum_is_refused():
    with pytest.raises(ValueError, match=r"at least 16 .* got 257 and 15"):
        GenderClassifier(width=1 / 4)(torch.randn(1, 2, 257, 15))


def test_classes_that_differ_in_frequency_band_are_learnt():
    """The classes have the same texture in different bands. An average over all frequencies could not separate them."""
    labels = torch.tensor([FEMALE, MALE] * 8)
    speech = 0.1 * torch.randn(16, 2, 64, 32)
    speech[labels == MALE, :, 4:20] += torch.randn(8, 2, 16, 32)
    speech[labels == FEMALE, :, 44:60] += torch.randn(8, 2, 16, 32)
    model = GenderClassifier(width=1 / 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(40):
        loss = F.cross_entropy(model(speech), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1

from __future__ import annotations

import pytest

from arspm.model.width import scaled


def test_channels_scale_and_stop_at_four():
    assert [scaled(c, 1.0) for c in (3, 64, 512, 1000)] == [4, 64, 512, 1000]
    assert [scaled(c, 1 / 8) for c in (32, 64, 512, 1000)] == [4, 8, 64, 125]
    assert scaled(32, 0.01) == 4


@pytest.mark.parametrize("width", [0.0, -1.0, float("nan")])
def test_width_must_be_positive(width):
    with pytest.raises(ValueError, match="width must be positive"):
        scaled(64, width)

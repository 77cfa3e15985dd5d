"""How the width multiplier narrows a layer: one rule for every network."""

from __future__ import annotations


def scaled(channels: int, width: float) -> int:
    """Channels of a layer that has `channels` in the paper, in a network `width` times as wide; at least 4.

    Feature sizes (4096) are never scaled: they are a contract between networks and are given outright.

    Raises:
        ValueError: `width` is not positive.
    """
    if not width > 0:
        raise ValueError(f"width must be positive, got {width}")
    return max(4, round(channels * width))

"""The width multiplier: one rule for every network."""

from __future__ import annotations


def scaled(channels: int, width: float) -> int:
    """Return `channels` times `width`, rounded, at least 4.

    Feature sizes (4096) are never scaled, because networks must agree on them.

    Raises:
        ValueError: `width` is not positive.
    """
    if not width > 0:
        raise ValueError(f"width must be positive, got {width}")
    return max(4, round(channels * width))

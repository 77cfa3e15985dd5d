"""Hashes that place a video, a clip or a picture: the same on every machine, and independent for each purpose."""

from __future__ import annotations

import hashlib


def hash64(purpose: str, text: str) -> int:
    """Return 64 bits of a hash of a text, independent for each purpose."""
    return int.from_bytes(hashlib.sha256(f"{purpose}:{text}".encode()).digest()[:8], "big")


def order_hash(video_id: str) -> int:
    """Return a video's place, 64 bits, in the order of a corpus and of all samples of a table."""
    return hash64("order", video_id)

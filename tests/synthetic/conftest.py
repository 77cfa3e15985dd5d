"""Fixture for the tests of traits and faces."""

from __future__ import annotations

import pytest

from arspm.synthetic.people import Speaker, sample_speakers


@pytest.fixture(scope="module")
def speakers() -> list[Speaker]:
    """2000 synthetic speakers, the same for every test."""
    return sample_speakers(2000, seed=5)

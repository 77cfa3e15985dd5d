"""Every prior type with every CBAM ordering and two seeds, as a grid of 50 trials."""

from __future__ import annotations

from tune_spaces import cbam_ordering, prior_type
from tune_spaces.space import Choice, Space

SPACE: Space = {**prior_type.SPACE, **cbam_ordering.SPACE, "seed": Choice([0, 1])}

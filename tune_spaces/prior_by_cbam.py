"""Every prior with every ordering of attention, two seeds each: 50 trials, for a grid."""

from __future__ import annotations

from tune_spaces import cbam_ordering, prior_type
from tune_spaces.space import Choice, Space

SPACE: Space = {**prior_type.SPACE, **cbam_ordering.SPACE, "seed": Choice([0, 1])}

"""The loss weights, the prior type and the CBAM ordering together."""

from __future__ import annotations

from tune_spaces import cbam_ordering, loss_weights, prior_type
from tune_spaces.space import Space

SPACE: Space = {**loss_weights.SPACE, **prior_type.SPACE, **cbam_ordering.SPACE}

"""All at once: the weights of the loss, the prior and the ordering of attention."""

from __future__ import annotations

from tune_spaces import cbam_ordering, loss_weights, prior_type
from tune_spaces.space import Space

SPACE: Space = {**loss_weights.SPACE, **prior_type.SPACE, **cbam_ordering.SPACE}

"""The types of prior of Table 4, and those that separate a prior from its effect on the initial weights.

`docs/prior.md` explains the latter. The gender priors need a corpus whose labels.csv gives the gender of the speakers.
"""

from __future__ import annotations

from arspm.config.variants import VARIANTS
from tune_spaces.space import Choice, Space

_FIELDS = ("prior.kind", "speech_encoder.fusion", "speech_encoder.fc2_init", "speech_encoder.prior_weight")
_NAMES = ("non-prior", "neutral", "neutral+fc", "gender", "gender+fc", "neutral-residual", "adaptive", "constant")

SPACE: Space = {
    _FIELDS: Choice({name: tuple(VARIANTS[name].changes[field] for field in _FIELDS) for name in _NAMES}),
}

"""Which mean face the encoder's residual is added to, and where (section 3.1): the rows of Table 4 for both sexes.

The gender priors need a corpus whose labels.csv tells the sexes.
"""

from __future__ import annotations

from tune_spaces.space import Choice, Space

SPACE: Space = {
    ("prior.kind", "speech_encoder.fusion"): Choice(
        {
            "none": ("none", "fc"),
            "neutral": ("neutral", "sum"),
            "neutral+fc": ("neutral", "fc"),
            "gender": ("gender", "sum"),
            "gender+fc": ("gender", "fc"),
        }
    ),
}

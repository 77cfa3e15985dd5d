"""Which mean face is added to the encoder's residual, and where (section 3.1): the rows of Table 4 for both sexes.

The gender priors need a run with a gender network: labels.csv gives the gender of speakers, or `gender.weights` is set.
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

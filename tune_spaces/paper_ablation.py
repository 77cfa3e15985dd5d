"""The models of Table 4 with three seeds each, as a grid of 18 trials.

A sweep compares validation angles. The models of one sex are validated on other clips, so they are left out, and so
are the variants without a row in Table 4, except the peer (speech2face). `arspm ablation` trains all variants.
"""

from __future__ import annotations

from arspm.config.variants import TABLE4, VARIANTS
from tune_spaces.space import Choice, Space

_FIELDS = tuple(VARIANTS["neutral+fc"].changes)
_ONE_SEX = ("female", "male")

SPACE: Space = {
    _FIELDS: Choice(
        {name: tuple(VARIANTS[name].changes[field] for field in _FIELDS) for name in TABLE4 if name not in _ONE_SEX}
    ),
    "seed": Choice([0, 1, 2]),
}

"""The weights of the encoder's loss (eq. 7), from a tenth to ten times the paper's 1, 0.04 and 1.2."""

from __future__ import annotations

from tune_spaces.space import LogUniform, Space

SPACE: Space = {
    "loss.lambda1": LogUniform(0.1, 10),
    "loss.lambda2": LogUniform(0.004, 0.4),
    "loss.lambda3": LogUniform(0.12, 12),
}

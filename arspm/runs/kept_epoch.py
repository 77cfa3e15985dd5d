"""Which epoch's weights a training keeps.

The objective, a figure of the held-out rows, selects the epoch; of epochs with the same objective, the training loss
does. With fewer than MIN_HELD_OUT rows the training loss selects alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TRAIN_LOSS = "train_loss"
# An accuracy over 10 rows has steps of 10 points and a standard error of up to 16 points: sqrt(0.5 * 0.5 / 10). An
# untrained classifier of sex is right for all of 10 rows in one of 1024 epochs, for all of 5 rows in one of 32, and a
# training has up to 50 epochs. The mean angle of 10 clips, with a standard deviation of 5 degrees, has a standard error
# of 1.6 degrees, more than most epochs differ by.
MIN_HELD_OUT = 10


def chosen_by(objective: str, num_held_out: int) -> str:
    """Return the name of the figure that selects the epoch: the objective or, for few held-out rows, the loss."""
    return objective if num_held_out >= MIN_HELD_OUT else TRAIN_LOSS


def is_better(figures: Mapping[str, Any], best: Mapping[str, Any], by: str, *, maximise: bool) -> bool:
    """Return whether an epoch replaces the best earlier one. Of equal epochs, the earlier is kept.

    figures, best: the epochs' figures. by: of `chosen_by`. maximise: whether a larger value of the objective is better.
    """
    if by != TRAIN_LOSS and figures[by] != best[by]:
        return bool(figures[by] > best[by]) if maximise else bool(figures[by] < best[by])
    return bool(figures[TRAIN_LOSS] < best[TRAIN_LOSS])

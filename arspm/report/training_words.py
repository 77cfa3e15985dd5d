"""The sentence that says which epoch of a training was kept, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arspm.report.gather import OBJECTIVES
from arspm.report.words import format_percent, significant
from arspm.runs.kept_epoch import TRAIN_LOSS


def kept_epoch(stage: str, figures: Mapping[str, Any], num_epochs: int) -> str:
    """Return which epoch a stage kept, by what, and how good it is on how many held-out rows.

    Such as "epoch 38 of 40 by the training loss: accuracy 100.0 %, 1 of 1 held-out faces, too few to choose by".
    figures: of the stage's manifest. Manifests of earlier releases lack `chosen_by` and `num_held_out`.
    """
    objective, count = OBJECTIVES[stage], figures.get("num_held_out")
    text = f"epoch {figures['best_epoch']} of {num_epochs}"
    if by_loss := figures.get("chosen_by") == TRAIN_LOSS:
        text += " by the training loss"
    rows = "held-out faces" if stage == "vggface" else "validation clips"
    value = figures.get(objective)
    if value is None:
        return f"{text}: no {rows}"
    number = "" if count is None else f"{count:,} "
    if objective == "val_accuracy":
        right = "on " if count is None else f"{round(value * count):,} of "
        measured = f"accuracy {format_percent(value)}, {right}{number}{rows}".replace(", on", " on")
    else:
        measured = f"{value:.1f}°" if objective == "val_cos_degrees" else f"loss {significant(value)}"
        measured += f" on {number}{rows}"
    return f"{text}: {measured}" + (", too few to choose by" if by_loss and count else "")

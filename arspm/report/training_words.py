"""The sentence that says which epoch of a training was kept, and why; and its validation metric in words."""

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
    right = f", {round(value * count):,} of" if objective == "val_accuracy" and count is not None else " on"
    return f"{text}: {measured(stage, value)}{right} {number}{rows}" + (
        ", too few to choose by" if by_loss and count else ""
    )


def measured(stage: str, value: float) -> str:
    """Return a stage's validation metric in words: "accuracy 87.5 %", "36.5°" or "loss 0.31"."""
    if OBJECTIVES[stage] == "val_accuracy":
        return f"accuracy {format_percent(value)}"
    return f"{value:.1f}°" if OBJECTIVES[stage] == "val_cos_degrees" else f"loss {significant(value)}"

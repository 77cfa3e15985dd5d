"""Trained and evaluated models, grouped by variant and paired by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

FIGURES = ("l1", "l2", "cos_degrees", "portrait_l1", "portrait_l2", "portrait_cos_degrees")
REFERENCE = "non-prior"  # every variant is compared with this one
CONTROLS = {"female": "non-prior-female", "male": "non-prior-male"}  # and these also with a model of the same clips
VALIDATION = "val_cos_degrees"
LEARNT_FRACTION = "cos_degrees_learnt_share"


class TrainedModel(NamedTuple):
    """A trained and evaluated model.

    `measured`: its evaluate/metrics.json. `history`: its encoder/history.json. `clips`: clip ids, speakers and
    distances of the test clips, column -> (rows,).
    """

    variant: str
    seed: int
    run: str
    measured: Mapping[str, Any]
    history: Mapping[str, Any]
    clips: Mapping[str, np.ndarray]

    @property
    def row(self) -> Mapping[str, Any]:
        return self.measured["table4"][0]

    @property
    def curve(self) -> list[tuple[int, float]]:
        """Step and validation angle of each epoch."""
        return [(epoch["step"], epoch[VALIDATION]) for epoch in self.history["epochs"]]

    @property
    def best_angle(self) -> float:
        """Validation angle of the epoch whose weights are kept; the least of all, unless few rows were held out."""
        return self.history["epochs"][self.history["best_epoch"] - 1][VALIDATION]


def group_by_variant(models: Sequence[TrainedModel]) -> dict[str, list[TrainedModel]]:
    """Return the models of each variant, in the order of their first."""
    by_name: dict[str, list[TrainedModel]] = {}
    for model in models:
        by_name.setdefault(model.variant, []).append(model)
    return by_name


def paired(
    models: Sequence[TrainedModel], reference: Sequence[TrainedModel]
) -> list[tuple[TrainedModel, TrainedModel]]:
    """Return the pairs of models with the same seed: same order of clips and same random initial weights."""
    by_seed = {model.seed: model for model in reference}
    return [(model, by_seed[model.seed]) for model in models if model.seed in by_seed]


def steps_to_reach(curve: Sequence[tuple[int, float]], value: float) -> int | None:
    """Return the first validated step with an angle of at most `value`, or None."""
    return next((step for step, angle in curve if angle <= value), None)


def mean_and_sd(values: Sequence[float]) -> dict[str, float | None]:
    """Return mean and standard deviation over seeds; the latter is None for a single seed."""
    return {"mean": mean(values), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def mean(values: Sequence[float]) -> float:
    """Return the mean of numbers, one per seed."""
    return float(np.mean(values))

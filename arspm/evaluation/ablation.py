"""Several models over several seeds, side by side: Table 4, and Figure 5's question of who learns faster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from arspm.corpus import schema
from arspm.evaluation import metrics

FIGURES = ("l1", "l2", "cos_degrees", "portrait_l1", "portrait_l2", "portrait_cos_degrees")
REFERENCE = "non-prior"  # what every variant is compared with
VALIDATION = "val_cos_degrees"
SHARE = "cos_degrees_learnt_share"
TARGET_SHARES = (0.5, 0.75, 0.9, 1.0)  # of the reference's own improvement, whose validation angles are to be reached


class Trained(NamedTuple):
    """One finished model.

    `measured`: its evaluate/metrics.json. `history`: its encoder/history.json. `clips`: clip ids, speakers and
    distances, column -> (rows,).
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
        """(step, validation angle) of each epoch."""
        return [(epoch["step"], epoch[VALIDATION]) for epoch in self.history["epochs"]]

    @property
    def best(self) -> float:
        return min(value for _, value in self.curve)


def compare(models: Sequence[Trained], *, num_resamples: int, seed: int) -> dict[str, Any]:
    """The figures of each variant over its seeds, its distance from the reference, and its way there.

    Spread is the standard deviation over seeds. Intervals are over speakers, of each clip's mean over the seeds, so
    they say how sure the figure is for other speakers; the spread says how sure it is for other seeds.
    """
    by_name: dict[str, list[Trained]] = {}
    for model in models:
        by_name.setdefault(model.variant, []).append(model)
    reference = by_name.get(REFERENCE)
    chance = {"num_resamples": num_resamples, "seed": seed}
    return {
        "variants": [_variant(name, own, reference, chance) for name, own in by_name.items()],
        "convergence": _convergence(by_name, reference),
        "findings": _findings(by_name, reference, chance),
    }


def _variant(
    name: str, models: list[Trained], reference: list[Trained] | None, chance: dict[str, Any]
) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for figure in FIGURES:
        values = [model.row[figure] for model in models]
        speakers, each = _mean_over_seeds(models, figure)
        _, low, high = metrics.bootstrap_interval(each, speakers, **chance)
        known = not np.isnan(low)
        figures[figure] = _spread(values) | {"low": low if known else None, "high": high if known else None}
    figures[VALIDATION] = _spread([model.best for model in models]) | {"low": None, "high": None}
    shares = [share for model in models if (share := model.row.get(SHARE)) is not None]
    figures[SHARE] = _spread(shares) | {"low": None, "high": None} if len(shares) == len(models) else None
    return {
        "variant": name,
        "n": models[0].row["n"],
        "runs": [
            {
                "seed": model.seed,
                "run": model.run,
                VALIDATION: model.best,
                "best_epoch": model.history["best_epoch"],
                "table4": dict(model.row),
                "prior_only": next((row for row in model.measured["table4"] if row["model"] == "prior-only"), None),
            }
            for model in models
        ],
        "figures": figures,
        "against_non_prior": None if reference is None or name == REFERENCE else _against(models, reference, chance),
        "gender": _judged(models, "table5", ("female", "male")),
        "age": _judged(models, "table6", ("young", "mid_age", "elder")),
    }


def _against(models: list[Trained], reference: list[Trained], chance: dict[str, Any]) -> dict[str, Any]:
    """Variant less reference, on the clips that both were measured on; below zero is nearer to the true face."""
    found: dict[str, Any] = {}
    for figure in FIGURES:
        difference, speakers = _differences(models, reference, figure)
        mean, low, high = metrics.bootstrap_interval(difference, speakers, **chance)
        found[figure] = {"difference": mean, "interval": None if np.isnan(low) else [low, high]}
    found[VALIDATION] = None
    if _same_clips(models, reference):
        own, other = (_mean([model.best for model in each]) for each in (models, reference))
        found[VALIDATION] = {"difference": own - other, "interval": None}
    return found


def _same_clips(models: list[Trained], reference: list[Trained]) -> bool:
    """Whether both were measured, and so validated, on clips of both sexes; a model of one sex is not."""
    return models[0].row["n"] == reference[0].row["n"]


def _mean_over_seeds(models: list[Trained], figure: str) -> tuple[np.ndarray, np.ndarray]:
    """Speakers, and each clip's mean over the seeds. All seeds measured the same clips in the same order."""
    ids = models[0].clips[schema.CLIP_ID]
    for model in models:
        if not np.array_equal(model.clips[schema.CLIP_ID], ids):
            raise ValueError(f"{model.run}: measured on other clips than {models[0].run}; run the ablation again")
    return models[0].clips[schema.SPEAKER], np.mean([model.clips[figure] for model in models], axis=0)


def _differences(models: list[Trained], reference: list[Trained], figure: str) -> tuple[np.ndarray, np.ndarray]:
    speakers, own = _mean_over_seeds(models, figure)
    _, other = _mean_over_seeds(reference, figure)
    place = {clip: number for number, clip in enumerate(reference[0].clips[schema.CLIP_ID].tolist())}
    return own - other[[place[clip] for clip in models[0].clips[schema.CLIP_ID].tolist()]], speakers


def _judged(models: list[Trained], table: str, parts: Sequence[str]) -> dict[str, Any] | None:
    """The judge's accuracy on a variant's portraits over its seeds, in all and by class."""
    rows = []
    for model in models:
        rows += [row for row in model.measured.get(table) or () if row["pictures"] == model.row["model"]]
    if len(rows) < len(models):
        return None
    spread = _spread([row["accuracy"] for row in rows])
    by_class = {part: [row[part] for row in rows if row.get(part) is not None] for part in parts}
    return {
        "accuracy": spread["mean"],
        "sd": spread["sd"],
        **{part: _mean(values) if values else None for part, values in by_class.items()},
    }


def _convergence(by_name: Mapping[str, list[Trained]], reference: list[Trained] | None) -> dict[str, Any]:
    """Figure 5: the curves, and the steps to reach validation angles that the reference came to."""
    models = [model for own in by_name.values() for model in own]
    return {
        "figure": VALIDATION,
        "curves": [{"variant": model.variant, "seed": model.seed, "points": model.curve} for model in models],
        "loss_curves": [
            {"variant": model.variant, "seed": model.seed, "points": model.history["losses"]} for model in models
        ],
        "targets": [] if reference is None else [_target(value, by_name, reference) for value in _targets(reference)],
    }


def _targets(reference: list[Trained]) -> list[float]:
    """Validation angles on the reference's way from its first epoch to its best, means over its seeds."""
    first, best = _mean([model.curve[0][1] for model in reference]), _mean([model.best for model in reference])
    return [first - share * (first - best) for share in TARGET_SHARES]


def _target(value: float, by_name: Mapping[str, list[Trained]], reference: list[Trained]) -> dict[str, Any]:
    rows = []
    for name, models in by_name.items():
        if not _same_clips(models, reference):
            continue
        steps = [steps_to_reach(model.curve, value) for model in models]
        reached = [float(step) for step in steps if step is not None]
        spread = _spread(reached) if len(reached) == len(steps) else {"mean": None, "sd": None}
        rows.append({"variant": name, "steps": steps, **spread, "reached": len(reached)})
    return {"value": value, "variants": rows}


def steps_to_reach(curve: Sequence[tuple[int, float]], value: float) -> int | None:
    """The first validated step at which the angle is at most `value`; None if it never is."""
    return next((step for step, angle in curve if angle <= value), None)


def _findings(
    by_name: Mapping[str, list[Trained]], reference: list[Trained] | None, chance: dict[str, Any]
) -> list[str]:
    """What the figures say of the paper's two claims, that the prior makes the model better and its training faster."""
    if reference is None:
        return []
    found = []
    steps = reference[0].curve[-1][0]
    if head_start := _head_start(by_name, reference, steps):
        found.append(head_start)
    for name in ("neutral+fc", "neutral"):
        if name not in by_name:
            continue
        models = by_name[name]
        own, other = ([model.best for model in each] for each in (models, reference))
        pairs = [(model.best, rival.best) for model in models for rival in reference if model.seed == rival.seed]
        wins = sum(mine < rival for mine, rival in pairs)
        verb = "beats" if _mean(own) < _mean(other) else "does not beat"
        found.append(
            f"After the same {steps} steps {name} {verb} {REFERENCE} in validation: {_degrees(own)} against "
            f"{_degrees(other)}, nearer with {wins} of {len(pairs)} seeds."
        )
        difference, speakers = _differences(models, reference, "cos_degrees")
        mean, low, high = metrics.bootstrap_interval(difference, speakers, **chance)
        if not np.isnan(low):
            told = (
                "no difference that the test speakers show"
                if low <= 0 <= high
                else ("nearer to the true face" if mean < 0 else "further from the true face")
            )
            found.append(
                f"On the test split {name} less {REFERENCE} is {_signed(mean)}° (95 % over speakers: "
                f"{_signed(low)} to {_signed(high)}): {told}."
            )
        for value in _targets(reference)[-2:]:
            target = {row["variant"]: row for row in _target(value, by_name, reference)["variants"]}
            mine, rival = target[name], target[REFERENCE]
            found.append(
                f"To a validation angle of {value:.1f}° {name} took {_steps(mine)}, {REFERENCE} {_steps(rival)}."
            )
    return found


def _head_start(by_name: Mapping[str, list[Trained]], reference: list[Trained], steps: int) -> str | None:
    """How soon the reference has learnt what the prior gives from the start: a constant, which a bias can be."""
    models = by_name.get("neutral")
    if models is None or not models[0].history["losses"] or not reference[0].history["losses"]:
        return None
    first, others = (_mean([model.history["losses"][0][1] for model in each]) for each in (models, reference))
    reached = [next((step for step, loss in model.history["losses"] if loss <= first), None) for model in reference]
    if others <= first or None in reached:
        return None
    taken = _steps({**_spread([float(step) for step in reached if step is not None]), "steps": reached})
    return (
        f"With the prior added to its output neutral begins at a training loss of {first:.1f}, {REFERENCE} at "
        f"{others:.1f}; {REFERENCE} is there after {taken} of {steps}."
    )


def _degrees(values: Sequence[float]) -> str:
    spread = _spread(values)
    sd = "" if spread["sd"] is None else f" ± {spread['sd']:.2f}"
    return f"{spread['mean']:.2f}{sd}°"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _steps(row: Mapping[str, Any]) -> str:
    if row["mean"] is None:
        return f"too long with {len(row['steps']) - row['reached']} of {len(row['steps'])} seeds"
    sd = "" if row["sd"] is None else f" ± {row['sd']:.0f}"
    return f"{row['mean']:.0f}{sd} steps"


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and standard deviation over seeds; one seed has no spread."""
    return {"mean": _mean(values), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))

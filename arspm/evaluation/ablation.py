"""Comparison of variants over several seeds: Table 4, and how fast each learns (Figure 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from arspm.corpus import schema
from arspm.evaluation import metrics

FIGURES = ("l1", "l2", "cos_degrees", "portrait_l1", "portrait_l2", "portrait_cos_degrees")
REFERENCE = "non-prior"  # every variant is compared with this one
VALIDATION = "val_cos_degrees"
LEARNT_FRACTION = "cos_degrees_learnt_share"
TARGET_FRACTIONS = (0.5, 0.75, 0.9, 1.0)  # fractions of the reference's improvement used as targets


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
        return min(value for _, value in self.curve)


def compare_variants(models: Sequence[TrainedModel], *, num_resamples: int, seed: int) -> dict[str, Any]:
    """Return each variant's means over its seeds, its differences from the reference, and learning curves.

    "sd" is the standard deviation over seeds: the uncertainty for other seeds. Intervals are bootstrapped over speakers
    from each clip's mean over the seeds: the uncertainty for other speakers.
    """
    by_name: dict[str, list[TrainedModel]] = {}
    for model in models:
        by_name.setdefault(model.variant, []).append(model)
    reference = by_name.get(REFERENCE)
    resampling = {"num_resamples": num_resamples, "seed": seed}
    return {
        "variants": [_variant(name, own, reference, resampling) for name, own in by_name.items()],
        "convergence": _convergence(by_name, reference),
        "findings": _findings(by_name, reference, resampling),
    }


def _variant(
    name: str, models: list[TrainedModel], reference: list[TrainedModel] | None, resampling: dict[str, Any]
) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for figure in FIGURES:
        values = [model.row[figure] for model in models]
        speakers, by_clip = _mean_over_seeds(models, figure)
        _, low, high = metrics.bootstrap_interval(by_clip, speakers, **resampling)
        defined = not np.isnan(low)
        figures[figure] = _mean_and_sd(values) | {"low": low if defined else None, "high": high if defined else None}
    figures[VALIDATION] = _mean_and_sd([model.best_angle for model in models]) | {"low": None, "high": None}
    fractions = [value for model in models if (value := model.row.get(LEARNT_FRACTION)) is not None]
    figures[LEARNT_FRACTION] = (
        _mean_and_sd(fractions) | {"low": None, "high": None} if len(fractions) == len(models) else None
    )
    return {
        "variant": name,
        "n": models[0].row["n"],
        "runs": [
            {
                "seed": model.seed,
                "run": model.run,
                VALIDATION: model.best_angle,
                "best_epoch": model.history["best_epoch"],
                "table4": dict(model.row),
                "prior_only": next((row for row in model.measured["table4"] if row["model"] == "prior-only"), None),
            }
            for model in models
        ],
        "figures": figures,
        "against_non_prior": (
            None if reference is None or name == REFERENCE else _against(models, reference, resampling)
        ),
        "gender": _judged(models, "table5", ("female", "male")),
        "age": _judged(models, "table6", ("young", "mid_age", "elder")),
    }


def _against(models: list[TrainedModel], reference: list[TrainedModel], resampling: dict[str, Any]) -> dict[str, Any]:
    """Return variant minus reference on the clips of both; negative is closer to the true face."""
    differences: dict[str, Any] = {}
    for figure in FIGURES:
        difference, speakers = _differences(models, reference, figure)
        mean, interval = metrics.mean_and_interval(difference, speakers, **resampling)
        differences[figure] = {"difference": mean, "interval": interval}
    differences[VALIDATION] = None
    if _same_clips(models, reference):
        own, other = (_mean([model.best_angle for model in each]) for each in (models, reference))
        differences[VALIDATION] = {"difference": own - other, "interval": None}
    return differences


def _same_clips(models: list[TrainedModel], reference: list[TrainedModel]) -> bool:
    """Whether both were validated on the same clips; a model of one sex only uses clips of that sex."""
    return models[0].row["n"] == reference[0].row["n"]


def _mean_over_seeds(models: list[TrainedModel], figure: str) -> tuple[np.ndarray, np.ndarray]:
    """Return speakers and each clip's mean over the seeds. Raises ValueError if the seeds have different clips."""
    ids = models[0].clips[schema.CLIP_ID]
    for model in models:
        if not np.array_equal(model.clips[schema.CLIP_ID], ids):
            raise ValueError(f"{model.run}: evaluated on other clips than {models[0].run}; run the ablation again")
    return models[0].clips[schema.SPEAKER], np.mean([model.clips[figure] for model in models], axis=0)


def _differences(
    models: list[TrainedModel], reference: list[TrainedModel], figure: str
) -> tuple[np.ndarray, np.ndarray]:
    speakers, own = _mean_over_seeds(models, figure)
    _, other = _mean_over_seeds(reference, figure)
    row_of = {clip: row for row, clip in enumerate(reference[0].clips[schema.CLIP_ID].tolist())}
    return own - other[[row_of[clip] for clip in models[0].clips[schema.CLIP_ID].tolist()]], speakers


def _judged(models: list[TrainedModel], table: str, parts: Sequence[str]) -> dict[str, Any] | None:
    """Return the judge's accuracy on a variant's portraits over its seeds, overall and by class."""
    rows = []
    for model in models:
        rows += [row for row in model.measured.get(table) or () if row["pictures"] == model.row["model"]]
    if len(rows) < len(models):
        return None
    overall = _mean_and_sd([row["accuracy"] for row in rows])
    by_class = {part: [row[part] for row in rows if row.get(part) is not None] for part in parts}
    return {
        "accuracy": overall["mean"],
        "sd": overall["sd"],
        **{part: _mean(values) if values else None for part, values in by_class.items()},
    }


def _convergence(by_name: Mapping[str, list[TrainedModel]], reference: list[TrainedModel] | None) -> dict[str, Any]:
    """Return the curves of Figure 5, and the steps to reach validation angles that the reference reached."""
    models = [model for own in by_name.values() for model in own]
    return {
        "figure": VALIDATION,
        "curves": [{"variant": model.variant, "seed": model.seed, "points": model.curve} for model in models],
        "loss_curves": [
            {"variant": model.variant, "seed": model.seed, "points": model.history["losses"]} for model in models
        ],
        "targets": [] if reference is None else [_target(value, by_name, reference) for value in _targets(reference)],
    }


def _targets(reference: list[TrainedModel]) -> list[float]:
    """Return validation angles between the reference's first epoch and its best, from means over its seeds."""
    first, best = _mean([model.curve[0][1] for model in reference]), _mean([model.best_angle for model in reference])
    return [first - fraction * (first - best) for fraction in TARGET_FRACTIONS]


def _target(value: float, by_name: Mapping[str, list[TrainedModel]], reference: list[TrainedModel]) -> dict[str, Any]:
    rows = []
    for name, models in by_name.items():
        if not _same_clips(models, reference):
            continue
        steps = [steps_to_reach(model.curve, value) for model in models]
        reached = [float(step) for step in steps if step is not None]
        mean_and_sd = _mean_and_sd(reached) if len(reached) == len(steps) else {"mean": None, "sd": None}
        rows.append({"variant": name, "steps": steps, **mean_and_sd, "reached": len(reached)})
    return {"value": value, "variants": rows}


def steps_to_reach(curve: Sequence[tuple[int, float]], value: float) -> int | None:
    """Return the first validated step with an angle of at most `value`, or None."""
    return next((step for step, angle in curve if angle <= value), None)


def _findings(
    by_name: Mapping[str, list[TrainedModel]], reference: list[TrainedModel] | None, resampling: dict[str, Any]
) -> list[str]:
    """Return sentences on the paper's two claims: the prior makes the model better, and training faster."""
    if reference is None:
        return []
    sentences = []
    steps = reference[0].curve[-1][0]
    if head_start := _head_start(by_name, reference, steps):
        sentences.append(head_start)
    for name in ("neutral+fc", "neutral"):
        if name not in by_name:
            continue
        models = by_name[name]
        own, other = ([model.best_angle for model in each] for each in (models, reference))
        pairs = [
            (model.best_angle, rival.best_angle) for model in models for rival in reference if model.seed == rival.seed
        ]
        wins = sum(mine < rival for mine, rival in pairs)
        verb = "beats" if _mean(own) < _mean(other) else "does not beat"
        sentences.append(
            f"After the same {steps} steps, {name} {verb} {REFERENCE} in validation angle: {_degrees(own)} against "
            f"{_degrees(other)}, smaller for {wins} of {len(pairs)} seeds."
        )
        difference, speakers = _differences(models, reference, "cos_degrees")
        mean, low, high = metrics.bootstrap_interval(difference, speakers, **resampling)
        if not np.isnan(low):
            verdict = (
                "no significant difference"
                if low <= 0 <= high
                else ("closer to the true face" if mean < 0 else "further from the true face")
            )
            sentences.append(
                f"On the test split, {name} minus {REFERENCE} is {_signed(mean)}° (95 % interval over speakers: "
                f"{_signed(low)} to {_signed(high)}): {verdict}."
            )
        for value in _targets(reference)[-2:]:
            target = {row["variant"]: row for row in _target(value, by_name, reference)["variants"]}
            mine, rival = target[name], target[REFERENCE]
            sentences.append(
                f"To reach a validation angle of {value:.1f}°, {name} took {_steps(mine)}, {REFERENCE} {_steps(rival)}."
            )
    return sentences


def _head_start(by_name: Mapping[str, list[TrainedModel]], reference: list[TrainedModel], steps: int) -> str | None:
    """Say how soon the reference reaches the prior's initial loss; a bias alone can learn that constant."""
    models = by_name.get("neutral")
    if models is None or not models[0].history["losses"] or not reference[0].history["losses"]:
        return None
    first, others = (_mean([model.history["losses"][0][1] for model in each]) for each in (models, reference))
    reached = [next((step for step, loss in model.history["losses"] if loss <= first), None) for model in reference]
    if others <= first or None in reached:
        return None
    steps_taken = _steps({**_mean_and_sd([float(step) for step in reached if step is not None]), "steps": reached})
    return (
        f"With the prior added to its output, neutral starts at a training loss of {first:.1f}, {REFERENCE} at "
        f"{others:.1f}; {REFERENCE} reaches {first:.1f} after {steps_taken} of {steps}."
    )


def _degrees(values: Sequence[float]) -> str:
    summary = _mean_and_sd(values)
    sd = "" if summary["sd"] is None else f" ± {summary['sd']:.2f}"
    return f"{summary['mean']:.2f}{sd}°"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _steps(row: Mapping[str, Any]) -> str:
    if row["mean"] is None:
        return f"more steps than were run for {len(row['steps']) - row['reached']} of {len(row['steps'])} seeds"
    sd = "" if row["sd"] is None else f" ± {row['sd']:.0f}"
    return f"{row['mean']:.0f}{sd} steps"


def _mean_and_sd(values: Sequence[float]) -> dict[str, float | None]:
    """Return mean and standard deviation over seeds; the latter is None for a single seed."""
    return {"mean": _mean(values), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))

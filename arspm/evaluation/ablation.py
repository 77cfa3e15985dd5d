"""Comparison of variants over several seeds: Table 4, and how fast each learns (Figure 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from arspm.corpus import schema
from arspm.evaluation import comparisons, findings
from arspm.evaluation.trained import (
    CONTROLS,
    FIGURES,
    LEARNT_FRACTION,
    REFERENCE,
    VALIDATION,
    TrainedModel,
    group_by_variant,
    mean,
    mean_and_sd,
    paired,
    steps_to_reach,
)

TARGET_FRACTIONS = (0.5, 0.75, 0.9, 1.0)  # fractions of the reference's improvement used as targets


def compare_variants(models: Sequence[TrainedModel], *, num_resamples: int, seed: int) -> dict[str, Any]:
    """Return each variant's means over its seeds, its differences from the reference, and learning curves.

    "sd" is the standard deviation over seeds. Intervals are over seeds and speakers together, see
    `comparisons.over_seeds_and_speakers`; with a single seed they are over speakers only. "controls" has the
    differences of models of one sex from non-prior of that sex. Holm's correction is over all differences of a figure.
    """
    by_name = group_by_variant(models)
    reference = by_name.get(REFERENCE)
    resampling = {"num_resamples": num_resamples, "seed": seed}
    variants = [_variant(name, own, reference, resampling) for name, own in by_name.items()]
    controls = [
        {"variant": name, "reference": control, "differences": against(by_name[name], by_name[control], resampling)}
        for name, control in CONTROLS.items()
        if name in by_name and control in by_name
    ]
    compared = [row["against_non_prior"] for row in variants if row["against_non_prior"]]
    compared += [row["differences"] for row in controls]
    for figure in (*FIGURES, VALIDATION):
        comparisons.add_holm([differences[figure] for differences in compared])
    targets = [] if reference is None else [_target(value, by_name, reference) for value in _targets(reference)]
    return {
        "variants": variants,
        "controls": controls,
        "convergence": _convergence(by_name) | {"targets": targets},
        "findings": findings.findings(by_name, {row["variant"]: row for row in variants}, controls, targets),
    }


def _variant(
    name: str, models: list[TrainedModel], reference: list[TrainedModel] | None, resampling: dict[str, Any]
) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for figure in FIGURES:
        speakers, by_seed = _by_seed(models, figure)
        estimate = comparisons.over_seeds_and_speakers(by_seed, speakers, **resampling)
        summary = mean_and_sd([model.row[figure] for model in models])
        figures[figure] = summary | {"low": estimate.low, "high": estimate.high}
    figures[VALIDATION] = mean_and_sd([model.best_angle for model in models]) | {"low": None, "high": None}
    fractions = [value for model in models if (value := model.row.get(LEARNT_FRACTION)) is not None]
    figures[LEARNT_FRACTION] = (
        mean_and_sd(fractions) | {"low": None, "high": None} if len(fractions) == len(models) else None
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
        "against_non_prior": None if reference is None or name == REFERENCE else against(models, reference, resampling),
        "gender": _judged(models, "table5", ("female", "male")),
        "age": _judged(models, "table6", ("young", "mid_age", "elder")),
    }


def against(
    models: list[TrainedModel], reference: list[TrainedModel], resampling: dict[str, Any]
) -> dict[str, dict[str, Any] | None]:
    """Return models minus reference for each figure, over the seeds and the clips of both; negative is closer.

    An entry is None if there is no seed that both have, or, for the validation angle, if the two were validated on
    different clips. That angle is not stored by clip, so its interval is over seeds only.
    """
    pairs = paired(models, reference)
    differences: dict[str, dict[str, Any] | None] = dict.fromkeys((*FIGURES, VALIDATION))
    if not pairs:
        return differences
    for figure in FIGURES:
        difference, speakers = differences_by_clip(pairs, figure)
        estimate = comparisons.over_seeds_and_speakers(difference, speakers, **resampling)
        differences[figure] = comparisons.difference_entry(estimate, len(pairs), over_speakers=True)
    if _same_clips(models, reference):
        estimate = comparisons.over_seeds([own.best_angle - other.best_angle for own, other in pairs])
        differences[VALIDATION] = comparisons.difference_entry(estimate, len(pairs), over_speakers=False)
    return differences


def _same_clips(models: list[TrainedModel], reference: list[TrainedModel]) -> bool:
    """Return whether both were measured on the same clips; a model of one sex only uses clips of that sex."""
    return np.array_equal(models[0].clips[schema.CLIP_ID], reference[0].clips[schema.CLIP_ID])


def _by_seed(models: Sequence[TrainedModel], figure: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the speaker of each clip, (n,), and a figure of each seed and clip, (seeds, n).

    Raises ValueError if the seeds have different clips.
    """
    ids = models[0].clips[schema.CLIP_ID]
    for model in models:
        if not np.array_equal(model.clips[schema.CLIP_ID], ids):
            raise ValueError(f"{model.run}: evaluated on other clips than {models[0].run}; run the ablation again")
    return models[0].clips[schema.SPEAKER], np.stack([model.clips[figure] for model in models])


def differences_by_clip(
    pairs: Sequence[tuple[TrainedModel, TrainedModel]], figure: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the differences of each seed and clip, (seeds, n), and the speaker of each clip, (n,)."""
    models, references = zip(*pairs, strict=True)
    speakers, own = _by_seed(models, figure)
    _, other = _by_seed(references, figure)
    row_of = {clip: row for row, clip in enumerate(references[0].clips[schema.CLIP_ID].tolist())}
    rows = [row_of[clip] for clip in models[0].clips[schema.CLIP_ID].tolist()]
    return own - other[:, rows], speakers


def _judged(models: list[TrainedModel], table: str, parts: Sequence[str]) -> dict[str, Any] | None:
    """Return the judge's accuracy on a variant's portraits over its seeds, overall and by class."""
    rows = []
    for model in models:
        rows += [row for row in model.measured.get(table) or () if row["pictures"] == model.row["model"]]
    if len(rows) < len(models):
        return None
    overall = mean_and_sd([row["accuracy"] for row in rows])
    by_class = {part: [row[part] for row in rows if row.get(part) is not None] for part in parts}
    return {
        "accuracy": overall["mean"],
        "sd": overall["sd"],
        **{part: mean(values) if values else None for part, values in by_class.items()},
    }


def _convergence(by_name: Mapping[str, list[TrainedModel]]) -> dict[str, Any]:
    """Return the curves of Figure 5: validation angle and training loss by step."""
    models = [model for own in by_name.values() for model in own]
    return {
        "figure": VALIDATION,
        "curves": [{"variant": model.variant, "seed": model.seed, "points": model.curve} for model in models],
        "loss_curves": [
            {"variant": model.variant, "seed": model.seed, "points": model.history["losses"]} for model in models
        ],
    }


def _targets(reference: list[TrainedModel]) -> list[float]:
    """Return validation angles between the reference's first epoch and its best, from means over its seeds."""
    first, best = mean([model.curve[0][1] for model in reference]), mean([model.best_angle for model in reference])
    return [first - fraction * (first - best) for fraction in TARGET_FRACTIONS]


def _target(value: float, by_name: Mapping[str, list[TrainedModel]], reference: list[TrainedModel]) -> dict[str, Any]:
    rows = []
    for name, models in by_name.items():
        if not _same_clips(models, reference):
            continue
        steps = [steps_to_reach(model.curve, value) for model in models]
        reached = [float(step) for step in steps if step is not None]
        summary = mean_and_sd(reached) if len(reached) == len(steps) else {"mean": None, "sd": None}
        rows.append({"variant": name, "steps": steps, **summary, "reached": len(reached)})
    return {"value": value, "variants": rows}

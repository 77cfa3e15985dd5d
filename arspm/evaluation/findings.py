"""Sentences on an ablation's results. They claim a difference only if Holm's correction leaves it significant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from arspm.evaluation.comparisons import LEVEL
from arspm.evaluation.trained import REFERENCE, VALIDATION, TrainedModel, mean, mean_and_sd, paired

Entry = Mapping[str, Any]  # of `comparisons.difference_entry`, with Holm's correction


def findings(
    by_name: Mapping[str, list[TrainedModel]],
    rows: Mapping[str, Mapping[str, Any]],
    controls: Sequence[Mapping[str, Any]],
    targets: Sequence[Entry],
) -> list[str]:
    """Return sentences on the paper's two claims: the prior makes the model better, and training faster.

    rows, controls, targets: of `ablation.compare_variants`: each variant's row, models of one sex against their
    controls, and the steps to reach validation angles. Returns nothing without the reference.
    """
    reference = by_name.get(REFERENCE)
    if reference is None:
        return []
    test = {name: row["against_non_prior"]["cos_degrees"] for name, row in rows.items() if row["against_non_prior"]}
    compared = {name: entry for name, entry in test.items() if entry is not None}
    sentences = [_overview(compared)] if compared else []
    steps = reference[0].curve[-1][0]
    if head_start := _head_start(by_name, reference, steps):
        sentences.append(head_start)
    for name in ("neutral+fc", "neutral"):
        if name not in compared:
            continue
        sentences.append(
            f"On the test split, {name} minus {REFERENCE} is {_signed(compared[name]['difference'])}°"
            f"{support(compared[name])}: {angle_verdict(compared[name])}."
        )
        entry = rows[name]["against_non_prior"][VALIDATION]
        if entry is not None:
            sentences.append(_validation(name, by_name[name], reference, steps, entry))
        for target in targets[-2:]:
            by_variant = {row["variant"]: row for row in target["variants"]}
            mine, rival = by_variant[name], by_variant[REFERENCE]
            sentences.append(
                f"To reach a validation angle of {target['value']:.1f}°, {name} took {_steps(mine)}, {REFERENCE} "
                f"{_steps(rival)}."
            )
    for row in controls:
        entry = row["differences"]["cos_degrees"]
        if entry is not None:
            sentences.append(
                f"On the test clips of one sex, {row['variant']} minus {row['reference']} is "
                f"{_signed(entry['difference'])}°{support(entry)}: {angle_verdict(entry)}."
            )
    return sentences


def support(entry: Entry) -> str:
    """Return the interval and the p-value of a difference in parentheses, and what the interval is over."""
    if entry["interval"] is None:
        return " (no interval)" if entry["num_seeds"] > 1 else " (one seed, so no interval)"
    low, high = map(_signed, entry["interval"])
    seeds = entry["num_seeds"]
    if entry["over_speakers"]:
        over = f"{seeds} seeds and the speakers" if seeds > 1 else "the speakers, for a single seed"
    else:
        over = f"{seeds} seeds"
    count = entry["comparisons"]
    corrected = f" after Holm's correction for {count} comparisons" if count > 1 else ""
    return f" (95 % interval over {over}: {low} to {high}; {p_text(entry['p_holm'])}{corrected})"


def p_text(p: float) -> str:
    """Return a p-value as text: "p = 0.031", "p < 0.001"."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def significant(entry: Entry) -> bool:
    """Return whether a difference is significant after Holm's correction."""
    return entry["p_holm"] is not None and entry["p_holm"] < 1 - LEVEL


def angle_verdict(entry: Entry) -> str:
    """Return in words what the difference of an angle supports."""
    if entry["p_holm"] is None:
        return "no verdict"
    if not significant(entry):
        return "not shown to differ"
    return "closer to the true face" if entry["difference"] < 0 else "further from the true face"


def listed(names: Sequence[str]) -> str:
    """Return names as "a, b and c", or "none"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else "none"


def _overview(compared: Mapping[str, Entry]) -> str:
    """Say which variants differ from the reference on the test split."""
    by_verdict: dict[str, list[str]] = {}
    for name, entry in compared.items():
        by_verdict.setdefault(angle_verdict(entry), []).append(name)
    closer, further = (by_verdict.get(f"{word} the true face", []) for word in ("closer to", "further from"))
    others = len(compared) - len(closer) - len(further)
    single = " For a single seed, so nothing is known of other seeds." if _single_seed(compared) else ""
    return (
        f"On the test split, closer to the true face than {REFERENCE}: {listed(closer)}; further from it: "
        f"{listed(further)}; not shown to differ from it: {others} of {len(compared)} variants.{single}"
    )


def _single_seed(entries: Mapping[str, Entry]) -> bool:
    return all(entry["num_seeds"] == 1 for entry in entries.values())


def _validation(
    name: str, models: Sequence[TrainedModel], reference: Sequence[TrainedModel], steps: int, entry: Entry
) -> str:
    own, other = ([model.best_angle for model in each] for each in (models, reference))
    pairs = paired(models, reference)
    wins = sum(mine.best_angle < rival.best_angle for mine, rival in pairs)
    verdict = "not shown to differ" if entry["p_holm"] is not None else "no verdict"
    if significant(entry):
        verdict = "smaller" if entry["difference"] < 0 else "larger"
    return (
        f"After the same {steps} steps, {name} has a validation angle of {_degrees(own)}, {REFERENCE} {_degrees(other)}"
        f", smaller for {wins} of {len(pairs)} seeds. The difference is {_signed(entry['difference'])}°"
        f"{support(entry)}: {verdict}."
    )


def _head_start(by_name: Mapping[str, list[TrainedModel]], reference: list[TrainedModel], steps: int) -> str | None:
    """Say how soon the reference reaches the prior's initial loss. A constant prior is a bias, so no more is shared."""
    models = by_name.get("neutral")
    if models is None or not models[0].history["losses"] or not reference[0].history["losses"]:
        return None
    first, others = (mean([model.history["losses"][0][1] for model in each]) for each in (models, reference))
    reached = [next((step for step, loss in model.history["losses"] if loss <= first), None) for model in reference]
    if others <= first or None in reached:
        return None
    steps_taken = _steps({**mean_and_sd([float(step) for step in reached if step is not None]), "steps": reached})
    return (
        f"With the prior added to its output, neutral starts at a training loss of {first:.1f}, {REFERENCE} at "
        f"{others:.1f}; {REFERENCE} reaches {first:.1f} after {steps_taken} of {steps}."
    )


def _degrees(values: Sequence[float]) -> str:
    summary = mean_and_sd(values)
    sd = "" if summary["sd"] is None else f" ± {summary['sd']:.2f}"
    return f"{summary['mean']:.2f}{sd}°"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _steps(row: Mapping[str, Any]) -> str:
    if row["mean"] is None:
        return f"more steps than were run for {len(row['steps']) - row['reached']} of {len(row['steps'])} seeds"
    sd = "" if row["sd"] is None else f" ± {row['sd']:.0f}"
    return f"{row['mean']:.0f}{sd} steps"

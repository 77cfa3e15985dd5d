"""Formatting of numbers, and sentences that compare models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

ANGLES = ("cos_degrees", "portrait_cos_degrees")
COMPARED = ("cos_degrees", "l2", "portrait_cos_degrees", "portrait_l2")

# Columns that are not distances, by the way they are formatted.
_DEGREES = (*ANGLES, "val_cos_degrees", "within", "between")
_CORRELATIONS = ("between_cosine", "r", "concordance")
_FRACTIONS = (
    "cos_degrees_learnt_share",
    "accuracy",
    "female",
    "male",
    "young",
    "mid_age",
    "elder",
    "r1",
    "r2",
    "r5",
    "r10",
)
_COUNTS = ("n", "num_speakers", "gallery", "unknown")

# Rows of Table 4 that are not trained models.
CONTROLS = {
    "prior-only": "the neutral prior for every clip; ignores the voice",
    "gender-prior-only": "the prior of the sex that the gender classifier predicts",
    "shuffled-speech": "the trained model, given another speaker's voice",
    "face-to-face": "the decoder, given the real face's feature; ignores the voice and bounds what portraits can reach",
    "oracle": "the mean feature of drawn faces of the speaker’s sex, age and body size; bounds the speech feature only",
}
# The rows that a model must beat, by their names in sentences; and the wording for each verdict.
_NAMES = {
    "prior-only": "the prior alone",
    "gender-prior-only": "the gender prior alone",
    "shuffled-speech": "shuffled speech",
}
_CLAIMS = {
    "better": "closer than",
    "undecided": "not shown to differ from",
    "worse": "further away than",
    None: "not compared with",
}


def significant(value: float | None, digits: int = 4) -> str:
    """Return the value with `digits` significant digits, at most three decimals, and thousands separators."""
    return "–" if value is None else f"{value:,.{_significant_decimals(value, digits)}f}"


def format_value(name: str, value: float | None) -> str:
    """Return a value formatted by its column: degrees, percentages, correlations, counts, otherwise distances.

    The name "printed" stands for values with three decimals, as in the paper's tables.
    """
    if name in _FRACTIONS:
        return format_percent(value)
    return "–" if value is None else _number(value, _decimals_of(name, value))


def format_interval(name: str, value: float | None, bounds: Sequence[float | None] | None) -> str:
    """Return an interval with as many decimals as its value; "" if there is none."""
    if value is None or not has_bounds(bounds):
        return ""
    if name in _FRACTIONS:
        return format_percent_interval(bounds)
    return _range([_number(bound, _decimals_of(name, value)) for bound in bounds])


def format_mean_sd(name: str, mean: float | None, sd: float | None) -> str:
    """Return mean and standard deviation over seeds, degrees with two decimals: "30.12 ± 0.42"."""
    if mean is None:
        return "–"
    scale, decimals, unit = (
        (100, 1, " %") if name in _FRACTIONS else (1, 2 if name in _DEGREES else _decimals_of(name, mean), "")
    )
    parts = [_number(scale * each, decimals) for each in (mean, sd) if each is not None]
    return " ± ".join(parts) + unit


def format_difference(name: str, entry: Mapping[str, Any]) -> str:
    """Return one model minus another with its sign: "−4.83"."""
    value = entry["difference"]
    if value is None:
        return "–"
    return ("+" if value > 0 else "") + _number(value, _difference_decimals(name, entry))


def format_difference_interval(name: str, entry: Mapping[str, Any]) -> str:
    """Return the interval of a difference; "" if there is none."""
    bounds = entry["interval"]
    if entry["difference"] is None or not has_bounds(bounds):
        return ""
    return _range([_number(bound, _difference_decimals(name, entry)) for bound in bounds])


def difference_verdict(entry: Mapping[str, Any]) -> str | None:
    """Return "better" or "worse" if a difference is significant, p below 0.05 after Holm's correction, or "undecided".

    Negative is better. None if there is no p-value.
    """
    p = entry.get("p_holm")
    if p is None:
        return None
    return "undecided" if p >= 0.05 else "better" if entry["difference"] < 0 else "worse"


def format_percent(fraction: float | None) -> str:
    """Return a fraction as a percentage with one decimal."""
    return "–" if fraction is None else _number(100 * fraction, 1) + " %"


def format_percent_interval(bounds: Sequence[float | None] | None) -> str:
    """Return an interval of fractions as percentages; "" if there is none."""
    return _range([_number(100 * bound, 1) for bound in bounds]) + " %" if has_bounds(bounds) else ""


def format_duration(seconds: float | None) -> str:
    """Return a duration in readable units: 0.3 s, 49.8 s, 1 min 31 s, 2 h 05 min."""
    if seconds is None:
        return "–"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    rounded = round(seconds)
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_hundredths(value: float | None) -> str:
    """Return an amount, such as GPU-hours or USD, with two decimals: 1,234.50, 0.04, < 0.01."""
    return "–" if value is None else "< 0.01" if 0 < value < 0.005 else f"{value:,.2f}"


def format_gpus(gpus: float, types: Sequence[str] = ()) -> str:
    """Return a number of GPUs with their types, if these are known: "4 GPUs (A10G)"; "" for none."""
    named = f" ({', '.join(types)})" if types else ""
    return f"{gpus:g} GPU{'' if gpus == 1 else 's'}{named}" if gpus else ""


def describe_unpriced(unpriced: Mapping[str, str], usd: float | None) -> list[str]:
    """Return what has no cost, and why, in one line for each reason: "no cost of encoder, decoder: the reason".

    usd: the cost of the others, None if nothing has one; the names are left out if nothing has, for one reason.
    """
    by_reason: dict[str, list[str]] = {}
    for name, reason in unpriced.items():
        by_reason.setdefault(reason, []).append(name)
    if usd is None and len(by_reason) == 1:
        return [f"no cost: {reason}" for reason in by_reason]
    return [f"no cost of {', '.join(names)}: {reason}" for reason, names in by_reason.items()]


def model_rows(table4: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rows of trained models, without the control rows."""
    return [row for row in table4 if row["model"] not in CONTROLS]


def compare_with_controls(table4: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compare each trained model with each trivial row, by angle and L2 of the feature and of the portrait.

    "nearer": how much closer to the truth the model is; negative if it is further away. "verdict": "better" or "worse"
    only if the 95 % intervals do not overlap, otherwise "undecided"; None if a value or an interval is missing.
    """
    controls = [row for row in table4 if row["model"] in _NAMES]
    return [_comparison(model, row, key) for model in model_rows(table4) for row in controls for key in COMPARED]


def _comparison(model: Mapping[str, Any], control: Mapping[str, Any], key: str) -> dict[str, Any]:
    closer = overlap = verdict = None
    if model.get(key) is not None and control.get(key) is not None:
        closer = control[key] - model[key]
        own, other = model.get(f"{key}_interval"), control.get(f"{key}_interval")
        if has_bounds(own) and has_bounds(other):
            overlap = own[0] <= other[1] and other[0] <= own[1]
            verdict = "undecided" if overlap else "better" if own[1] < other[0] else "worse"
    names = {"model": model["model"], "against": control["model"], "figure": key}
    return {**names, "nearer": closer, "intervals_touch": overlap, "verdict": verdict}


def describe_difference(entry: Mapping[str, Any]) -> str:
    """Return the difference of a comparison in words: "the model is 4.8° closer"."""
    value = entry["nearer"]
    if value is None:
        return "not measured"
    size = f"{abs(value):.1f}°" if entry["figure"] in ANGLES else significant(abs(value), 3)
    return f"the model is {size} {'closer' if value >= 0 else 'further away'}"


def describe_verdict(entry: Mapping[str, Any]) -> str:
    """Return the verdict of a comparison in words."""
    return {
        "better": "better: intervals do not overlap",
        "worse": "worse: intervals do not overlap",
        "undecided": "undecided: intervals overlap",
        None: "" if entry["nearer"] is None else "no interval, so no verdict",
    }[entry["verdict"]]


def headline(
    table4: Sequence[Mapping[str, Any]], comparisons: Iterable[Mapping[str, Any]], model: str, key: str
) -> str:
    """Return a sentence that compares a model's angle with the trivial rows, as far as the intervals support it."""
    angles = {row["model"]: row.get(key) for row in table4}
    if angles[model] is None:
        return f"The angle of {model}{' portraits' if key.startswith('portrait') else ''} was not measured"
    groups: dict[str | None, list[str]] = {}
    for entry in comparisons:
        if entry["model"] == model and entry["figure"] == key:
            angle = angles[entry["against"]]
            name = _NAMES[entry["against"]] + (f" ({angle:.1f}°)" if angle is not None else "")
            groups.setdefault(entry["verdict"], []).append(name)
    parts = [f"{claim} {_enumerated(groups[verdict])}" for verdict, claim in _CLAIMS.items() if verdict in groups]
    start = "Its portraits are" if key.startswith("portrait") else f"The model {model} is"
    rest = ": " + ", ".join(parts) if parts else ""
    return f"{start} {angles[model]:.1f}° from the true face features{rest}"


def learnt_sentence(row: Mapping[str, Any]) -> str:
    """Return a sentence on the fraction that the model has learnt between prior and oracle; "" without an oracle."""
    fraction = row.get("cos_degrees_learnt_share")
    if fraction is None:
        return ""
    bounds = format_percent_interval(row.get("cos_degrees_learnt_share_interval"))
    interval = f" (95 %: {bounds})" if bounds else ""
    gap = "of the gap between the prior alone and the oracle, a bound on the speech feature only"
    return f"It closes {format_percent(fraction)}{interval} {gap}"


def _enumerated(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def has_bounds(bounds: Sequence[float | None] | None) -> TypeGuard[Sequence[float]]:
    """Whether an interval exists and has both bounds."""
    return bounds is not None and all(bound is not None for bound in bounds)


def _decimals_of(name: str, value: float) -> int:
    if name in _COUNTS:
        return 0
    if name in ("printed", "cosine"):
        return 3
    return 1 if name in _DEGREES else 2 if name in _CORRELATIONS else _significant_decimals(value, 4)


def _difference_decimals(name: str, entry: Mapping[str, Any]) -> int:
    """Return the decimals of a difference and its interval, from the largest of them: the difference may be near 0."""
    if name in _DEGREES:
        return 2
    return _significant_decimals(max(map(abs, (entry["difference"], *(entry["interval"] or ())))), 3)


def _range(bounds: Sequence[str]) -> str:
    return (" to " if any("−" in bound for bound in bounds) else " – ").join(bounds)


def _number(value: float, decimals: int) -> str:
    """Return the value with thousands separators and a proper minus sign; "0.00" instead of "−0.00"."""
    text = f"{value:,.{decimals}f}"
    return text.replace("-", "−") if text.strip("-0.,") else text.lstrip("-")


def _significant_decimals(value: float, digits: int) -> int:
    if value == 0:
        return 0
    return min(3, max(0, digits - 1 - math.floor(math.log10(abs(value)))))

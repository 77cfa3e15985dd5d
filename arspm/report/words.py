"""Numbers as text, with sensible digits and units, and comparisons in words that follow from the numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ANGLES = ("cos_degrees", "portrait_cos_degrees")
COMPARED = ("cos_degrees", "l2", "portrait_cos_degrees", "portrait_l2")

# What the rows beside the trained models are.
CONTROLS = {
    "prior-only": "the neutral prior for everyone; hears nothing",
    "gender-prior-only": "the prior of the sex that the gender classifier hears",
    "shuffled-speech": "the trained model, given another speaker's voice",
    "face-to-face": "the decoder, given the real face's feature; hears nothing and bounds what a portrait can reach",
}
# The rows that a model must beat, as sentences call them, and what a sentence may claim by a comparison's verdict.
_NAMES = {
    "prior-only": "the prior alone",
    "gender-prior-only": "the gender prior alone",
    "shuffled-speech": "shuffled speech",
}
_CLAIMS = {
    "better": "nearer than",
    "undecided": "not shown to differ from",
    "worse": "further than",
    None: "not compared with",
}


def significant(value: float | None, digits: int = 4) -> str:
    """The value to so many significant digits, at most three of them decimals, with commas at thousands."""
    return "–" if value is None else f"{value:,.{_decimals(value, digits)}f}"


def figure(name: str, value: float | None) -> str:
    """A figure of Table 4: degrees with one decimal, distances with four digits."""
    if value is None:
        return "–"
    return f"{value:.1f}" if name in ANGLES else significant(value)


def interval(name: str, value: float | None, ends: Sequence[float | None] | None) -> str:
    """An interval with the digits of the value that it belongs to; empty where there is none."""
    if value is None or not _known(ends):
        return ""
    decimals = 1 if name in ANGLES else _decimals(value, 4)
    return " – ".join(f"{end:,.{decimals}f}" for end in ends or ())


def percent(value: float | None) -> str:
    """A share as per cent, one decimal."""
    return "–" if value is None else f"{100 * value:.1f} %"


def percent_interval(ends: Sequence[float | None] | None) -> str:
    return " – ".join(f"{100 * end:.1f}" for end in ends if end is not None) + " %" if ends and _known(ends) else ""


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: 0.3 s, 49.8 s, 1 min 31 s, 2 h 05 min."""
    if seconds is None:
        return "–"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def models(table4: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows of trained models, without the rows beside them."""
    return [row for row in table4 if row["model"] not in CONTROLS]


def compare(table4: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each trained model against each trivial row, by angle and by L2, of the feature and of the portrait.

    `nearer`: by how much the model is nearer to the truth, negative if further. `verdict`: "better" or "worse" only
    where the 95 % intervals do not touch, else "undecided"; None with no figure or no interval on a side.
    """
    others = [row for row in table4 if row["model"] in _NAMES]
    return [_compared(model, other, key) for model in models(table4) for other in others for key in COMPARED]


def _compared(model: Mapping[str, Any], other: Mapping[str, Any], key: str) -> dict[str, Any]:
    nearer = touch = verdict = None
    if model.get(key) is not None and other.get(key) is not None:
        nearer = other[key] - model[key]
        own, its = model.get(f"{key}_interval"), other.get(f"{key}_interval")
        if own is not None and its is not None and _known(own) and _known(its):
            touch = own[0] <= its[1] and its[0] <= own[1]
            verdict = "undecided" if touch else "better" if own[1] < its[0] else "worse"
    names = {"model": model["model"], "against": other["model"], "figure": key}
    return {**names, "nearer": nearer, "intervals_touch": touch, "verdict": verdict}


def nearer(entry: Mapping[str, Any]) -> str:
    """A comparison's distance in words: "the model is 4.8° nearer"."""
    value = entry["nearer"]
    if value is None:
        return "not measured"
    size = f"{abs(value):.1f}°" if entry["figure"] in ANGLES else significant(abs(value), 3)
    return f"the model is {size} {'nearer' if value >= 0 else 'further'}"


def verdict(entry: Mapping[str, Any]) -> str:
    """A comparison's verdict in words."""
    return {
        "better": "better: intervals do not touch",
        "worse": "worse: intervals do not touch",
        "undecided": "undecided: intervals touch",
        None: "" if entry["nearer"] is None else "no interval to judge by",
    }[entry["verdict"]]


def headline(
    table4: Sequence[Mapping[str, Any]], comparisons: Iterable[Mapping[str, Any]], model: str, key: str
) -> str:
    """One sentence on a model's angle against the trivial rows', claiming no more than the intervals allow."""
    angles = {row["model"]: row.get(key) for row in table4}
    if angles[model] is None:
        return f"The angle of {model}{' portraits' if key.startswith('portrait') else ''} was not measured"
    groups: dict[str | None, list[str]] = {}
    for entry in comparisons:
        if entry["model"] == model and entry["figure"] == key:
            angle = angles[entry["against"]]
            name = _NAMES[entry["against"]] + (f" ({angle:.1f}°)" if angle is not None else "")
            groups.setdefault(entry["verdict"], []).append(name)
    parts = [f"{words} {_listed(groups[verdict])}" for verdict, words in _CLAIMS.items() if verdict in groups]
    start = "Its portraits are" if key.startswith("portrait") else f"The model {model} is"
    rest = ": " + ", ".join(parts) if parts else ""
    return f"{start} {angles[model]:.1f}° from the true face features{rest}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _known(ends: Sequence[float | None] | None) -> bool:
    return ends is not None and all(end is not None for end in ends)


def _decimals(value: float, digits: int) -> int:
    if value == 0:
        return 0
    return min(3, max(0, digits - 1 - math.floor(math.log10(abs(value)))))

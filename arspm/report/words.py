"""Numbers as text, with sensible digits and units, and comparisons in words that follow from the numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

ANGLES = ("cos_degrees", "portrait_cos_degrees")
COMPARED = ("cos_degrees", "l2", "portrait_cos_degrees", "portrait_l2")

# How figures are written that are not distances, by their names.
_DEGREES = (*ANGLES, "val_cos_degrees", "within", "between")
_CORRELATIONS = ("between_cosine", "r", "concordance")
_SHARES = (
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

# What the rows beside the trained models are.
CONTROLS = {
    "prior-only": "the neutral prior for everyone; hears nothing",
    "gender-prior-only": "the prior of the sex that the gender classifier hears",
    "shuffled-speech": "the trained model, given another speaker's voice",
    "face-to-face": "the decoder, given the real face's feature; hears nothing and bounds what a portrait can reach",
    "oracle": "the mean feature of drawn faces of the speaker’s sex, age and body size; about the best a voice allows",
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
    """A figure by its name: degrees with one decimal, shares as per cent, correlations, counts; else a distance.

    "printed" is no figure's name, but says that a value has the three decimals of the paper's tables.
    """
    if name in _SHARES:
        return percent(value)
    return "–" if value is None else _number(value, _places(name, value))


def interval(name: str, value: float | None, ends: Sequence[float | None] | None) -> str:
    """An interval with the digits of the value that it belongs to; empty where there is none."""
    if value is None or not known(ends):
        return ""
    if name in _SHARES:
        return percent_interval(ends)
    return _range([_number(end, _places(name, value)) for end in ends])


def spread(name: str, value: float | None, sd: float | None) -> str:
    """A mean and its standard deviation over seeds, degrees with two decimals: "30.12 ± 0.42"."""
    if value is None:
        return "–"
    scale, places, unit = (
        (100, 1, " %") if name in _SHARES else (1, 2 if name in _DEGREES else _places(name, value), "")
    )
    parts = [_number(scale * each, places) for each in (value, sd) if each is not None]
    return " ± ".join(parts) + unit


def difference(name: str, entry: Mapping[str, Any]) -> str:
    """One model less another, with its sign: "−4.83"."""
    value = entry["difference"]
    if value is None:
        return "–"
    return ("+" if value > 0 else "") + _number(value, _difference_places(name, entry))


def difference_interval(name: str, entry: Mapping[str, Any]) -> str:
    """The interval of a difference; empty where there is none."""
    ends = entry["interval"]
    if entry["difference"] is None or not known(ends):
        return ""
    return _range([_number(end, _difference_places(name, entry)) for end in ends])


def difference_verdict(entry: Mapping[str, Any]) -> str | None:
    """Better or worse where the interval of a difference of distances leaves out zero, else undecided."""
    ends = entry["interval"]
    if not known(ends):
        return None
    return "better" if ends[1] < 0 else "worse" if ends[0] > 0 else "undecided"


def percent(value: float | None) -> str:
    """A share as per cent, one decimal."""
    return "–" if value is None else _number(100 * value, 1) + " %"


def percent_interval(ends: Sequence[float | None] | None) -> str:
    return _range([_number(100 * end, 1) for end in ends]) + " %" if known(ends) else ""


def format_duration(seconds: float | None) -> str:
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
        if own is not None and its is not None and known(own) and known(its):
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


def learnt(row: Mapping[str, Any]) -> str:
    """A sentence on how much of what a voice carries the model tells; empty where there is no oracle."""
    share = row.get("cos_degrees_learnt_share")
    if share is None:
        return ""
    ends = percent_interval(row.get("cos_degrees_learnt_share_interval"))
    told = f" (95 %: {ends})" if ends else ""
    way = "of the way from the prior alone to the oracle, about the best that a voice allows"
    return f"It has gone {percent(share)}{told} {way}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def known(ends: Sequence[float | None] | None) -> TypeGuard[Sequence[float]]:
    """Whether an interval has both its ends."""
    return ends is not None and all(end is not None for end in ends)


def _places(name: str, value: float) -> int:
    if name in _COUNTS:
        return 0
    if name == "printed":
        return 3
    return 1 if name in _DEGREES else 2 if name in _CORRELATIONS else _decimals(value, 4)


def _difference_places(name: str, entry: Mapping[str, Any]) -> int:
    """Decimals for a difference and its interval alike, by the largest of them: the difference may be about zero."""
    if name in _DEGREES:
        return 2
    return _decimals(max(map(abs, (entry["difference"], *(entry["interval"] or ())))), 3)


def _range(ends: Sequence[str]) -> str:
    return (" to " if any("−" in end for end in ends) else " – ").join(ends)


def _number(value: float, places: int) -> str:
    """With commas at thousands and a minus sign that is as wide as a plus."""
    text = f"{value:,.{places}f}"
    return text.replace("-", "−") if text.strip("-0.,") else text.lstrip("-")


def _decimals(value: float, digits: int) -> int:
    if value == 0:
        return 0
    return min(3, max(0, digits - 1 - math.floor(math.log10(abs(value)))))

"""Numbers as text, and claims that follow from numbers."""

from collections.abc import Callable
from typing import Any

import pytest

from arspm.report import words


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (4630.776, 4, "4,631"),
        (263.456, 4, "263.5"),
        (2.4703, 4, "2.470"),
        (0.27017, 4, "0.270"),
        (0.0, 4, "0"),
        (6.71, 3, "6.71"),
        (None, 4, "–"),
    ],
)
def test_distances_have_four_digits(value: float | None, digits: int, text: str) -> None:
    assert words.significant(value, digits) == text


def test_an_interval_has_the_digits_of_its_value() -> None:
    assert words.interval("cos_degrees", 38.817, [37.032, 40.742]) == "37.0 – 40.7"
    assert words.interval("l1", 4630.8, [999.4, 4945.8]) == "999 – 4,946"
    assert words.interval("l2", 2.47, None) == words.interval("l2", 2.47, [None, None]) == ""
    assert words.interval("l2", None, None) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.308, "0.3 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (91.4, "1 min 31 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (None, "–"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert words.duration(seconds) == text


def _table(make_row: Callable[..., Any], **ends: Any) -> list[dict[str, Any]]:
    """A model of 30 degrees in [28, 32] and rows beside it with the intervals given."""
    rows = []
    for model, interval in (("neutral+fc", (28.0, 32.0)), *ends.items()):
        middle = None if interval is None else sum(interval) / 2
        row = make_row(model.replace("_", "-"), {"cos_degrees": middle})
        row["cos_degrees_interval"] = None if interval is None else list(interval)
        rows.append(row)
    return rows


@pytest.mark.parametrize(
    ("interval", "verdict", "touch"),
    [
        ((33.0, 40.0), "better", False),
        ((20.0, 27.0), "worse", False),
        ((31.0, 40.0), "undecided", True),
        ((32.0, 40.0), "undecided", True),  # they share one point
        ((20.0, 28.0), "undecided", True),
        ((29.0, 31.0), "undecided", True),
        ((20.0, 50.0), "undecided", True),
        (None, None, None),
    ],
)
def test_better_or_worse_is_said_only_of_intervals_apart(
    make_row: Callable[..., Any], interval: Any, verdict: str | None, touch: bool | None
) -> None:
    entries = words.compare(_table(make_row, **{"prior-only": interval}))
    entry = next(entry for entry in entries if entry["figure"] == "cos_degrees")
    assert (entry["verdict"], entry["intervals_touch"]) == (verdict, touch)
    assert entry["nearer"] == (None if interval is None else sum(interval) / 2 - 30.0)


def test_a_value_without_an_interval_is_not_judged(make_row: Callable[..., Any]) -> None:
    table = _table(make_row, prior_only=(33.0, 40.0))
    table[0]["cos_degrees_interval"] = [None, None]  # one speaker only
    entry = words.compare(table)[0]
    assert entry["nearer"] == pytest.approx(6.5)
    assert entry["verdict"] is None
    assert words.verdict(entry) == "no interval to judge by"


def test_models_are_not_compared_with_face_to_face_or_each_other(make_row: Callable[..., Any]) -> None:
    table = _table(make_row, prior_only=(33, 40), face_to_face=(5, 6), gender=(27, 29))
    assert {(entry["model"], entry["against"]) for entry in words.compare(table)} == {
        ("neutral+fc", "prior-only"),
        ("gender", "prior-only"),
    }


def test_the_headline_claims_what_the_intervals_allow(make_row: Callable[..., Any]) -> None:
    table = _table(make_row, prior_only=(31.0, 35.0), gender_prior_only=(20.0, 22.0), shuffled_speech=(44.0, 46.0))
    assert words.headline(table, words.compare(table), "neutral+fc", "cos_degrees") == (
        "The model neutral+fc is 30.0° from the true face features: nearer than shuffled speech (45.0°), "
        "not shown to differ from the prior alone (33.0°), further than the gender prior alone (21.0°)"
    )


def test_the_headline_names_what_was_not_measured(make_row: Callable[..., Any]) -> None:
    table = _table(make_row, prior_only=(33.0, 35.0), gender_prior_only=None)
    told = words.headline(table, words.compare(table), "neutral+fc", "cos_degrees")
    assert told.endswith("nearer than the prior alone (34.0°), not compared with the gender prior alone")
    assert "was not measured" in words.headline(table, [], "neutral+fc", "portrait_cos_degrees")

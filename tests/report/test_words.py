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
    assert words.format_duration(seconds) == text


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


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("accuracy", 0.9756, "97.6 %"),
        ("r10", 0.4582, "45.8 %"),
        ("cos_degrees_learnt_share", -0.114, "−11.4 %"),
        ("within", 12.34, "12.3"),
        ("between_cosine", -0.004, "0.00"),  # no minus before nothing
        ("n", 12345, "12,345"),
        ("printed", 27.8, "27.800"),
        ("l2", 2.47, "2.470"),
        ("l2", None, "–"),
        ("accuracy", None, "–"),
    ],
)
def test_a_figure_is_written_by_its_name(name: str, value: float | None, text: str) -> None:
    assert words.figure(name, value) == text


def test_intervals_below_zero_are_told_apart() -> None:
    assert words.interval("r", 0.1, [-0.204, 0.35]) == "−0.20 to 0.35"
    assert words.interval("accuracy", 0.5, [0.4, 0.6]) == "40.0 – 60.0 %"


@pytest.mark.parametrize(
    ("name", "value", "sd", "text"),
    [
        ("cos_degrees", 30.123, 0.4178, "30.12 ± 0.42"),
        ("cos_degrees", 30.123, None, "30.12"),
        ("l1", 126.52, 3.16, "126.5 ± 3.2"),
        ("cos_degrees_learnt_share", -0.114, 0.05, "−11.4 ± 5.0 %"),
        ("l2", None, None, "–"),
    ],
)
def test_a_mean_has_the_digits_of_its_spread(name: str, value: float | None, sd: float | None, text: str) -> None:
    assert words.spread(name, value, sd) == text


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ([-2.0, -0.1], "better"),
        ([0.1, 2.0], "worse"),
        ([-0.1, 0.1], "undecided"),
        ([-1.0, 0.0], "undecided"),
        (None, None),
    ],
)
def test_a_difference_is_judged_by_zero(interval: Any, verdict: str | None) -> None:
    assert words.difference_verdict({"difference": -1.0, "interval": interval}) == verdict


def test_a_difference_has_its_sign_and_its_intervals_digits() -> None:
    entry = {"difference": 0.0, "interval": [-0.0123, 0.0456]}
    assert (words.difference("l2", entry), words.difference_interval("l2", entry)) == ("0.000", "−0.012 to 0.046")
    assert words.difference("cos_degrees", {"difference": -4.826, "interval": None}) == "−4.83"
    assert words.difference("l1", {"difference": 12.34, "interval": None}) == "+12.3"
    assert words.difference_interval("l1", {"difference": 12.34, "interval": None}) == ""
    assert words.difference("l1", {"difference": None, "interval": None}) == "–"


def test_nothing_is_said_of_what_was_learnt_without_an_oracle() -> None:
    assert words.learnt({"cos_degrees_learnt_share": None}) == words.learnt({}) == ""
    told = words.learnt({"cos_degrees_learnt_share": -0.05, "cos_degrees_learnt_share_interval": [-0.2, 0.1]})
    assert told.startswith("It has gone −5.0 % (95 %: −20.0 to 10.0 %) of the way")

"""Formatting of numbers, and sentences that compare models."""

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
def test_distances_have_four_significant_digits(value: float | None, digits: int, text: str) -> None:
    assert words.significant(value, digits) == text


def test_an_interval_has_the_decimals_of_its_value() -> None:
    assert words.format_interval("cos_degrees", 38.817, [37.032, 40.742]) == "37.0 – 40.7"
    assert words.format_interval("l1", 4630.8, [999.4, 4945.8]) == "999 – 4,946"
    assert words.format_interval("l2", 2.47, None) == words.format_interval("l2", 2.47, [None, None]) == ""
    assert words.format_interval("l2", None, None) == ""


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
def test_format_duration(seconds: float | None, text: str) -> None:
    assert words.format_duration(seconds) == text


def _table(make_row: Callable[..., Any], **ends: Any) -> list[dict[str, Any]]:
    """Return a Table 4 with a model of 30 degrees in [28, 32], and control rows with the given intervals."""
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
        ((32.0, 40.0), "undecided", True),  # one common point
        ((20.0, 28.0), "undecided", True),
        ((29.0, 31.0), "undecided", True),
        ((20.0, 50.0), "undecided", True),
        (None, None, None),
    ],
)
def test_the_verdict_is_better_or_worse_only_if_intervals_do_not_overlap(
    make_row: Callable[..., Any], interval: Any, verdict: str | None, touch: bool | None
) -> None:
    entries = words.compare_with_controls(_table(make_row, **{"prior-only": interval}))
    entry = next(entry for entry in entries if entry["figure"] == "cos_degrees")
    assert (entry["verdict"], entry["intervals_touch"]) == (verdict, touch)
    assert entry["nearer"] == (None if interval is None else sum(interval) / 2 - 30.0)


def test_a_value_without_an_interval_has_no_verdict(make_row: Callable[..., Any]) -> None:
    table = _table(make_row, prior_only=(33.0, 40.0))
    table[0]["cos_degrees_interval"] = [None, None]  # one speaker only
    entry = words.compare_with_controls(table)[0]
    assert entry["nearer"] == pytest.approx(6.5)
    assert entry["verdict"] is None
    assert words.describe_verdict(entry) == "no interval, so no verdict"


def test_models_are_not_compared_with_face_to_face_or_each_other(make_row: Callable[..., Any]) -> None:
    table = _table(make_row, prior_only=(33, 40), face_to_face=(5, 6), gender=(27, 29))
    assert {(entry["model"], entry["against"]) for entry in words.compare_with_controls(table)} == {
        ("neutral+fc", "prior-only"),
        ("gender", "prior-only"),
    }


def test_the_headline_claims_only_what_the_intervals_support(make_row: Callable[..., Any]) -> None:
    table = _table(make_row, prior_only=(31.0, 35.0), gender_prior_only=(20.0, 22.0), shuffled_speech=(44.0, 46.0))
    assert words.headline(table, words.compare_with_controls(table), "neutral+fc", "cos_degrees") == (
        "The model neutral+fc is 30.0° from the true face features: closer than shuffled speech (45.0°), "
        "not shown to differ from the prior alone (33.0°), further away than the gender prior alone (21.0°)"
    )


def test_the_headline_names_missing_values(make_row: Callable[..., Any]) -> None:
    table = _table(make_row, prior_only=(33.0, 35.0), gender_prior_only=None)
    sentence = words.headline(table, words.compare_with_controls(table), "neutral+fc", "cos_degrees")
    assert sentence.endswith("closer than the prior alone (34.0°), not compared with the gender prior alone")
    assert "was not measured" in words.headline(table, [], "neutral+fc", "portrait_cos_degrees")


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("accuracy", 0.9756, "97.6 %"),
        ("r10", 0.4582, "45.8 %"),
        ("cos_degrees_learnt_share", -0.114, "−11.4 %"),
        ("within", 12.34, "12.3"),
        ("between_cosine", -0.004, "0.00"),  # no minus sign before zero
        ("n", 12345, "12,345"),
        ("printed", 27.8, "27.800"),
        ("l2", 2.47, "2.470"),
        ("l2", None, "–"),
        ("accuracy", None, "–"),
    ],
)
def test_values_are_formatted_by_their_column(name: str, value: float | None, text: str) -> None:
    assert words.format_value(name, value) == text


def test_intervals_with_negative_bounds_use_the_word_to() -> None:
    assert words.format_interval("r", 0.1, [-0.204, 0.35]) == "−0.20 to 0.35"
    assert words.format_interval("accuracy", 0.5, [0.4, 0.6]) == "40.0 – 60.0 %"


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
def test_mean_and_standard_deviation_have_the_same_decimals(
    name: str, value: float | None, sd: float | None, text: str
) -> None:
    assert words.format_mean_sd(name, value, sd) == text


@pytest.mark.parametrize(
    ("difference", "p", "verdict"),
    [
        (-1.0, 0.049, "better"),
        (1.0, 0.049, "worse"),
        (-1.0, 0.05, "undecided"),
        (-1.0, None, None),
    ],
)
def test_the_verdict_of_a_difference_depends_on_its_corrected_p_value(
    difference: float, p: float | None, verdict: str | None
) -> None:
    entry = {"difference": difference, "interval": [difference - 0.1, difference + 0.1], "p": 0.001, "p_holm": p}
    assert words.difference_verdict(entry) == verdict
    assert words.difference_verdict({"difference": None, "interval": None}) is None


def test_a_difference_has_a_sign_and_the_decimals_of_its_interval() -> None:
    entry = {"difference": 0.0, "interval": [-0.0123, 0.0456]}
    assert (words.format_difference("l2", entry), words.format_difference_interval("l2", entry)) == (
        "0.000",
        "−0.012 to 0.046",
    )
    assert words.format_difference("cos_degrees", {"difference": -4.826, "interval": None}) == "−4.83"
    assert words.format_difference("l1", {"difference": 12.34, "interval": None}) == "+12.3"
    assert words.format_difference_interval("l1", {"difference": 12.34, "interval": None}) == ""
    assert words.format_difference("l1", {"difference": None, "interval": None}) == "–"


def test_without_an_oracle_there_is_no_sentence_on_the_fraction_learnt() -> None:
    assert words.learnt_sentence({"cos_degrees_learnt_share": None}) == words.learnt_sentence({}) == ""
    sentence = words.learnt_sentence(
        {"cos_degrees_learnt_share": -0.05, "cos_degrees_learnt_share_interval": [-0.2, 0.1]}
    )
    assert sentence.startswith("It closes −5.0 % (95 %: −20.0 to 10.0 %) of the gap")

"""The tables of docs/performance.md."""

from __future__ import annotations

import json

import pytest

from benchmarks import results
from benchmarks.__main__ import JSON, PAGE, PROGRAMS
from benchmarks.tables import TABLES, grid, rewrite


def committed() -> dict[str, results.Section]:
    return json.loads(JSON.read_text())


def test_the_page_has_the_tables_of_the_results() -> None:
    """Fails if somebody edits a table, or commits results without the page."""
    page, sections = PAGE.read_text(), committed()
    assert rewrite(page, sections) == page
    assert set(sections) >= {name for name, program in PROGRAMS.items() if program.when == "always"}


def test_every_ratio_and_figure_of_a_run_has_its_spread() -> None:
    for name, section in committed().items():
        for ratio, found in section["ratios"].items():
            assert found["low"] <= found["median"] <= found["high"], (name, ratio)
            assert min(found["values"]) <= found["low"], (name, ratio)
        assert section["command"].startswith(f"python -m benchmarks.{name}")
        assert section["machine"]["cores"] >= 1


def test_every_benchmark_has_a_table() -> None:
    assert set(PROGRAMS) == set(TABLES)


def test_only_the_named_table_changes() -> None:
    planning = committed()["planning"]
    page = (
        "Before\n<!-- bench:planning -->\nold\n<!-- /bench -->\nby hand\n<!-- bench:feed -->\nkept\n<!-- /bench -->\n"
    )
    new = rewrite(page, {"planning": planning})
    assert "old" not in new
    assert f"{planning['figures']['rows']:,} rows" in new
    assert new.startswith("Before\n<!-- bench:planning -->\n")
    assert new.endswith("<!-- /bench -->\nby hand\n<!-- bench:feed -->\nkept\n<!-- /bench -->\n")
    assert rewrite(new, {"planning": planning}) == new


@pytest.mark.parametrize("places", [0, 2])
def test_a_table_without_one_place_is_an_error(places: int) -> None:
    page = "<!-- bench:planning -->\n<!-- /bench -->\n" * places
    with pytest.raises(ValueError, match=f"{places} places <!-- bench:planning -->"):
        rewrite(page, {"planning": committed()["planning"]})


def test_a_table_is_markdown() -> None:
    assert grid(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"

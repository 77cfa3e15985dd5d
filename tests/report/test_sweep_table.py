"""The table of trials on a sweep's page in a real browser: sorting, filter, comparison, downloads."""

import base64
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.report import swept
from tests.report.sweep_browser import DRAW_ALL, NUMBERS, Open, header, traces


def test_the_table_sorts_by_mouse_and_keyboard(weights: Any) -> None:
    page, results = weights
    trials = results["trials"]

    def in_order(value: Callable[[Any], Any], descending: bool = False) -> list[int]:
        known = [trial for trial in trials if value(trial) is not None]
        known.sort(key=value, reverse=descending)
        return [trial["number"] for trial in known] + [t["number"] for t in trials if value(t) is None]

    assert page.evaluate(NUMBERS) == in_order(lambda trial: trial["best"])
    assert page.locator("th[aria-sort]").get_attribute("data-column") == "best"
    header(page, "best").click()
    assert page.evaluate(NUMBERS) == in_order(
        lambda trial: trial["best"], descending=True
    )  # missing values are last again
    header(page, "sample loss.lambda2").focus()
    page.keyboard.press("Enter")
    assert page.evaluate(NUMBERS) == in_order(lambda trial: trial["sample"]["loss.lambda2"])
    page.keyboard.press("Space")
    assert page.evaluate(NUMBERS) == in_order(lambda trial: trial["sample"]["loss.lambda2"], descending=True)
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    header(page, "state").click()
    states = page.locator("#trial-table .state").all_inner_texts()
    assert states == sorted(states)


def test_the_table_filters_by_words_and_state(weights: Any, open_sweep: Open) -> None:
    results = swept.variants()
    page = open_sweep(results, 390).page
    page.locator("#filter").fill("gender+FC parallel")
    expected = {t["number"] for t in results["trials"] if list(t["sample"].values())[:2] == ["gender+fc", "parallel"]}
    assert len(expected) == 2
    assert set(page.evaluate(NUMBERS)) == expected
    assert page.locator("#num-shown").inner_text() == "2 of 50 trials, 2 match."
    page.locator("#filter").fill("nothing of the kind")
    assert page.locator("#num-shown").inner_text() == "No trial matches."
    page.locator("#sort-by").select_option("number")  # narrow screens have no clickable headings
    page.locator("#filter").fill("")
    assert page.evaluate(NUMBERS) == list(range(20))
    page.locator("#show-more").click()
    page.locator("#show-more").click()
    assert page.evaluate(NUMBERS) == list(range(50))
    assert page.locator("#show-more").is_hidden()
    page.locator("#reverse").click()
    assert page.evaluate(NUMBERS) == list(range(50))[::-1]
    page, _ = weights
    page.locator("#state-filter").select_option("failed")
    assert sorted(page.evaluate(NUMBERS)) == [5, 7]
    assert "not finite at step 71" in page.locator("#trial-table tbody").inner_text()
    page.locator("#state-filter").select_option("")


def test_selected_trials_are_compared(grid: Any) -> None:
    page, results = grid
    assert page.locator("#nothing-selected").is_visible()
    header(page, "number").click()
    for number in (0, 1, 12, 3, 4, 5):
        page.get_by_label(f"Compare trial {number}", exact=True).check()
    assert page.get_by_label("Compare trial 6", exact=True).is_disabled()
    for number in (5, 4, 3, 1):
        page.get_by_label(f"Compare trial {number}", exact=True).uncheck()
    assert page.get_by_label("Compare trial 6", exact=True).is_enabled()
    rows = page.eval_on_selector_all(
        "#comparison-table tbody tr", "all => all.map(r => [r.className, ...[...r.cells].map(c => c.innerText.trim())])"
    )
    shown = {row[1].split("\n")[0].removesuffix(" differs"): (row[0], row[2:]) for row in rows}
    first, second = results["trials"][0], results["trials"][12]
    assert shown["kind + fusion"] == ("", ["none", "none"])
    assert shown["cbam"] == ("differs", ["channel_first", "none"])
    assert shown["seed"] == ("", ["0", "0"])
    best = [next(e for e in t["epochs"] if e["epoch"] == t["best_epoch"]) for t in (first, second)]
    assert [float(text) for text in shown["val l1"][1]] == pytest.approx([each["val_l1"] for each in best], rel=1e-3)
    curves = traces(page, "#chart-selected")
    assert [curve["name"] for curve in curves] == ["trial 0", "trial 12"]
    assert curves[1]["y"] == [float(f"{epoch[swept.METRIC]:.6g}") for epoch in second["epochs"]] + [None]
    page.locator("#clear-selection").click()
    assert page.locator("#trial-table input:checked").count() == 0
    assert page.locator("#nothing-selected").is_visible()
    header(page, "best").click()
    best_two = page.evaluate(NUMBERS)[:2]
    for number in best_two:
        page.get_by_label(f"Compare trial {number}", exact=True).check()
    pictures = page.locator("#selected-portraits img").evaluate_all("all => all.map(e => e.src)")
    strips = [swept.strip([7 * face + number for face in range(6)]) for number in (0, *best_two)]
    assert pictures == [f"data:image/jpeg;base64,{base64.b64encode(each).decode()}" for each in strips]
    page.locator("#clear-selection").click()


def test_the_best_configuration_and_all_trials_can_be_downloaded(weights: Any) -> None:
    page, results = weights
    with page.expect_download() as found:
        page.locator("#download-best").click()
    assert json.loads(Path(found.value.path()).read_text()) == results["config_of_best"]
    assert found.value.suggested_filename == "loss_weights-best.json"
    with page.expect_download() as found:
        page.locator("#download-trials").click()
    assert found.value.suggested_filename == "loss_weights-trials.csv"
    rows = list(csv.DictReader(io.StringIO(Path(found.value.path()).read_bytes().decode(), newline="")))
    assert len(rows) == 30
    for row, trial in zip(rows, results["trials"], strict=True):
        assert int(row["number"]) == trial["number"]
        assert row["state"] == trial["state"]
        for name, value in trial["sample"].items():
            assert float(row[name]) == value
        assert row[f"best_{swept.METRIC}"] == ("" if trial["best"] is None else repr(trial["best"]))
        if trial["best"] is not None:
            best = next(epoch for epoch in trial["epochs"] if epoch["epoch"] == trial["best_epoch"])
            assert float(row["val_l2_at_best"]) == best["val_l2"]
    assert rows[7]["reason"] == '\'=cmd("x"), and\nmore'  # the apostrophe keeps a spreadsheet from evaluating it
    assert rows[8]["reason"] == "'-1+1"
    assert rows[7]["epochs"] == "0"


def test_a_thousand_trials_are_responsive(open_sweep: Open) -> None:
    results = swept.loss_weights(1000, 30)
    opened = open_sweep(results)
    page = opened.page
    assert page.locator("#trial-table tbody tr").count() == 100
    best_time = """(act) => {
      const times = [];
      for (let k = 0; k < 5; k++) {
        const begun = performance.now();
        act(k);
        document.body.offsetHeight; // forces layout
        times.push(performance.now() - begun);
      }
      return Math.min(...times);
    }"""
    sort = f"({best_time})(() => document.querySelector('[data-column=seconds] button').click())"
    words = """(k) => {
      const box = document.getElementById("filter");
      box.value = ["0.1", "stopped", "1 2", "finished", ""][k];
      box.dispatchEvent(new Event("input"));
    }"""
    assert page.evaluate(sort) < 200
    assert page.evaluate(f"({best_time})({words})") < 200
    page.locator("#show-more").click()
    assert page.locator("#trial-table tbody tr").count() == 200
    page.locator("#filter").fill("trial 777")
    found = page.evaluate(NUMBERS)
    assert 777 in found
    assert len(found) < 100
    page.evaluate(DRAW_ALL)
    assert opened.messages == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280

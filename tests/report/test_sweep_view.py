"""What the user chooses on a sweep's page, in a real browser: filters, columns, an open trial, and their URL."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

import pytest

from arspm.config import override
from arspm.config.presets import preset
from tests.report import swept
from tests.report.conftest import CONTRAST, HOSTILE
from tests.report.sweep_browser import DRAW_ALL, NUMBERS, Open, header, traces


def chosen(page: Any) -> dict[str, str]:
    """Return the choices in the URL."""
    return {name: values[0] for name, values in parse_qs(page.url.partition("#")[2]).items()}


def drag(page: Any, axis: int, low: float, high: float) -> None:
    """Drag over an axis of the parallel coordinates from one position to another; 0 is its lower end."""
    page.locator("#chart-parallel").scroll_into_view_if_needed()
    page.wait_for_timeout(700)  # scrolling is animated
    box = page.locator("#chart-parallel .nsewdrag").bounding_box()
    [left, right] = page.locator("#chart-parallel .chart").evaluate("e => e.layout.xaxis.range")
    [bottom, top] = page.locator("#chart-parallel .chart").evaluate("e => e.layout.yaxis.range")
    x = box["x"] + box["width"] * (axis - left) / (right - left)

    def y(position: float) -> float:
        return float(box["y"] + box["height"] * (top - position) / (top - bottom))

    page.mouse.move(x - 15, y(high))
    page.mouse.down()
    page.mouse.move(x, y((low + high) / 2), steps=3)
    page.mouse.move(x + 15, y(low), steps=3)
    page.mouse.up()
    page.wait_for_timeout(400)


def test_dragging_along_an_axis_filters_the_table_and_the_charts(open_sweep: Open) -> None:
    results = swept.loss_weights(30)
    opened = open_sweep(results)
    page = opened.page
    page.evaluate(DRAW_ALL)
    drag(page, 0, 0.5, 1.02)
    [low, high] = json.loads(chosen(page)["brushes"])["loss.lambda1"]
    assert (low, high) == pytest.approx((1, 30), rel=0.1)
    expected = {trial["number"] for trial in results["trials"] if low <= trial["sample"]["loss.lambda1"] <= high}
    assert 3 < len(expected) < 27
    assert set(page.evaluate(NUMBERS)) == expected
    assert f"{len(expected)} of 30 trials match" in page.locator("#num-brushed").inner_text()
    for chart in ("#slices figure:nth-child(2)", "#history"):
        assert len(traces(page, chart)[0]["x"]) == len(expected - ({5} if chart == "#history" else set()))
    drag(page, 3, 0.6, 1.02)  # the metric's axis: the better end is at the top
    ranges = json.loads(chosen(page)["brushes"])
    assert set(ranges) == {"loss.lambda1", "metric"}
    fewer = {
        number for number in expected if ranges["metric"][0] <= results["trials"][number]["best"] <= ranges["metric"][1]
    }
    assert 0 < len(fewer) < len(expected)
    assert set(page.evaluate(NUMBERS)) == fewer
    page.go_back()
    page.wait_for_timeout(300)
    assert set(page.evaluate(NUMBERS)) == expected
    page.locator("#clear-brushes").click()
    page.wait_for_timeout(300)
    assert len(page.evaluate(NUMBERS)) == 30
    assert "brushes" not in chosen(page)
    assert opened.messages == []


def test_ranges_and_choices_can_be_set_with_the_keyboard(open_sweep: Open) -> None:
    results = swept.variants()
    page = open_sweep(results).page
    page.locator("#brushes select").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.wait_for_timeout(300)
    expected = {trial["number"] for trial in results["trials"] if trial["sample"][swept.PRIOR] == swept.PRIORS[1]}
    assert set(page.evaluate(NUMBERS)) == expected
    page.get_by_label("validation angle to", exact=True).fill("34")
    page.keyboard.press("Enter")
    page.wait_for_timeout(300)
    assert set(page.evaluate(NUMBERS)) == {number for number in expected if results["trials"][number]["best"] <= 34}


def test_every_choice_is_in_the_url_and_the_back_button_undoes_it(open_sweep: Open) -> None:
    results = swept.loss_weights(30)
    opened = open_sweep(results)
    page = opened.page
    header(page, "sample loss.lambda2").click()
    page.locator("#filter").press_sequentially("finished", delay=5)
    page.get_by_label("Compare trial 2", exact=True).check()
    page.locator("#smoothing").select_option("0.9")
    page.locator("#contour-y").select_option("loss.lambda3")
    page.get_by_label("Open trial 2", exact=True).first.click()
    link = page.url
    assert chosen(page) == {
        "sort": "sample loss.lambda2",
        "filter": "finished",
        "selected": "2",
        "smoothing": "0.9",
        "contourY": "loss.lambda3",
        "trial": "2",
        "at": "trial",
    }
    shown = page.evaluate(NUMBERS)
    values = [results["trials"][number]["sample"]["loss.lambda2"] for number in shown]
    assert values == sorted(values)
    assert len(shown) < 30
    page.goto("about:blank")  # the link, as somebody else opens it
    page.goto(link)
    opened.wait_for("document.querySelectorAll('#trial-table tbody tr').length > 0")
    assert page.evaluate(NUMBERS) == shown
    assert page.locator("#filter").input_value() == "finished"
    assert page.locator("#smoothing").input_value() == "0.9"
    assert page.get_by_label("Compare trial 2", exact=True).is_checked()
    assert page.locator("#trial-title").inner_text() == "Trial 2"
    opened.wait_for("Math.abs(document.getElementById('trial').getBoundingClientRect().top) < 200")
    page.locator("#close-trial").click()
    page.locator("#state-filter").select_option("stopped")
    assert page.evaluate(NUMBERS) == []  # no stopped trial is finished
    page.go_back()
    opened.wait_for("document.getElementById('state-filter').value === ''")
    assert page.evaluate(NUMBERS) == shown
    assert page.locator("#trial").is_hidden()
    page.go_back()
    opened.wait_for("!document.getElementById('trial').hidden")
    assert opened.messages == []


def test_typing_is_one_step_of_the_history_and_links_to_sections_keep_the_choices(open_sweep: Open) -> None:
    opened = open_sweep(swept.loss_weights(12))
    page = opened.page
    page.locator("#filter").press_sequentially("finished", delay=5)
    page.locator("#learning-link").click()
    opened.wait_for("location.hash.includes('at=learning')")
    assert chosen(page) == {"at": "learning", "filter": "finished"}
    page.go_back()
    page.go_back()
    opened.wait_for("document.getElementById('filter').value === ''")
    assert len(page.evaluate(NUMBERS)) == 12


DAMAGED = (
    "sort=nothing&selected=1,x,99999999999,-4&trial=999&descending=maybe",
    "brushes=[1]&columns={}&sweeps=7&smoothing=2&top=-1&group=nobody",
    'brushes={"__proto__":[0,1],"loss.lambda1":["a",2]}&columns=["__proto__"]',
    f"filter={quote(HOSTILE[0])}&group={quote(HOSTILE[1])}&columns={quote(json.dumps(list(HOSTILE)))}",
    "%%%&=&state=%00&contourX=x",
    "nowhere",
)


def test_a_damaged_or_hostile_link_opens_the_page(open_sweep: Open) -> None:
    opened = open_sweep(swept.loss_weights(6))
    page = opened.page
    address = page.url
    for fragment in DAMAGED:
        page.goto("about:blank")
        page.goto(f"{address}#{fragment}")
        assert page.locator("#best-summary").inner_text().startswith("Trial ")
        page.locator("#filter").fill("")
        page.locator("#state-filter").select_option("")
        page.locator("#clear-brushes").evaluate("e => e.click()")
        assert page.locator("#trial-table tbody tr").count() == 6
    for fragment in DAMAGED:  # the same, in a page that is open
        page.goto(f"{address}#{fragment}")
        assert page.locator("#best-summary").inner_text().startswith("Trial ")
    page.evaluate(DRAW_ALL)
    assert page.evaluate("window.pwned") is None
    assert opened.messages == []


def test_metrics_become_columns_that_sort(open_sweep: Open) -> None:
    results = swept.loss_weights(12)
    page = open_sweep(results).page
    page.locator("#columns summary").click()
    boxes = page.locator("#column-choices label")
    names = [text.strip() for text in boxes.all_inner_texts()]
    assert {"val l1", "val l2", "train loss", "learning rate"} <= set(names)
    page.locator("#column-choices input[value=train_loss]").check()
    page.locator("#column-choices input[value=val_l2]").check()
    header(page, "figure train_loss").click()

    def at_best(trial: dict[str, Any]) -> float:
        return float(next(epoch["train_loss"] for epoch in trial["epochs"] if epoch["epoch"] == trial["best_epoch"]))

    order = [trial["number"] for trial in sorted(results["trials"], key=at_best)]
    assert page.evaluate(NUMBERS) == order
    assert json.loads(chosen(page)["columns"]) == ["val_l2", "train_loss"]
    page.locator("#column-choices input[value=train_loss]").uncheck()
    assert page.locator("th[data-column='figure train_loss']").count() == 0
    assert page.locator("th[aria-sort]").get_attribute("data-column") == "best"  # its column is gone


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), pytest.param(1280, "dark", marks=pytest.mark.slow)])
def test_an_open_trial_has_its_complete_configuration_and_its_log(
    open_sweep: Open, tmp_path: Path, width: int, scheme: str
) -> None:
    config = preset("demo")
    results = swept.variants()
    best = results["trials"][results["best"]]
    results["config_of_best"] = override(config, best["changes"]).model_dump(mode="json")
    trial = sorted(results["trials"], key=lambda each: each["best"])[3]
    trial |= {"state": "stopped", "reason": "stopped by the user"}
    opened = open_sweep(results, width, scheme)
    page = opened.page
    page.get_by_label(f"Open trial {trial['number']}", exact=True).first.click()
    assert page.evaluate("document.activeElement.id") == "trial-title"
    assert "Stopped early: stopped by the user." in page.locator("#trial-summary").inner_text()
    page.locator("#trial summary", has_text="Complete configuration").click()
    expected = override(config, trial["changes"]).model_dump(mode="json")
    assert json.loads(page.locator("#trial-config").inner_text()) == expected
    with page.expect_download() as found:
        page.locator("#download-config").click()
    assert json.loads(Path(found.value.path()).read_text()) == expected
    page.locator("#trial summary", has_text="Metrics").click()
    assert page.locator("#trial-epochs tbody tr").count() == len(trial["epochs"])
    assert (
        page.locator("#log-link").evaluate("e => e.href")
        == (tmp_path / "trials" / f"{trial['number']:05d}.log").as_uri()
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    worst = page.evaluate(CONTRAST)
    assert worst["ratio"] >= 4.5, worst
    assert opened.messages == []


def test_a_results_file_of_another_sweep_is_shown_side_by_side(open_sweep: Open, tmp_path: Path) -> None:
    results, other = swept.loss_weights(20), swept.loss_weights(12, seed=7)
    other["sweep"] |= {"name": HOSTILE[0], "run": "second"}
    written, _ = swept.written(other)
    file, broken = tmp_path / "other.json", tmp_path / "broken.json"
    file.write_text(json.dumps(written))
    broken.write_text('{"sweep": 1}')
    opened = open_sweep(results)
    page = opened.page
    page.locator("#open-results").set_input_files(str(broken))
    opened.wait_for("document.getElementById('sweeps-note').innerText.startsWith('broken.json is not')")
    page.locator("#open-results").set_input_files(str(file))
    opened.wait_for("document.querySelectorAll('#sweeps-table thead th').length === 3")
    text = page.locator("#sweeps-table").inner_text()
    for each in (results, other):
        best = min(each["trials"], key=lambda trial: trial["best"])
        assert f"{best['best']:.2f}° (trial {best['number']})" in text
    assert f"second/{HOSTILE[0]}" in text
    first, second = traces(page, "#sweeps-compared figure:nth-child(1)")
    assert (len(first["x"]), len(second["x"])) == (19, 11)  # without the failed ones
    assert min(second["y"]) == min(trial["best"] for trial in other["trials"] if trial["state"] != "failed")
    assert [len(trace["x"]) for trace in traces(page, "#sweeps-compared figure:nth-child(2)")] == [20, 12]
    assert page.evaluate("window.pwned") is None
    assert opened.messages == []

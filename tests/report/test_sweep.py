"""A sweep's page in a real browser: what it shows, what one does with it, and how it follows the sweep."""

import copy
import csv
import functools
import http.server
import io
import itertools
import json
import math
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arspm import storage
from arspm.report.sweep import PAGE, RESULTS, render, write_sweep
from jobs import dashboard
from tests.report import swept
from tests.report.conftest import CONTRAST, HOSTILE, Opened

SECTIONS = ["progress", "best", "trials", "comparison", "learning", "together", "importance", "values", "portraits"]
DRAW_ALL = "dispatchEvent(new Event('beforeprint'))"  # charts are drawn when the reader comes near, or prints
COME_BACK = "document.dispatchEvent(new Event('visibilitychange'))"  # the page then looks at once, not after 15 s
NUMBERS = "[...document.querySelectorAll('#trial-table tbody label')].map(e => +e.innerText)"

Open = Callable[..., Opened]


@pytest.fixture
def open_sweep(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Write a sweep's results and page, and open it."""
    opened = []

    def open_it(results: dict[str, Any], width: int = 1280, scheme: str = "light") -> Opened:
        write_sweep(str(tmp_path), results)
        opened.append(Opened(browser, tmp_path / PAGE, width, scheme))
        return opened[-1]

    yield open_it
    for each in opened:
        each.page.close()


@pytest.fixture(scope="module")
def weights(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The page of a random search, open for several tests, and its results: all kinds of ends, one trial learns yet."""
    results = swept.loss_weights(30, running=True)
    results["trials"][7] |= {"state": "failed", "best": None, "best_epoch": None, "epochs": []}
    results["trials"][7]["reason"] = '=cmd("x"), and\nmore'
    results["trials"][8]["reason"] = "-1+1"
    yield from _opened(browser, tmp_path_factory.mktemp("sweep"), results)


@pytest.fixture(scope="module")
def grid(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The page of a grid of prior by ordering with three seeds, and its results."""
    results = swept.variants(3)
    results["trials"][4] |= {"state": "stopped", "best": 99.0}  # counts in no mean, but has its dot
    yield from _opened(browser, tmp_path_factory.mktemp("sweep"), results)


def _opened(browser: Any, folder: Path, results: dict[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    write_sweep(str(folder), results)
    opened = Opened(browser, folder / PAGE, 1280, "light")
    yield opened.page, results
    said = [text for text in opened.said if "Content Security Policy" not in text]  # a test asks for that
    opened.page.close()
    assert said == []


def header(page: Any, column: str) -> Any:
    return page.locator(f"#trial-table th[data-column='{column}'] button")


def traces(page: Any, place: str) -> list[dict[str, Any]]:
    """What plotly was given to draw: name, x, y and what is told of the points."""
    page.evaluate(DRAW_ALL)
    script = """e => e.data.map(({ name, mode, x, y, customdata, marker, error_x }) =>
      ({ name, mode, x, y, told: customdata, color: marker?.color, array: error_x?.array }))"""
    return list(page.locator(f"{place} .chart").first.evaluate(script))


@pytest.mark.parametrize(
    ("kind", "width", "scheme"),
    [
        ("loss_weights", 1280, "light"),
        ("loss_weights", 390, "dark"),
        ("variants", 1280, "dark"),
        ("variants", 390, "light"),
    ],
)
def test_it_opens_alone_and_draws_everything(open_sweep: Open, kind: str, width: int, scheme: str) -> None:
    results = swept.loss_weights(running=True) if kind == "loss_weights" else swept.variants()
    opened = open_sweep(results, width, scheme)
    page = opened.page
    page.locator("#trial-table input").first.check()
    page.evaluate(DRAW_ALL)
    assert opened.said == []
    assert opened.network() == []
    assert page.eval_on_selector_all("main > section", "all => all.map(e => e.id)") == SECTIONS
    assert page.eval_on_selector_all("nav a", "all => all.map(e => e.hash.slice(1))") == SECTIONS
    num_charts = 4 + (6 if kind == "loss_weights" else 2)
    drawn = page.eval_on_selector_all(
        ".place [role=img]", "all => all.map(e => !!e.querySelector('.main-svg') && !!e.ariaLabel)"
    )
    assert drawn == [True] * num_charts
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    worst = page.evaluate(CONTRAST)
    assert worst["ratio"] >= 4.5, worst
    levels = page.eval_on_selector_all("h1, h2, h3", "all => all.map(e => +e.tagName[1])")
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert page.eval_on_selector_all("table", "all => all.filter(e => !e.caption?.innerText.trim()).length") == 0
    assert page.eval_on_selector_all("img", "all => all.map(e => [!!e.alt, e.naturalHeight])") == [[True, 64]] * (
        3 + len(results["pictures"]["trials"])
    )
    assert "identifies no one" in page.locator("#portraits").inner_text()
    words = set(page.locator("body").inner_text().replace(".", " ").split())
    assert not words & {"None", "nan", "NaN", "undefined", "null", "[object"}


def test_progress_and_the_best_are_told(weights: Any) -> None:
    page, results = weights
    counts = page.locator("#counts").inner_text().replace("\n", " ")
    for state, name in (
        ("running", "running"),
        ("finished", "finished"),
        ("stopped", "stopped early"),
        ("failed", "failed"),
    ):
        assert results["counts"][state] > 0
        assert f"{results['counts'][state]} {name}" in counts
    bar = page.locator("#bar")
    assert bar.get_attribute("aria-valuenow") == "29"
    assert bar.get_attribute("aria-valuemax") == "30"
    shares = bar.locator("span").evaluate_all("all => all.map(e => e.getBoundingClientRect().width)")
    assert shares[0] / shares[-1] == pytest.approx(results["counts"]["finished"], rel=0.1)  # one is running
    facts = page.locator("#spent").inner_text()
    assert "1 min 35 s" in facts
    assert f"{results['cpu_hours']:.2f} h" in facts
    best = min((trial for trial in results["trials"] if trial["best"]), key=lambda trial: trial["best"])
    told = page.locator("#best").inner_text()
    assert f"Trial {best['number']} is the best so far: validation angle {best['best']:.2f}°" in told
    assert f" at epoch {best['best_epoch']}." in told
    paper = results["trials"][0]["best"]
    assert (
        f"The paper’s values gave {paper:.2f}° (trial 0); the best trial is {paper - best['best']:.2f}° better." in told
    )
    cells = page.locator("#space tbody tr").first.locator("td").all_inner_texts()
    assert float(cells[1]) == pytest.approx(best["sample"]["loss.lambda1"], rel=1e-3)
    assert cells[2] == "1"


def test_the_best_stands_beside_the_spread_of_the_papers_values(grid: Any, open_sweep: Open) -> None:
    page, results = grid
    papers = [trial["best"] for trial in results["trials"] if trial["is_paper"]]
    told = page.locator("#paper-told").inner_text()
    assert f"{np.mean(papers):.2f} ± {np.std(papers, ddof=1):.2f}° (3 trials" in told
    without = results | {"paper": {"numbers": [], "mean": None, "sd": None}}
    told = open_sweep(without).page.locator("#paper-told").inner_text()
    assert "No trial has the paper’s values" in told


def test_the_papers_values_may_have_been_stopped_early(weights: Any, open_sweep: Open) -> None:
    _, sweep = weights
    first = sweep["trials"][0]
    stopped = first | {"state": "stopped", "epochs": first["epochs"][:2], "best": 31.25}
    results = sweep | {"trials": [stopped, *sweep["trials"][1:]], "paper": {"numbers": [], "mean": None, "sd": None}}
    told = open_sweep(results).page.locator("#paper-told").inner_text()
    assert told.startswith("The paper’s values (trial 0) were stopped early, at 31.25° after 2 epochs: ")


def test_it_sorts_by_click_and_by_key(weights: Any) -> None:
    page, results = weights
    trials = results["trials"]

    def in_order(value: Callable[[Any], Any], descending: bool = False) -> list[int]:
        known = [trial for trial in trials if value(trial) is not None]
        known.sort(key=value, reverse=descending)
        return [trial["number"] for trial in known] + [t["number"] for t in trials if value(t) is None]

    assert page.evaluate(NUMBERS) == in_order(lambda trial: trial["best"])
    assert page.locator("th[aria-sort]").get_attribute("data-column") == "best"
    header(page, "best").click()
    assert page.evaluate(NUMBERS) == in_order(lambda trial: trial["best"], descending=True)  # and none is last again
    header(page, "sample loss.lambda2").focus()
    page.keyboard.press("Enter")
    assert page.evaluate(NUMBERS) == in_order(lambda trial: trial["sample"]["loss.lambda2"])
    page.keyboard.press("Space")
    assert page.evaluate(NUMBERS) == in_order(lambda trial: trial["sample"]["loss.lambda2"], descending=True)
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    header(page, "state").click()
    states = page.locator("#trial-table .state").all_inner_texts()
    assert states == sorted(states)


def test_it_filters_by_words_and_state(weights: Any, open_sweep: Open) -> None:
    results = swept.variants()
    page = open_sweep(results, 390).page
    page.locator("#filter").fill("gender+FC parallel")
    expected = {t["number"] for t in results["trials"] if list(t["sample"].values())[:2] == ["gender+fc", "parallel"]}
    assert len(expected) == 2
    assert set(page.evaluate(NUMBERS)) == expected
    assert page.locator("#shown").inner_text() == "2 of 50 trials, 2 match."
    page.locator("#filter").fill("nothing of the kind")
    assert page.locator("#shown").inner_text() == "No trial matches."
    page.locator("#sort-by").select_option("number")  # on a phone there are no headings to click
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


def test_chosen_trials_stand_side_by_side(grid: Any) -> None:
    page, results = grid
    assert page.locator("#comparison-told").is_visible()
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
    curves = traces(page, "#chart-chosen")
    assert [curve["name"] for curve in curves] == ["trial 0", "trial 12"]
    assert curves[1]["y"] == [epoch[swept.METRIC] for epoch in second["epochs"]] + [None]
    page.locator("#choose-none").click()
    assert page.locator("#trial-table input:checked").count() == 0
    assert page.locator("#comparison-told").is_visible()
    header(page, "best").click()
    best_two = page.evaluate(NUMBERS)[:2]
    for number in best_two:
        page.get_by_label(f"Compare trial {number}", exact=True).check()
    pictures = page.locator("#chosen-portraits img").evaluate_all("all => all.map(e => e.src)")
    kept = results["pictures"]
    assert pictures == [kept["real"], *(kept["trials"][str(number)] for number in best_two)]
    page.locator("#choose-none").click()


def test_trials_that_were_stopped_end_in_a_cross(weights: Any) -> None:
    page, results = weights
    drawn = traces(page, "#chart-learning")
    stopped = [trial for trial in results["trials"] if trial["state"] == "stopped"]
    assert len(stopped) > 3
    crosses = next(each for each in drawn if each["name"] == "stopped early" and each["mode"] == "markers")
    assert list(zip(crosses["x"], crosses["y"], strict=True)) == [
        (swept.RUNG, trial["epochs"][-1][swept.METRIC]) for trial in stopped
    ]
    assert all(
        f"Trial {trial['number']}, stopped" == told for trial, told in zip(stopped, crosses["told"], strict=True)
    )
    lines = [each for each in drawn if each["mode"] == "lines"]
    assert sum(line["x"].count(None) for line in lines) == 29  # a line for each that has learnt
    assert lines[-1]["name"] == f"the best, trial {results['best']}"
    assert len(drawn) < 12  # whatever the number of trials
    visible = page.locator("#chart-learning .scatterlayer .point").count()
    assert visible >= len(stopped)


def test_values_are_drawn_where_they_were_sampled(weights: Any) -> None:
    page, results = weights
    (dots,) = traces(page, "#slices figure:nth-child(3)")
    by_value = sorted((trial for trial in results["trials"] if trial["best"]), key=lambda trial: trial["best"])
    assert dots["x"] == [trial["sample"]["loss.lambda3"] for trial in by_value]
    assert dots["y"] == [trial["best"] for trial in by_value]
    assert dots["color"] == sorted(dots["color"])
    assert (dots["color"][0], dots["color"][-1]) == (0, 1)
    axis = page.locator("#slices figure:nth-child(3) .chart").evaluate(
        "e => [e.layout.xaxis.type, e.layout.shapes[0].x0]"
    )
    assert axis == ["log", 1.2]
    assert page.locator("#pairs figure").count() == 3
    lines = traces(page, "#together")
    best = lines[-1]["y"][:3]
    for name, at in zip(results["sweep"]["space"], best, strict=True):
        domain = results["sweep"]["space"][name]
        value = by_value[0]["sample"][name]
        assert at == pytest.approx(math.log(value / domain["low"]) / math.log(domain["high"] / domain["low"]))
    assert lines[-1]["y"][3] == 1
    (bars,) = traces(page, "#importance")
    assert dict(zip(["lambda3", "lambda2", "lambda1"], bars["x"], strict=True)) == {
        name.split(".")[1]: share for name, share in results["importance"]["shares"].items()
    }
    assert "30 trials are few" in page.locator("#importance").inner_text()


def test_two_trials_lie_at_the_ends_of_the_scale(open_sweep: Open) -> None:
    results = swept.loss_weights(2)
    page = open_sweep(results).page
    best, worst = sorted(trial["best"] for trial in results["trials"])
    assert page.locator("#values .scale").inner_text().split("\n") == [f"{best:.2f}°", f"{worst:.2f}° or worse"]
    (dots,) = traces(page, "#slices figure:nth-child(3)")
    assert dots["color"] == [0, 1]


def test_choices_have_means_over_seeds(grid: Any) -> None:
    page, results = grid
    dots, means = traces(page, "#categories figure:nth-child(1)")
    assert len(dots["x"]) == 75
    for prior, mean, sd in zip(swept.PRIORS, means["x"], means["array"], strict=True):
        of = [t["best"] for t in results["trials"] if t["sample"][swept.PRIOR] == prior and t["state"] == "finished"]
        assert (mean, sd) == pytest.approx((np.mean(of), np.std(of, ddof=1)))
    table = page.locator("#crossed tbody tr").evaluate_all("all => all.map(r => [...r.cells].map(c => c.innerText))")
    for order, row in zip(swept.CBAM, table, strict=True):
        assert row[0] == order
        for prior, shown in zip(swept.PRIORS, row[1:], strict=True):
            of = [
                trial["best"]
                for trial in results["trials"]
                if trial["state"] == "finished"
                and trial["sample"][swept.PRIOR] == prior
                and trial["sample"][swept.ORDER] == order
            ]
            assert shown.startswith(f"{np.mean(of):.2f} ± {np.std(of, ddof=1):.2f}°")
            assert f"{len(of)} trials" in shown


def test_it_downloads_the_best_and_all(weights: Any) -> None:
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
    assert rows[7]["reason"] == '\'=cmd("x"), and\nmore'  # an apostrophe keeps a spreadsheet from running it
    assert rows[8]["reason"] == "'-1+1"
    assert rows[7]["epochs"] == "0"


def test_strangers_text_stays_text(open_sweep: Open) -> None:
    results = swept.variants()
    space = results["sweep"]["space"]
    relabelled = dict(zip(swept.PRIORS, [*HOSTILE, "--model <b>"], strict=True))
    space[swept.PRIOR]["values"] = list(relabelled.values())
    for trial in results["trials"]:
        trial["sample"][swept.PRIOR] = relabelled[trial["sample"][swept.PRIOR]]
        trial["changes"]["prior.kind"] = HOSTILE[0]
    results["trials"][0] |= {"state": "failed", "reason": HOSTILE[2]}
    results["sweep"] |= {"clips": list(HOSTILE), "name": HOSTILE[2], "run": HOSTILE[1]}
    results["importance"]["warning"] = HOSTILE[1]
    opened = open_sweep(results)
    page = opened.page
    page.locator("#trial-table input").first.check()
    page.evaluate(DRAW_ALL)
    text = page.locator("body").inner_text()
    assert all(hostile in text for hostile in HOSTILE)
    assert page.locator("h1").inner_text() == HOSTILE[2]
    assert "--model <b>" in page.locator("#categories").text_content()
    assert page.locator("#clips li").all_inner_texts() == list(HOSTILE)
    page.locator("#chart-parallel").scroll_into_view_if_needed()
    point = page.locator("#chart-parallel .nsewdrag").bounding_box()
    for share in (0.2, 0.4, 0.5, 0.6):  # what is told where the pointer is
        page.mouse.move(point["x"] + share * point["width"], point["y"] + 0.5 * point["height"])
        page.wait_for_timeout(50)
    with page.expect_download() as found:
        page.locator("#download-trials").click()
    assert found.value.suggested_filename.endswith("-trials.csv")
    assert opened.said == []
    assert opened.network() == []
    assert page.evaluate("window.pwned") is None
    assert page.locator("script").count() == 4  # results, the charts' base, plotly and the page's own
    assert page.locator("main b", has_text="bold").count() == 0


def test_it_reaches_no_other_host(weights: Any) -> None:
    page, _ = weights
    script = """() => new Promise((done) => {
      document.addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
      fetch("http://127.0.0.1:9/x").then(() => done("reached"), () => setTimeout(done, 2000, "not refused"));
    })"""
    assert page.evaluate(script) == "connect-src"


class _Handler(http.server.SimpleHTTPRequestHandler):
    statuses: list[tuple[str, int]] = []  # noqa: RUF012

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        self.statuses.append((self.path, int(code)))

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address of a folder's web server on loopback."""
    _Handler.statuses.clear()
    handler = functools.partial(_Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/{PAGE}"
        server.shutdown()
        thread.join()


def test_it_follows_a_sweep_and_keeps_the_readers_place(browser: Any, served: str, tmp_path: Path) -> None:
    results = swept.loss_weights(30, running=True)
    later = copy.deepcopy(results)
    later["trials"].append(copy.deepcopy(later["trials"][2]) | {"number": 30, "best": 12.34, "best_epoch": 3})
    later["trials"][29]["state"] = "failed"
    later["trials"][29]["reason"] = "killed while one looked"
    later["counts"] |= {"running": 0, "failed": 2}
    later |= {"best": 30, "updated": results["updated"] + 20, "state": "finished"}
    write_sweep(str(tmp_path), results)
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(served)
    header(page, "sample loss.lambda1").click()
    page.locator("#filter").fill("0.")
    page.get_by_label("Compare trial 2", exact=True).check()
    page.get_by_label("Compare trial 4", exact=True).focus()
    before = page.evaluate(NUMBERS)
    page.wait_for_timeout(800)  # it scrolls smoothly
    scrolled = page.evaluate("scrollY")
    assert scrolled > 300
    page.evaluate(COME_BACK)
    page.wait_for_timeout(300)
    assert page.evaluate(NUMBERS) == before
    assert (f"/{RESULTS}", 304) in _Handler.statuses or (f"/{RESULTS}", 200) in _Handler.statuses
    page.evaluate(COME_BACK)
    page.wait_for_timeout(300)
    assert (f"/{RESULTS}", 304) in _Handler.statuses  # nothing new, nothing sent
    (tmp_path / RESULTS).unlink()
    page.evaluate(COME_BACK)
    _wait(page, "document.getElementById('renewed').innerText.includes('tries again')")
    assert [text for text in said if "404" not in text] == []
    write_sweep(str(tmp_path), later)
    _touch(tmp_path / RESULTS)
    page.evaluate(COME_BACK)
    _wait(page, "document.getElementById('best-told').innerText.startsWith('Trial 30 is the best: ')")
    assert "renews itself" in page.locator("#renewed").inner_text()
    assert "killed while one looked" in page.locator("#trial-table").text_content()
    numbers = page.evaluate(NUMBERS)
    assert 30 in numbers
    assert [number for number in numbers if number != 30] == before
    values = [later["trials"][number]["sample"]["loss.lambda1"] for number in numbers]
    assert values == sorted(values)
    assert page.locator("#filter").input_value() == "0."
    assert page.get_by_label("Compare trial 2", exact=True).is_checked()
    assert page.locator("#comparison-table thead th").count() == 2
    assert page.evaluate("document.activeElement.ariaLabel") == "Compare trial 4"
    assert abs(page.evaluate("scrollY") - scrolled) < 150
    assert [text for text in said if "404" not in text] == []
    page.close()


def test_it_is_followed_below_the_token_of_its_server(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the printed address by a click to a page that renews itself; without the token the browser sees nothing."""
    monkeypatch.setattr(dashboard, "FILE_SECONDS", 0.0)
    results = swept.loss_weights(4, running=True)
    for name in ("one", "two"):
        folder = storage.join(str(tmp_path), "sweeps", name)
        storage.write_json(storage.join(folder, "sweep.json"), {"name": name})
        write_sweep(folder, results)
    with dashboard.start(str(tmp_path), port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        page = browser.new_page()
        try:
            answers: list[tuple[str, int]] = []
            page.on("response", lambda response: answers.append((response.url, response.status)))
            page.goto(server.address)
            page.get_by_role("link", name="two").click()
            page.wait_for_url(f"{server.address}two/")
            later = results | {"updated": results["updated"] + 20, "state": "finished"}
            later["trials"][2] |= {"state": "finished", "best": 12.34, "best_epoch": 3}
            write_sweep(folder, later | {"best": 2})
            page.evaluate(COME_BACK)
            _wait(page, "document.getElementById('best-told').innerText.startsWith('Trial 2 is the best: ')")
            assert (f"{server.address}two/{RESULTS}", 200) in answers
            assert [url for url, _ in answers if not url.startswith(server.address)] == []
            assert page.evaluate("document.referrer") == ""
            stranger = f"http://127.0.0.1:{server.port}/"
            for address in (stranger, f"{stranger}two/", f"{stranger}guessed/two/"):
                assert page.goto(address).status == 403
                text = page.locator("body").inner_text()
                assert "the whole one that `arspm dashboard` printed" in text
                assert server.root not in page.content()
        finally:
            page.close()
            server.shutdown()
            thread.join()


def _wait(page: Any, expression: str) -> None:
    for _ in range(200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"never true: {expression}")


def _touch(path: Path) -> None:
    """Two seconds newer: a server tells times to the second."""
    stat = path.stat()
    os.utime(path, (stat.st_atime + 2, stat.st_mtime + 2))


def test_a_thousand_trials_stay_quick(open_sweep: Open) -> None:
    results = swept.loss_weights(1000, 30)
    opened = open_sweep(results)
    page = opened.page
    assert page.locator("#trial-table tbody tr").count() == 100
    took = """(act) => {
      const times = [];
      for (let k = 0; k < 5; k++) {
        const begun = performance.now();
        act(k);
        document.body.offsetHeight; // laid out anew
        times.push(performance.now() - begun);
      }
      return Math.min(...times);
    }"""
    sort = f"({took})(() => document.querySelector('[data-column=seconds] button').click())"
    words = """(k) => {
      const box = document.getElementById("filter");
      box.value = ["0.1", "stopped", "1 2", "finished", ""][k];
      box.dispatchEvent(new Event("input"));
    }"""
    assert page.evaluate(sort) < 200
    assert page.evaluate(f"({took})({words})") < 200
    page.locator("#show-more").click()
    assert page.locator("#trial-table tbody tr").count() == 200
    page.locator("#filter").fill("trial 777")
    found = page.evaluate(NUMBERS)
    assert 777 in found
    assert len(found) < 100
    page.evaluate(DRAW_ALL)
    assert opened.said == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_a_sweep_that_has_just_begun_reads_well(open_sweep: Open) -> None:
    opened = open_sweep(swept.empty(), 390)
    assert opened.said == []
    text = opened.page.locator("body").inner_text()
    for sentence in (
        "No trial has a figure yet.",
        "No trial has begun.",
        "No trial is chosen",
        "No trial has learnt for an epoch yet.",
        "not known before a trial has ended",
        "importance of the dimensions is not known",
        "No trial has drawn portraits yet.",
    ):
        assert sentence in text
    assert opened.page.locator("#download-best").is_disabled()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_metric_that_is_better_when_higher(open_sweep: Open) -> None:
    results = swept.loss_weights()
    results["sweep"] |= {"metric": "val_accuracy", "mode": "max"}
    for trial in results["trials"]:
        for epoch in trial["epochs"]:
            epoch["val_accuracy"] = 1 - epoch[swept.METRIC] / 90
        best = max(trial["epochs"], key=lambda epoch: epoch["val_accuracy"])
        trial |= {"best": best["val_accuracy"], "best_epoch": best["epoch"]}
    order = sorted(results["trials"], key=lambda trial: -trial["best"])
    paper = results["trials"][0]["best"]
    results |= {"best": order[0]["number"], "paper": {"numbers": [0], "mean": paper, "sd": None}}
    page = open_sweep(results).page
    assert page.evaluate(NUMBERS) == [trial["number"] for trial in order]
    assert f"val accuracy {order[0]['best']:.4f}" in page.locator("#best-told").inner_text()
    assert "better" in page.locator("#paper-told").inner_text()
    assert "higher is better" in page.locator("#learning").inner_text()


def test_files_hold_the_results(tmp_path: Path) -> None:
    results = swept.loss_weights(4)
    results["trials"][1]["epochs"][0]["train_loss"] = float("nan")
    results["trials"][1]["reason"] = "</script><!-- \u2028 '"
    write_sweep(str(tmp_path), results)
    kept = storage.read_json(str(tmp_path / RESULTS))
    assert kept["trials"][1]["epochs"][0]["train_loss"] is None
    assert list(kept["sweep"]["space"]) == list(results["sweep"]["space"])
    text = (tmp_path / PAGE).read_text()
    assert text == render(results)
    assert text.split('id="results">')[1].split("</script>")[0].count("<") == 0
    assert "connect-src 'self'" in text

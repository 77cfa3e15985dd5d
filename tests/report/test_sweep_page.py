"""Content and charts of a sweep's page in a real browser."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arspm import storage
from arspm.report import sweep_page
from arspm.report.sweep_page import PAGE, RESULTS, render
from tests.report import swept
from tests.report.conftest import CONTRAST, HOSTILE
from tests.report.sweep_browser import DRAW_ALL, NUMBERS, Open, traces


def rounded(value: float) -> float:
    """Return a value as the learning curves have it."""
    return float(f"{value:.6g}")


SECTIONS = [
    *("progress", "best", "trials", "trial", "comparison", "history", "timeline", "learning", "groups", "together"),
    *("importance", "values", "contour", "distribution", "sweeps", "portraits"),
]


@pytest.mark.parametrize(
    ("kind", "width", "scheme"),
    [
        ("loss_weights", 1280, "light"),
        ("loss_weights", 390, "dark"),
        pytest.param("variants", 1280, "dark", marks=pytest.mark.slow),
        pytest.param("variants", 390, "light", marks=pytest.mark.slow),
    ],
)
def test_the_page_is_self_contained_and_draws_all_charts(open_sweep: Open, kind: str, width: int, scheme: str) -> None:
    results = swept.loss_weights(running=True) if kind == "loss_weights" else swept.variants()
    opened = open_sweep(results, width, scheme)
    page = opened.page
    page.locator("#trial-table input").first.check()
    page.evaluate(DRAW_ALL)
    assert opened.messages == []
    assert opened.network() == []
    assert page.eval_on_selector_all("main > section", "all => all.map(e => e.id)") == SECTIONS
    assert page.eval_on_selector_all("nav a", "all => all.map(e => e.hash.slice(1))") == SECTIONS
    num_charts = 7 + (7 if kind == "loss_weights" else 3)  # a contour plot, or groups
    drawn = page.eval_on_selector_all(
        ".chart-container [role=img]", "all => all.map(e => !!e.querySelector('.main-svg') && !!e.ariaLabel)"
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


def test_the_page_shows_progress_and_the_best_trial(weights: Any) -> None:
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
    widths = bar.locator("span").evaluate_all("all => all.map(e => e.getBoundingClientRect().width)")
    assert widths[0] / widths[-1] == pytest.approx(results["counts"]["finished"], rel=0.1)  # one is running
    facts = page.locator("#spent").inner_text()
    assert "1 min 35 s" in facts
    assert f"{results['cpu_hours']:.2f} h" in facts
    best = min((trial for trial in results["trials"] if trial["best"]), key=lambda trial: trial["best"])
    text = page.locator("#best").inner_text()
    assert f"Trial {best['number']} is the best so far: validation angle {best['best']:.2f}°" in text
    assert f" at epoch {best['best_epoch']}." in text
    paper = results["trials"][0]["best"]
    assert (
        f"The paper’s values gave {paper:.2f}° (trial 0); the best trial is {paper - best['best']:.2f}° better." in text
    )
    cells = page.locator("#space tbody tr").first.locator("td").all_inner_texts()
    assert float(cells[1]) == pytest.approx(best["sample"]["loss.lambda1"], rel=1e-3)
    assert cells[2] == "1"


def test_the_best_trial_is_compared_with_the_papers_values(grid: Any, open_sweep: Open) -> None:
    page, results = grid
    papers = [trial["best"] for trial in results["trials"] if trial["is_paper"]]
    text = page.locator("#paper-summary").inner_text()
    assert f"{np.mean(papers):.2f} ± {np.std(papers, ddof=1):.2f}° (3 trials" in text
    without = results | {"paper": {"numbers": [], "mean": None, "sd": None}}
    text = open_sweep(without).page.locator("#paper-summary").inner_text()
    assert "No trial has the paper’s values" in text


def test_the_trial_with_the_papers_values_may_have_been_stopped_early(weights: Any, open_sweep: Open) -> None:
    _, sweep = weights
    first = sweep["trials"][0]
    stopped = first | {"state": "stopped", "epochs": first["epochs"][:2], "best": 31.25}
    results = sweep | {"trials": [stopped, *sweep["trials"][1:]], "paper": {"numbers": [], "mean": None, "sd": None}}
    text = open_sweep(results).page.locator("#paper-summary").inner_text()
    assert text.startswith("The trial with the paper’s values (trial 0) was stopped early, at 31.25° after 2 epochs, ")


def test_trials_stopped_early_end_in_a_cross(weights: Any) -> None:
    page, results = weights
    drawn = traces(page, "#chart-learning")
    stopped = [trial for trial in results["trials"] if trial["state"] == "stopped"]
    assert len(stopped) > 3
    crosses = next(each for each in drawn if each["name"] == "stopped early" and each["mode"] == "markers")
    assert list(zip(crosses["x"], crosses["y"], strict=True)) == [
        (swept.RUNG, rounded(trial["epochs"][-1][swept.METRIC])) for trial in stopped
    ]
    assert all(
        f"Trial {trial['number']}, stopped" == text for trial, text in zip(stopped, crosses["hover"], strict=True)
    )
    lines = [each for each in drawn if each["mode"] == "lines"]
    assert sum(line["x"].count(None) for line in lines) == 29  # one line per trial with an epoch
    assert lines[-1]["name"] == f"the best, trial {results['best']}"
    assert len(drawn) < 12  # whatever the number of trials
    visible = page.locator("#chart-learning .scatterlayer .point").count()
    assert visible >= len(stopped)


def test_charts_show_the_sampled_values(weights: Any) -> None:
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


def test_categorical_dimensions_have_means_over_seeds(grid: Any) -> None:
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


def test_untrusted_text_is_not_interpreted_as_html(open_sweep: Open) -> None:
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
    for fraction in (0.2, 0.4, 0.5, 0.6):  # shows hover texts
        page.mouse.move(point["x"] + fraction * point["width"], point["y"] + 0.5 * point["height"])
        page.wait_for_timeout(50)
    with page.expect_download() as found:
        page.locator("#download-trials").click()
    assert found.value.suggested_filename.endswith("-trials.csv")
    assert opened.messages == []
    assert opened.network() == []
    assert page.evaluate("window.pwned") is None
    assert page.locator("script").count() == 6  # results, curves, pictures, base layout, Plotly and our script
    assert page.locator("main b", has_text="bold").count() == 0


def test_the_policy_blocks_requests_to_other_hosts(weights: Any) -> None:
    page, _ = weights
    script = """() => new Promise((done) => {
      document.addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
      fetch("http://127.0.0.1:9/x").then(() => done("reached"), () => setTimeout(done, 2000, "not refused"));
    })"""
    assert page.evaluate(script) == "connect-src"


def test_a_sweep_that_has_just_started_has_placeholder_texts(open_sweep: Open) -> None:
    opened = open_sweep(swept.empty(), 390)
    assert opened.messages == []
    text = opened.page.locator("body").inner_text()
    for sentence in (
        "No trial has a result yet.",
        "No trial has started.",
        "No trial is selected",
        "No trial has finished an epoch yet.",
        "unknown until a trial has ended",
        "Parameter importance is unknown",
        "No portraits yet.",
    ):
        assert sentence in text
    assert opened.page.locator("#download-best").is_disabled()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_sweep_that_stopped_early_says_why(open_sweep: Open) -> None:
    results = swept.loss_weights(12)
    results |= {"state": "stopped", "reason": "reached the target 31.5 with trial 7"}
    results["sweep"] |= {"target": 31.5}
    opened = open_sweep(results)
    assert opened.page.locator("#stopped").inner_text() == "Stopped: reached the target 31.5 with trial 7"
    assert "until the val_cos_degrees reaches 31.5" in opened.page.locator("header").inner_text()
    assert "when the sweep had stopped" in opened.page.locator("#last-update").inner_text()
    assert "stopped before the last trial" in opened.page.locator("#spent").inner_text()
    traces(opened.page, "#chart-learning")
    line = opened.page.locator("#chart-learning .chart").evaluate("e => [e.layout.shapes[0].y0, e.layout.shapes[0].y1]")
    assert line == [31.5, 31.5]
    assert opened.messages == []


def test_a_metric_to_maximise(open_sweep: Open) -> None:
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
    assert f"val accuracy {order[0]['best']:.4f}" in page.locator("#best-summary").inner_text()
    assert "better" in page.locator("#paper-summary").inner_text()
    assert "higher is better" in page.locator("#learning").inner_text()


def test_the_files_contain_the_results(tmp_path: Path) -> None:
    results = swept.loss_weights(4)
    results["trials"][1]["epochs"][0]["train_loss"] = float("nan")
    results["trials"][1]["reason"] = "</script><!-- \u2028 '"
    swept.write(str(tmp_path), results)
    kept = storage.read_json(str(tmp_path / RESULTS))
    assert kept["trials"][1]["reason"] == results["trials"][1]["reason"]
    assert list(kept["sweep"]["space"]) == list(results["sweep"]["space"])
    text = (tmp_path / PAGE).read_text()
    assert text == render(*swept.written(results), sweep_page._embedded(str(tmp_path), results["pictures"]))
    assert text.split('id="results">')[1].split("</script>")[0].count("<") == 0
    assert "connect-src 'self'" in text

"""Charts of a sweep as a whole, in a real browser: history, timeline, contour plot, empirical distribution, groups."""

import math
from typing import Any

import numpy as np
import pytest

from tests.report import swept
from tests.report.sweep_browser import Open, traces


def usable(results: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for each in results["trials"] if each["best"] is not None and each["state"] != "failed"]


def test_the_history_has_every_trial_and_the_best_so_far(weights: Any) -> None:
    page, results = weights
    dots, line = traces(page, "#history")
    trials = usable(results)
    assert dots["x"] == line["x"] == [trial["number"] for trial in trials]
    assert dots["y"] == [trial["best"] for trial in trials]
    assert line["y"] == list(np.minimum.accumulate(dots["y"]))
    page.locator("#historyBy").select_option("time")
    page.wait_for_timeout(50)
    dots, line = traces(page, "#history")
    start = min(trial["started"] for trial in results["trials"])

    def end(trial: dict[str, Any]) -> float:
        return float(results["updated"] if trial["state"] == "running" else trial["ended"])

    ordered = sorted(trials, key=end)
    assert dots["x"] == pytest.approx([(end(trial) - start) / 60 for trial in ordered], abs=0.01)
    assert line["y"] == list(np.minimum.accumulate([trial["best"] for trial in ordered]))
    assert page.locator("#history .chart").evaluate("e => e.layout.xaxis.title.text").endswith("minutes")
    page.locator("#historyBy").select_option("number")


def test_the_best_so_far_of_a_metric_to_maximise_rises(open_sweep: Open) -> None:
    results = swept.loss_weights()
    results["sweep"] |= {"mode": "max"}
    page = open_sweep(results).page
    dots, line = traces(page, "#history")
    assert line["y"] == list(np.maximum.accumulate(dots["y"]))


def test_the_timeline_has_start_end_and_state_of_each_trial(weights: Any) -> None:
    page, results = weights
    drawn = {trace["name"]: trace for trace in traces(page, "#timeline")}
    assert set(drawn) == {"running", "finished", "stopped early", "failed"}
    start = min(trial["started"] for trial in results["trials"])
    for state, name in (("finished", "finished"), ("stopped", "stopped early"), ("failed", "failed")):
        of = [trial for trial in results["trials"] if trial["state"] == state]
        x = drawn[name]["x"]
        assert x[0::3] == pytest.approx([(trial["started"] - start) / 60 for trial in of], abs=0.01)
        assert x[1::3] == pytest.approx([(trial["ended"] - start) / 60 for trial in of], abs=0.01)
        assert drawn[name]["y"][0::3] == [trial["number"] for trial in of]
    [last] = [trial for trial in results["trials"] if trial["state"] == "running"]
    assert drawn["running"]["x"][1] == pytest.approx(
        (results["updated"] - last["started"] + last["started"] - start) / 60
    )


def test_trials_without_times_or_results_break_no_chart(open_sweep: Open) -> None:
    results = swept.loss_weights(6)
    for trial in results["trials"]:
        trial |= {"started": None, "ended": None}
    results["trials"][1] |= {"state": "interrupted", "best": None, "best_epoch": None, "epochs": []}
    opened = open_sweep(results)
    opened.page.locator("#historyBy").select_option("time")
    traces(opened.page, "#chart-learning")
    assert "No trial has started yet." in opened.page.locator("#timeline").inner_text()
    assert opened.messages == []


def test_the_distribution_is_that_of_the_values(weights: Any) -> None:
    page, results = weights
    everything, finished = traces(page, "#distribution")
    for trace, trials in (
        (everything, usable(results)),
        (finished, [trial for trial in results["trials"] if trial["state"] == "finished"]),
    ):
        values = sorted(trial["best"] for trial in trials)
        assert trace["x"] == [values[0], *values]
        assert trace["y"] == pytest.approx([0, *np.arange(1, len(values) + 1) / len(values)])


def test_the_contour_plot_shows_the_two_most_important_dimensions_or_the_chosen_ones(weights: Any) -> None:
    page, results = weights
    assert [page.locator(f"#contour-{axis}").input_value() for axis in "xy"] == ["loss.lambda1", "loss.lambda2"]
    surface, dots = traces(page, "#contour")
    trials = sorted(usable(results), key=lambda trial: trial["best"])
    assert dots["x"] == [trial["sample"]["loss.lambda1"] for trial in trials]
    assert dots["y"] == [trial["sample"]["loss.lambda2"] for trial in trials]
    space = results["sweep"]["space"]
    assert (surface["x"][0], surface["x"][-1]) == pytest.approx(
        (space["loss.lambda1"]["low"], space["loss.lambda1"]["high"])
    )
    grid = page.locator("#contour .chart").evaluate("e => e.data[0].z")
    known = [value for row in grid for value in row if value is not None]
    assert 0 <= min(known) < 0.3 < 0.7 < max(known) <= 1
    assert any(value is None for row in grid for value in row)  # where no trial is near

    def position(trial: dict[str, Any], name: str) -> float:
        domain = space[name]
        return math.log(trial["sample"][name] / domain["low"]) / math.log(domain["high"] / domain["low"])

    row, column = 20, 20
    weight = np.array(
        [
            math.exp(
                -((position(t, "loss.lambda1") - 20 / 39) ** 2 + (position(t, "loss.lambda2") - 20 / 39) ** 2)
                / (2 * 0.08**2)
            )
            for t in trials
        ]
    )
    expected = float(weight @ [trial["best"] for trial in trials] / weight.sum())
    text = page.locator("#contour .chart").evaluate(f"e => e.data[0].text[{row}][{column}]")
    assert text == f"about {expected:.2f}°"
    page.locator("#contour-x").select_option("loss.lambda3")
    _, dots = traces(page, "#contour")
    assert dots["x"] == [trial["sample"]["loss.lambda3"] for trial in trials]
    page.locator("#contour-x").select_option("loss.lambda1")


def test_groups_are_means_over_the_seeds_with_their_spread(grid: Any) -> None:
    page, results = grid
    assert page.locator("#group-by").input_value() == "seed"
    names = page.locator("#group-table tbody tr").evaluate_all(
        "all => all.map(r => [...r.cells].map(c => c.innerText))"
    )
    assert len(names) == 25
    means = []
    for name, num_trials, num_finished, mean_sd, best, _ in names:
        prior, order = name.removeprefix("kind + fusion ").split(", cbam ")
        of = [t for t in results["trials"] if (t["sample"][swept.PRIOR], t["sample"][swept.ORDER]) == (prior, order)]
        finished = [trial["best"] for trial in of if trial["state"] == "finished"]
        assert (int(num_trials), int(num_finished)) == (len(of), len(finished)) == (3, len(finished))
        means.append(np.mean(finished))
        assert mean_sd == f"{np.mean(finished):.2f} ± {np.std(finished, ddof=1):.2f}°"
        assert best == f"{min(trial['best'] for trial in of):.2f}°"
    assert means == sorted(means)
    lines = [trace for trace in traces(page, "#groups") if trace["hover"]]
    assert len(lines) == 6  # as many as there are colours
    prior, order = lines[0]["name"].removeprefix("kind + fusion ").split(", cbam ")
    of = [t for t in results["trials"] if (t["sample"][swept.PRIOR], t["sample"][swept.ORDER]) == (prior, order)]
    curves = [[float(f"{epoch[swept.METRIC]:.6g}") for epoch in t["epochs"]] for t in of if t["state"] == "finished"]
    assert lines[0]["y"] == pytest.approx(np.mean(curves, axis=0))
    page.locator("#group-by").select_option(swept.PRIOR)
    assert page.locator("#group-table tbody tr").count() == 5
    assert sorted(page.locator("#group-table tbody th").all_inner_texts()) == sorted(swept.PRIORS)
    page.locator("#group-by").select_option("seed")


def test_without_choices_there_are_no_groups(weights: Any) -> None:
    page, _ = weights
    assert page.locator("#groups").is_hidden()
    assert page.locator("#groups-link").is_hidden()


def test_learning_curves_have_log_axes_smoothing_and_the_best_only(weights: Any) -> None:
    page, results = weights
    page.locator("#smoothing").select_option("0.5")
    page.locator("#top").select_option("1")
    page.locator("#logEpochs").check()
    page.locator("#logMetric").check()
    drawn = traces(page, "#chart-learning")
    best = results["trials"][results["best"]]
    [curve] = [trace for trace in drawn if trace["mode"] == "lines"]
    assert curve["name"] == f"the best, trial {best['number']}"
    mean, total, smoothed = 0.0, 0.0, []
    for epoch in best["epochs"]:
        mean, total = mean / 2 + epoch[swept.METRIC] / 2, total / 2 + 0.5
        smoothed.append(mean / total)
    assert curve["y"][:-1] == pytest.approx(smoothed, rel=1e-5)
    axes = page.locator("#chart-learning .chart").evaluate("e => [e.layout.xaxis.type, e.layout.yaxis.type]")
    assert axes == ["log", "log"]
    for name, value in (("smoothing", "0"), ("top", "0")):
        page.locator(f"#{name}").select_option(value)
    page.locator("#logEpochs").uncheck()
    page.locator("#logMetric").uncheck()
    traces(page, "#chart-learning")
    assert page.locator("#chart-learning .chart").evaluate("e => e.layout.xaxis.type") == "linear"

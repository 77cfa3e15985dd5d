"""Charts are valid for Plotly, use colours of the style sheet, and show the right numbers."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from arspm.config.presets import preset
from arspm.corpus import schema
from arspm.model import speech_portrait
from arspm.report import charts, curves, gather, run_page
from arspm.training import tasks
from arspm.training.prior import MEAN_FACES

DATA_PAGE = Path(__file__).parents[2] / "docs" / "data.md"
STYLE = Path(run_page.__file__).with_name("page.css").read_text()


def _painted(value: Any, used: set[str]) -> Any:
    """Return the chart with each colour variable replaced by a colour, as the page's script does."""
    if isinstance(value, str) and value.startswith("--"):
        used.add(value)
        return "#123456"
    if isinstance(value, dict):
        return {name: _painted(item, used) for name, item in value.items()}
    return [_painted(item, used) for item in value] if isinstance(value, list) else value


def test_every_attribute_is_valid_and_every_colour_defined(make_run: Callable[..., Any]) -> None:
    run = make_run()
    metrics = gather.gather(run.config, run.uri)
    specifications = [charts.angle_chart(metrics["table4"], key) for key in ("cos_degrees", "portrait_cos_degrees")]
    specifications += [charts.loss_chart(stage, history) for stage, history in run.histories.items()]
    specifications.append(charts.convergence_chart(metrics["prior"]["priors"]))
    specifications.append(charts.probe_chart(metrics["probes"], {"real": "--neutral", "neutral+fc": "--model"}))
    many = [{"variant": f"variant {number}", "seed": 0, "points": [[1, 2.0], [2, 1.0]]} for number in range(15)]
    specifications.append(curves.curve_chart([*many, {**many[0], "variant": "neutral+fc"}], "loss", logarithmic=True))
    used: set[str] = set()
    for chart in specifications:
        go.Figure(_painted(chart, used))  # raises for unknown attributes
    light, dark = STYLE.split("prefers-color-scheme: dark", 1)
    for name in used:
        assert re.search(rf"{name}: #", light), f"{name} has no light colour"
        assert re.search(rf"{name}: #", dark), f"{name} has no dark colour"


def test_an_angle_chart_shows_the_values_and_intervals(make_row: Callable[..., Any]) -> None:
    table = [make_row("neutral", {"cos_degrees": 30.0}), make_row("face-to-face", {"portrait_cos_degrees": 7.0})]
    table[0]["cos_degrees_interval"] = [28.0, 33.0]
    chart = charts.angle_chart(table, "cos_degrees")
    assert chart is not None
    (dot,) = chart["data"]
    assert (dot["x"], dot["error_x"]["arrayminus"], dot["error_x"]["array"]) == ([30.0], [2.0], [3.0])
    assert chart["layout"]["xaxis"]["range"][1] > 33.0
    assert [note["y"] for note in chart["layout"]["annotations"]] == ["face-to-face"]  # has no such value
    table[0]["cos_degrees_interval"] = None
    without = charts.angle_chart(table, "cos_degrees")
    assert without is not None
    assert without["data"][0]["error_x"]["visible"] is False
    assert charts.angle_chart(table[1:], "cos_degrees") is None


def test_names_in_charts_are_escaped(make_row: Callable[..., Any]) -> None:
    chart = charts.angle_chart([make_row("<b>x</b>", {"cos_degrees": 30.0})], "cos_degrees")
    assert chart is not None
    assert chart["data"][0]["y"] == ["&lt;b&gt;x&lt;/b&gt;"]


def test_a_loss_chart_marks_the_best_epoch(make_run: Callable[..., Any]) -> None:
    history = make_run().histories["encoder"]
    chart = charts.loss_chart("encoder", history)
    assert chart is not None
    losses, scores, best = chart["data"]
    assert (losses["x"][0], losses["y"][0]) == (1, 3.0)
    assert scores["y"] == [61.0, 36.5, 37.0]
    assert (best["x"], best["y"]) == ([20], [36.5])
    for epoch in history["epochs"]:
        del epoch["val_cos_degrees"]
    unscored = charts.loss_chart("encoder", history)
    assert unscored is not None
    assert len(unscored["data"]) == 1
    assert charts.loss_chart("encoder", {"losses": [], "epochs": [], "best_epoch": None}) is None


def test_a_probe_chart_shows_values_intervals_and_the_chance_level() -> None:
    rows = [
        {"cause": "sex", "real": 0.9, "real_interval": [0.8, 0.95], "<m>": 0.7, "<m>_interval": None},
        {"cause": "body_size", "real": None, "real_interval": None, "<m>": 0.4, "<m>_interval": [0.1, 0.6]},
    ]
    chart = charts.probe_chart(rows, {"real": "--face", "<m>": "--model"})
    assert chart is not None
    real, model = chart["data"]
    assert (real["x"], model["x"]) == ([0.9], [0.7, 0.4])
    assert real["error_x"]["array"] == pytest.approx([0.05])
    assert model["error_x"]["arrayminus"] == pytest.approx([0.0, 0.3])
    assert model["name"] == "&lt;m&gt;"
    assert real["y"][0] > model["y"][0] > 0.5 > model["y"][1]  # one row per cause, from the top
    assert chart["layout"]["yaxis"]["ticktext"] == ["sex", "body size"]
    assert [(shape["x0"], shape["x1"]) for shape in chart["layout"]["shapes"]] == [(0.5, 0.5)]
    assert chart["layout"]["xaxis"]["range"][0] <= 0.1  # no interval is cut off
    assert charts.probe_chart([], {"real": "--face"}) is None


def test_a_curve_chart_shows_the_papers_pair_first() -> None:
    points = [[1, 50.0], [2, 40.0]]
    models = [("neutral", 0), ("neutral+fc", 0), ("non-prior", 0), ("neutral+fc", 1), ("empty", 0)]
    chart = curves.curve_chart(
        [{"variant": name, "seed": seed, "points": [] if name == "empty" else points} for name, seed in models], "angle"
    )
    assert chart is not None
    shown = [(line["name"], line["visible"], line["showlegend"]) for line in chart["data"]]
    assert shown == [
        ("non-prior", True, True),
        ("neutral+fc", True, True),
        ("neutral+fc", True, False),  # second seed: same colour, a single legend entry
        ("neutral", "legendonly", True),
    ]
    assert (chart["data"][0]["x"], chart["data"][0]["y"]) == ([1, 2], [50.0, 40.0])
    assert chart["data"][1]["line"] == chart["data"][2]["line"] != chart["data"][0]["line"]
    alone = curves.curve_chart([{"variant": "gender", "seed": 0, "points": points}], "angle")
    assert alone is not None
    assert alone["data"][0]["visible"] is True
    assert curves.curve_chart([], "angle") is None


def test_the_objectives_agree_with_training() -> None:
    config = preset("smoke")
    network = speech_portrait.vggface(config, 4)
    assert tasks.gender_task(config).objective == gather.OBJECTIVES["gender"]
    assert tasks.vggface_task(config, 4, True).objective == gather.OBJECTIVES["vggface"]
    assert tasks.decoder_task(config, network).objective == gather.OBJECTIVES["decoder"]
    prior = speech_portrait.FacePrior("none", {}, None)
    decoder = speech_portrait.face_decoder(config)
    assert tasks.encoder_task(config, prior, decoder.fc1, network.fc8).objective == gather.OBJECTIVES["encoder"]


@pytest.mark.parametrize("reason", schema.DropReason, ids=lambda reason: reason.value)
def test_every_drop_reason_has_an_explanation(reason: schema.DropReason) -> None:
    assert reason.description
    assert re.search(rf"(?m)^\|[^|]*`{reason.value}`[^|]*\|", DATA_PAGE.read_text()), f"no row in {DATA_PAGE.name}"


def test_every_prior_has_a_line_in_the_chart() -> None:
    assert list(charts.PRIORS) == list(MEAN_FACES)

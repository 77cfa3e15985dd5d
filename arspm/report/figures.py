"""The page's charts as plotly specifications, plain JSON.

Colours are names of the style sheet's variables ("--model"); `SCRIPT` puts in what they stand for when it draws, and
again when the reader's device turns dark or light. So a chart says what it shows and the style sheet how it looks.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from arspm.report import words
from arspm.report.gather import OBJECTIVES

Chart = dict[str, Any]  # {"data": [...], "layout": {...}}

COLOURS = {
    "prior-only": "--neutral",
    "gender-prior-only": "--gender",
    "shuffled-speech": "--shuffled",
    "face-to-face": "--face",
    "oracle": "--oracle",
}
PRIORS = {"neutral": "--neutral", "female": "--female", "male": "--male"}

OBJECTIVE_WORDS = {
    "val_accuracy": "validation accuracy",
    "val_loss": "validation loss",
    "val_cos_degrees": "validation angle, degrees",
}

SCRIPT = """
"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const painted = (value, style) => {
    if (typeof value === "string") return value.startsWith("--") ? style.getPropertyValue(value).trim() : value;
    if (Array.isArray(value)) return value.map((item) => painted(item, style));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, painted(item, style)]));
  };
  const draw = () => {
    const style = getComputedStyle(document.documentElement);
    for (const [id, figure] of Object.entries(figures)) {
      const { data, layout } = painted(figure, style);
      Plotly.react(id, data, layout, { displayModeBar: false, responsive: true });
    }
  };
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
"""


def angle_chart(table4: Sequence[Mapping[str, Any]], key: str) -> Chart | None:
    """A dot and its 95 % interval for each row that has the figure; nearer to 0 is better."""
    rows = [row for row in table4 if any(row.get(angle) is not None for angle in words.ANGLES)]
    measured = [row for row in rows if row.get(key) is not None]
    if not measured:
        return None
    ends = [end for row in table4 for figure in words.ANGLES for end in row.get(f"{figure}_interval") or ()]
    values = [row[figure] for row in table4 for figure in words.ANGLES if row.get(figure) is not None]
    top = max(value for value in [*ends, *values] if value is not None) * 1.06
    data = []
    for row in measured:
        value, interval = row[key], row.get(f"{key}_interval")
        colour = COLOURS.get(row["model"], "--model")
        text = words.interval(key, value, interval)
        data.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "x": [value],
                "y": [plain(row["model"])],
                "text": [f"{value:.1f}°"],
                "textposition": "top center",
                "textfont": {"color": "--ink", "size": 12},
                "cliponaxis": False,
                "marker": {"color": colour, "size": 11},
                "error_x": _bars([value], [interval], colour),
                "hovertemplate": f"{value:.1f}°" + (f"<br>95 %: {text}°" if text else "") + "<extra>%{y}</extra>",
            }
        )
    layout = base_layout(height=44 * len(rows) + 66)
    layout["xaxis"] |= {"range": [0, top], "ticksuffix": "°", "dtick": 10 if top < 75 else 30}
    layout["yaxis"] |= {
        "type": "category",
        "categoryorder": "array",
        "categoryarray": [plain(row["model"]) for row in reversed(rows)],
        "range": [-0.5, len(rows) - 0.35],
        "showgrid": False,
        "tickfont": {"color": "--ink", "size": 13},
        "ticklabelstandoff": 8,
    }
    layout["annotations"] = [
        {"x": 0, "y": plain(row["model"]), "text": "none", "showarrow": False, "xanchor": "left", "xshift": 6}
        for row in rows
        if row.get(key) is None
    ]
    return {"data": data, "layout": layout}


def loss_chart(stage: str, history: Mapping[str, Any]) -> Chart | None:
    """Training loss by step and, below it on the same steps, the validation figure by epoch, its best epoch marked."""
    losses, epochs, best = history["losses"], history["epochs"], history["best_epoch"]
    if not losses and not epochs:
        return None
    objective = OBJECTIVES[stage]
    scored = [epoch for epoch in epochs if epoch.get(objective) is not None]
    layout = base_layout(height=320 if scored else 220)
    layout["xaxis"] |= {"title": {"text": "step", "font": {"size": 12}, "standoff": 6}, "rangemode": "tozero"}
    layout["yaxis"]["domain"] = [0.0, 0.91]
    layout["annotations"] = [note("training loss", 0.94)]
    data = [curve([step for step, _ in losses], [loss for _, loss in losses], "--loss", "loss")]
    marked = next((epoch for epoch in epochs if epoch["epoch"] == best), None)
    if marked is not None:
        layout["shapes"] = [upright(marked["step"])]
    if scored:
        share = objective == "val_accuracy"
        layout["yaxis"]["domain"] = [0.57, 0.94]
        layout["yaxis2"] = {**layout["yaxis"], "domain": [0.0, 0.38], "tickformat": ".0%" if share else ""}
        if share:
            top = 1.2 * max(epoch[objective] for epoch in scored)
            layout["yaxis2"]["range"] = [0, top if 0 < top < 1.05 else 1.05]
        layout["xaxis"]["anchor"] = "y2"
        layout["annotations"][0]["y"] = 0.96
        layout["annotations"].append(note(OBJECTIVE_WORDS[objective], 0.4))
        line = curve([e["step"] for e in scored], [e[objective] for e in scored], "--model", "epoch %{customdata}")
        data.append(line | {"customdata": [e["epoch"] for e in scored], "yaxis": "y2"})
        if marked is not None and marked.get(objective) is not None:
            dot = curve([marked["step"]], [marked[objective]], "--model", "best epoch %{customdata}")
            dot |= {"customdata": [best], "mode": "markers", "yaxis": "y2"}
            data.append(dot | {"marker": {"color": "--model", "size": 10, "line": {"color": "--page", "width": 2}}})
    return {"data": data, "layout": layout}


def convergence_chart(priors: Mapping[str, Mapping[str, Any]]) -> Chart | None:
    """Table 1: how far the mean of n faces is from the mean of all, by n, on two logarithmic axes."""
    data = []
    for name, colour in PRIORS.items():
        points = priors.get(name, {}).get("convergence", [])
        if points:
            line = curve([point["n"] for point in points], [point["l1"] for point in points], colour, "%{x} faces")
            dash = {"neutral": "solid", "female": "dash", "male": "dot"}[name]
            line["line"] = {"color": colour, "width": 2.5, "dash": dash}
            data.append(line | {"name": name, "mode": "lines+markers", "marker": {"color": colour, "size": 9}})
    if not data:
        return None
    counts = sorted({count for line in data for count in line["x"]})
    layout = base_layout(height=300)
    layout |= {"showlegend": True, "legend": {"orientation": "h", "x": 0, "y": 1.04, "yanchor": "bottom"}}
    layout["xaxis"] |= {
        "type": "log",
        "tickvals": counts,
        "ticktext": [f"{count:,}" for count in counts],
        "title": {"text": "faces in the mean", "font": {"size": 12}, "standoff": 6},
    }
    layout["yaxis"] |= {
        "type": "log",
        "tickvals": [each * 10.0**power for power in range(-3, 7) for each in (1, 2, 5)],
        "tickformat": "~r",
        "title": {"text": "L1 from the mean of all", "font": {"size": 12}, "standoff": 6},
    }
    return {"data": data, "layout": layout}


def probe_chart(probes: Sequence[Mapping[str, Any]], pictures: Mapping[str, str]) -> Chart | None:
    """A dot and its 95 % interval for each cause and each kind of picture; chance is a line at a half.

    pictures: name in the rows -> colour.
    """
    data: list[dict[str, Any]] = []
    for number, (name, colour) in enumerate(pictures.items()):
        shift = 0.22 * ((len(pictures) - 1) / 2 - number)
        places = [
            (len(probes) - 1 - row + shift, each) for row, each in enumerate(probes) if each.get(name) is not None
        ]
        if places:
            values = [each[name] for _, each in places]
            intervals = [each.get(f"{name}_interval") for _, each in places]
            texts = [words.interval("concordance", *pair) for pair in zip(values, intervals, strict=True)]
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": plain(name),
                    "x": values,
                    "y": [place for place, _ in places],
                    "customdata": [
                        f"{each['cause']}<br>95 %: {text}" for (_, each), text in zip(places, texts, strict=True)
                    ],
                    "marker": {"color": colour, "size": 10, "symbol": ("diamond", "square", "circle")[number % 3]},
                    "error_x": _bars(values, intervals, colour),
                    "hovertemplate": "%{x:.2f} %{customdata}<extra>%{fullData.name}</extra>",
                }
            )
    if not data:
        return None
    layout = base_layout(height=64 * len(probes) + 110)
    layout |= {"showlegend": True, "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}}
    title = {"text": "concordance: 0.5 is chance, 1 is certain", "font": {"size": 12}, "standoff": 6}
    least = min(
        value - low for trace in data for value, low in zip(trace["x"], trace["error_x"]["arrayminus"], strict=True)
    )
    layout["xaxis"] |= {"range": [min(0.3, least - 0.02), 1.03], "dtick": 0.1, "title": title}
    layout["yaxis"] |= {
        "range": [-0.6, len(probes) - 0.4],
        "tickvals": [len(probes) - 1 - row for row in range(len(probes))],
        "ticktext": [plain(each["cause"].replace("_", " ")) for each in probes],
        "showgrid": False,
        "tickfont": {"color": "--ink", "size": 13},
        "ticklabelstandoff": 8,
    }
    layout["shapes"] = [upright(0.5)]
    return {"data": data, "layout": layout}


def base_layout(height: int) -> dict[str, Any]:
    axis = {
        "gridcolor": "--line",
        "linecolor": "--line",
        "zeroline": False,
        "fixedrange": True,  # a finger on the chart scrolls the page
        "automargin": True,
        "tickfont": {"size": 12},
    }
    return {
        "height": height,
        "margin": {"l": 8, "r": 14, "t": 8, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "color": "--muted", "size": 12},
        "hoverlabel": {"bgcolor": "--panel", "bordercolor": "--line", "font": {"color": "--ink"}},
        "showlegend": False,
        "dragmode": False,
        "xaxis": dict(axis),
        "yaxis": dict(axis),
    }


def curve(x: list[Any], y: list[Any], colour: str, label: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": y,
        "line": {"color": colour, "width": 1.6},
        "hovertemplate": f"%{{y:.4~g}}<extra>{label}</extra>",
    }


def _bars(values: Sequence[float], intervals: Sequence[Sequence[float | None] | None], colour: str) -> dict[str, Any]:
    """Error bars, none where an interval is not known."""
    ends = [
        interval if words.known(interval) else (value, value) for value, interval in zip(values, intervals, strict=True)
    ]
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - value for value, (_, high) in zip(values, ends, strict=True)],
        "arrayminus": [value - low for value, (low, _) in zip(values, ends, strict=True)],
        "color": colour,
        "thickness": 2,
        "width": 6,
        "visible": any(words.known(interval) for interval in intervals),
    }


def note(text: str, y: float) -> dict[str, Any]:
    place = {"x": 0, "y": y, "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
    return place | {"text": text, "showarrow": False, "font": {"color": "--ink", "size": 12}}


def upright(x: float) -> dict[str, Any]:
    line = {"color": "--muted", "width": 1, "dash": "dot"}
    return {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": line}


def plain(text: str) -> str:
    """Text as plotly shows it, which reads some HTML in its labels."""
    return html.escape(text, quote=False)

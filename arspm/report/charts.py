"""The charts of a run's page as Plotly specifications, plain JSON.

Colours are names of the style sheet's variables ("--model"); `DRAW_SCRIPT` replaces them with their values when it
draws, and again when the colour scheme changes. So charts define content, and the style sheet defines appearance.
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
# Colour and dash of each prior's line.
PRIORS = {"neutral": ("--neutral", "solid"), "female": ("--female", "dash"), "male": ("--male", "dot")}

OBJECTIVE_WORDS = {
    "val_accuracy": "validation accuracy",
    "val_loss": "validation loss",
    "val_cos_degrees": "validation angle, degrees",
}

DRAW_SCRIPT = """
"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const painted = (value, style) => {
    if (typeof value === "string") return value.startsWith("--") ? style.getPropertyValue(value).trim() : value;
    if (Array.isArray(value)) return value.map((item) => painted(item, style));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, painted(item, style)]));
  };
  const draw = () => {
    const style = getComputedStyle(document.documentElement);
    for (const [id, chart] of Object.entries(charts)) {
      const { data, layout } = painted(chart, style);
      Plotly.react(id, data, layout, { displayModeBar: false, responsive: true });
    }
  };
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
"""


def angle_chart(table4: Sequence[Mapping[str, Any]], key: str) -> Chart | None:
    """Return a dot with its 95 % interval for each row that has the angle `key`; smaller is better."""
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
        text = words.format_interval(key, value, interval)
        data.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "x": [value],
                "y": [escape_for_plotly(row["model"])],
                "text": [f"{value:.1f}°"],
                "textposition": "top center",
                "textfont": {"color": "--ink", "size": 12},
                "cliponaxis": False,
                "marker": {"color": colour, "size": 11},
                "error_x": _error_bars([value], [interval], colour),
                "hovertemplate": f"{value:.1f}°" + (f"<br>95 %: {text}°" if text else "") + "<extra>%{y}</extra>",
            }
        )
    layout = base_layout(height=44 * len(rows) + 66)
    layout["xaxis"] |= {"range": [0, top], "ticksuffix": "°", "dtick": 10 if top < 75 else 30}
    layout["yaxis"] |= {
        "type": "category",
        "categoryorder": "array",
        "categoryarray": [escape_for_plotly(row["model"]) for row in reversed(rows)],
        "range": [-0.5, len(rows) - 0.35],
        "showgrid": False,
        "tickfont": {"color": "--ink", "size": 13},
        "ticklabelstandoff": 8,
    }
    layout["annotations"] = [
        {
            "x": 0,
            "y": escape_for_plotly(row["model"]),
            "text": "none",
            "showarrow": False,
            "xanchor": "left",
            "xshift": 6,
        }
        for row in rows
        if row.get(key) is None
    ]
    return {"data": data, "layout": layout}


def loss_chart(stage: str, history: Mapping[str, Any]) -> Chart | None:
    """Return training loss by step, with the validation metric by epoch below it and the best epoch marked."""
    losses, epochs, best = history["losses"], history["epochs"], history["best_epoch"]
    if not losses and not epochs:
        return None
    objective = OBJECTIVES[stage]
    scored = [epoch for epoch in epochs if epoch.get(objective) is not None]
    layout = base_layout(height=320 if scored else 220)
    layout["xaxis"] |= {"title": {"text": "step", "font": {"size": 12}, "standoff": 6}, "rangemode": "tozero"}
    layout["yaxis"]["domain"] = [0.0, 0.91]
    layout["annotations"] = [annotation("training loss", 0.94)]
    data = [line_trace([step for step, _ in losses], [loss for _, loss in losses], "--loss", "loss")]
    marked = next((epoch for epoch in epochs if epoch["epoch"] == best), None)
    if marked is not None:
        layout["shapes"] = [vertical_line(marked["step"])]
    if scored:
        is_fraction = objective == "val_accuracy"
        layout["yaxis"]["domain"] = [0.57, 0.94]
        layout["yaxis2"] = {**layout["yaxis"], "domain": [0.0, 0.38], "tickformat": ".0%" if is_fraction else ""}
        if is_fraction:
            top = 1.2 * max(epoch[objective] for epoch in scored)
            layout["yaxis2"]["range"] = [0, top if 0 < top < 1.05 else 1.05]
        layout["xaxis"]["anchor"] = "y2"
        layout["annotations"][0]["y"] = 0.96
        layout["annotations"].append(annotation(OBJECTIVE_WORDS[objective], 0.4))
        line = line_trace([e["step"] for e in scored], [e[objective] for e in scored], "--model", "epoch %{customdata}")
        data.append(line | {"customdata": [e["epoch"] for e in scored], "yaxis": "y2"})
        if marked is not None and marked.get(objective) is not None:
            dot = line_trace([marked["step"]], [marked[objective]], "--model", "best epoch %{customdata}")
            dot |= {"customdata": [best], "mode": "markers", "yaxis": "y2"}
            data.append(dot | {"marker": {"color": "--model", "size": 10, "line": {"color": "--page", "width": 2}}})
    return {"data": data, "layout": layout}


def convergence_chart(priors: Mapping[str, Mapping[str, Any]]) -> Chart | None:
    """Return Table 1 as a chart: the distance of the mean of n faces from the mean of all, on two logarithmic axes."""
    data = []
    for name, (colour, dash) in PRIORS.items():
        points = priors.get(name, {}).get("convergence", [])
        if points:
            line = line_trace([point["n"] for point in points], [point["l1"] for point in points], colour, "%{x} faces")
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
    """Return a dot with its 95 % interval for each cause and kind of picture, with a line at chance level.

    pictures: column name in `probes` -> colour.
    """
    data: list[dict[str, Any]] = []
    for number, (name, colour) in enumerate(pictures.items()):
        shift = 0.22 * ((len(pictures) - 1) / 2 - number)
        dots = [(len(probes) - 1 - row + shift, each) for row, each in enumerate(probes) if each.get(name) is not None]
        if dots:
            values = [each[name] for _, each in dots]
            intervals = [each.get(f"{name}_interval") for _, each in dots]
            texts = [words.format_interval("concordance", *pair) for pair in zip(values, intervals, strict=True)]
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": escape_for_plotly(name),
                    "x": values,
                    "y": [y for y, _ in dots],
                    "customdata": [
                        f"{each['cause']}<br>95 %: {text}" for (_, each), text in zip(dots, texts, strict=True)
                    ],
                    "marker": {"color": colour, "size": 10, "symbol": ("diamond", "square", "circle")[number % 3]},
                    "error_x": _error_bars(values, intervals, colour),
                    "hovertemplate": "%{x:.2f} %{customdata}<extra>%{fullData.name}</extra>",
                }
            )
    if not data:
        return None
    layout = base_layout(height=64 * len(probes) + 110)
    layout |= {"showlegend": True, "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}}
    title = {"text": "concordance: 0.5 is chance level, 1 is perfect", "font": {"size": 12}, "standoff": 6}
    lowest = min(
        value - low for trace in data for value, low in zip(trace["x"], trace["error_x"]["arrayminus"], strict=True)
    )
    layout["xaxis"] |= {"range": [min(0.3, lowest - 0.02), 1.03], "dtick": 0.1, "title": title}
    layout["yaxis"] |= {
        "range": [-0.6, len(probes) - 0.4],
        "tickvals": [len(probes) - 1 - row for row in range(len(probes))],
        "ticktext": [escape_for_plotly(each["cause"].replace("_", " ")) for each in probes],
        "showgrid": False,
        "tickfont": {"color": "--ink", "size": 13},
        "ticklabelstandoff": 8,
    }
    layout["shapes"] = [vertical_line(0.5)]
    return {"data": data, "layout": layout}


def base_layout(height: int) -> dict[str, Any]:
    """Return the layout that all charts share."""
    axis = {
        "gridcolor": "--line",
        "linecolor": "--line",
        "zeroline": False,
        "fixedrange": True,  # on touch screens, dragging scrolls the page instead of zooming
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


def line_trace(x: list[Any], y: list[Any], colour: str, label: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": y,
        "line": {"color": colour, "width": 1.6},
        "hovertemplate": f"%{{y:.4~g}}<extra>{label}</extra>",
    }


def _error_bars(
    values: Sequence[float], intervals: Sequence[Sequence[float | None] | None], colour: str
) -> dict[str, Any]:
    """Return error bars, of length zero where an interval is missing."""
    bounds = [
        interval if words.has_bounds(interval) else (value, value)
        for value, interval in zip(values, intervals, strict=True)
    ]
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - value for value, (_, high) in zip(values, bounds, strict=True)],
        "arrayminus": [value - low for value, (low, _) in zip(values, bounds, strict=True)],
        "color": colour,
        "thickness": 2,
        "width": 6,
        "visible": any(words.has_bounds(interval) for interval in intervals),
    }


def annotation(text: str, y: float) -> dict[str, Any]:
    position = {"x": 0, "y": y, "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
    return position | {"text": text, "showarrow": False, "font": {"color": "--ink", "size": 12}}


def vertical_line(x: float) -> dict[str, Any]:
    line = {"color": "--muted", "width": 1, "dash": "dot"}
    return {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": line}


def escape_for_plotly(text: str) -> str:
    """Return text escaped for Plotly, which interprets some HTML in labels."""
    return html.escape(text, quote=False)

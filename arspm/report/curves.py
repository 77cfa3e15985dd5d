"""Figure 5: learning curves of an ablation's variants, one line per seed, as Plotly specifications."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from arspm.report.charts import Chart, base_layout, escape_for_plotly, line_trace

# The two models of the paper's figure and their colours. Other models start hidden, with these colours in turn.
PAIR = {"non-prior": "--model", "neutral+fc": "--fused"}
_OTHERS = ("--neutral", "--gender", "--face", "--male", "--shuffled", "--female")
_DASHES = ("solid", "dash", "dot")


def curve_chart(curves: Sequence[dict[str, Any]], title: str, *, logarithmic: bool = False) -> Chart | None:
    """Return each model's curve by step, or None without points.

    Other models than the paper's pair start hidden if either of the pair is present. curves: a list of
    {"variant", "seed", "points": [[step, value], ...]}.
    """
    drawn = [each for each in curves if each["points"]]
    if not drawn:
        return None
    names = list(dict.fromkeys(each["variant"] for each in drawn))
    names.sort(
        key=lambda name: list(PAIR).index(name) if name in PAIR else len(PAIR)
    )  # stable sort: the others keep their order
    others = [name for name in names if name not in PAIR]
    data = []
    for name in names:
        colour = PAIR.get(name) or _OTHERS[others.index(name) % len(_OTHERS)]
        dash = "solid" if name in PAIR else _DASHES[others.index(name) // len(_OTHERS) % len(_DASHES)]
        for number, each in enumerate(each for each in drawn if each["variant"] == name):
            steps, values = map(list, zip(*each["points"], strict=True))
            line = line_trace(steps, values, colour, f"{escape_for_plotly(name)}, seed {each['seed']}")
            line |= {"name": escape_for_plotly(name), "legendgroup": name, "showlegend": number == 0}
            line |= {"line": {"color": colour, "width": 1.6, "dash": dash}, "opacity": 0.85}
            line["visible"] = True if name in PAIR or len(others) == len(names) else "legendonly"
            data.append(line)
    layout = base_layout(height=400 + 10 * len(names))
    layout |= {"showlegend": True, "legend": {"orientation": "h", "x": 0, "y": -0.16, "yanchor": "top"}}
    layout["xaxis"] |= {"title": {"text": "step", "font": {"size": 12}, "standoff": 6}, "rangemode": "tozero"}
    layout["yaxis"] |= {"title": {"text": title, "font": {"size": 12}, "standoff": 6}}
    if logarithmic:
        layout["yaxis"] |= {"type": "log", "tickformat": "~r", "nticks": 8}
    return {"data": data, "layout": layout}

"""The page of `arspm compare`: several runs side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arspm.report import curves, gather
from arspm.report.document import document

# Columns of the tables and their labels.
COLUMNS = (
    ("cos_degrees", "Angle °"),
    ("l2", "L2"),
    ("l1", "L1"),
    ("portrait_cos_degrees", "Portrait angle °"),
    ("portrait_l2", "Portrait L2"),
    ("portrait_l1", "Portrait L1"),
)
SHARE = ("cos_degrees_learnt_share", "Learnt")


def render(compared: Mapping[str, Any]) -> str:
    """Return the page's HTML. compared: of `jobs.compare.compare`."""
    compared = gather.finite(compared)
    rows = []
    for number, name in enumerate(compared["names"]):
        row: dict[str, Any] = {"name": name, "about": compared["runs"][number], "seconds": {}}
        for figure, entries in compared["figures"].items():
            row |= {figure: entries[number]["value"], f"{figure}_interval": entries[number]["interval"]}
        row["seconds"] = {stage: values[number] for stage, values in compared["seconds"].items()}
        rows.append(row)
    has_share = any(row[SHARE[0]] is not None for row in rows)
    return document(
        "compare_page.html.j2",
        {
            name: chart
            for name, chart in (
                ("chart-validation", curves.curve_chart(compared["curves"], "validation angle, degrees")),
                ("chart-loss", curves.curve_chart(compared["loss_curves"], "training loss", logarithmic=True)),
            )
            if chart is not None
        },
        c=compared,
        rows=rows,
        columns=(*COLUMNS, SHARE) if has_share else COLUMNS,
        compared_columns=COLUMNS,
    )

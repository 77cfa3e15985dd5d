"""A sweep's page: one HTML file whose script draws everything from the results and curves embedded in it.

Opened as a file, it shows the state at the time of writing. Served over HTTP, it fetches `results.json` periodically,
and `curves.json.gz`, a trial's record and portraits only while they are looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from arspm import storage
from arspm.report import charts, gather
from arspm.report.document import compact_json, document, script_of
from arspm.runs import sweep_curves
from arspm.runs.sweep_curves import CURVES
from arspm.runs.sweeps import PAGE, RESULTS

MAX_EMBEDDED = 1_000_000  # characters of pictures in the page; further ones stay files beside it

SCRIPT = script_of(
    (
        "page_fetch.js",
        "page_elements.js",
        "page_draw.js",
        "sweep_format.js",
        "sweep_data.js",
        "sweep_view.js",
        "sweep_charts.js",
        "sweep_learning.js",
        "sweep_history.js",
        "sweep_parallel.js",
        "sweep_contour.js",
        "sweep_filter.js",
        "sweep_progress.js",
        "sweep_table.js",
        "sweep_comparison.js",
        "sweep_groups.js",
        "sweep_slices.js",
        "sweep_trial.js",
        "sweep_sweeps.js",
        "sweep_portraits.js",
        "sweep_download.js",
        "sweep_page.js",  # starts the page, so it comes last
    )
)
STYLE = Path(__file__).with_name("sweep_page.css").read_text(encoding="utf-8")


def write_sweep(folder: str, results: Mapping[str, Any], curves: Mapping[str, Any], *, page: bool = True) -> None:
    """Write `curves.json.gz`, `results.json` and, if `page`, `index.html` to a sweep's directory, a path or s3://.

    results: of `sweeps.results`; NaN and infinity are written as null. curves: of `sweep_curves.curves`, for the same
    records. An open page looks at `results.json` first, so that is written when its curves are there. The page is a
    hundred times as large as a change, so write it rarely.
    """
    finite = gather.finite(results)
    storage.write_bytes(storage.join(folder, CURVES), sweep_curves.pack(curves))
    storage.write_bytes(storage.join(folder, RESULTS), (compact_json(finite) + "\n").encode())
    if page:
        html = render(finite, curves, _embedded(folder, finite["pictures"]))
        storage.write_bytes(storage.join(folder, PAGE), html.encode())


def render(results: Mapping[str, Any], curves: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """Return the page's HTML. pictures: data URIs by the reference that they replace; others are loaded when seen."""
    return document(
        "sweep_page.html.j2",
        {"base": charts.base_layout(300)},
        script=SCRIPT,
        live=True,
        deferred=True,
        results=htmlsafe_json_dumps(gather.finite(results), dumps=compact_json),
        curves=htmlsafe_json_dumps(curves, dumps=compact_json),
        pictures=htmlsafe_json_dumps(pictures, dumps=compact_json),
        sweep=results["sweep"],
        sweep_style=Markup(STYLE),
    )


def _embedded(folder: str, pictures: Mapping[str, Any]) -> dict[str, str]:
    """Return data URIs of pictures in the folder, the best trials' first, up to MAX_EMBEDDED characters together."""
    found: dict[str, str] = {}
    for reference in filter(None, [pictures["real"], *pictures["trials"].values()]):
        try:
            data = storage.read_jpeg(storage.join(folder, reference.partition("?")[0]))
        except FileNotFoundError:  # removed since it was found
            continue
        if sum(map(len, found.values())) + len(data) > MAX_EMBEDDED:
            break
        found[reference] = data
    return found

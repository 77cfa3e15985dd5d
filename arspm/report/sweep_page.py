"""A sweep's page: one HTML file whose script draws everything from the results embedded in it.

Opened as a file, it shows the state at the time of writing. Served over HTTP, it reloads `results.json` periodically.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2.utils import htmlsafe_json_dumps

from arspm import storage
from arspm.report import charts, gather
from arspm.report.document import document
from arspm.runs.sweeps import PAGE, RESULTS

_FILES = (
    "sweep_format.js",
    "sweep_charts.js",
    "sweep_draw.js",
    "sweep_elements.js",
    "sweep_table.js",
    "sweep_page.js",  # starts the page, so it comes last
)
_SOURCE = "".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in _FILES)
SCRIPT = f'"use strict";\n(() => {{\n{_SOURCE}}})();\n'


def write_sweep(folder: str, results: Mapping[str, Any]) -> None:
    """Write `results.json`, then the page `index.html`, to a sweep's directory, a path or s3://.

    `results`: everything that the page shows; NaN and infinity are written as null. An open page reads only
    `results.json`, so that is written first.
    """
    finite = gather.finite(results)
    storage.write_bytes(storage.join(folder, RESULTS), (_compact(finite) + "\n").encode())
    storage.write_bytes(storage.join(folder, PAGE), render(finite).encode())


def render(results: Mapping[str, Any]) -> str:
    """Return the page's HTML."""
    return document(
        "sweep_page.html.j2",
        {"base": charts.base_layout(300)},
        script=SCRIPT,
        live=True,
        results=htmlsafe_json_dumps(gather.finite(results), dumps=_compact),
        sweep=results["sweep"],
    )


def _compact(value: Any) -> str:
    """Return JSON without whitespace: pages reload tens of thousands of epochs every 15 s."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)

"""A sweep's page: one HTML file that the reader's browser draws from the figures inside it.

Opened from a folder it shows how the sweep stood when it was written; where it is served, it reads `results.json`
beside it and renews itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2.utils import htmlsafe_json_dumps

from arspm import storage
from arspm.report import figures, gather
from arspm.report.document import document
from arspm.runs.sweeps import PAGE, RESULTS

_FILES = ("sweep_charts.js", "sweep.js")  # the second calls the first
_SOURCE = "".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in _FILES)
SCRIPT = f'"use strict";\n(() => {{\n{_SOURCE}}})();\n'


def write_sweep(folder: str, results: Mapping[str, Any]) -> None:
    """Write how a sweep stands into its folder, a path or s3://: `results.json`, then the page `index.html`.

    `results`: all that the page shows; a figure that is no finite number is written as null. A page that is open
    follows `results.json` alone, so that comes first.
    """
    known = gather.finite(results)
    storage.write_bytes(storage.join(folder, RESULTS), (_compact(known) + "\n").encode())
    storage.write_bytes(storage.join(folder, PAGE), render(known).encode())


def render(results: Mapping[str, Any]) -> str:
    """The page's HTML."""
    return document(
        "sweep.html.j2",
        {"base": figures.base_layout(300)},
        script=SCRIPT,
        live=True,
        results=htmlsafe_json_dumps(gather.finite(results), dumps=_compact),
        sweep=results["sweep"],
    )


def _compact(value: Any) -> str:
    """JSON without blanks: a sweep of a thousand trials has tens of thousands of epochs, and is read every 15 s."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)

"""Self-contained HTML pages: charts, pictures, styles and scripts inline, and a policy that blocks everything else."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import plotly.offline
from markupsafe import Markup

from arspm.report import charts, published, words


def document(
    template: str,
    charts: Mapping[str, charts.Chart],
    *,
    script: str = charts.DRAW_SCRIPT,
    live: bool = False,
    deferred: bool = False,
    **values: Any,
) -> str:
    """Return the HTML of a template in this directory.

    `charts`: the charts for `script`; the default script draws each into the element with the same id. `live`: whether
    the page may fetch files from the server that serves it. `deferred`: whether Plotly waits until `script` starts it,
    as page_draw.js does for the first chart that comes into view.
    """
    library = plotly.offline.get_plotlyjs().replace("\r", "")  # browsers normalise \r\n, and the hash must match
    return (
        _environment()
        .get_template(template)
        .render(
            **values,
            charts=charts,
            style=Markup(Path(__file__).with_name("page.css").read_text()),  # trusted, like the two scripts
            library=Markup(library),
            script=Markup(script),
            script_hashes=[_script_hash(library), _script_hash(script)],
            live=live,
            deferred=deferred,
        )
    )


def script_of(names: Sequence[str]) -> str:
    """Return the files of a page's script, in this directory, as one script with a scope of its own."""
    source = "".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in names)
    return f'"use strict";\n(() => {{\n{source}}})();\n'


def compact_json(value: Any) -> str:
    """Return JSON without whitespace."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def setting(value: Any) -> str:
    """Return a setting's value in the syntax of `--set`."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _script_hash(text: str) -> str:
    """Return the hash by which the page's Content-Security-Policy allows a script; all others are blocked."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "significant": words.significant,
        "format_percent": words.format_percent,
        "format_percent_interval": words.format_percent_interval,
        "format_duration": words.format_duration,
        "format_hundredths": words.format_hundredths,
        "describe_difference": words.describe_difference,
        "describe_verdict": words.describe_verdict,
        "learnt_sentence": words.learnt_sentence,
        "setting": setting,
    }
    environment.globals |= {
        "describe_unpriced": words.describe_unpriced,
        "format_value": words.format_value,
        "format_interval": words.format_interval,
        "format_mean_sd": words.format_mean_sd,
        "format_difference": words.format_difference,
        "format_difference_interval": words.format_difference_interval,
        "difference_verdict": words.difference_verdict,
        "headline": words.headline,
        "controls": words.CONTROLS,
        "published": published,
    }
    return environment

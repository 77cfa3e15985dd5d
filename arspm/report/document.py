"""One HTML file with its charts, pictures, styles and scripts inside, and a policy that lets nothing else run."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import plotly.offline
from markupsafe import Markup

from arspm.report import figures, published, words


def document(
    template: str,
    charts: Mapping[str, figures.Chart],
    *,
    script: str = figures.SCRIPT,
    live: bool = False,
    **values: Any,
) -> str:
    """The HTML of a template below this folder. `charts`: what `script` draws, by default by the id of their place.

    `live`: whether the page may read files beside it from where it is served.
    """
    library = plotly.offline.get_plotlyjs().replace("\r", "")  # a browser reads \r\n as \n, and the hash must fit
    return (
        _environment()
        .get_template(template)
        .render(
            **values,
            charts=charts,
            style=Markup(Path(__file__).with_name("page.css").read_text()),  # ours, as are the two scripts
            library=Markup(library),
            script=Markup(script),
            script_hashes=[_script_hash(library), _script_hash(script)],
            live=live,
        )
    )


def setting(value: Any) -> str:
    """A setting's value as `--set` reads it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _script_hash(text: str) -> str:
    """What the page's content policy knows a script of ours by, so that no other one runs."""
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
        "percent": words.percent,
        "percent_interval": words.percent_interval,
        "duration": words.format_duration,
        "nearer": words.nearer,
        "verdict": words.verdict,
        "learnt": words.learnt,
        "setting": setting,
    }
    environment.globals |= {
        "figure": words.figure,
        "interval": words.interval,
        "spread": words.spread,
        "difference": words.difference,
        "difference_interval": words.difference_interval,
        "difference_verdict": words.difference_verdict,
        "headline": words.headline,
        "controls": words.CONTROLS,
        "published": published,
    }
    return environment

"""The tables of the pages that `arspm dashboard` makes itself, as HTML. All names and values are escaped."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple
from urllib.parse import quote

from arspm import storage
from arspm.report.site_files import Files
from arspm.runs import find, stages, sweeps
from arspm.storage.retries import first_line


class Progress(NamedTuple):
    """How far a run is: the stages with a manifest, and a sentence."""

    done: list[str]
    state: str

    @property
    def text(self) -> str:
        return f"{self.state.capitalize()}: {len(self.done)} of {len(stages.STAGES)} stages are done."


def progress(run: str) -> Progress:
    """Return how far a run is. Raises the errors of storage."""
    done = find.stages_done(run)
    return Progress(done, find.state(run, done))


def links(pages: Mapping[str, str], nothing: str) -> str:
    """Return links as a list, or `nothing` in a paragraph. pages: the text of each by its relative path."""
    if not pages:
        return f"<p>{escape(nothing)}</p>"
    return f"<ul>{''.join(f'<li>{_link(quote(path), text)}</li>' for path, text in pages.items())}</ul>"


def runs_table(runs: Mapping[str, str]) -> str:
    """Return the runs with their states. runs: the URI of each by its name, which is also its relative URL."""
    described = storage.in_threads(_describe_run, runs.values())
    rows = [(_link(f"{quote(name, safe='')}/", name), *row) for name, row in zip(runs, described, strict=True)]
    return _table(("Run", "State", "Stages done", "Sweeps"), rows)


def sweeps_table(files: Files, known: Mapping[str, str]) -> str:
    """Return the sweeps with their states and best trials, or a sentence if there is none. known: as `runs`."""
    if not known:
        return "<p>No sweep yet.</p>"
    rows = [
        (_link(f"{sweeps.FOLDER}/{quote(name, safe='')}/", name), *_sweep_cells(files.read(uri, sweeps.RESULTS).data))
        for name, uri in known.items()
    ]
    return _table(("Sweep", "State", "Trials", "Best", "Updated"), rows)


def _describe_run(run: str) -> tuple[str, str, str]:
    try:
        found = progress(run)
        return found.state, f"{len(found.done)} of {len(stages.STAGES)}", ", ".join(sweeps.names(run))
    except (ValueError, OSError) as error:
        return f"unreadable: {first_line(error)}", "", ""


def _sweep_cells(data: bytes | None) -> tuple[str, str, str, str]:
    """Return state, trials, best and time of a results.json as text. Any part of the file may be invalid."""
    if data is None:
        return "not started", "", "", ""
    try:
        results = json.loads(data)
        ended, leading = sweeps.ended_and_best(results)
        best = (
            ""
            if leading is None or leading["best"] is None
            else f"{float(leading['best']):.4g} {results['sweep']['metric']}"
        )
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(float(results["updated"])))
        return str(results["state"]), ended, best, when
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, OSError, RecursionError):
        return "unreadable", "", "", ""


def _link(target: str, text: str) -> str:
    return f'<a href="{escape(target)}">{escape(text)}</a>'


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table. The first cell of each row is HTML, the others are text."""
    lines = [
        f"<tr><td>{first}</td>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>" for first, *cells in rows
    ]
    return f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{''.join(lines)}</table>"

"""docs/tour.ipynb, executed on a finished run."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from PIL import Image

from tests.jobs.conftest import Chain

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "tour.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]


def test_the_notebook_is_committed_without_outputs() -> None:
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert len(code) > 20
    assert [cell["id"] for cell in code if cell["outputs"] or cell["execution_count"] is not None] == []
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)


def test_the_links_of_the_notebook_lead_to_pages() -> None:
    text = "".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert len(targets) > 3
    assert [target for target in targets if not (NOTEBOOK.parent / target).is_file()] == []


def execute(cell: str, names: dict[str, Any], where: str) -> Any:
    """Execute a cell; return the value of its last line if that is an expression, as Jupyter shows it."""
    tree = ast.parse(cell, where)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, where, "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), where, "eval"), names)


@pytest.mark.ray
def test_the_notebook_runs_on_a_finished_run(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, since its cells need no kernel; warnings are errors, as in every test."""
    monkeypatch.setenv("ARSPM_RUN", str(chain.run))
    monkeypatch.chdir(NOTEBOOK.parent)
    names: dict[str, Any] = {}
    shown = [
        execute("".join(cell["source"]), names, f"{NOTEBOOK.name}[{cell['id']}]")
        for cell in CELLS
        if cell["cell_type"] == "code"
    ]
    assert sum(isinstance(value, go.Figure) for value in shown) == 3
    assert sum(isinstance(value, Image.Image) for value in shown) == 4
    assert shown[-1] is True, "two workers read the rows of one"
    model = next(row for row in names["metrics"]["table4"] if row["model"] == names["metrics"]["model"])
    [interval] = [value for value in shown if type(value).__name__ == "Interval"]
    assert interval.mean == pytest.approx(model["cos_degrees"], abs=1e-3)
    assert [interval.low, interval.high] == pytest.approx(model["cos_degrees_interval"], abs=1e-3)
    assert "prior-only" in capsys.readouterr().out

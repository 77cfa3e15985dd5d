"""An ablation's page: variants over seeds in the form of the paper's Tables 4 to 6 and Figures 5 and 6."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from arspm import storage
from arspm.config import Config
from arspm.report import charts, curves, gather, words
from arspm.report.document import document

PAGE = "index.html"  # in the folder of the ablation
REPORT = "report/index.html"
REFERENCE = "non-prior"  # every variant is compared with this one

# Variants whose prior is the same for every clip, so that they are the reference with other initial biases.
CONSTANT_PRIORS = ("neutral", "neutral+fc", "neutral-residual", "constant")

# The compared columns and their labels. Validation first: it selects the best epoch of each seed.
_COMPARED = {
    "val_cos_degrees": "Validation angle °",
    "cos_degrees": "Angle °",
    "l2": "L2",
    "l1": "L1",
    "portrait_cos_degrees": "Portrait angle °",
    "portrait_l2": "Portrait L2",
    "portrait_l1": "Portrait L1",
}


def folder(study: str = "") -> str:
    """Return the folder of a run with the page and metrics.json of its ablation, or of a study."""
    return f"study-{study}" if study else "ablation"


def write_ablation(
    config: Config, run: str, metrics: Mapping[str, Any], study: str = ""
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Write the page that compares the variants of a run; `run` is a path or s3://.

    `metrics`: the content of metrics.json, with picture paths relative to the run. Returns the file (path relative to
    the run -> size and hash) and its counts of variants and models. Raises FileNotFoundError if a picture is missing.
    """
    page = f"{folder(study)}/{PAGE}"
    text = render(config, run, gather.finite(metrics))
    files = {page: storage.write_bytes(storage.join(run, page), text.encode())}
    return files, {
        "page": page,
        "num_variants": len(metrics["variants"]),
        "num_models": sum(len(variant["runs"]) for variant in metrics["variants"]),
        "num_missing": len(metrics["missing"]),
    }


def render(config: Config, run: str, metrics: Mapping[str, Any]) -> str:
    """Return the page's HTML."""
    rows = [table4_row(variant) for variant in metrics["variants"]]
    control_rows = metrics["rows"]
    convergence = metrics["convergence"]
    chart_by_id = {
        "chart-feature": charts.angle_chart([*rows, *control_rows], "cos_degrees"),
        "chart-portrait": charts.angle_chart([*rows, *control_rows], "portrait_cos_degrees"),
        "chart-validation": curves.curve_chart(convergence["curves"], "validation angle, degrees"),
        "chart-loss": curves.curve_chart(convergence.get("loss_curves") or [], "training loss", logarithmic=True),
    }
    num_clips = max(row["n"] for row in [*rows, *control_rows])
    return document(
        "ablation_page.html.j2",
        {name: chart for name, chart in chart_by_id.items() if chart},
        m=metrics,
        config=config,
        run_name=storage.absolute(run).rsplit("/", 1)[-1],
        report=storage.exists(storage.join(run, REPORT)),
        rows=list(zip(rows, metrics["variants"], strict=True)),
        one_sex=[row["model"] for row in rows if row["n"] < num_clips],  # only clips of that sex
        has_learnt_fraction=any(row.get("cos_degrees_learnt_share") is not None for row in rows),
        compared={
            name: label
            for name, label in _COMPARED.items()
            if any(name in (variant["against_non_prior"] or {}) for variant in metrics["variants"])
        },
        sexes=_judged(metrics, "table5", "gender"),
        ages=_judged(metrics, "table6", "age"),
        steps=_steps(convergence["targets"]),
        clips=[entry["clip_id"] for entry in metrics["portraits"]],
        faces=_faces(run, metrics),
        reference=REFERENCE,
        constants=[row["model"] for row in rows if row["model"] in CONSTANT_PRIORS],
    )


def table4_row(variant: Mapping[str, Any]) -> dict[str, Any]:
    """Return a variant's means over its seeds as a row of Table 4, with <column>_sd and <column>_interval."""
    row: dict[str, Any] = {"model": variant["variant"], "n": variant["n"]}
    for name, entry in variant["figures"].items():
        summary = entry or dict.fromkeys(("mean", "sd", "low", "high"))
        bounds = [summary["low"], summary["high"]]
        interval = bounds if words.has_bounds(bounds) else None
        row |= {name: summary["mean"], f"{name}_sd": summary["sd"], f"{name}_interval": interval}
    return row


def _judged(metrics: Mapping[str, Any], table: str, key: str) -> list[dict[str, Any]]:
    """Return rows of Table 5 or 6: real faces, Face-to-Face pictures, and each variant's portraits."""
    variants = [
        {"pictures": variant["variant"], **variant[key], "accuracy_sd": variant[key]["sd"]}
        for variant in metrics["variants"]
        if variant[key]
    ]
    return [*(metrics[table] or []), *variants]


def _steps(targets: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return each variant's steps to reach each target, one cell per target."""
    names = dict.fromkeys(entry["variant"] for target in targets for entry in target["variants"])
    by_target = [{entry["variant"]: entry for entry in target["variants"]} for target in targets]
    return [{"variant": name, "cells": [entries.get(name) for entries in by_target]} for name in names]


def _faces(run: str, metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of Figure 6: real, Face-to-Face, then the variants; a data URI or None for each clip."""
    entries = metrics["portraits"]
    paths = {"Real": [entry["real"] for entry in entries], "Face-to-Face": [entry["face_to_face"] for entry in entries]}
    paths |= {
        name: [entry["variants"].get(name) for entry in entries]
        for name in (variant["variant"] for variant in metrics["variants"])
    }
    return [
        {"name": name, "pictures": [storage.read_jpeg(storage.join(run, path)) if path else None for path in row]}
        for name, row in paths.items()
        if any(row)
    ]

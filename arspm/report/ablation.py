"""The ablation's page: variants over seeds in the form of the paper's Tables 4 to 6 and Figures 5 and 6."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from arspm import storage
from arspm.config import Config
from arspm.report import curves, figures, gather, words
from arspm.report.document import document

PAGE = "ablation/index.html"
REPORT = "report/index.html"
REFERENCE = "non-prior"  # what every variant is compared with

# The figures that are compared with it, and their names. Validation first: it is what the seeds are about.
_COMPARED = {
    "val_cos_degrees": "Validation angle °",
    "cos_degrees": "Angle °",
    "l2": "L2",
    "l1": "L1",
    "portrait_cos_degrees": "Portrait angle °",
    "portrait_l2": "Portrait L2",
    "portrait_l1": "Portrait L1",
}


def write_ablation(
    config: Config, run: str, metrics: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Write the page that compares the variants of a run; `run` is a path or s3://.

    `metrics`: what `<run>/ablation/metrics.json` holds; paths of pictures in it are relative to the run. Returns the
    file (path relative to the run -> size and hash) and what can be said of it. Raises FileNotFoundError where a
    picture is not there.
    """
    text = render(config, run, gather.finite(metrics))
    files = {PAGE: storage.write_bytes(storage.join(run, PAGE), text.encode())}
    return files, {
        "page": PAGE,
        "num_variants": len(metrics["variants"]),
        "num_models": sum(len(variant["runs"]) for variant in metrics["variants"]),
        "num_missing": len(metrics["missing"]),
    }


def render(config: Config, run: str, metrics: Mapping[str, Any]) -> str:
    """The page's HTML."""
    rows = [table4_row(variant) for variant in metrics["variants"]]
    trivial = metrics["rows"]
    learning = metrics["convergence"]
    charts = {
        "chart-feature": figures.angle_chart([*rows, *trivial], "cos_degrees"),
        "chart-portrait": figures.angle_chart([*rows, *trivial], "portrait_cos_degrees"),
        "chart-validation": curves.curve_chart(learning["curves"], "validation angle, degrees"),
        "chart-loss": curves.curve_chart(learning.get("loss_curves") or [], "training loss", logarithmic=True),
    }
    whole = max(row["n"] for row in [*rows, *trivial])
    return document(
        "ablation.html.j2",
        {name: chart for name, chart in charts.items() if chart},
        m=metrics,
        config=config,
        run_name=storage.absolute(run).rsplit("/", 1)[-1],
        report=storage.exists(storage.join(run, REPORT)),
        rows=list(zip(rows, metrics["variants"], strict=True)),
        one_sex=[row["model"] for row in rows if row["n"] < whole],  # trained, validated and measured on that sex alone
        share=any(row.get("cos_degrees_learnt_share") is not None for row in rows),
        compared={
            name: label
            for name, label in _COMPARED.items()
            if any(name in (variant["against_non_prior"] or {}) for variant in metrics["variants"])
        },
        sexes=_judged(metrics, "table5", "gender"),
        ages=_judged(metrics, "table6", "age"),
        steps=_steps(learning["targets"]),
        clips=[entry["clip_id"] for entry in metrics["portraits"]],
        faces=_faces(run, metrics),
        reference=REFERENCE,
    )


def table4_row(variant: Mapping[str, Any]) -> dict[str, Any]:
    """A variant's means over its seeds as a row of Table 4, with `<figure>_sd` beside `<figure>_interval`."""
    row: dict[str, Any] = {"model": variant["variant"], "n": variant["n"]}
    for name, entry in variant["figures"].items():
        found = entry or dict.fromkeys(("mean", "sd", "low", "high"))
        ends = [found["low"], found["high"]]
        row |= {name: found["mean"], f"{name}_sd": found["sd"], f"{name}_interval": ends if words.known(ends) else None}
    return row


def _judged(metrics: Mapping[str, Any], table: str, key: str) -> list[dict[str, Any]]:
    """Rows of Table 5 or 6: the real faces, what the decoder makes of them, and each variant's portraits."""
    variants = [
        {"pictures": variant["variant"], **variant[key], "accuracy_sd": variant[key]["sd"]}
        for variant in metrics["variants"]
        if variant[key]
    ]
    return [*(metrics[table] or []), *variants]


def _steps(targets: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each variant's steps to each target's value, a cell a target."""
    names = dict.fromkeys(entry["variant"] for target in targets for entry in target["variants"])
    by_target = [{entry["variant"]: entry for entry in target["variants"]} for target in targets]
    return [{"variant": name, "cells": [entries.get(name) for entries in by_target]} for name in names]


def _faces(run: str, metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Figure 6's rows: the real faces, Face-to-Face, then the variants; a data URI for each clip, or None."""
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

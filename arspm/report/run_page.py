"""A run's page: one HTML file, and the same numbers as JSON."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from arspm import storage
from arspm.config import TRAINED_STAGES, Config, settings
from arspm.corpus import drops
from arspm.corpus.schema import DropReason
from arspm.report import charts, gather, words
from arspm.report.document import document, setting
from arspm.report.training_words import kept_epoch
from arspm.runs import stages
from arspm.runs.kept_epoch import MIN_HELD_OUT

PAGE = "report/index.html"
METRICS = "report/metrics.json"
ABLATION = "ablation/metrics.json"  # written by `arspm ablation`

# The kinds of pictures in the probes and their colours; the model's name is added to these.
PROBED = {"real": "--neutral", "face-to-face": "--face"}
EXAMPLES_PER_REASON = 3  # of dropped rows


def write_report(config: Config, run: str, baseline: Config | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the page and `metrics.json` of a finished run; `run` is a path or s3://.

    `baseline`: the unmodified preset, to mark changed settings on the page. Returns the files (path relative to the
    run -> size and hash) and the figures for the stage's manifest. Raises FileNotFoundError if the run was not
    evaluated.
    """
    metrics = gather.gather(config, run)
    text = render(config, run, baseline, metrics)
    files = {
        METRICS: storage.write_json(storage.join(run, METRICS), metrics),
        PAGE: storage.write_bytes(storage.join(run, PAGE), text.encode()),
    }
    verdicts = {
        entry["against"]: entry["verdict"] for entry in metrics["comparisons"] if entry["figure"] == "cos_degrees"
    }
    return files, {"page": PAGE, "num_portraits": len(metrics.get("portraits") or []), "verdicts": verdicts}


def render(config: Config, run: str, baseline: Config | None, metrics: Mapping[str, Any]) -> str:
    """Return the page's HTML. `metrics`: from `gather.gather`."""
    changes = changed(config, baseline)
    return document(
        "run_page.html.j2",
        _charts(run, metrics),
        m=metrics,
        models=words.model_rows(metrics["table4"]),
        run=storage.absolute(run),
        run_name=storage.absolute(run).rsplit("/", 1)[-1],
        pictures=_portraits(run, metrics.get("portraits") or []),
        prior_pictures=_prior_pictures(run, metrics.get("prior_pictures") or {}),
        probed=list(_probed(metrics)),
        compared=storage.exists(storage.join(run, ABLATION)),
        examples=drops.first_examples(stages.corpus(run), metrics["corpus"]["dropped"], EXAMPLES_PER_REASON),
        reasons={reason.value: reason.description for reason in DropReason},
        kept_epoch=kept_epoch,
        min_held_out=MIN_HELD_OUT,
        trained_stages=TRAINED_STAGES,
        command=command(config, run, changes),
        changes=changes,
        settings=settings(config),
    )


def changed(config: Config, baseline: Config | None) -> dict[str, Any]:
    """Return the settings that differ from the baseline by dotted name; all settings without a baseline."""
    original = settings(baseline) if baseline else {}
    return {
        name: value for name, value in settings(config).items() if name != "preset" and original.get(name, ...) != value
    }


def command(config: Config, run: str, changes: Mapping[str, Any]) -> str:
    """Return the command that reproduces this run, one option per line."""
    parts = ["arspm submit"]
    parts += [
        f"--{flag} {shlex.quote(value)}"
        for flag, value in (("csv", config.data.csv), ("clips", config.data.clips))
        if value
    ]
    parts += [f"--run {shlex.quote(storage.absolute(run))}", f"--preset {shlex.quote(config.preset)}"]
    for name, value in changes.items():
        if name not in ("data.csv", "data.clips"):
            parts.append("--set " + shlex.quote(f"{name}={setting(value)}"))
    return " \\\n  ".join(parts)


def _charts(run: str, metrics: Mapping[str, Any]) -> dict[str, charts.Chart]:
    """Return the charts that have data, by the id of their element on the page."""
    by_id = {
        "chart-feature": charts.angle_chart(metrics["table4"], "cos_degrees"),
        "chart-portrait": charts.angle_chart(metrics["table4"], "portrait_cos_degrees"),
        "chart-prior": charts.convergence_chart(metrics["prior"].get("priors", {})),
        "chart-probes": charts.probe_chart(metrics.get("probes") or [], _probed(metrics)),
    }
    for stage, history in gather.histories(run).items():
        by_id[f"chart-{stage}"] = charts.loss_chart(stage, history)
    return {name: chart for name, chart in by_id.items() if chart}


def _probed(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return the kinds of pictures that the probes contain, with their colours."""
    rows = metrics.get("probes") or []
    colours = PROBED | {row["model"]: "--model" for row in words.model_rows(metrics["table4"])}
    return {name: colour for name, colour in colours.items() if any(name in row for row in rows)}


def _portraits(run: str, portraits: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Return each test speaker's clip id and three pictures as data URIs."""
    return [
        {"clip_id": entry["clip_id"]}
        | {kind: storage.read_jpeg(storage.join(run, entry[kind])) for kind in ("real", "face_to_face", "portrait")}
        for entry in portraits
    ]


def _prior_pictures(run: str, pictures: Mapping[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Return Figure 2's pictures as data URIs: prior -> number of faces in the mean, and its picture."""
    return {
        name: [
            {"n": entry["n"], "picture": storage.read_jpeg(storage.join(run, entry["picture"]))} for entry in entries
        ]
        for name, entries in pictures.items()
    }

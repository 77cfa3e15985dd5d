"""A run's page: one HTML file, and its figures beside it as JSON."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from arspm import config as configuration
from arspm import storage
from arspm.config import TRAINED_STAGES, Config
from arspm.report import figures, gather, words
from arspm.report.document import document, setting

PAGE = "report/index.html"
METRICS = "report/metrics.json"
ABLATION = "ablation/metrics.json"  # where `arspm ablation` compared variants over this run

# The kinds of pictures whose causes are probed, and their colours; the model's own name comes last.
PROBED = {"real": "--neutral", "face-to-face": "--face"}

REASONS = {
    "bad_row": "not the columns of AVSpeech, or numbers out of range",
    "missing_file": "there is no such clip",
    "duplicate_key": "this video id, start and end stood in an earlier row",
    "undecodable": "broken, or beyond the limits on pixels and seconds",
    "no_video": "the file has no pictures",
    "no_sound": "the file has no sound",
    "silent": "nothing is heard",
    "too_short": "under half a second of sound",
    "no_face": "no face was found",
    "several_faces": "several faces, and no (x, y) to tell the speaker's",
    "face_too_small": "the face is too few pixels wide",
}


def write_report(config: Config, run: str, baseline: Config | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write a finished run's page and figures into it; `run` is a path or s3://.

    `baseline`: the preset that the configuration began from, by which the page says what was changed. Returns the
    files (path relative to the run -> size and hash) and the figures for the stage's manifest. Raises
    FileNotFoundError where the run was not evaluated.
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
    """The page's HTML. `metrics`: what `gather.gather` gave."""
    changes = changed(config, baseline)
    return document(
        "page.html.j2",
        _charts(run, metrics),
        m=metrics,
        models=words.models(metrics["table4"]),
        run=storage.absolute(run),
        run_name=storage.absolute(run).rsplit("/", 1)[-1],
        pictures=_portraits(run, metrics.get("portraits") or []),
        prior_pictures=_prior_pictures(run, metrics.get("prior_pictures") or {}),
        probed=list(_probed(metrics)),
        compared=storage.exists(storage.join(run, ABLATION)),
        examples=gather.dropped_examples(run, metrics["corpus"]["dropped"]),
        reasons=REASONS,
        objectives=gather.OBJECTIVES,
        trained_stages=TRAINED_STAGES,
        command=command(config, run, changes),
        changes=changes,
        settings=settings(config),
    )


def changed(config: Config, baseline: Config | None) -> dict[str, Any]:
    """Dotted names and values of what differs from the baseline; everything where there is none."""
    mine = settings(config)
    theirs = settings(baseline) if baseline else {}
    return {name: value for name, value in mine.items() if name != "preset" and theirs.get(name, ...) != value}


def settings(config: Config) -> dict[str, Any]:
    """Every field's dotted name and plain value."""
    tree = config.model_dump(mode="json")
    found = {}
    for name in configuration.field_names():
        value: Any = tree
        for part in name.split("."):
            value = value[part]
        found[name] = value
    return found


def command(config: Config, run: str, changes: Mapping[str, Any]) -> str:
    """The command that makes this run, one flag a line."""
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


def _charts(run: str, metrics: Mapping[str, Any]) -> dict[str, figures.Chart]:
    """The charts there is something to draw in, by the id of their place on the page."""
    found = {
        "chart-feature": figures.angle_chart(metrics["table4"], "cos_degrees"),
        "chart-portrait": figures.angle_chart(metrics["table4"], "portrait_cos_degrees"),
        "chart-prior": figures.convergence_chart(metrics["prior"].get("priors", {})),
        "chart-probes": figures.probe_chart(metrics.get("probes") or [], _probed(metrics)),
    }
    for stage, history in gather.histories(run).items():
        found[f"chart-{stage}"] = figures.loss_chart(stage, history)
    return {name: chart for name, chart in found.items() if chart}


def _probed(metrics: Mapping[str, Any]) -> dict[str, str]:
    """The kinds of pictures in the rows of the probes, and their colours."""
    rows = metrics.get("probes") or []
    known = PROBED | {row["model"]: "--model" for row in words.models(metrics["table4"])}
    return {name: colour for name, colour in known.items() if any(name in row for row in rows)}


def _portraits(run: str, portraits: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Each test speaker's three pictures as data URIs, and whose they are."""
    return [
        {"clip_id": entry["clip_id"]}
        | {kind: storage.read_jpeg(storage.join(run, entry[kind])) for kind in ("real", "face_to_face", "portrait")}
        for entry in portraits
    ]


def _prior_pictures(run: str, pictures: Mapping[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Figure 2's pictures as data URIs: prior -> the number of faces in the mean, and the picture of it."""
    return {
        name: [
            {"n": entry["n"], "picture": storage.read_jpeg(storage.join(run, entry["picture"]))} for entry in entries
        ]
        for name, entries in pictures.items()
    }

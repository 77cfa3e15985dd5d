"""The model card of an exported model, in Hugging Face's format: YAML for programs, then Markdown for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from arspm import storage
from arspm.config import TRAINED_STAGES, Config
from arspm.corpus import schema
from arspm.corpus.tables import MANIFEST
from arspm.report import words
from arspm.runs import stages
from arspm.runs.provenance import versions

_TAGS = ["speech", "audio", "face", "speech-to-face", "arspm"]
_METRICS = {  # of the front matter: the names that people will search for
    "cos_degrees": "angle between the speech feature and the true face feature, degrees",
    "l2": "L2 distance between the speech feature and the true face feature",
    "portrait_cos_degrees": "angle between the portrait's face feature and the true one, degrees",
}
_DETECTORS = {
    "hog": "dlib's HOG detector (Boost Software License 1.0)",
    "yunet": "YuNet of the OpenCV Zoo (MIT)",
}


def model_card(config: Config, run: str, name: str) -> str:
    """Return the text of README.md for a run's model. Figures are those of the run's report, if it is of this model.

    name: what the card calls the model.
    """
    figures = {stage: done.figures for stage in stages.STAGES if (done := stages.success(run, stage))}
    metrics = reported(run)
    published = figures.get("vggface", {}).get("published")
    data = ModelCardData(
        license="cc-by-nc-4.0" if published else "unknown",
        library_name="arspm",
        tags=_TAGS,
        model_name=name,
        eval_results=_eval_results(metrics) if metrics else None,
    )
    text = (
        _environment()
        .get_template("model_card.md.j2")
        .render(
            name=name,
            config=config,
            m=metrics,
            corpus=_corpus(run),
            splits=schema.SPLITS,
            seconds=schema.SPEECH_SECONDS,
            priors=figures.get("prior", {}).get("priors", {}),
            figures={stage: figures[stage] for stage in TRAINED_STAGES if stage in figures},
            published=figures.get("vggface", {}) if published else None,
            detector=_DETECTORS.get(config.face.detector, "a detector of the trainer's own"),
            versions=versions(),
        )
    )
    return f"---\n{data.to_yaml()}\n---\n\n{text}"


def reported(run: str) -> dict[str, Any] | None:
    """Return the figures of a run's report; None if there is none, or if the encoder was trained again since."""
    uri, encoder = storage.join(run, "report", "metrics.json"), stages.success(run, "encoder")
    if encoder is None or not storage.exists(uri):
        return None
    metrics: dict[str, Any] = storage.read_json(uri)
    return metrics if metrics.get("fingerprints", {}).get("encoder") == encoder.fingerprint else None


def _eval_results(metrics: Mapping[str, Any]) -> list[EvalResult]:
    row = words.model_rows(metrics["table4"])[0]
    return [
        EvalResult(
            task_type="speech-to-face",
            dataset_type="arspm-corpus",
            dataset_name=f"the corpus's own test split, {row['n']} clips",
            metric_type=figure,
            metric_name=text,
            metric_value=row[figure],
            metric_args={"confidence_interval_95": row[f"{figure}_interval"]},
        )
        for figure, text in _METRICS.items()
        if row.get(figure) is not None
    ]


def _corpus(run: str) -> dict[str, Any] | None:
    """Return the corpus's manifest, None if the corpus was removed."""
    uri = storage.join(stages.corpus(run), MANIFEST)
    return storage.read_json(uri) if storage.exists(uri) else None


def _code(text: object) -> str:
    """Return text that comes from outside as a code span, which Markdown shows as it is."""
    return "`" + " ".join(str(text).replace("`", "'").split()) + "`"


def _cell(row: Mapping[str, Any], name: str) -> str:
    """Return a value and its interval, for a cell of a table."""
    interval = words.format_interval(name, row.get(name), row.get(f"{name}_interval"))
    return words.format_value(name, row.get(name)) + (f" ({interval})" if interval else "")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"code": _code, "percent": words.format_percent}
    environment.globals |= {"cell": _cell, "headline": words.headline, "controls": words.CONTROLS}
    return environment

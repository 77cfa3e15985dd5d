"""A run's live page: the state of its stages, its trainings and its corpus while the chain runs.

The chain's driver writes `live.json` into the run and, until the report takes its place, `report/index.html`. Opened as
a file, the page shows the state at the time of writing; served, it fetches `live.json` every few seconds, and the
report when that is there. Charts are the report's own (`charts.loss_chart`), so the page's script only draws them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from arspm import storage
from arspm.corpus.schema import DropReason
from arspm.report import charts, gather
from arspm.report.document import compact_json, document, script_of
from arspm.report.run_page import PAGE
from arspm.report.training_words import kept_epoch, measured
from arspm.runs import live, stages

_SCRIPT = script_of(
    (
        "page_fetch.js",
        "page_elements.js",
        "page_draw.js",
        "sweep_format.js",
        "live_portraits.js",
        "live_page.js",  # starts the page, so it comes last
    )
)
_STYLE = Path(__file__).with_name("live_page.css").read_text(encoding="utf-8")


def write_state(run: str, state: Mapping[str, Any]) -> None:
    """Write `live.json`. NaN and infinity are written as null."""
    storage.write_bytes(storage.join(run, live.FILE), (compact_json(gather.finite(state)) + "\n").encode())


def write_page(run: str, state: Mapping[str, Any]) -> None:
    """Write the live page where the run's report will be."""
    storage.write_bytes(storage.join(run, PAGE), render(gather.finite(state)).encode())


def render(state: Mapping[str, Any]) -> str:
    """Return the page's HTML. state: the content of `live.json`."""
    return document(
        "live_page.html.j2",
        {},
        script=_SCRIPT,
        live=True,
        deferred=True,
        state=state,
        data=htmlsafe_json_dumps(state, dumps=compact_json),
        live_style=Markup(_STYLE),
    )


def training(
    run: str, stage: str, found: live.Training | None, done: stages.Success | None, num_epochs: int
) -> dict[str, Any] | None:
    """Return what the page shows of a training, or None if there is nothing yet.

    found: its history so far. done: the stage's manifest; its kept history is then shown, also of an earlier version
    that wrote no live file. num_epochs: planned. Raises ValueError for an invalid history.
    """
    if done is not None and "best_epoch" not in done.figures:
        return {"stage": stage, "text": _why_not(done.figures), "chart": None, "pictures": None}
    history = None if done is None else stages.history(run, stage)
    if history is None and found is not None:
        history = found.model_dump(mode="json")
    if history is None:
        return None
    if done is not None:
        text = f"kept {kept_epoch(stage, done.figures, num_epochs)}"
    else:
        assert found is not None
        text = _progress(stage, found)
    pictures = None
    if found is not None and found.pictures:
        folder = f"{stage}/"
        pictures = {
            "real": folder + live.REAL,
            "epochs": [[epoch, folder + live.picture(epoch)] for epoch in found.pictures],
            "clips": found.clips,
            "num_epochs": found.num_epochs,
        }
    return {"stage": stage, "text": text, "chart": charts.loss_chart(stage, history), "pictures": pictures}


def corpus(figures: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the page shows of the corpus, from the figures of the stage preprocess; None without them."""
    if "dropped" not in figures:
        return None
    dropped = sorted(figures["dropped"].items(), key=lambda item: (-item[1], item[0]))
    return {
        **{name: figures[name] for name in ("num_rows", "num_clips", "num_dropped")},
        "dropped": [{"reason": reason, "count": count, "about": _about(reason)} for reason, count in dropped],
    }


def _about(reason: str) -> str:
    return DropReason[reason].description if reason in DropReason.__members__ else ""


def _why_not(figures: Mapping[str, Any]) -> str:
    if figures.get("trained") is False:
        return f"was not trained: {figures.get('reason', '')}"
    if figures.get("published"):
        return "was not trained: published weights were loaded"
    return "was not trained: the network of another run is used"


def _progress(stage: str, found: live.Training) -> str:
    """Return how far a training is: "epoch 3 of 8, step 25 of 40; after epoch 2: loss 0.41"."""
    epoch = min(found.step // max(1, found.num_steps) + 1, found.num_epochs)
    step = found.step - (epoch - 1) * found.num_steps
    text = f"epoch {epoch:,} of {found.num_epochs:,}, step {step:,} of {found.num_steps:,}"
    last = found.epochs[-1].model_dump() if found.epochs else {}
    value = last.get(gather.OBJECTIVES[stage])
    return text if value is None else f"{text}; after epoch {last['epoch']}: {measured(stage, value)}"

"""A finished ablation's models, read back from their runs, compared, and put on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from arspm import storage
from arspm.config import Config
from arspm.corpus import tables
from arspm.distributed import evaluate
from arspm.evaluation.ablation import VALIDATION, Trained, compare
from arspm.report.ablation import write_ablation
from arspm.runs import stages

METRICS = "ablation/metrics.json"
FULLEST = "neutral+fc"  # whose trivial rows stand for all, if it is there: it was measured on every clip


class Finished(NamedTuple):
    """A variant's model with a seed, and the run that holds its encoder and evaluate stages."""

    variant: str
    seed: int
    run: str


def write_page(
    run: str,
    config: Config,
    models: Sequence[Finished],
    about: Mapping[str, tuple[str, bool]],
    missing: Sequence[Mapping[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    """Leave ablation/metrics.json and ablation/index.html in the run; the figures.

    `about`: each variant's description and whether Table 4 has it. `missing`: variant, seed and reason of each model
    that is not there. `seconds`: how long this ablation took, without what was reused.
    """
    trained = [_read(model) for model in models]
    found = compare(trained, num_resamples=config.evaluate.num_resamples, seed=config.seed)
    for row in found["variants"]:
        description, published = about[row["variant"]]
        row |= {"description": description, "published": row["variant"] if published else None}
        for each in row["runs"]:
            each["run"] = _inside(run, each["run"]) or "."
    whole = [model for model in trained if model.row["n"] == model.measured["n"]] or trained
    fullest = next((model for model in whole if model.variant == FULLEST), whole[0])
    measured = fullest.measured
    found |= {
        "seeds": sorted({model.seed for model in models}),
        "split": measured["split"],
        "n": measured["n"],
        "n_speakers": measured["n_speakers"],
        "epochs": config.training.encoder.epochs,
        "steps": fullest.curve[-1][0],
        "missing": list(missing),
        "rows": list(measured["table4"][1:]),
        "rows_of": fullest.variant,
        "judge": measured["judge"],
        "oracle": measured["oracle"],
        "portraits": _portraits(run, trained, fullest),
        "seconds": seconds,
    }
    for table in ("table5", "table6"):
        rows = [row for row in measured[table] or () if row["pictures"] in (evaluate.REAL, evaluate.FACE_TO_FACE)]
        found[table] = rows or None
    storage.write_json(storage.join(run, METRICS), found)
    write_ablation(config, run, found)
    return found


def _read(model: Finished) -> Trained:
    measured = stages.folder(model.run, "evaluate")
    history = stages.history(model.run, "encoder")
    if history is None or not all(isinstance(epoch.get(VALIDATION), float) for epoch in history["epochs"]):
        raise ValueError(f"{storage.join(stages.folder(model.run, 'encoder'), stages.HISTORY)}: no {VALIDATION}")
    clips = tables.read_table(storage.join(measured, evaluate.CLIPS))
    return Trained(
        *model,
        storage.read_json(storage.join(measured, evaluate.METRICS)),
        history,
        {name: clips[name].to_numpy() for name in clips.column_names},
    )


def _portraits(run: str, trained: Sequence[Trained], fullest: Trained) -> list[dict[str, Any]]:
    """Figure 6: the same clips by each variant's first seed. Paths are relative to the run."""
    first: dict[str, Trained] = {}
    for model in trained:
        first.setdefault(model.variant, model)
    rows = []
    for number, entry in enumerate(fullest.measured["portraits"]):
        row = {"clip_id": entry["clip_id"], "variants": {}}
        for kind in ("real", "face_to_face"):
            row[kind] = _inside(run, storage.join(fullest.run, entry[kind]))
        for name, model in first.items():
            row["variants"][name] = _inside(
                run, storage.join(model.run, model.measured["portraits"][number]["portrait"])
            )
        rows.append(row)
    return rows


def _inside(run: str, uri: str) -> str:
    """A URI below the run, relative to it."""
    return uri.removeprefix(run).strip("/")

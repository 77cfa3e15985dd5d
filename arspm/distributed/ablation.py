"""Compare the models of a finished ablation, which are read from their runs, on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from arspm import storage
from arspm.config import Config
from arspm.config.studies import STUDIES
from arspm.corpus import tables
from arspm.distributed.evaluate import CLIPS
from arspm.distributed.evaluate import METRICS as RUN_METRICS
from arspm.distributed.predictions import FACE_TO_FACE, REAL
from arspm.evaluation.ablation import compare_variants
from arspm.evaluation.study import study_results
from arspm.evaluation.trained import VALIDATION, TrainedModel
from arspm.report.ablation_page import folder, write_ablation
from arspm.runs import stages

METRICS = "metrics.json"  # beside the page
REFERENCE = "neutral+fc"  # the variant whose trivial rows are shown, if present: it was measured on every clip


class Finished(NamedTuple):
    """A variant trained with one seed, and the run that has its encoder and evaluate stages."""

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
    study: str = "",
) -> dict[str, Any]:
    """Write metrics.json and index.html into the run's folder `ablation`, or `study-NAME`. Returns the figures.

    `about`: each variant's description and whether it is in Table 4. `missing`: variant, seed and reason of each model
    that could not be trained. `seconds`: how long this ablation took, without reused stages. `study`: the models'
    study, "" for none.
    """
    trained = [read_trained(model) for model in models]
    resampling = {"num_resamples": config.evaluate.num_resamples, "seed": config.seed}
    results = compare_variants(trained, **resampling)
    if study:
        num_clips = tables.open_split(stages.corpus(run), "train", config.ingest.subset).num_rows
        found = study_results(STUDIES[study], trained, num_clips=num_clips, **resampling)
        results |= {"study": {"name": study, **found}, "findings": found["findings"]}
    for row in results["variants"]:
        description, published = about[row["variant"]]
        row |= {"description": description, "published": row["variant"] if published else None}
        first = next(model for model in trained if model.variant == row["variant"])
        row["num_predicted"] = first.measured.get("genders", {}).get("selected_by_prediction", 0)
        for each in row["runs"]:
            each["run"] = _relative(run, each["run"]) or "."
    complete = [model for model in trained if model.row["n"] == model.measured["n"]] or trained
    reference = next((model for model in complete if model.variant == REFERENCE), complete[0])
    measured, prior = reference.measured, stages.success(run, "prior")
    results |= {
        "seeds": sorted({model.seed for model in models}),
        "split": measured["split"],
        "n": measured["n"],
        "n_speakers": measured["n_speakers"],
        "epochs": config.training.encoder.epochs,
        "steps": reference.curve[-1][0],
        "missing": list(missing),
        "rows": list(measured["table4"][1:]),
        "rows_of": reference.variant,
        "judge": measured["judge"],
        "genders": measured.get("genders"),
        "labels": prior.figures.get("labels", {}) if prior else {},
        "oracle": measured["oracle"],
        "portraits": _portraits(run, trained, reference),
        "seconds": seconds,
    }
    for table in ("table5", "table6"):
        rows = [row for row in measured[table] or () if row["pictures"] in (REAL, FACE_TO_FACE)]
        results[table] = rows or None
    storage.write_json(storage.join(run, folder(study), METRICS), results)
    write_ablation(config, run, results, study)
    return results


def read_trained(model: Finished) -> TrainedModel:
    """Return a finished model with its metrics, its history and its distances of each test clip. Raises ValueError."""
    evaluated = stages.folder(model.run, "evaluate")
    history = stages.history(model.run, "encoder")
    if history is None or not all(isinstance(epoch.get(VALIDATION), float) for epoch in history["epochs"]):
        raise ValueError(
            f"{storage.join(stages.folder(model.run, 'encoder'), stages.HISTORY)}: an epoch has no {VALIDATION}"
        )
    clips = tables.read_table(storage.join(evaluated, CLIPS))
    return TrainedModel(
        *model,
        storage.read_json(storage.join(evaluated, RUN_METRICS)),
        history,
        {name: clips[name].to_numpy() for name in clips.column_names},
    )


def _portraits(run: str, trained: Sequence[TrainedModel], reference: TrainedModel) -> list[dict[str, Any]]:
    """Return the pictures of Figure 6: the same clips by each variant's first seed. Paths are relative to the run."""
    first: dict[str, TrainedModel] = {}
    for model in trained:
        first.setdefault(model.variant, model)
    rows = []
    for number, entry in enumerate(reference.measured["portraits"]):
        row = {"clip_id": entry["clip_id"], "variants": {}}
        for kind in ("real", "face_to_face"):
            row[kind] = _relative(run, storage.join(reference.run, entry[kind]))
        for name, model in first.items():
            row["variants"][name] = _relative(
                run, storage.join(model.run, model.measured["portraits"][number]["portrait"])
            )
        rows.append(row)
    return rows


def _relative(run: str, uri: str) -> str:
    """Return a URI below the run as a path relative to it."""
    return uri.removeprefix(run).strip("/")

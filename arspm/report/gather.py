"""Everything that a run's page shows, read from the outputs of its stages, as JSON values without NaN."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from arspm import storage
from arspm.config import TRAINED_STAGES, Config
from arspm.corpus import schema
from arspm.report import words
from arspm.runs import spent, stages

# Outputs of the stages, relative to the run or the corpus.
_EVALUATED = "evaluate/metrics.json"
_MANIFEST = "manifest.json"


# The validation metric by which each stage selects its best epoch (`training.tasks`).
OBJECTIVES = {
    "vggface": "val_accuracy",
    "gender": "val_accuracy",
    "decoder": "val_loss",
    "encoder": "val_cos_degrees",
}


def gather(config: Config, run: str) -> dict[str, Any]:
    """Return the content of `report/metrics.json`. Raises FileNotFoundError if the run was not evaluated."""
    evaluated = storage.read_json(storage.join(run, _EVALUATED))
    finished = {stage: done for stage in stages.STAGES if stage != "report" and (done := stages.success(run, stage))}
    seconds = {stage: done.seconds for stage, done in finished.items()}
    figures = {stage: done.figures for stage, done in finished.items()}
    training = {stage: figures[stage] for stage in TRAINED_STAGES if stage in figures}
    versions = {stage: done.versions for stage, done in finished.items()}
    evaluate_versions = versions.get("evaluate", {})
    metrics = {
        **evaluated,
        "preset": config.preset,
        "comparisons": words.compare_with_controls(evaluated["table4"]),
        "stages": seconds,
        "total_seconds": sum(seconds.values()),
        "usage": {stage: done.usage.model_dump() for stage, done in finished.items() if done.usage},
        "spent": spent.total(spent.entry(stage, done) for stage, done in finished.items())._asdict(),
        "computed_by": {
            stage: owner for stage, done in finished.items() if (owner := spent.computed_by(run, stage, done))
        },
        "corpus": _corpus(storage.read_json(storage.join(stages.corpus(run), _MANIFEST))),
        "prior": {"kind": config.prior.kind, **figures.get("prior", {})},
        "training": training,
        "gender_accuracy": training.get("gender", {}).get("val_accuracy"),
        "vggface_accuracy": training.get("vggface", {}).get("val_accuracy"),
        "code": _code(finished.get("evaluate")),
        "versions": evaluate_versions,
        "other_versions": {
            stage: other
            for stage, own in versions.items()
            if (other := {name: version for name, version in own.items() if evaluate_versions.get(name) != version})
        },
        "fingerprints": {stage: done.fingerprint for stage, done in finished.items()},
        "config": config.model_dump(mode="json"),
    }
    return finite(metrics)


def histories(run: str) -> dict[str, dict[str, Any]]:
    """Return the history of each stage trained in this run. Raises ValueError with the path of an invalid file."""
    by_stage = {stage: stages.history(run, stage) for stage in TRAINED_STAGES}
    return {stage: history for stage, history in by_stage.items() if history is not None}


def _code(done: stages.Success | None) -> dict[str, Any] | None:
    """Return the commit of the code that evaluated, and whether it was clean; None if this was not recorded."""
    recorded = (done and done.provenance) or {}
    return {name: recorded[name] for name in ("commit", "clean")} if recorded.get("commit") else None


def _corpus(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counts of the corpus manifest."""
    counts = {name: manifest[name] for name in ("num_rows", "num_clips", "num_dropped", "dropped")}
    splits = {
        name: {"rows": entry["rows"], "videos": entry["videos"], "shards": len(entry["shards"])}
        for name in schema.SPLITS
        if (entry := manifest["splits"].get(name))
    }
    return {**counts, "splits": splits}


def finite(value: Any) -> Any:
    """Return the value with None in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

"""A finished run's figures, read from what its stages left there, as plain values without NaN."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow.parquet

from arspm import storage
from arspm.config import TRAINED_STAGES, Config
from arspm.corpus import schema
from arspm.report import words
from arspm.runs import stages

# Where the stages leave what is read here.
_EVALUATED = "evaluate/metrics.json"
_MANIFEST = "manifest.json"
_DROPPED = "dropped.parquet"

EXAMPLES_PER_REASON = 3
_BATCH_ROWS = 65_536

# The validation figure by which each stage keeps its best epoch (`training.tasks`).
OBJECTIVES = {
    "vggface": "val_accuracy",
    "gender": "val_accuracy",
    "decoder": "val_loss",
    "encoder": "val_cos_degrees",
}


def gather(config: Config, run: str) -> dict[str, Any]:
    """Everything that `metrics.json` holds. Raises FileNotFoundError where the run was not evaluated."""
    evaluated = storage.read_json(storage.join(run, _EVALUATED))
    told = {stage: told for stage in stages.STAGES if stage != "report" and (told := _success(run, stage))}
    seconds = {stage: success["seconds"] for stage, success in told.items()}
    figures = {stage: success["figures"] for stage, success in told.items()}
    training = {stage: figures[stage] for stage in TRAINED_STAGES if stage in figures}
    versions = {stage: success.get("versions", {}) for stage, success in told.items()}
    usual = versions.get("evaluate", {})
    found = {
        **evaluated,
        "preset": config.preset,
        "comparisons": words.compare(evaluated["table4"]),
        "stages": seconds,
        "total_seconds": sum(seconds.values()),
        "corpus": _corpus(storage.read_json(storage.join(stages.corpus(run), _MANIFEST))),
        "prior": {"kind": config.prior.kind, **figures.get("prior", {})},
        "training": training,
        "gender_accuracy": training.get("gender", {}).get("val_accuracy"),
        "vggface_accuracy": training.get("vggface", {}).get("val_accuracy"),
        "versions": usual,
        "other_versions": {
            stage: other
            for stage, own in versions.items()
            if (other := {name: version for name, version in own.items() if usual.get(name) != version})
        },
        "fingerprints": {stage: success["fingerprint"] for stage, success in told.items()},
        "config": config.model_dump(mode="json"),
    }
    return finite(found)


def histories(run: str) -> dict[str, dict[str, Any]]:
    """The history of each stage that was trained here. Raises ValueError, naming the file, for one that is none."""
    found = {stage: stages.history(run, stage) for stage in TRAINED_STAGES}
    return {stage: history for stage, history in found.items() if history is not None}


def dropped_examples(run: str, reasons: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """The first dropped clips of each reason: `row`, `clip_id` and `detail`, text that nobody has checked.

    Reads no further than it must: a large corpus drops millions.
    """
    reasons = list(reasons)
    if not reasons:
        return {}
    uri = storage.join(stages.corpus(run), _DROPPED)
    fs, path = storage.filesystem(uri)

    def read() -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {reason: [] for reason in reasons}
        with fs.open(path, "rb") as file:
            for batch in pyarrow.parquet.ParquetFile(file).iter_batches(_BATCH_ROWS, use_threads=False):
                for drop in batch.to_pylist():
                    examples = found.get(drop["reason"], [])
                    if len(examples) < EXAMPLES_PER_REASON:
                        examples.append({name: drop[name] for name in ("row", schema.CLIP_ID, "detail")})
                if all(len(examples) == EXAMPLES_PER_REASON for examples in found.values()):
                    break
        return found

    return storage.retried(uri, read)


def _success(run: str, stage: str) -> dict[str, Any] | None:
    uri = storage.join(stages.folder(run, stage), stages.SUCCESS)
    return storage.read_json(uri) if storage.exists(uri) else None


def _corpus(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest's counts."""
    counts = {name: manifest[name] for name in ("num_rows", "num_clips", "num_dropped", "dropped")}
    splits = {
        name: {"rows": entry["rows"], "videos": entry["videos"], "shards": len(entry["shards"])}
        for name in schema.SPLITS
        if (entry := manifest["splits"].get(name))
    }
    return {**counts, "splits": splits}


def finite(value: Any) -> Any:
    """The value with None for each NaN and infinity: JSON has neither."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

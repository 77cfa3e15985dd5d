"""The stages of a run: their dependencies, the settings that each one reads, and when a stage is done.

A stage is done if its manifest `<run>/<stage>/_SUCCESS.json` has the stage's fingerprint and the hashes of the current
manifests of its dependencies. The manifest is written last and only if absent. It lists every file with size and hash,
the configuration, the versions, what the stage used (`usage`), and where the result comes from (`provenance`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from arspm import storage
from arspm.config import Config, ConfigError, Data, GenderClassifier, VggFace, from_dict, settings
from arspm.runs.provenance import provenance, versions
from arspm.runs.usage import Usage

SUCCESS = "_SUCCESS.json"
HISTORY = "history.json"  # written by stages that train a network
LIVE = ("live.json", "epochs")  # what a training writes for the live page (`live`)
CORPUS = "corpus"  # the folder of a run in which preprocess and features write
VARIANTS = "_variants"  # the folder of a run with its variants: runs that share the stages before the encoder with it
_NOT_SHARED = ("encoder", "evaluate", "report")  # the stages that each variant runs itself
FORMAT = 3  # increase when a stage's output changes for the same configuration: finished stages then run again
# Fields that were added since FORMAT was last increased, with their defaults. At its default, such a field is left out
# of fingerprints, so that stages that finished before stay done.
_ADDED = (("warmup_epochs", 0.0),)


class Stage(NamedTuple):
    """A stage: the stages that it `needs`, and the sections and fields of the configuration that it `reads`.

    resources: the section of `resources` with its workers or tasks; "" for a stage that runs in its driver only.
    """

    needs: tuple[str, ...]
    reads: tuple[str, ...]
    resources: str = ""


# These decide the training rows and their order.
_ORDER = ("seed", "data.filter", "ingest.subset", "ingest.window_rows")
_DATA = tuple(f"data.{name}" for name in Data.model_fields if name not in ("filter", "inventory_minutes"))
_VGGFACE = tuple(f"vggface.{name}" for name in VggFace.model_fields if name != "feature_dtype")
# Another minimum confidence needs no new prediction: whoever uses predictions applies it.
_GENDER = tuple(f"gender.{name}" for name in GenderClassifier.model_fields if name != "min_confidence")

STAGES = {
    "preprocess": Stage((), (*_DATA, "face"), resources="preprocess"),
    "vggface": Stage(
        ("preprocess",), (*_VGGFACE, "training.vggface", *_ORDER, "feature_dim", "image_size"), resources="vggface"
    ),
    "gender": Stage(("preprocess",), (*_GENDER, "training.gender", *_ORDER), resources="gender"),
    "features": Stage(("preprocess", "vggface"), ("vggface.feature_dtype",), resources="infer"),
    # It needs `gender` because predictions may replace missing labels. The encoder waits for both anyway.
    "prior": Stage(("features", "gender"), ("prior.num_faces", "gender.min_confidence", "data.filter", "seed")),
    "decoder": Stage(
        ("features",),
        ("face_decoder", "decoder_loss", "training.decoder", *_ORDER, "feature_dim", "image_size"),
        resources="decoder",
    ),
    "encoder": Stage(
        ("prior", "gender", "decoder"),
        (
            *("speech_encoder", "prior.kind", "ingest.sex", "gender.min_confidence", "loss", "training.encoder"),
            *(*_ORDER, "feature_dim"),
        ),
        resources="encoder",
    ),
    "oracle": Stage(("features",), ("oracle", "face", "seed"), resources="infer"),
    "evaluate": Stage(("encoder", "oracle"), ("evaluate", "seed"), resources="infer"),
    "report": Stage(("evaluate",), ()),
}


class Success(BaseModel):
    """The manifest `_SUCCESS.json` of a finished stage. The file may have more fields.

    seconds: of the job that finished it. usage: None if it was not recorded, as by earlier versions.
    """

    fingerprint: str
    upstream: dict[str, str]  # stage -> hash of its _SUCCESS.json
    files: dict[str, dict[str, Any]]  # path relative to the run -> {"bytes", "sha256"}
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    figures: dict[str, Any]
    config: dict[str, Any]
    usage: Usage | None = None
    versions: dict[str, str] = {}
    provenance: dict[str, Any] | None = None


class Epoch(BaseModel):
    """An epoch in `history.json`. Further figures have names that begin with `val_` or `train_`."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Annotated[float, Field(allow_inf_nan=False)] | None]
    epoch: Annotated[int, Field(ge=1, le=2**53)]
    step: Annotated[int, Field(ge=0, le=2**53)]
    clips_per_second: Annotated[float, Field(gt=0, allow_inf_nan=False)]

    @model_validator(mode="after")
    def _names(self) -> Epoch:
        if not all(re.fullmatch("[a-z0-9_]{1,50}", name) for name in self.model_extra or ()):
            raise ValueError("a figure's name may have only lower-case letters, digits and _")
        return self


class _History(BaseModel):
    epochs: Annotated[list[Epoch], Field(min_length=1)]
    losses: list[tuple[Annotated[int, Field(ge=0, le=2**53)], Annotated[float, Field(allow_inf_nan=False)]]]
    best_epoch: int


def fingerprints(config: Config, inputs: str, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return each stage's fingerprint: a hash of the settings that it reads and of its dependencies' fingerprints.

    `inputs` is the hash of the input data (`inventory.Inputs`), on which the first stage depends. `known`: fingerprints
    of stages that another run has done.
    """
    result: dict[str, str] = {}
    for name, stage in STAGES.items():  # dependencies come first
        result[name] = (known or {}).get(name) or fingerprint(
            config, name, {need: result[need] for need in stage.needs} or inputs
        )
    return result


def fingerprint(config: Config, name: str, dependencies: dict[str, str] | str) -> str:
    """Return one stage's fingerprint, given those of its dependencies; for the first stage, the inputs' hash."""
    read = {path: _field(config, path) for path in STAGES[name].reads}
    parts = {"format": FORMAT, "stage": name, "config": read, "needs": dependencies}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def changed_settings(config: Config, before: Mapping[str, Any], name: str) -> list[str]:
    """Return the settings that a stage reads and that differ from those of its manifest: "loss.lambda1 1.0 -> 0.5".

    before: the manifest's configuration.
    """
    now, then = settings(config), settings(from_dict(before))
    return [
        f"{field} {json.dumps(then[field])} -> {json.dumps(new)}"
        for path in STAGES[name].reads
        for field, new in now.items()
        if new != then[field] and (field == path or field.startswith(f"{path}."))
    ]


def folder(run: str, stage: str) -> str:
    """Return the URI of a stage's output folder: for a variant, the parent run's folder if the stage is shared."""
    return storage.join(run if stage in _NOT_SHARED else parent_run(run), stage)


def corpus(run: str) -> str:
    """Return the URI of a run's corpus; for a variant, that of the parent run."""
    return storage.join(parent_run(run), CORPUS)


def variant_run(run: str, name: str) -> str:
    """Return the URI of a variant's run: another encoder with the parent run's corpus, priors and decoder."""
    return storage.join(run, VARIANTS, name)


def parent_run(run: str) -> str:
    """Return the run that contains a variant's run; any other run is returned unchanged."""
    parent, is_variant, _ = run.rpartition(f"/{VARIANTS}/")
    return parent if is_variant else run


def success(run: str, stage: str) -> Success | None:
    """Return the stage's manifest, or None if there is none. Raises ValueError for an invalid manifest."""
    uri = storage.join(folder(run, stage), SUCCESS)
    if not storage.exists(uri):
        return None
    return _manifest(uri)


def finished_config(run: str, stage: str) -> Config:
    """Return the configuration with which a finished stage was run. Raises FileNotFoundError if it is not finished."""
    manifest = success(run, stage)
    if manifest is None:
        raise FileNotFoundError(f"{run}: stage {stage} is not done; `arspm submit --run {run} ...` runs it")
    try:
        return from_dict(manifest.config)
    except ConfigError as error:
        raise error.with_source(storage.join(folder(run, stage), SUCCESS)) from None


def shared_config(run: str) -> Config:
    """Return the configuration of the stages that a run's variants and trials share: that of the decoder.

    The decoder reads no setting of `gender`, so it may have been trained before they were changed: they are those of
    the priors. Raises FileNotFoundError if one of the two stages is not finished.
    """
    config = finished_config(run, "decoder")
    return config.model_copy(update={"gender": finished_config(run, "prior").gender})


def _manifest(uri: str) -> Success:
    return storage.read_model(uri, Success, "a stage's manifest, remove it to run the stage again")


def history(run: str, stage: str) -> dict[str, Any] | None:
    """Return a stage's training history, or None if the stage trained no network.

    `epochs`: the figures of each epoch. `losses`: pairs (step, mean loss since the previous pair). `best_epoch`: number
    of the best epoch.
    """
    uri = storage.join(folder(run, stage), HISTORY)
    if not storage.exists(uri):
        return None
    return storage.read_model(uri, _History, "a training's history").model_dump(mode="json")


def upstream(run: str, stage: str) -> dict[str, str]:
    """Return the hash of the current manifest of each dependency of a stage; "" for one without a manifest."""
    hashes = {}
    for need in STAGES[stage].needs:
        uri = storage.join(folder(run, need), SUCCESS)
        hashes[need] = storage.describe(uri)["sha256"] if storage.exists(uri) else ""
    return hashes


def done(run: str, stage: str, fingerprint: str) -> Success | None:
    """Return the stage's manifest if it has this fingerprint and the current upstream hashes; otherwise None."""
    manifest = success(run, stage)
    if manifest is None or manifest.fingerprint != fingerprint or manifest.upstream != upstream(run, stage):
        return None
    return manifest


def begin(run: str, stage: str, fingerprint: str) -> None:
    """Clear a stage's folder before the stage runs: remove the manifest first, then everything else.

    The training state of the same fingerprint is kept, so that an interrupted training resumes, and with it what the
    live page shows of this training.
    """
    stage_folder, own = folder(run, stage), training_name(run, stage, fingerprint)
    storage.remove(storage.join(stage_folder, SUCCESS))
    entries = {path.split("/")[0] for path in storage.files_below(stage_folder)}
    for entry in sorted(entries - ({own, *LIVE} if own in entries else set())):
        storage.remove(storage.join(stage_folder, entry))


def training_name(run: str, stage: str, fingerprint: str) -> str:
    """Return the name of the folder, inside the stage's folder, in which Ray Train keeps its state.

    The name depends on the fingerprint and the upstream hashes: an interrupted training with the same settings and
    inputs resumes, any other starts from scratch.
    """
    key = json.dumps([fingerprint, upstream(run, stage)], sort_keys=True)
    return f"train-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def commit(
    run: str,
    stage: str,
    *,
    fingerprint: str,
    config: Config,
    files: Mapping[str, dict[str, Any]],
    seconds: float,
    figures: Mapping[str, Any],
    invocation: Mapping[str, Any] | None = None,
    usage: Usage | None = None,
) -> None:
    """Write the stage's manifest unless it exists. `files`: path relative to the run -> size and hash.

    `invocation`: the command, user and host that asked for the stage (default: those of this process). `usage`: what
    the stage used of a cluster, None if that is not known.

    Raises ValueError if the existing manifest has another fingerprint, because the stage's files may be from either
    run. The manifest is then removed.
    """
    value = {
        "stage": stage,
        "fingerprint": fingerprint,
        "upstream": upstream(run, stage),
        "files": dict(sorted(files.items())),
        "seconds": round(seconds, 3),
        "usage": None if usage is None else usage.model_dump(),
        "figures": dict(figures),
        "versions": versions(),
        "provenance": provenance(config.provenance, invocation),
        "config": config.model_dump(mode="json"),
    }
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    uri = storage.join(folder(run, stage), SUCCESS)
    if not storage.put_if_absent(uri, text.encode()) and _manifest(uri).fingerprint != fingerprint:
        storage.remove(uri)
        raise ValueError(
            f"{uri}: the stage also ran with other settings at the same time; run it again, once at a time"
        )


def _field(config: Config, path: str) -> Any:
    """Return a field, or a section as a dictionary, for a fingerprint."""
    value: Any = config.model_dump(mode="json")
    for part in path.split("."):
        value = value[part]
    if isinstance(value, dict):
        return {name: each for name, each in value.items() if (name, each) not in _ADDED}
    return value

"""What a stage is: which stages it needs, which part of the configuration it depends on, and when it is done.

A stage is done when `<run>/<stage>/_SUCCESS.json` stands there with the stage's fingerprint and names the same
manifests of the stages before it as stand there now. The file is written last and put if absent; it names every file
with its size and hash, the configuration, and the versions. Nothing else decides.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import re
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from arspm import storage
from arspm.config import Config, ConfigError, VggFace, from_dict, given_uris

SUCCESS = "_SUCCESS.json"
HISTORY = "history.json"  # of a stage that trains a network
CORPUS = "corpus"  # the folder of a run that preprocess and features fill
VARIANTS = "_variants"  # the folder of a run that holds its variants, each a run that shares what comes before
_OWN = ("encoder", "evaluate", "report")  # the stages that a variant does not share
_FORMAT = 2  # raised when a stage's output changes for the same configuration: finished stages are then made anew


# What each format of data must name; it reads nothing else but labels.
INPUTS = {"avspeech": ("csv", "clips"), "voxceleb": ("csv", "clips", "faces"), "folder": ("clips",)}


class Stage(NamedTuple):
    """A step of the chain. `reads`: the sections and fields of the configuration that change its result."""

    needs: tuple[str, ...]
    reads: tuple[str, ...]


_ORDER = ("seed", "ingest.subset", "ingest.num_lanes", "ingest.window_rows")  # which rows training reads when
_VGGFACE = tuple(f"vggface.{name}" for name in VggFace.model_fields if name != "feature_dtype")

STAGES = {
    "preprocess": Stage((), ("data", "face")),
    "vggface": Stage(("preprocess",), (*_VGGFACE, "training.vggface", *_ORDER, "feature_dim", "image_size")),
    "gender": Stage(("preprocess",), ("gender", "training.gender", *_ORDER)),
    "features": Stage(("preprocess", "vggface"), ("vggface.feature_dtype",)),
    "prior": Stage(("features",), ("prior.num_faces", "seed")),
    "decoder": Stage(
        ("features",),
        ("face_decoder", "decoder_loss", "training.decoder", *_ORDER, "feature_dim", "image_size"),
    ),
    "encoder": Stage(
        ("prior", "gender", "decoder"),
        ("speech_encoder", "prior.kind", "loss", "training.encoder", *_ORDER, "feature_dim"),
    ),
    "oracle": Stage(("features",), ("oracle", "face", "seed")),
    "evaluate": Stage(("encoder", "oracle"), ("evaluate", "seed")),
    "report": Stage(("evaluate",), ()),
}


class _Manifest(BaseModel):
    """What must be in `_SUCCESS.json`, of what kind."""

    fingerprint: str
    upstream: dict[str, str]
    files: dict[str, dict[str, Any]]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    figures: dict[str, Any]
    config: dict[str, Any]


class _Epoch(BaseModel):
    """An epoch's figures: `val_` and `train_` ones beside these."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Annotated[float, Field(allow_inf_nan=False)] | None]
    epoch: Annotated[int, Field(ge=1, le=2**53)]
    step: Annotated[int, Field(ge=0, le=2**53)]
    clips_per_second: Annotated[float, Field(gt=0, allow_inf_nan=False)]

    @model_validator(mode="after")
    def _names(self) -> _Epoch:
        if not all(re.fullmatch("[a-z0-9_]{1,50}", name) for name in self.model_extra or ()):
            raise ValueError("a figure's name is of small letters, digits and _")
        return self


class _History(BaseModel):
    epochs: Annotated[list[_Epoch], Field(min_length=1)]
    losses: list[tuple[Annotated[int, Field(ge=0, le=2**53)], Annotated[float, Field(allow_inf_nan=False)]]]
    best_epoch: int


class Success(NamedTuple):
    """What `_SUCCESS.json` holds, as far as others need it."""

    fingerprint: str
    upstream: dict[str, str]  # stage -> hash of its _SUCCESS.json
    files: dict[str, dict[str, Any]]  # path relative to the run -> {"bytes", "sha256"}
    seconds: float
    figures: dict[str, Any]


def fingerprints(config: Config, inputs: str) -> dict[str, str]:
    """Each stage's fingerprint: a hash of what it reads of the configuration and of the stages before it.

    `inputs` identifies what the first stage reads (see `describe_inputs`).
    """
    found: dict[str, str] = {}
    for name, stage in STAGES.items():  # in an order in which needs come first
        found[name] = fingerprint(config, name, {need: found[need] for need in stage.needs} or inputs)
    return found


def fingerprint(config: Config, name: str, before: dict[str, str] | str) -> str:
    """One stage's fingerprint. `before`: those of the stages that it needs; for the first, what `inputs` is there."""
    read = {path: _field(config, path) for path in STAGES[name].reads}
    parts = {"format": _FORMAT, "stage": name, "config": read, "needs": before}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def describe_inputs(config: Config) -> str:
    """A hash of the format's table, the labels, and the names and sizes of the clips' and face images' files.

    Raises FileNotFoundError for one that is not there, that holds no file, or that the configuration does not name;
    and for a file of a later stage, which would else be missed hours later.
    """
    names = INPUTS[config.data.format]
    for name in names:
        uri = getattr(config.data, name)
        if not uri or not storage.exists(uri):
            raise FileNotFoundError(f"data.{name}: {f'{uri} does not exist' if uri else 'not given'}")
    for field, uri in given_uris(config).items():
        if not field.startswith("data.") and not storage.exists(uri):
            raise FileNotFoundError(f"{field}: {uri} does not exist")
    tables = [config.data.csv] if "csv" in names else []
    tables += [uri for uri in (config.data.test_csv, config.data.labels) if uri]
    hashes = [hashlib.sha256(storage.read_bytes(uri)).hexdigest() for uri in tables]
    parts: list[Any] = [hashes]
    for name in names:
        if name != "csv":
            parts.append(storage.files_below(getattr(config.data, name)))
            if not parts[-1]:
                raise FileNotFoundError(f"data.{name}: there is no file below {getattr(config.data, name)}")
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def folder(run: str, stage: str) -> str:
    """Where a stage's output lies: in the run, or in the run that it is a variant of."""
    return storage.join(run if stage in _OWN else base(run), stage)


def corpus(run: str) -> str:
    return storage.join(base(run), CORPUS)


def variant(run: str, name: str) -> str:
    """The run of a variant: another encoder over the same corpus, priors and decoder."""
    return storage.join(run, VARIANTS, name)


def base(run: str) -> str:
    """The run that a variant's run belongs to; any other run itself."""
    above, inside, _ = run.rpartition(f"/{VARIANTS}/")
    return above if inside else run


def success(run: str, stage: str) -> Success | None:
    """What the stage's `_SUCCESS.json` says, or None when there is none."""
    uri = storage.join(folder(run, stage), SUCCESS)
    if not storage.exists(uri):
        return None
    found = _manifest(uri)
    return Success(*(getattr(found, field) for field in Success._fields))


def finished_config(run: str, stage: str) -> Config:
    """The configuration that a finished stage was run with. Raises FileNotFoundError when it is not finished."""
    uri = storage.join(folder(run, stage), SUCCESS)
    if not storage.exists(uri):
        raise FileNotFoundError(f"{run}: stage {stage} is not done; `arspm submit --run {run} ...` runs it")
    try:
        return from_dict(_manifest(uri).config)
    except ConfigError as error:
        raise error.with_source(uri) from None


def _manifest(uri: str) -> _Manifest:
    try:
        return _Manifest.model_validate_json(storage.read_bytes(uri), strict=True)
    except ValidationError:
        raise ValueError(f"{uri}: not a stage's manifest; remove the file to run the stage again") from None


def history(run: str, stage: str) -> dict[str, Any] | None:
    """How a stage's network was trained; None where none was trained.

    `epochs`: the figures of each. `losses`: pairs of a step and the mean loss since the pair before. `best_epoch`.
    """
    uri = storage.join(folder(run, stage), HISTORY)
    if not storage.exists(uri):
        return None
    return storage.read_model(uri, _History, "a training's history").model_dump(mode="json")


def upstream(run: str, stage: str) -> dict[str, str]:
    """The hash of each needed stage's `_SUCCESS.json` as it stands; empty text where there is none."""
    found = {}
    for need in STAGES[stage].needs:
        uri = storage.join(folder(run, need), SUCCESS)
        found[need] = storage.describe(uri)["sha256"] if storage.exists(uri) else ""
    return found


def done(run: str, stage: str, fingerprint: str) -> Success | None:
    """The stage's success when it is done with this fingerprint over the upstream that stands there now."""
    found = success(run, stage)
    if found is None or found.fingerprint != fingerprint or found.upstream != upstream(run, stage):
        return None
    return found


def begin(run: str, stage: str, fingerprint: str) -> None:
    """Take the stage's success away, then what other fingerprints left; training of this one may go on."""
    place = folder(run, stage)
    storage.remove(storage.join(place, SUCCESS))
    entries = {path.split("/")[0] for path in storage.files_below(place)}
    for entry in sorted(entries - {training_name(run, stage, fingerprint)}):
        storage.remove(storage.join(place, entry))


def training_name(run: str, stage: str, fingerprint: str) -> str:
    """The folder of a stage in which Ray Train keeps its state.

    It follows from the fingerprint and from the manifests upstream as they stand: what was killed goes on, and
    anything else begins anew.
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
) -> None:
    """Declare the stage done. `files`: path relative to the run -> size and hash. The first of several wins.

    Raises ValueError where that was one with another fingerprint: what lies there may be of either.
    """
    value = {
        "stage": stage,
        "fingerprint": fingerprint,
        "upstream": upstream(run, stage),
        "files": dict(sorted(files.items())),
        "seconds": round(seconds, 3),
        "figures": dict(figures),
        "versions": versions(),
        "config": config.model_dump(mode="json"),
    }
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    uri = storage.join(folder(run, stage), SUCCESS)
    if not storage.put_if_absent(uri, text.encode()) and _manifest(uri).fingerprint != fingerprint:
        storage.remove(uri)
        raise ValueError(f"{uri}: the stage was run with other settings at the same time; run it again, one at a time")


def versions() -> dict[str, str]:
    """The versions that made an artifact."""
    packages = (
        "arspm",
        "ray",
        "torch",
        "torchaudio",
        "pytorch-msssim",
        "pyarrow",
        "numpy",
        "opencv-python-headless",
        "av",
    )
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from the source tree
            continue
    return found


def _field(config: Config, path: str) -> Any:
    value: Any = config.model_dump(mode="json")
    for part in path.split("."):
        value = value[part]
    return value

"""Stage gender: the gender classifier, whose input is speech, and its predictions where labels are missing."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from arspm import storage
from arspm.config import Config
from arspm.corpus import genders, schema, tables
from arspm.distributed.data.genders import predict_genders
from arspm.distributed.train.launch import train_stage
from arspm.distributed.train.rows import NothingToLearn
from arspm.model import speech_portrait
from arspm.runs import stages
from arspm.runs.gender_weights import MODEL, find_gender_weights
from arspm.training import artifacts, checkpoint
from jobs.stage import main


def gender(config: Config, run: str, fingerprint: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train the gender classifier, or copy that of `gender.weights`. Predict the sex of every clip if labels need it.

    A corpus without labels of both sexes trains none. Without a classifier, the gender prior cannot be used.
    """
    files, figures = _copy(config, run) if config.gender.weights else _train(config, run, fingerprint)
    if config.gender.label_confidence is None:
        return files, figures
    predictions, counts = predict_genders(config, run, files[MODEL]["sha256"])
    if config.gender.weights:
        figures |= {"val_accuracy": _accuracy(run, "val")}
    return files | predictions, figures | counts


def _train(config: Config, run: str, fingerprint: str) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        return train_stage("gender", config, run, fingerprint)
    except NothingToLearn as error:
        if config.prior.kind == "gender" or config.gender.predict_missing:
            setting = "prior.kind=gender" if config.prior.kind == "gender" else "gender.predict_missing"
            raise ValueError(
                f"{setting} needs a gender classifier, but {error}; gender.weights takes that of another run"
            ) from None
        print(f"no gender classifier: {error}")
        return {}, {"trained": False, "reason": str(error)}


def _copy(config: Config, run: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Copy the network of `gender.weights` into the run, after a check that it fits `gender.width`."""
    uri, recorded = find_gender_weights(config, run)
    model = speech_portrait.gender_classifier(config)
    with storage.local_copy(uri) as path, TemporaryDirectory() as folder:
        described = storage.describe(str(path))
        if recorded not in (None, described):
            raise ValueError(f"gender.weights: {uri} differs from its manifest; run the stage gender of that run again")
        try:
            checkpoint.restore(model, checkpoint.read_weights(path), "")
        except ValueError as error:
            reason = str(error).removeprefix(f"{path}: ").removeprefix(": ").partition(";")[0]
            raise ValueError(
                f"gender.weights: {uri} is not a network of gender.width={config.gender.width:g} ({reason}); it must "
                f"be {MODEL} of a run with the same gender.width"
            ) from None
        copy = Path(folder, artifacts.MODEL)
        checkpoint.write_weights(copy, model.state_dict())
        files = {MODEL: storage.upload(copy, storage.join(run, MODEL))}
    return files, {"weights": uri, "sha256": described["sha256"]}


def _accuracy(run: str, split_name: str) -> float | None:
    """Return the fraction of a split's labelled clips whose prediction is the label, or None if there is no label."""
    split = tables.open_split(stages.corpus(run), split_name)
    labels = genders.read_genders(split, None).classes
    heard = tables.read_columns(split, genders.FAMILY, (schema.PREDICTED_GENDER,))[schema.PREDICTED_GENDER].to_pylist()
    labelled = labels != genders.UNKNOWN
    return float((genders.classes_of(heard) == labels)[labelled].mean()) if labelled.any() else None


if __name__ == "__main__":
    main("gender", gender)

"""Build what a training stage needs: its rows in order, and its task with the networks of earlier stages.

Ray Train's workers and Tune's trials both use these functions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from arspm.config import Config, Recipe, Workers
from arspm.corpus import filters, schema, tables
from arspm.corpus.genders import UNKNOWN, read_genders
from arspm.distributed.data.readings import Reading
from arspm.model.gender_classifier import GenderClassifier
from arspm.model.speech_portrait import face_prior
from arspm.runs import stages
from arspm.training import artifacts, tasks
from arspm.training.checkpoint import TrainingState
from arspm.training.fit import Report, WorkerContext, fit
from arspm.training.order import Order, groups
from arspm.training.train_step import Task


class Rows(NamedTuple):
    """A stage's training rows and validation rows.

    `num_classes`: number of identities, for vggface only. `filtered`: what data.filter removed from the training rows,
    as figures of the stage.
    """

    train: Reading
    val: Reading | None
    num_classes: int
    filtered: Mapping[str, Any]

    @property
    def readings(self) -> list[Reading]:
        return [self.train] if self.val is None else [self.train, self.val]


class NothingToLearn(ValueError):
    """The corpus has no labels that the stage could be trained on."""


def gather_rows(stage: str, config: Config, run: str) -> Rows:
    """Return the rows of a training stage.

    `Config.encoder_sex` restricts an encoder's training and validation to one sex (section 4.3.2). The gender
    classifier reads labelled rows only. data.filter selects training rows, not validation rows, so that validation
    figures can be compared. Raises NothingToLearn for a gender stage without labels
    of both sexes, and ValueError for a split without clips of the encoder's sex or of the filter.
    """
    corpus = stages.corpus(run)
    train = tables.open_split(corpus, "train", config.ingest.subset)
    selection = filters.select_rows(train, config.data.filter)
    if stage == "vggface":
        return _identity_rows(config, run, train, selection)
    val = tables.open_split(corpus, "val")
    wanted = _wanted(stage, config)
    keep = selection.keep if selection.removed else None
    keep_val = None
    if stage == "encoder" and config.encoder_sex is not None:
        keep, keep_val = selection.keep & _of_sex(config, train), _of_sex(config, val)
        if not keep.any():
            raise ValueError(f"data.filter leaves no training clip of the sex of {config.encoder_sex_setting}")
    labels: list[dict[str, np.ndarray]] = [{}, {}]
    if stage == "gender":
        labels = [{schema.GENDER: read_genders(split, None).classes} for split in (train, val)]
        # Only labelled rows: workers with different numbers of them would not learn what one worker learns.
        labelled, keep_val = (label[schema.GENDER] != UNKNOWN for label in labels)
        keep = selection.keep & labelled
        if len(set(labels[0][schema.GENDER][keep])) < len(schema.GENDERS):
            raise NothingToLearn("labels.csv does not label speakers of both sexes in the training split")
        if not keep_val.any():
            raise NothingToLearn("labels.csv labels no speaker's sex in the validation split")
    orders = (_order(stage, config, train, keep=keep), _order(stage, config, val, keep=keep_val, shuffle=False))
    written = _written(run)
    readings = [
        Reading(split, order, wanted, config.image_size, label, written.get(name, {}))
        for name, split, order, label in zip(("train", "val"), (train, val), orders, labels, strict=True)
    ]
    return Rows(readings[0], readings[1], 0, selection.figures)


def require_measurable(stage: str, config: Config, run: str) -> None:
    """Raise ValueError if a model of one sex has no clip of that sex to train on, to validate on or to be measured on.

    Called before each training, so that evaluate does not fail after all of them. Where a network predicts missing
    labels, only the encoder can tell, because the predictions are made meanwhile.
    """
    if config.encoder_sex is None or (config.gender.label_confidence is not None and stage != "encoder"):
        return
    for name in schema.SPLITS:
        subset = config.evaluate.num_clips if name == "test" else None
        _of_sex(config, tables.open_split(stages.corpus(run), name, subset))


def make_task(stage: str, config: Config, run: str, device: torch.device, rows: Rows) -> Task:
    """Return the stage's task, its frozen networks on the device. The seed determines the new network's weights."""
    torch.manual_seed(config.seed)
    if stage == "vggface":
        return tasks.vggface_task(config, rows.num_classes, rows.val is not None)
    if stage == "gender":
        return tasks.gender_task(config)
    if stage == "decoder":
        network = artifacts.load_vggface(run, config).to(device)
        torch.manual_seed(config.seed)
        return tasks.decoder_task(config, network)
    return encoder_task(config, load_guides(config, run), device)


class Guides(NamedTuple):
    """The results of earlier stages that an encoder is trained with. `classifier`: None if the corpus has no labels."""

    priors: dict[str, Tensor]
    classifier: GenderClassifier | None
    hidden: nn.Linear  # the decoder's Fc1
    identity: nn.Linear  # VGGFace's fc8


def load_guides(config: Config, run: str) -> Guides:
    """Return the guides of a run. They are the same for every kind of prior."""
    return Guides(
        artifacts.load_priors(run),
        artifacts.load_gender_classifier(run, config),
        artifacts.load_linear(run, "decoder", "fc1"),
        artifacts.load_linear(run, "vggface", "fc8"),
    )


def encoder_task(config: Config, guides: Guides, device: torch.device) -> Task:
    """Return the encoder's task, its guides on the device. The seed determines the new network's weights."""
    prior = face_prior(config, guides.priors, guides.classifier).to(device)
    torch.manual_seed(config.seed)
    return tasks.encoder_task(config, prior, guides.hidden.to(device), guides.identity.to(device))


def train(
    stage: str,
    config: Config,
    rows: Rows,
    task: Task,
    worker: WorkerContext,
    *,
    feed: Callable[[TrainingState], Iterator[Mapping[str, Any]]],
    resume: Path | None,
    on_step: Callable[[TrainingState], None] | None = None,
    save_now: Callable[[TrainingState], bool] | None = None,
    on_wait: Callable[[float], None] | None = None,
) -> Iterator[Report]:
    """Run the training loop of `training.fit` over a stage's rows, in a worker or a trial.

    `feed(progress)`: the batches from there on. `resume`: a checkpoint's local folder. Yields the loop's reports.
    """
    workers: Workers = getattr(config.resources, stage)
    if workers.threads:
        torch.set_num_threads(workers.threads)
    return fit(
        task,
        getattr(config.training, stage),
        seed=config.seed,
        num_steps=rows.train.order.num_steps,
        num_score_steps=0 if rows.val is None else rows.val.order.num_steps,
        batches=feed,
        worker=worker,
        config=config.model_dump(mode="json"),
        cuda_graph=workers.cuda_graph,
        resume=resume,
        on_step=on_step,
        save_now=save_now,
        on_wait=on_wait,
    )


def _order(
    stage: str, config: Config, split: tables.Split, *, keep: np.ndarray | None = None, shuffle: bool = True
) -> Order:
    recipe: Recipe = getattr(config.training, stage)
    return Order(
        groups(split.group_sizes(), keep),
        recipe.global_batch_size,
        recipe.lanes,
        config.window_rows,
        config.seed,
        shuffle,
    )


def _wanted(stage: str, config: Config) -> Mapping[str, Sequence[str]]:
    speech = schema.WAVEFORM if config.data.storage == "waveform" else schema.SPECTROGRAM
    return {
        "vggface": {"faces": (schema.FACE_JPEG,)},
        "gender": {"speech": (speech,)},
        "decoder": {"faces": (schema.FACE_JPEG,), "features": (schema.FACE_FEATURE,)},
        "encoder": {"speech": (speech,), "features": (schema.FACE_FEATURE,)},
    }[stage]


def _identity_rows(config: Config, run: str, train: tables.Split, selection: filters.Selection) -> Rows:
    """Return faces labelled by identity. The last clip of every fifth person with several is kept for validation."""
    table = tables.read_columns(train, "faces", (schema.VIDEO_ID, schema.IDENTITY))
    names = np.array(tables.speakers(table))
    rows = np.flatnonzero(selection.keep)
    known, classes_of_rows = np.unique(names[rows], return_inverse=True)
    classes = np.zeros(len(names), np.int64)
    classes[rows] = classes_of_rows
    last = np.zeros(len(known), np.int64)
    last[classes_of_rows] = rows  # of repeated indices, the last assignment counts
    held_out = np.zeros(len(names), bool)
    held_out[last[np.bincount(classes_of_rows) > 1][::5]] = True
    labels, wanted = {schema.IDENTITY: classes}, _wanted("vggface", config)
    written = _written(run).get("train", {})

    def reading(keep: np.ndarray, shuffle: bool) -> Reading:
        order = _order("vggface", config, train, keep=keep, shuffle=shuffle)
        return Reading(train, order, wanted, config.image_size, labels, written)

    val = reading(held_out, False) if held_out.any() else None
    return Rows(reading(selection.keep & ~held_out, True), val, len(known), selection.figures)


def _written(run: str) -> dict[str, dict[str, str]]:
    """Return, for each split and family, a hash of its files, as the manifests of the stages that wrote them say."""
    files: dict[str, dict[str, list[tuple[str, Any]]]] = {}
    for stage in ("preprocess", "features"):
        manifest = stages.success(run, stage)
        for path, described in ({} if manifest is None else manifest.files).items():
            corpus, *names = path.split("/")
            if corpus == stages.CORPUS and len(names) == 3:  # split, family and file
                files.setdefault(names[0], {}).setdefault(names[1], []).append((path, described.get("sha256")))
    return {
        split: {family: hashlib.sha256(json.dumps(sorted(own)).encode()).hexdigest() for family, own in by.items()}
        for split, by in files.items()
    }


def _of_sex(config: Config, split: tables.Split) -> np.ndarray:
    """Return which clips are of the sex of the encoder, by label or, where it is missing, by prediction."""
    sex, sure = config.encoder_sex, config.gender.label_confidence
    assert sex is not None
    selected = read_genders(split, sure).of(sex)
    if not selected.any():
        predicted = "" if sure is None else f", nor one that is predicted {sex} with a confidence of {sure:g} or more"
        raise ValueError(
            f"{config.encoder_sex_setting}: {split.uri} has no clip that labels.csv labels {sex}{predicted}"
        )
    return selected

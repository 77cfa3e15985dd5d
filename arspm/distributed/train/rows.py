"""What a training stage needs, gathered: its task with the networks that earlier stages left, and its rows in order.

Ray Train's workers and Tune's trials build the same things from the same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from arspm.config import Config
from arspm.corpus import schema, tables
from arspm.distributed.data.ingest import Reading, plan, stream
from arspm.model.gender_classifier import GenderClassifier
from arspm.model.speech_portrait import FacePrior
from arspm.runs import stages
from arspm.training import artifacts, tasks
from arspm.training.batch import UNKNOWN
from arspm.training.checkpoint import TrainingState
from arspm.training.fit import Report, WorkerContext, fit
from arspm.training.order import Order, groups
from arspm.training.train_step import Task


class Rows(NamedTuple):
    """The rows that a stage learns from and those that it is validated on; `classes`: identities, for vggface."""

    train: Reading
    score: Reading | None
    classes: int

    @property
    def readings(self) -> list[Reading]:
        return [self.train] if self.score is None else [self.train, self.score]


class NothingToLearn(ValueError):
    """The corpus lacks what the stage is to learn from."""


def gather_rows(stage: str, config: Config, run: str) -> Rows:
    """The rows of a training stage.

    An encoder with the prior of one sex learns from that sex alone (section 4.3.2). Raises NothingToLearn for a gender
    stage without labels of both sexes, and ValueError for a split without the sex that an encoder is to learn from.
    """
    place = stages.corpus(run)
    train = tables.open_split(place, "train", config.ingest.subset)
    if stage == "vggface":
        return _identity_rows(config, train)
    score = tables.open_split(place, "val")
    wanted = _wanted(stage, config)
    keep: list[np.ndarray | None] = [None, None]
    if stage == "encoder" and config.prior.kind in schema.GENDERS:
        keep = [_of_sex(config.prior.kind, split) for split in (train, score)]
    labels: list[dict[str, np.ndarray]] = [{}, {}]
    if stage == "gender":
        labels = [{schema.GENDER: _genders(split)} for split in (train, score)]
        if set(schema.GENDERS) - {schema.GENDERS[i] for i in set(labels[0][schema.GENDER]) - {UNKNOWN}}:
            raise NothingToLearn("labels.csv names no speaker of one sex or of both in the training split")
        if (labels[1][schema.GENDER] == UNKNOWN).all():
            raise NothingToLearn("labels.csv says no speaker's sex in the validation split")
    return Rows(
        Reading(train, _order(stage, config, train, keep=keep[0]), wanted, config.image_size, labels[0]),
        Reading(score, _order(stage, config, score, keep=keep[1], shuffle=False), wanted, config.image_size, labels[1]),
        0,
    )


def make_task(stage: str, config: Config, run: str, device: torch.device, rows: Rows) -> Task:
    """The stage's task, its frozen networks on the device. The new network's weights follow from the seed."""
    torch.manual_seed(config.seed)
    if stage == "vggface":
        return tasks.vggface_task(config, rows.classes, rows.score is not None)
    if stage == "gender":
        return tasks.gender_task(config)
    if stage == "decoder":
        network = artifacts.load_vggface(run, config).to(device)
        torch.manual_seed(config.seed)
        return tasks.decoder_task(config, network)
    return encoder_task(config, load_guides(config, run), device)


class Guides(NamedTuple):
    """What earlier stages left for the encoder to learn by. `classifier`: None where the corpus had no labels."""

    priors: dict[str, Tensor]
    classifier: GenderClassifier | None
    hidden: nn.Linear  # the decoder's Fc1
    identity: nn.Linear  # VGGFace's fc8


def load_guides(config: Config, run: str) -> Guides:
    """The guides of every encoder over a run, whatever its prior."""
    return Guides(
        artifacts.load_priors(run),
        artifacts.load_gender_classifier(run, config),
        artifacts.load_linear(run, "decoder", "fc1"),
        artifacts.load_linear(run, "vggface", "fc8"),
    )


def encoder_task(config: Config, guides: Guides, device: torch.device) -> Task:
    """The encoder's task, its guides on the device. The new network's weights follow from the seed."""
    prior = FacePrior(config.prior.kind, guides.priors, guides.classifier).to(device)
    torch.manual_seed(config.seed)
    return tasks.encoder_task(config, prior, guides.hidden.to(device), guides.identity.to(device))


def batches(
    rows: Rows, config: Config, stage: str, place: WorkerContext, progress: TrainingState
) -> Iterator[dict[str, Any]]:
    """A worker's batches from `progress` to the last epoch, by Ray Data."""
    entries = plan(rows.readings, getattr(config.training, stage).epochs, progress.epoch, progress.step_in_epoch)
    return stream(
        rows.readings,
        entries,
        rank=place.rank,
        world_size=place.world_size,
        tasks=config.resources.read,
        prefetch_batches=config.ingest.prefetch_batches,
    )


def train(
    stage: str,
    config: Config,
    rows: Rows,
    task: Task,
    place: WorkerContext,
    *,
    feed: Callable[[TrainingState], Iterator[Mapping[str, Any]]],
    resume: Path | None,
    on_step: Callable[[TrainingState], None] | None = None,
    save_now: Callable[[TrainingState], bool] | None = None,
) -> Iterator[Report]:
    """The training loop of `training.fit` over a stage's rows, as a worker or a trial runs it; `feed`: its batches."""
    if config.resources.threads_per_worker:
        torch.set_num_threads(config.resources.threads_per_worker)
    return fit(
        task,
        getattr(config.training, stage),
        seed=config.seed,
        num_steps=rows.train.order.num_steps,
        num_score_steps=0 if rows.score is None else rows.score.order.num_steps,
        batches=feed,
        place=place,
        config=config.model_dump(mode="json"),
        resume=resume,
        on_step=on_step,
        save_now=save_now,
    )


def _order(
    stage: str, config: Config, split: tables.Split, *, keep: np.ndarray | None = None, shuffle: bool = True
) -> Order:
    return Order(
        groups(split.group_sizes(), keep),
        getattr(config.training, stage).global_batch_size,
        config.ingest.num_lanes,
        config.ingest.window_rows,
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


def _identity_rows(config: Config, train: tables.Split) -> Rows:
    """Faces by identity; the last clip of every fifth person who has several is kept for validation."""
    table = tables.read_columns(train, "faces", (schema.VIDEO_ID, schema.IDENTITY))
    names = tables.speakers(table)
    known, classes = np.unique(names, return_inverse=True)
    last = np.zeros(len(known), np.int64)
    last[classes] = np.arange(len(names))  # the last assignment stays
    held_out = np.zeros(len(names), bool)
    held_out[last[np.bincount(classes) > 1][::5]] = True
    labels, wanted = {schema.IDENTITY: classes.astype(np.int64)}, _wanted("vggface", config)

    def reading(keep: np.ndarray, shuffle: bool) -> Reading:
        order = _order("vggface", config, train, keep=keep, shuffle=shuffle)
        return Reading(train, order, wanted, config.image_size, labels)

    return Rows(reading(~held_out, True), reading(held_out, False) if held_out.any() else None, len(known))


def _of_sex(sex: str, split: tables.Split) -> np.ndarray:
    own = _genders(split) == schema.GENDERS.index(sex)
    if not own.any():
        raise ValueError(f"prior.kind={sex}: {split.uri} has no clip that labels.csv calls {sex}")
    return own


def _genders(split: tables.Split) -> np.ndarray:
    labels = tables.read_columns(split, "faces", (schema.GENDER,))[schema.GENDER].to_pylist()
    return np.array([schema.GENDERS.index(label) if label else UNKNOWN for label in labels], np.int64)

"""A trial of a sweep: the encoder trained with some fields changed, telling Tune of each epoch.

With one worker the training loop runs right here, in Tune's own actor; with several, Ray Train's workers run it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray
import ray.train
import torch
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from torch import nn

from arspm import storage
from arspm.config import Config, ResourceRequest, override
from arspm.corpus import schema, tables
from arspm.distributed.train import launch
from arspm.distributed.train.metrics import Meter
from arspm.distributed.train.rows import Guides, batches, encoder_task, gather_rows, train
from arspm.distributed.tune import in_memory
from arspm.media.faces import decode_jpeg, encode_jpeg
from arspm.model.face_decoder import FaceDecoder
from arspm.model.speech_portrait import FacePrior
from arspm.runs import stages, sweeps
from arspm.training import checkpoint
from arspm.training.batch import to_batch
from arspm.training.fit import Report, WorkerContext

STAGE = "encoder"
CHECKPOINT_SECONDS = 60.0  # between checkpoints of a trial: what a killed one repeats at most, and one epoch
FAILURE = "failure"  # the key of a trial's own error among its figures


class Setup(NamedTuple):
    """What all trials of a sweep share. `held`: the corpus in the object store, or None where it is streamed."""

    run: str
    place: str  # the sweep's folder
    config: Config
    guides: Guides
    decoder: FaceDecoder
    clips: dict[str, Any]  # columns of the clips whose portraits are drawn
    held: Sequence[ray.ObjectRef] | None


def run_trial(chosen: Mapping[str, Any], setup: Setup) -> None:
    """A trial from its beginning, or from its last checkpoint. `chosen`: "number" and "changes".

    Its own error, as a loss that is no number, ends it with a figure that says so: Tune would try it again. What Ray
    raises, for a node or a worker lost, is left to Tune.
    """
    try:
        config = trial_config(setup.config, chosen["changes"])
        way = _alone if config.resources.trial.num_workers == 1 else _on_workers
        way(config, setup, chosen["number"])
    except Exception as error:
        if type(error).__module__.startswith("ray."):
            raise
        lines = str(error).strip().splitlines()
        tune.report({FAILURE: f"{type(error).__name__}: {lines[0] if lines else 'no message'}"})
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # the next trial runs in this process


def trial_config(config: Config, changes: Mapping[str, Any]) -> Config:
    """A trial's configuration: the encoder's workers are the trial's. Raises ConfigError."""
    workers = config.resources.trial
    own = {
        f"resources.{STAGE}.{name}": getattr(workers, name) for name in ("num_workers", *ResourceRequest.model_fields)
    }
    return override(config, own | dict(changes))


def _alone(config: Config, setup: Setup, number: int) -> None:
    place = WorkerContext(device=torch.device("cuda" if config.resources.trial.gpus else "cpu"))
    rows = gather_rows(STAGE, config, setup.run)
    held = setup.held
    task = encoder_task(config, setup.guides, place.device)
    recipe, num_steps = config.training.encoder, rows.train.order.num_steps
    meter = Meter(STAGE, recipe, setup.run, place, training=f"{number:05d}", num_steps=num_steps)
    with tempfile.TemporaryDirectory() as scratch:
        resume = fetch_checkpoint(setup.place, number, Path(scratch, "resume"))
        told = 0 if resume is None else _epochs_told(setup.place, number)
        reports = train(
            STAGE,
            config,
            rows,
            task,
            place,
            feed=lambda progress: meter.watch(
                batches(rows, config, STAGE, place, progress)
                if held is None
                else in_memory.batches(rows, held, recipe.epochs, progress)
            ),
            resume=resume,
            on_step=meter.step,
        )
        saved = time.monotonic()
        for report in reports:
            if time.monotonic() - saved > CHECKPOINT_SECONDS and not report.finished:
                save_checkpoint(setup.place, number, report, Path(scratch))
                saved = time.monotonic()
            if report.progress.step_in_epoch == 0:  # an epoch's end, not a checkpoint amid it
                draw_if_best(setup, number, config, report, task.model)
                epochs = report.progress.epochs
                for figures in epochs[min(told, len(epochs) - 1) :]:  # the last, and what a driver that was lost missed
                    tune.report(figures)
                told = len(epochs)


def _epochs_told(place: str, number: int) -> int:
    """The last epoch in a trial's record. A checkpoint may know of more, if the driver was lost after it was made."""
    uri = storage.join(place, f"{sweeps.stem(number)}.json")
    epochs = storage.read_json(uri)["epochs"] if storage.exists(uri) else []
    return epochs[-1]["epoch"] if epochs else 0


def _on_workers(config: Config, setup: Setup, number: int) -> None:
    launch.fit_on_workers(
        STAGE,
        config,
        setup.run,
        gather_rows(STAGE, config, setup.run),
        name=f"{number:05d}",
        storage_path=storage.join(setup.place, "train"),
        callbacks=[TuneReportCallback()],
        on_report=partial(draw_if_best, setup._replace(held=None), number),
    )


def draw_if_best(setup: Setup, number: int, config: Config, report: Report, model: nn.Module) -> None:
    """Leave the trial's portraits of the sweep's clips if this epoch is its best so far."""
    if report.progress.step_in_epoch == 0 and report.progress.best_epoch == report.progress.epoch:
        prior = FacePrior(config.prior.kind, setup.guides.priors, setup.guides.classifier).eval()
        portraits = draw(model, prior, setup.decoder, setup.clips)
        storage.write_bytes(storage.join(setup.place, f"{sweeps.stem(number)}.jpg"), strip(portraits))


def save_checkpoint(place: str, number: int, report: Report, scratch: Path) -> None:
    """Leave a checkpoint of a trial in the place of the one before."""
    above, own = storage.join(place, sweeps.stem(number)), f"step-{report.progress.step:08d}"
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        report.save(Path(folder))
        checkpoint.upload(Path(folder), storage.join(above, own))
    for older in {path.split("/")[0] for path in storage.files_below(above)} - {own}:
        storage.remove(storage.join(above, older))


def fetch_checkpoint(place: str, number: int, folder: Path) -> Path | None:
    """The trial's last whole checkpoint, in a local folder; None if it has none."""
    above = storage.join(place, sweeps.stem(number))
    whole = [path.split("/")[0] for path in storage.files_below(above) if path.endswith(f"/{checkpoint.PROGRESS}")]
    return checkpoint.download(storage.join(above, max(whole)), folder) if whole else None


@torch.no_grad()
def draw(model: nn.Module, prior: FacePrior, decoder: FaceDecoder, clips: Mapping[str, Any]) -> np.ndarray:
    """Portraits of clips, (clip, height, width, 3) uint8, on the model's device."""
    device = next(model.parameters()).device
    speech = to_batch(clips, device).spectrogram
    feature = model.eval()(speech, prior.to(device)(speech))
    portraits = decoder.to(device).eval()(feature.float())
    return (portraits.permute(0, 2, 3, 1).clamp(0, 1) * 255).round().byte().cpu().numpy()


def strip(pictures: np.ndarray) -> bytes:
    """Pictures side by side as one JPEG."""
    return encode_jpeg(np.concatenate(list(pictures), axis=1), 85)


def portrait_clips(config: Config, run: str, count: int) -> tuple[dict[str, Any], np.ndarray]:
    """The first clips of `count` validation speakers: their speech as `to_batch` takes it, and their real faces,
    (clip, height, width, 3) uint8."""
    split = tables.open_split(stages.corpus(run), "val")
    table = tables.read_columns(split, "faces", (schema.CLIP_ID, schema.VIDEO_ID, schema.IDENTITY))
    _, first = np.unique(np.array(tables.speakers(table)), return_index=True)
    speech = schema.WAVEFORM if config.data.storage == "waveform" else schema.SPECTROGRAM
    wanted = {"speech": (speech,), "faces": (schema.FACE_JPEG,)}
    found = tables.read_rows(split, wanted, np.sort(first)[:count])
    faces = [decode_jpeg(jpeg, config.image_size) for jpeg in found.pop(schema.FACE_JPEG).to_pylist()]
    return found | {schema.CLIP_ID: found[schema.CLIP_ID].to_pylist()}, np.stack(faces)

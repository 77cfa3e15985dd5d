"""A trial of a sweep: train the encoder with some fields changed and report each epoch to Tune.

With one worker the training loop runs in Tune's own actor; with several, Ray Train's workers run it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from torch import nn

from arspm import storage
from arspm.config import Config, Workers, override
from arspm.distributed import gpus
from arspm.distributed.train import launch, portraits
from arspm.distributed.train.feed import open_feed
from arspm.distributed.train.metrics import Meter
from arspm.distributed.train.rows import Guides, encoder_task, gather_rows, train
from arspm.distributed.tune.trial_log import log, logged
from arspm.model.face_decoder import FaceDecoder
from arspm.model.speech_portrait import face_prior
from arspm.runs import stop_requests, sweeps
from arspm.training import checkpoint
from arspm.training.fit import Report, WorkerContext

STAGE = "encoder"
CHECKPOINT_SECONDS = 60.0  # between checkpoints. A killed trial repeats at most this much, and one epoch
FAILURE = "failure"  # the key under which a trial reports its own error to Tune
STOPPED = "stopped"  # the key under which it reports that the user has stopped it


class Setup(NamedTuple):
    """What all trials of a sweep share. On a node they also share the rows in its cache."""

    run: str
    folder: str  # the sweep's
    config: Config
    guides: Guides
    decoder: FaceDecoder
    clips: dict[str, Any]  # columns of the clips whose portraits are drawn


def run_trial(chosen: Mapping[str, Any], setup: Setup) -> None:
    """Run a trial from its last checkpoint or from the start. `chosen`: its "number" and its "changes".

    An error of the trial itself, such as a NaN loss, is reported to Tune as a figure: Tune would retry an exception.
    Exceptions of Ray, for a lost node or worker, are raised so that Tune does retry.
    """
    try:
        with logged(setup.folder, chosen["number"]):
            _train(chosen, setup)
    except stop_requests.StopRequested:
        tune.report({STOPPED: stop_requests.REASON})
    except Exception as error:
        if type(error).__module__.startswith("ray."):
            raise
        lines = str(error).strip().splitlines()
        tune.report({FAILURE: f"{type(error).__name__}: {lines[0] if lines else 'no message'}"})
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # the next trial runs in this process


def _train(chosen: Mapping[str, Any], setup: Setup) -> None:
    """Train, and log the settings and an error's traceback: Tune gets the error's first line only."""
    log.info("settings: %s", ", ".join(f"{name}={value}" for name, value in chosen["changes"].items()) or "the sweep's")
    try:
        config = trial_config(setup.config, chosen["changes"])
        train_trial = _in_this_actor if config.resources.trial.num_workers == 1 else _on_workers
        train_trial(config, setup, chosen["number"])
    except stop_requests.StopRequested as request:
        log.info("%s", request)
        raise
    except Exception:
        log.exception("the trial's error")
        raise


def trial_config(config: Config, changes: Mapping[str, Any]) -> Config:
    """Return a trial's configuration. The encoder stage gets the workers of `resources.trial`. Raises ConfigError."""
    workers = config.resources.trial
    resources = {f"resources.{STAGE}.{name}": getattr(workers, name) for name in Workers.model_fields}
    return override(config, resources | dict(changes))


def _in_this_actor(config: Config, setup: Setup, number: int) -> None:
    worker = WorkerContext(device=gpus.device(config.resources.trial.gpus))
    rows = gather_rows(STAGE, config, setup.run)
    feed = open_feed(STAGE, config, rows, worker, share=lambda make: make())
    task = encoder_task(config, setup.guides, worker.device)
    recipe, num_steps = config.training.encoder, rows.train.order.num_steps
    meter = Meter(STAGE, recipe, setup.run, worker, training=f"{number:05d}", num_steps=num_steps)
    with tempfile.TemporaryDirectory() as scratch, stop_requests.watched(setup.folder, number) as require_no_stop:

        def on_wait(seconds: float) -> None:
            require_no_stop()  # before each batch, of validation too
            meter.wait(seconds)

        resume = fetch_checkpoint(setup.folder, number, Path(scratch, "resume"))
        num_reported = 0 if resume is None else _num_reported(setup.folder, number)
        reports = train(
            STAGE,
            config,
            rows,
            task,
            worker,
            feed=feed,
            resume=resume,
            on_step=meter.step,
            on_wait=on_wait,
        )
        saved = time.monotonic()
        for report in reports:
            if time.monotonic() - saved > CHECKPOINT_SECONDS and not report.finished:
                save_checkpoint(setup.folder, number, report, Path(scratch))
                saved = time.monotonic()
            if report.progress.step_in_epoch == 0:  # the end of an epoch, not a checkpoint within it
                draw_if_best(setup, number, config, report, task.model)
                epochs = report.progress.epochs
                # The last epoch, and those that are missing in the record because the sweep's driver was lost.
                for figures in epochs[min(num_reported, len(epochs) - 1) :]:
                    measured = (f"{name} {value:.6g}" for name, value in figures.items() if isinstance(value, float))
                    log.info("epoch %d: %s", figures["epoch"], ", ".join(measured))
                    tune.report(figures)
                num_reported = len(epochs)


def _num_reported(folder: str, number: int) -> int:
    """Return the last epoch in a trial's record. The checkpoint can be ahead of it if the sweep's driver was lost."""
    uri = storage.join(folder, f"{sweeps.stem(number)}.json")
    epochs = storage.read_json(uri)["epochs"] if storage.exists(uri) else []
    return epochs[-1]["epoch"] if epochs else 0


def _on_workers(config: Config, setup: Setup, number: int) -> None:
    launch.fit_on_workers(
        STAGE,
        config,
        setup.run,
        gather_rows(STAGE, config, setup.run),
        name=f"{number:05d}",
        storage_path=storage.join(setup.folder, "train"),
        callbacks=[TuneReportCallback()],
        on_report=partial(draw_if_best, setup, number),
        watch=partial(stop_requests.watched, setup.folder, number),
    )


def draw_if_best(setup: Setup, number: int, config: Config, report: Report, model: nn.Module) -> None:
    """Write the trial's portraits of the sweep's clips if this epoch is its best so far."""
    if report.progress.step_in_epoch == 0 and report.progress.best_epoch == report.progress.epoch:
        prior = face_prior(config, setup.guides.priors, setup.guides.classifier).eval()
        pictures = portraits.from_speech(model, prior, setup.decoder, setup.clips)
        storage.write_bytes(storage.join(setup.folder, f"{sweeps.stem(number)}.jpg"), portraits.strip(pictures))


def save_checkpoint(folder: str, number: int, report: Report, scratch: Path) -> None:
    """Save a checkpoint of a trial in the sweep's folder, then remove the trial's earlier ones."""
    parent, name = storage.join(folder, sweeps.stem(number)), f"step-{report.progress.step:08d}"
    with tempfile.TemporaryDirectory(dir=scratch) as local:
        report.save(Path(local))
        checkpoint.upload(Path(local), storage.join(parent, name))
    for earlier in {path.split("/")[0] for path in storage.files_below(parent)} - {name}:
        storage.remove(storage.join(parent, earlier))


def fetch_checkpoint(folder: str, number: int, target: Path) -> Path | None:
    """Download the trial's last complete checkpoint to a new local folder and return that; None if there is none."""
    parent = storage.join(folder, sweeps.stem(number))
    complete = [path.split("/")[0] for path in storage.files_below(parent) if path.endswith(f"/{checkpoint.PROGRESS}")]
    return checkpoint.download(storage.join(parent, max(complete)), target) if complete else None

"""A Ray Train worker: the training loop of `learning.fit`, fed by Ray Data, reporting to Ray Train."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import ray.train.torch

from arspm import config as configuration
from arspm.learning.fit import Place
from arspm.progress import progress as tell
from arspm.scale.training import batches, make_task, train


def train_worker(settings: dict[str, Any]) -> None:
    """One worker's life. `settings`: stage, run, the configuration as JSON text, the rows, and rank 0's on_report."""
    stage, run, rows = settings["stage"], settings["run"], settings["rows"]
    config = configuration.load(settings["config"])
    recipe = getattr(config.training, stage)
    context = ray.train.get_context()
    place = Place(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    total = recipe.epochs * rows.train.order.num_steps

    with tempfile.TemporaryDirectory() as scratch:
        resume = _fetch(ray.train.get_checkpoint(), Path(scratch, "resume"))
        task = make_task(stage, config, run, place.device, rows)
        reports = train(
            stage,
            config,
            rows,
            task,
            place,
            feed=lambda progress: batches(rows, config, stage, place, progress),
            resume=resume,
            on_step=(lambda progress: tell(progress.step, total, "steps", _message(progress, recipe.epochs)))
            if place.rank == 0
            else None,
        )
        for report in reports:
            if place.rank:
                ray.train.report(report.figures)
                continue
            if settings["on_report"] is not None:
                settings["on_report"](config, report, task.model)
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                report.save(Path(folder))
                ray.train.report(report.figures, checkpoint=ray.train.Checkpoint.from_directory(folder))


def _fetch(checkpoint: ray.train.Checkpoint | None, folder: Path) -> Path | None:
    if checkpoint is None:
        return None
    return Path(os.fspath(checkpoint.to_directory(str(folder))))


def _message(progress: Any, epochs: int) -> str:
    loss = f", loss {progress.losses[-1][1]:.4g}" if progress.losses else ""
    return f"epoch {progress.epoch + 1} of {epochs}{loss}"

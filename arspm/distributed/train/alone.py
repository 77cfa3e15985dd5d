"""Train a network in the current process, without a Ray cluster."""

from __future__ import annotations

from pathlib import Path

from arspm.config import Config, Recipe, Workers
from arspm.distributed import gpus
from arspm.distributed.train import rows as training
from arspm.distributed.train.feed import open_feed
from arspm.distributed.train.live import Recorder
from arspm.distributed.train.rows import Rows
from arspm.training.fit import WorkerContext


def train_alone(stage: str, config: Config, run: str, rows: Rows, folder: Path) -> None:
    """Train a stage's network in this process, as a single worker, and write the last checkpoint into a folder."""
    workers: Workers = getattr(config.resources, stage)
    recipe: Recipe = getattr(config.training, stage)
    context = WorkerContext(device=gpus.device(workers.gpus))
    feed = open_feed(stage, config, rows, context, share=None)
    task = training.make_task(stage, config, run, context.device, rows)
    with Recorder(stage, config, run, rows) as recorder:
        reports = training.train(stage, config, rows, task, context, feed=feed, resume=None, on_step=recorder.step)
        for report in reports:
            recorder.report(report, task.model)
            if task.objective in report.figures:  # an epoch has ended
                epoch, value = report.figures["epoch"], report.figures[task.objective]
                print(f"epoch {epoch} of {recipe.epochs}: {task.objective} {value:.4g}", flush=True)
            if report.finished:
                report.save(folder)

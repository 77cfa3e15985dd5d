"""The function that each Ray Train worker runs: the training loop of `training.fit`, fed by one of three paths."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train.collective
import ray.train.torch

from arspm import config as configuration
from arspm import storage
from arspm.distributed.data.ingest import Source
from arspm.distributed.train.feed import open_feed
from arspm.distributed.train.live import Recorder
from arspm.distributed.train.metrics import Meter
from arspm.distributed.train.rows import make_task, train
from arspm.runs.progress import print_progress
from arspm.training import checkpoint
from arspm.training.checkpoint import TrainingState
from arspm.training.fit import WorkerContext
from arspm.training.order import lanes

# Steps between two checks for preemption. A check calls an actor and is a barrier over all workers: 1.6 ms for two on
# one machine, more over a network, so not at every step. A spot node has two minutes left, a pod on Kubernetes 30 s, so
# once an epoch would be too late.
PREEMPTION_CHECK_STEPS = 10


def train_worker(settings: dict[str, Any]) -> None:
    """Train on one worker, from the last checkpoint to the last epoch.

    `settings`: "stage", "run", "config" (JSON text), "rows", "on_report" and "watch" (used by rank 0 only), "live"
    (whether rank 0 writes the run's live files), "folder" (URI of this training's checkpoints) and "resume_from" (URI
    of a checkpoint to use if Train lists none, or None).
    """
    stage, run, rows = settings["stage"], settings["run"], settings["rows"]
    config = configuration.load(settings["config"])
    recipe = getattr(config.training, stage)
    context = ray.train.get_context()
    order, rank, world_size = rows.train.order, context.get_world_rank(), context.get_world_size()
    loss_weight = len(lanes(order, rank, world_size)) * world_size / order.num_lanes
    worker = WorkerContext(rank, world_size, ray.train.torch.get_device(), loss_weight)
    num_steps = order.num_steps
    meter = Meter(stage, recipe, run, worker, training=context.get_experiment_name(), num_steps=num_steps)
    watch = no_watch if worker.rank else settings["watch"]

    recorder = Recorder(stage, config, run, rows) if settings["live"] and worker.rank == 0 else None

    def on_step(progress: TrainingState) -> None:
        meter.step(progress)
        if recorder is not None:
            recorder.step(progress)
        if worker.rank == 0:
            print_progress(progress.step, recipe.epochs * num_steps, "steps", _message(progress, recipe.epochs))

    def on_wait(seconds: float) -> None:
        check()
        meter.wait(seconds)

    with tempfile.TemporaryDirectory() as scratch, watch() as check, recorder or nullcontext():
        last = ray.train.get_checkpoint()
        source = settings["resume_from"] if last is None else storage.join(settings["folder"], Path(last.path).name)
        resume = checkpoint.download(source, Path(scratch, "resume")) if source else None
        feed = open_feed(stage, config, rows, worker, share=partial(_share, worker))
        task = make_task(stage, config, run, worker.device, rows)
        reports = train(
            stage,
            config,
            rows,
            task,
            worker,
            feed=feed,
            resume=resume,
            on_step=on_step,
            save_now=_preemption_check(worker),
            on_wait=on_wait,
        )
        with _naming_source(source, resume):
            for report in reports:
                if worker.rank:
                    ray.train.report(report.figures)
                    continue
                if settings["on_report"] is not None:
                    settings["on_report"](config, report, task.model)
                if recorder is not None:
                    recorder.report(report, task.model)
                with tempfile.TemporaryDirectory(dir=scratch) as folder:
                    report.save(Path(folder))
                    ray.train.report(
                        report.figures,
                        checkpoint=ray.train.Checkpoint.from_directory(folder),
                        checkpoint_upload_fn=partial(_upload, settings["folder"]),
                    )
                # Wait until Train has polled the report: a worker lost before that would lose the checkpoint too.
                ray.train.get_all_reported_checkpoints(ray.train.CheckpointConsistencyMode.COMMITTED)


@contextmanager
def no_watch() -> Iterator[Callable[[], None]]:
    """Yield a function that does nothing."""
    yield lambda: None


def _share(worker: WorkerContext, make: Callable[[], Source]) -> Source:
    """Return on every worker the execution's iterators that rank 0 makes and owns. A collective call."""
    if worker.world_size == 1:
        return make()
    reference = [ray.put(make())] if worker.rank == 0 else []  # a reference, because a broadcast is at most 1 kB
    [reference] = ray.train.collective.broadcast_from_rank_zero(reference)
    return ray.get(reference)


def _preemption_check(worker: WorkerContext) -> Callable[[TrainingState], bool]:
    """Return a function that is true once for each notice that a node of these workers will be preempted.

    It returns the same value on every rank. Training continues until the node is lost, then resumes from the last
    checkpoint on other nodes.
    """
    known: set[str] = set()

    def save_now(progress: TrainingState) -> bool:
        if progress.step % PREEMPTION_CHECK_STEPS:
            return False
        info = ray.train.get_preemption_info()
        new = set() if info is None else set(info.preempted_node_ids) - known
        known.update(new)
        if new and worker.rank == 0:
            print(f"{', '.join(sorted(new))} will be preempted: saving at step {progress.step}", flush=True)
        return bool(new)

    return save_now


def _upload(folder: str, local: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
    """Upload a checkpoint to `<folder>/<name>`, where Train expects it, progress.json last."""
    uri = storage.join(folder, name)
    checkpoint.upload(Path(local.path), uri)
    return ray.train.Checkpoint(**storage.ray_checkpoint(uri))


@contextmanager
def _naming_source(source: str | None, copy: Path | None) -> Iterator[None]:
    """In errors about a checkpoint, report the checkpoint's URI, not the local copy's path, and what to do."""
    try:
        yield
    except ValueError as error:
        if source is None or str(copy) not in str(error):
            raise
        text = str(error).replace(str(copy), source)
        raise ValueError(f"{text}; remove {source.rpartition('/')[0]} to train from the start") from None


def _message(progress: TrainingState, epochs: int) -> str:
    loss = f", loss {progress.losses[-1][1]:.4g}" if progress.losses else ""
    return f"epoch {progress.epoch + 1} of {epochs}{loss}"

"""A Ray Train worker: the training loop of `training.fit`, fed by Ray Data, reporting to Ray Train."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray.train.torch

from arspm import config as configuration
from arspm import storage
from arspm.distributed.train.metrics import Meter
from arspm.distributed.train.rows import batches, make_task, train
from arspm.runs.progress import progress as tell
from arspm.training import checkpoint
from arspm.training.checkpoint import TrainingState
from arspm.training.fit import WorkerContext
from arspm.training.order import lanes

# How often workers ask whether a node is to be taken away. To ask is a call to an actor and a barrier over all workers:
# 1.6 ms for two on one machine, more over a network, so not at each step. And a spot node has two minutes left, a pod
# on Kubernetes 30 s, so not once an epoch either.
ASK_STEPS = 10


def train_worker(settings: dict[str, Any]) -> None:
    """One worker's life. `settings`: stage, run, the configuration as JSON text, the rows, rank 0's on_report, where
    this training's checkpoints lie, and one of them to go on from, if Train knows of none.
    """
    stage, run, rows = settings["stage"], settings["run"], settings["rows"]
    config = configuration.load(settings["config"])
    recipe = getattr(config.training, stage)
    context = ray.train.get_context()
    order, rank, world_size = rows.train.order, context.get_world_rank(), context.get_world_size()
    share = len(lanes(order, rank, world_size)) * world_size / order.num_lanes
    place = WorkerContext(rank, world_size, ray.train.torch.get_device(), share)
    num_steps = order.num_steps
    meter = Meter(stage, recipe, run, place, training=context.get_experiment_name(), num_steps=num_steps)

    def on_step(progress: TrainingState) -> None:
        meter.step(progress)
        if place.rank == 0:
            tell(progress.step, recipe.epochs * num_steps, "steps", _message(progress, recipe.epochs))

    with tempfile.TemporaryDirectory() as scratch:
        last = ray.train.get_checkpoint()
        source = settings["go_on_from"] if last is None else storage.join(settings["place"], Path(last.path).name)
        resume = checkpoint.download(source, Path(scratch, "resume")) if source else None
        task = make_task(stage, config, run, place.device, rows)
        reports = train(
            stage,
            config,
            rows,
            task,
            place,
            feed=lambda progress: meter.watch(batches(rows, config, stage, place, progress)),
            resume=resume,
            on_step=on_step,
            save_now=_warned(place),
        )
        with _by_its_own_name(source, resume):
            for report in reports:
                if place.rank:
                    ray.train.report(report.figures)
                    continue
                if settings["on_report"] is not None:
                    settings["on_report"](config, report, task.model)
                with tempfile.TemporaryDirectory(dir=scratch) as folder:
                    report.save(Path(folder))
                    ray.train.report(
                        report.figures,
                        checkpoint=ray.train.Checkpoint.from_directory(folder),
                        checkpoint_upload_fn=partial(_upload, settings["place"]),
                    )
                # Train hears of it at its next look. A worker that were lost before would lose the checkpoint too.
                ray.train.get_all_reported_checkpoints(ray.train.CheckpointConsistencyMode.COMMITTED)


def _warned(place: WorkerContext) -> Callable[[TrainingState], bool]:
    """Whether nodes of these workers are to be taken away that were not at the last asking; all ranks hear the same.

    Train goes on until a node's time is up, and then elsewhere from the last checkpoint.
    """
    known: set[str] = set()

    def save_now(progress: TrainingState) -> bool:
        if progress.step % ASK_STEPS:
            return False
        info = ray.train.get_preemption_info()
        new = set() if info is None else set(info.preempted_node_ids) - known
        known.update(new)
        if new and place.rank == 0:
            print(f"{', '.join(sorted(new))} will be taken away: saving at step {progress.step}", flush=True)
        return bool(new)

    return save_now


def _upload(place: str, local: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
    """Put a checkpoint where Train looks for it, as `storage` does: Train's own copy gives up after three tries."""
    checkpoint.upload(Path(local.path), storage.join(place, name))
    kept = ray.train.get_context().get_storage()
    return ray.train.Checkpoint(f"{kept.experiment_fs_path}/{name}", kept.storage_filesystem)


@contextmanager
def _by_its_own_name(source: str | None, folder: Path | None) -> Iterator[None]:
    """A checkpoint that is refused is called by where it lies, not by this worker's copy, with what to do."""
    try:
        yield
    except ValueError as error:
        if source is None or str(folder) not in str(error):
            raise
        told = str(error).replace(str(folder), source)
        raise ValueError(f"{told}; remove {source.rpartition('/')[0]} to train anew") from None


def _message(progress: TrainingState, epochs: int) -> str:
    loss = f", loss {progress.losses[-1][1]:.4g}" if progress.losses else ""
    return f"epoch {progress.epoch + 1} of {epochs}{loss}"

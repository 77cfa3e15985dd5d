"""Run a stage in the current process, without a Ray cluster, so that a debugger stops at its breakpoints.

`in_process` switches it on. Ray Data's maps are then plain loops over the same functions, and a training stage runs as
a single worker. The results are those of one worker on a cluster. Nothing resumes: a debugged run starts over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import ray.data

from arspm.config import Config, Recipe, Tasks, Workers
from arspm.distributed import gpus
from arspm.distributed.data.ingest import configure_ray_data, original_errors
from arspm.distributed.train import rows as training
from arspm.distributed.train.feed import open_feed
from arspm.distributed.train.rows import Rows
from arspm.training.fit import WorkerContext

_IN_PROCESS: ContextVar[bool] = ContextVar("in_process", default=False)

Item = dict[str, Any]


@contextmanager
def in_process() -> Iterator[None]:
    """Run stages in this process while the block runs."""
    token = _IN_PROCESS.set(True)
    try:
        yield
    finally:
        _IN_PROCESS.reset(token)


def is_in_process() -> bool:
    """Return whether stages run in this process."""
    return _IN_PROCESS.get()


def map_items(function: Callable[[Item], Item], items: Sequence[Item], tasks: Tasks) -> Iterator[Item]:
    """Yield a function's results in the order of the items: by Ray Data tasks, or by a loop in this process."""
    if is_in_process():
        yield from map(function, items)
        return
    yield from _map_on_ray(function, items, tasks, compute=ray.data.TaskPoolStrategy(size=tasks.num_tasks))


def map_with_actors(actor: type, arguments: tuple[Any, ...], items: Sequence[Item], tasks: Tasks) -> Iterator[Item]:
    """Yield the results of calling `actor(*arguments)` with each item, in the order of the items.

    Ray Data calls a pool of actors; in this process a single object is called.
    """
    if is_in_process():
        yield from map(actor(*arguments), items)
        return
    pool = ray.data.ActorPoolStrategy(size=min(tasks.num_tasks, len(items)))
    yield from _map_on_ray(actor, items, tasks, compute=pool, fn_constructor_args=arguments)


def _map_on_ray(function: Any, items: Sequence[Item], tasks: Tasks, **options: Any) -> Iterator[Item]:
    configure_ray_data()
    data = ray.data.from_items(list(items), override_num_blocks=len(items))
    yield from original_errors(data.map(function, **options, **tasks.remote_options).iter_rows())


def train(stage: str, config: Config, run: str, rows: Rows, folder: Path) -> None:
    """Train a stage's network in this process, as a single worker, and write the last checkpoint into a folder."""
    workers: Workers = getattr(config.resources, stage)
    recipe: Recipe = getattr(config.training, stage)
    context = WorkerContext(device=gpus.device(workers.gpus))
    feed = open_feed(stage, config, rows, context, share=None)
    task = training.make_task(stage, config, run, context.device, rows)
    reports = training.train(stage, config, rows, task, context, feed=feed, resume=None)
    for report in reports:
        if task.objective in report.figures:  # an epoch has ended
            epoch, value = report.figures["epoch"], report.figures[task.objective]
            print(f"epoch {epoch} of {recipe.epochs}: {task.objective} {value:.4g}", flush=True)
        if report.finished:
            report.save(folder)

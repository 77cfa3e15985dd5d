"""Rows streamed by Ray Data to several workers, compared with the order of `training.order` and a naive read."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from arspm.config import Tasks
from arspm.corpus import schema
from arspm.distributed.data import ingest
from arspm.distributed.data.readings import Plan, Reading, kinds
from arspm.training.columns import FACE, ROW, WEIGHT, Picked
from tests.distributed.data.test_readings import Columns, readings, require_batches, steps_by_order

pytestmark = pytest.mark.ray
EPOCHS = 2


def run(
    both: Sequence[Reading], world_size: int = 1, epoch: int = 0, step: int = 0, num_tasks: int = 2
) -> list[list[dict[str, Any]]]:
    """Return each worker's batches, by rank. The workers are threads that share one execution."""
    plan, types = Plan(both, EPOCHS, epoch, step), kinds(both[0])
    tasks = Tasks(num_tasks=num_tasks, cpus=0.1)
    source = ingest.open_stream(both, plan, world_size=world_size, tasks=tasks, kinds_of_row=types)
    found: list[Any] = [None] * world_size

    def work(rank: int) -> None:
        try:
            found[rank] = [
                {name: value if isinstance(value, list) else np.array(value) for name, value in batch.items()}
                for batch in ingest.stream(both, plan, source, rank=rank, kinds_of_row=types, prefetch_batches=2)
            ]
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in found:
        if isinstance(each, Exception):
            raise each
    return found


@pytest.fixture
def small(driver: None, write_corpus: Callable[..., tuple[str, Columns]]) -> tuple[list[Reading], Columns]:
    corpus, columns = write_corpus({"train": (9, 4, 6), "val": (5, 4)})
    return readings(corpus, columns), columns


@pytest.mark.parametrize(
    ("world_size", "epoch", "step", "num_tasks"),
    [(1, 0, 0, 1), (1, 1, 1, 3), (2, 0, 0, 2), (3, 1, 1, 1), (4, 1, 3, 1)],  # of four lanes
)
def test_rows_come_in_the_planned_order(
    small: tuple[list[Reading], Columns], world_size: int, epoch: int, step: int, num_tasks: int
) -> None:
    """From the start, and from within an epoch and a window, to any number of workers by any number of readers.

    Training and validation rows alternate. With three workers, one has twice as many lanes as the others.
    """
    both, columns = small
    assert both[0].order.window_steps == 2  # so step 1 is within a window
    for rank, found in enumerate(run(both, world_size, epoch, step, num_tasks)):
        require_batches(found, steps_by_order(both, EPOCHS, rank, world_size, epoch, step), both, columns)


def test_only_the_wanted_columns_are_read_and_a_second_run_gives_the_same(
    driver: None, write_corpus: Callable[..., tuple[str, Columns]]
) -> None:
    corpus, columns = write_corpus({"train": (9, 8), "val": (4,)})
    both = readings(corpus, columns, {"features": (schema.FACE_FEATURE,)})
    [once], [again] = run(both), run(both)
    assert len(once) == len(again) == EPOCHS * (3 + 1)
    for a, b in zip(once, again, strict=True):
        assert set(a) == {schema.CLIP_ID, schema.FACE_FEATURE, schema.AGE, ROW, WEIGHT}
        assert a.pop(schema.CLIP_ID) == b.pop(schema.CLIP_ID)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_the_worker_copies_a_row_once_out_of_the_object_store(small: tuple[list[Reading], Columns]) -> None:
    both, _ = small
    plan, types = Plan(both, 1), kinds(both[0])
    source = ingest.open_stream(both, plan, world_size=1, tasks=Tasks(cpus=0.1), kinds_of_row=types)
    for batch in ingest.stream(both, plan, source, rank=0, kinds_of_row=types, prefetch_batches=2):
        for name in (schema.WAVEFORM, FACE):
            picked = batch[name]
            assert isinstance(picked, Picked)
            assert not any(piece.flags.writeable or piece.flags.owndata for piece in picked._pieces)
            buffer = np.zeros(picked.shape, picked.dtype)
            assert picked.copy_to(buffer) is buffer
            np.testing.assert_array_equal(buffer, picked)


def test_a_failed_read_raises_its_original_error(small: tuple[list[Reading], Columns]) -> None:
    both, _ = small
    gone = Path(both[1].split.path("speech", 1))
    gone.unlink()
    with pytest.raises(FileNotFoundError, match=gone.name) as caught:
        run(both)
    assert type(caught.value) is FileNotFoundError  # not Ray's wrapper


@pytest.mark.parametrize(("world_size", "shares"), [(1, 1), (1, 3), (2, 2), (3, 1), (5, 3)])
def test_the_parts_of_a_window_are_those_of_all_lanes(world_size: int, shares: int) -> None:
    """Ray Data gives each worker a part in turn: part i to worker i % world_size."""
    division = ingest.Division(world_size, shares)
    for index in range(3):
        numbers = range(index * division.num_parts, (index + 1) * division.num_parts)
        assert {division.locate(number)[0] for number in numbers} == {index}
        for rank in range(world_size):
            found = [division.locate(number)[1] for number in numbers if number % world_size == rank]
            assert found == list(range(rank * shares, (rank + 1) * shares))  # so `lanes` gives the worker's lanes


def test_the_number_of_read_tasks_is_bounded(small: tuple[list[Reading], Columns]) -> None:
    """A long training has longer tasks, not more of them, so that it starts as fast as a short one."""
    both, _ = small
    for epochs in (1, 1000, 1_000_000):
        parts = range(1, len(Plan(both, epochs)), 4)
        reader = ingest._Reader(ray.put(None), parts, ingest.Division(2, 1), 128)
        assert len(reader.get_read_tasks(-1)) <= 128
        assert [part for task in reader.tasks[:3] for part in task] == list(parts[: sum(map(len, reader.tasks[:3]))])


@pytest.mark.slow
def test_prefetching_takes_little_cpu_time_of_the_training_process(small: tuple[list[Reading], Columns]) -> None:
    """While batches wait to be consumed, the stream uses almost no CPU time of the training process."""
    both, _ = small
    plan, types = Plan(both, 60), kinds(both[0])
    source = ingest.open_stream(both, plan, world_size=1, tasks=Tasks(cpus=0.5), kinds_of_row=types)
    batches = ingest.stream(both, plan, source, rank=0, kinds_of_row=types, prefetch_batches=2)
    next(batches)
    time.sleep(2)  # until the first tasks have filled the buffer
    before = time.process_time()
    time.sleep(3)
    used = time.process_time() - before
    for _ in batches:  # consume all: an open stream outlives the Ray connection, and Ray then ends the process
        pass
    assert used < 1.0

"""Rows streamed by Ray Data, compared with the order of `training.order` and a naive read of the same corpus."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arspm.config import Tasks
from arspm.corpus import schema, tables
from arspm.distributed.data.ingest import Entry, Reading, plan, stream
from arspm.media.jpeg import decode_jpeg
from arspm.training.batch import FACE, ROW, WEIGHT
from arspm.training.order import Order, groups, window

FACE_SIZE = 32
EPOCHS = 2
WANTED = {"speech": (schema.WAVEFORM,), "faces": (schema.FACE_JPEG,)}
Columns = dict[str, dict[str, Any]]  # split -> column -> values


def readings(corpus: str, columns: Columns, wanted: dict[str, tuple[str, ...]] = WANTED) -> list[Reading]:
    """Return shuffled training rows in steps of eight, and validation rows in their own order, with one label."""
    result = []
    for name in ("train", "val"):
        split = tables.open_split(corpus, name)
        order = Order(groups(split.group_sizes()), 8, 4, 4, seed=3, shuffle=name == "train")
        ages = np.array([-1 if age is None else age for age in columns[name][schema.AGE]], np.float32)
        result.append(Reading(split, order, wanted, FACE_SIZE, {schema.AGE: ages}))
    return result


def steps_by_order(
    both: Sequence[Reading], rank: int, world_size: int, epoch: int = 0, step: int = 0
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield (split, rows, weights) of each step from (epoch, step) on, computed from the order only."""
    for each in range(epoch, EPOCHS):
        for name, reading in zip(("train", "val"), both, strict=True):
            order = reading.order
            parts = [
                window(order, each if name == "train" else 0, index, rank, world_size)
                for index in range(order.num_windows)
            ]
            rows = [pair for part in parts for pair in zip(part.rows, part.weights, strict=True)]
            for one, weights in rows[step if (each, name) == (epoch, "train") else 0 :]:
                yield name, one, weights


def run(both: Sequence[Reading], rank: int, world_size: int, epoch: int = 0, step: int = 0) -> list[dict[str, Any]]:
    return list(
        stream(
            both,
            plan(both, EPOCHS, epoch, step),
            rank=rank,
            world_size=world_size,
            tasks=Tasks(num_tasks=2, cpus=0.5),
            prefetch_batches=2,
        )
    )


@pytest.fixture
def small(driver: None, write_corpus: Callable[..., tuple[str, Columns]]) -> tuple[list[Reading], Columns]:
    corpus, columns = write_corpus({"train": (9, 4, 6), "val": (5, 4)})
    return readings(corpus, columns), columns


@pytest.mark.ray
@pytest.mark.parametrize(
    ("rank", "world_size", "epoch", "step"), [(0, 1, 0, 0), (0, 2, 0, 0), (1, 2, 1, 1)], ids=["1of1", "1of2", "2of2"]
)
def test_rows_come_in_the_planned_order(
    small: tuple[list[Reading], Columns], rank: int, world_size: int, epoch: int, step: int
) -> None:
    """From the start, and from within an epoch and a window. Training and validation rows alternate."""
    both, columns = small
    wanted = list(steps_by_order(both, rank, world_size, epoch, step))
    found = run(both, rank, world_size, epoch, step)
    assert len(found) == len(wanted)
    assert both[0].order.window_steps == 2  # so step 1 is within a window
    for batch, (split, rows, weights) in zip(found, wanted, strict=True):
        assert set(batch) == {schema.CLIP_ID, schema.WAVEFORM, FACE, schema.AGE, ROW, WEIGHT}
        np.testing.assert_array_equal(batch[ROW], rows)
        np.testing.assert_array_equal(batch[WEIGHT], weights)
        assert batch[schema.CLIP_ID] == [columns[split][schema.CLIP_ID][row] for row in rows]
        np.testing.assert_array_equal(batch[schema.WAVEFORM], columns[split][schema.WAVEFORM][rows])
        np.testing.assert_array_equal(batch[schema.AGE], both[0 if split == "train" else 1].labels[schema.AGE][rows])
        pictures = [decode_jpeg(columns[split][schema.FACE_JPEG][row], FACE_SIZE) for row in rows]
        np.testing.assert_array_equal(batch[FACE], np.stack(pictures))
        assert batch[FACE].shape == (8 // world_size, FACE_SIZE, FACE_SIZE, 3)


@pytest.mark.ray
def test_only_the_wanted_columns_are_read_and_a_second_run_gives_the_same(
    driver: None, write_corpus: Callable[..., tuple[str, Columns]]
) -> None:
    corpus, columns = write_corpus({"train": (9, 8), "val": (4,)})
    both = readings(corpus, columns, {"features": (schema.FACE_FEATURE,)})
    once, again = run(both, 0, 1), run(both, 0, 1)
    assert len(once) == len(again) == EPOCHS * (3 + 1)
    for a, b in zip(once, again, strict=True):
        assert set(a) == {schema.CLIP_ID, schema.FACE_FEATURE, schema.AGE, ROW, WEIGHT}
        assert a.pop(schema.CLIP_ID) == b.pop(schema.CLIP_ID)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.ray
def test_a_failed_read_raises_its_original_error(small: tuple[list[Reading], Columns]) -> None:
    both, _ = small
    gone = Path(both[1].split.path("speech", 1))
    gone.unlink()
    with pytest.raises(FileNotFoundError, match=gone.name) as caught:
        run(both, 0, 1)
    assert type(caught.value) is FileNotFoundError  # not Ray's wrapper


def test_the_plan_resumes_at_any_step(write_corpus: Callable[..., tuple[str, Columns]]) -> None:
    both = readings(*write_corpus({"train": (9, 4, 6), "val": (5, 4)}))
    entries = plan(both, 3)
    assert entries[:4] == [Entry(0, 0, 0, 0), Entry(0, 0, 1, 0), Entry(1, 0, 0, 0), Entry(0, 1, 0, 0)]
    assert plan(both, 3, 1, 1) == [Entry(0, 1, 0, 1), *entries[4:]]
    assert plan(both, 3, 1, 3) == entries[5:]  # after the epoch's training rows, before its validation
    assert plan(both, 3, 3) == []
    assert list(stream(both, [], rank=0, world_size=1, tasks=Tasks(), prefetch_batches=1)) == []


@pytest.mark.slow
@pytest.mark.ray
def test_prefetching_takes_little_cpu_time_of_the_training_process(small: tuple[list[Reading], Columns]) -> None:
    """While batches wait to be consumed, the stream uses almost no CPU time of the training process."""
    both, _ = small
    entries = plan(both, 60)
    batches = stream(both, entries, rank=0, world_size=1, tasks=Tasks(num_tasks=1, cpus=0.5), prefetch_batches=2)
    next(batches)
    time.sleep(2)  # until the first tasks have filled the buffer
    before = time.process_time()
    time.sleep(3)
    used = time.process_time() - before
    for _ in batches:  # consume all: an open stream outlives the Ray connection, and Ray then ends the process
        pass
    assert used < 1.0

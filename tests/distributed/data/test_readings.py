"""The plan of a training: which windows it reads, from any step on, whatever its length."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from arspm.corpus import schema, tables
from arspm.distributed.data.readings import Entry, Plan, Reading, kinds, load, load_parts, part_of, read_batches
from arspm.media.jpeg import decode_jpeg
from arspm.training.columns import FACE, ROW, WEIGHT
from arspm.training.order import Groups, Order, groups, window

FACE_SIZE = 32
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
    both: Sequence[Reading], epochs: int, rank: int = 0, world_size: int = 1, epoch: int = 0, step: int = 0
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return (split, rows, weights) of each step from (epoch, step) on, computed from the order only."""
    found = []
    for each in range(epoch, epochs):
        for name, reading in zip(("train", "val"), both, strict=True):
            order = reading.order
            parts = [
                window(order, each if name == "train" else 0, index, rank, world_size)
                for index in range(order.num_windows)
            ]
            rows = [pair for part in parts for pair in zip(part.rows, part.weights, strict=True)]
            for one, weights in rows[step if (each, name) == (epoch, "train") else 0 :]:
                found.append((name, one, weights))
    return found


def require_batches(
    found: Sequence[dict[str, Any]],
    expected: Sequence[tuple[str, np.ndarray, np.ndarray]],
    both: Sequence[Reading],
    columns: Columns,
) -> None:
    """Check batches against the order, and their columns against a naive read of the corpus."""
    assert len(found) == len(expected)
    for batch, (split, rows, weights) in zip(found, expected, strict=True):
        assert set(batch) == {schema.CLIP_ID, schema.WAVEFORM, FACE, schema.AGE, ROW, WEIGHT}
        np.testing.assert_array_equal(batch[ROW], rows)
        np.testing.assert_array_equal(batch[WEIGHT], weights)
        assert batch[schema.CLIP_ID] == [columns[split][schema.CLIP_ID][row] for row in rows]
        np.testing.assert_array_equal(batch[schema.WAVEFORM], columns[split][schema.WAVEFORM][rows])
        np.testing.assert_array_equal(batch[schema.AGE], both[0 if split == "train" else 1].labels[schema.AGE][rows])
        pictures = [decode_jpeg(columns[split][schema.FACE_JPEG][row], FACE_SIZE) for row in rows]
        np.testing.assert_array_equal(batch[FACE], np.stack(pictures))


def test_a_plan_resumes_at_any_step(write_corpus: Callable[..., tuple[str, Columns]]) -> None:
    both = readings(*write_corpus({"train": (9, 4, 6), "val": (5, 4)}))
    entries = list(Plan(both, 3))
    assert entries[:4] == [Entry(0, 0, 0, 0), Entry(0, 0, 1, 0), Entry(1, 0, 0, 0), Entry(0, 1, 0, 0)]
    assert len(entries) == 9
    assert list(Plan(both, 3, 1, 1)) == [Entry(0, 1, 0, 1), *entries[4:]]
    assert list(Plan(both, 3, 1, 2)) == entries[4:]
    assert list(Plan(both, 3, 1, 3)) == entries[5:]  # after the epoch's training rows, before its validation
    assert list(Plan(both, 3, 3)) == []
    with pytest.raises(IndexError):
        Plan(both, 3)[9]


def test_a_plan_of_millions_of_clips_costs_what_one_of_thousands_costs() -> None:
    def seconds(num_rows: int, epochs: int) -> float:
        sizes = np.full(num_rows // 64, 64)
        whole = Groups(np.arange(num_rows), np.arange(0, num_rows + 1, 64))
        order = Order(whole, 16, 8, 256, seed=0)
        reading = Reading(tables.Split("none", ("s",), (int(sizes.sum()),), 64), order, {}, 32, {})
        begun = time.perf_counter()
        plan = Plan([reading], epochs, epochs - 1, 5)
        assert plan[len(plan) - 1].epoch == epochs - 1
        assert len(Plan([reading], epochs)) == epochs * order.num_windows
        return time.perf_counter() - begun

    assert min(seconds(2_600_000, 50) for _ in range(3)) < 0.01
    assert min(seconds(1_000, 1) for _ in range(3)) < 0.01


@pytest.mark.parametrize(("epoch", "step"), [(0, 0), (1, 1), (1, 3)])
def test_batches_that_are_read_in_this_process_follow_the_order(
    write_corpus: Callable[..., tuple[str, Columns]], epoch: int, step: int
) -> None:
    corpus, columns = write_corpus({"train": (9, 4, 6), "val": (5, 4)})
    both = readings(corpus, columns)
    found = list(read_batches(both, Plan(both, 2, epoch, step)))
    require_batches(found, steps_by_order(both, 2, epoch=epoch, step=step), both, columns)


@pytest.mark.parametrize(("window_rows", "num_parts"), [(2, 1), (3, 1), (4, 2), (8, 4)])
def test_a_row_group_is_read_once_where_windows_meet_within_it(
    write_corpus: Callable[..., tuple[str, Columns]],
    monkeypatch: pytest.MonkeyPatch,
    window_rows: int,
    num_parts: int,
) -> None:
    corpus, columns = write_corpus({"train": (33,), "val": (5,)})  # row groups of four rows
    both = readings(corpus, columns)
    split = both[0].split
    orders = [reading.order._replace(global_batch=4, window_rows=window_rows) for reading in both]
    both = [reading._replace(order=order) for reading, order in zip(both, orders, strict=True)]
    plan, read = Plan(both, 2), []
    original = tables.read_pieces
    monkeypatch.setattr(
        tables, "read_pieces", lambda *args: read.append((args[0], args[0].group_of(args[2]))) or original(*args)
    )
    for rank in range(num_parts):
        parts = list(load_parts(both, range(len(plan)), lambda number: (plan[number], rank), num_parts))  # noqa: B023
        for entry, part in zip(plan, parts, strict=True):
            reading = both[entry.reading]
            rows = np.unique(part_of(reading, entry, rank, num_parts).rows)
            np.testing.assert_array_equal(np.sort(part.rows), rows)
            expected = columns["train" if entry.reading == 0 else "val"]
            assert part.clip_ids.to_pylist() == [expected[schema.CLIP_ID][row] for row in part.rows]
            waveforms = np.concatenate(part.columns[schema.WAVEFORM])
            np.testing.assert_array_equal(waveforms, expected[schema.WAVEFORM][part.rows])
    times = Counter(group for of, groups in read if of is split for group in np.unique(groups).tolist())
    cuts = orders[0].num_lanes  # a cut between lanes can fall inside a row group
    assert sum(times.values()) <= 2 * (len(split.group_sizes()) + cuts), "two epochs"


def test_types_come_from_the_parquet_schemas(write_corpus: Callable[..., tuple[str, Columns]]) -> None:
    both = readings(*write_corpus({"train": (9, 4), "val": (5,)}))
    told = kinds(both[0])
    found = load(both[0], np.unique(part_of(both[0], Entry(0, 0, 0, 0), 0, 1).rows))
    assert told.keys() == found.columns.keys()
    for name, pieces in found.columns.items():
        for values in pieces:
            assert (np.dtype(told[name].dtype), tuple(told[name].shape)) == (values.dtype, values.shape[1:])

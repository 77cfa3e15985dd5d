from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arspm.training.order import Order, Window, groups, lanes, window

# beartype checks a random item of a list.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")


@st.composite
def orders(draw, shuffle=None) -> Order:
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=12))
    keep = None
    if draw(st.booleans()):
        keep = np.array(draw(st.lists(st.booleans(), min_size=sum(sizes), max_size=sum(sizes))))
        keep[draw(st.integers(0, sum(sizes) - 1))] = True
    num_lanes, lane_batch = draw(st.sampled_from([1, 2, 4, 8])), draw(st.integers(1, 4))
    return Order(
        groups(sizes, keep),
        num_lanes * lane_batch,
        num_lanes,
        lane_batch * draw(st.integers(1, 5)),
        draw(st.integers(0, 2**32 - 1)),
        draw(st.booleans()) if shuffle is None else shuffle,
    )


def windows(order: Order, epoch: int, rank: int = 0, world_size: int = 1) -> list[Window]:
    return [window(order, epoch, index, rank, world_size) for index in range(order.num_windows)]


def worker(order: Order, epoch: int, rank: int = 0, world_size: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return a worker's rows and weights of an epoch, each (steps, worker's rows per step)."""
    parts = windows(order, epoch, rank, world_size)
    return np.concatenate([part.rows for part in parts]), np.concatenate([part.weights for part in parts])


def workers(order: Order) -> range:
    return range(1, order.num_lanes + 1)


@given(orders(), st.integers(0, 50))
def test_every_row_is_read_and_only_the_last_step_repeats(order, epoch):
    rows, weights = worker(order, epoch)
    taken = order.groups.rows
    assert rows.shape == weights.shape == (order.num_steps, order.global_batch)
    assert set(rows.ravel()) == set(taken)
    # each row exactly once with weight 1, so that validation counts every clip once
    np.testing.assert_array_equal(np.sort(rows[weights == 1]), np.sort(taken))
    assert set(np.unique(weights)) <= {0.0, 1.0}
    surplus = order.num_steps * order.global_batch - len(taken)
    assert 0 <= surplus < order.global_batch
    assert (weights == 0).sum() == surplus


@given(st.integers(1, 6), st.integers(1, 4), st.sampled_from([1, 2, 4, 8]), st.integers(0, 9))
def test_every_row_is_read_once_where_the_batch_divides(num_steps, lane_batch, lanes, epoch):
    order = Order(groups([3] * (num_steps * lane_batch * lanes // 3 + 1)), lanes * lane_batch, lanes, lane_batch, 0)
    exact = num_steps * order.global_batch
    order = order._replace(groups=groups([3] * (exact // 3) + ([exact % 3] if exact % 3 else [])))
    rows, weights = worker(order, epoch)
    np.testing.assert_array_equal(np.sort(rows, axis=None), np.arange(exact))
    assert (weights == 1).all()


@given(orders(), st.integers(0, 50))
def test_global_batches_are_the_same_for_any_number_of_workers(order, epoch):
    whole, whole_weights = worker(order, epoch)
    for world_size in workers(order):
        parts = [worker(order, epoch, rank, world_size) for rank in range(world_size)]
        np.testing.assert_array_equal(np.concatenate([rows for rows, _ in parts], axis=1), whole)
        np.testing.assert_array_equal(np.concatenate([weights for _, weights in parts], axis=1), whole_weights)


@pytest.mark.parametrize("lane_batch", [1, 8])
@pytest.mark.parametrize("world_size", [64, 63, 48])
def test_64_workers_share_the_batches_of_one(lane_batch, world_size):
    sizes = np.random.default_rng(5).integers(1, 33, 400).tolist()
    order = Order(groups(sizes), 64 * lane_batch, 64, 8 * lane_batch, 7)
    for epoch in (0, 49):
        whole, whole_weights = worker(order, epoch)
        parts = [worker(order, epoch, rank, world_size) for rank in range(world_size)]
        np.testing.assert_array_equal(np.concatenate([rows for rows, _ in parts], axis=1), whole)
        np.testing.assert_array_equal(np.concatenate([weights for _, weights in parts], axis=1), whole_weights)
        assert {rows.shape[1] for rows, _ in parts} == {
            lane_batch * each for each in {64 // world_size, -(-64 // world_size)}
        }


@given(orders())
def test_numbers_of_lanes_differ_by_at_most_one(order):
    for world_size in workers(order):
        own = [lanes(order, rank, world_size) for rank in range(world_size)]
        assert [lane for each in own for lane in each] == list(range(order.num_lanes))
        assert max(map(len, own)) - min(map(len, own)) <= 1


@given(orders(), st.integers(0, 50))
def test_workers_read_different_rows(order, epoch):
    for world_size in workers(order):
        parts = [worker(order, epoch, rank, world_size) for rank in range(world_size)]
        seen = np.concatenate([rows[weights == 1] for rows, weights in parts])
        assert len(np.unique(seen)) == len(seen)


@given(orders(shuffle=False), st.integers(0, 50))
def test_validation_reads_in_file_order_in_every_epoch(order, epoch):
    rows, weights = worker(order, epoch)
    np.testing.assert_array_equal(rows, worker(order, 0)[0])
    # lane by lane, the split's rows in file order
    lanes = rows.reshape(order.num_steps, order.num_lanes, order.lane_batch).swapaxes(0, 1).ravel()
    counted = weights.reshape(order.num_steps, order.num_lanes, order.lane_batch).swapaxes(0, 1).ravel()
    taken = order.groups.rows
    np.testing.assert_array_equal(lanes, np.resize(taken, lanes.size))
    np.testing.assert_array_equal(counted, np.arange(lanes.size) < len(taken))


@given(orders(shuffle=True), st.integers(0, 50), st.data())
def test_a_window_by_itself_equals_its_part_of_the_epoch(order, epoch, data):
    """So training can resume within an epoch without reading the earlier windows."""
    index = data.draw(st.integers(0, order.num_windows - 1))
    rows, weights = worker(order, epoch)
    part = window(order, epoch, index, 0, 1)
    assert part.first_step == index * order.window_steps
    steps = slice(part.first_step, part.first_step + len(part.rows))
    np.testing.assert_array_equal(part.rows, rows[steps])
    np.testing.assert_array_equal(part.weights, weights[steps])
    assert sum(len(each.rows) for each in windows(order, epoch)) == order.num_steps


def test_epochs_and_seeds_give_different_orders_of_groups_and_of_rows():
    order = Order(groups([8] * 40), 16, 8, 32, seed=0)
    orders_seen = [worker(order, 0)[0], worker(order, 1)[0], worker(order._replace(seed=1), 0)[0]]
    for a in range(3):
        for b in range(a):
            assert (orders_seen[a] != orders_seen[b]).mean() > 0.9


def test_each_epoch_and_seed_begins_with_other_groups():
    order = Order(groups([8] * 64), 8, 8, 8, seed=0)  # one window of a lane is one row group
    epochs = {window(order, epoch, 0, 0, 1).rows[0, 0] // 8 for epoch in range(20)}
    seeds = {window(order._replace(seed=seed), 0, 0, 0, 1).rows[0, 0] // 8 for seed in range(20)}
    assert len(epochs) > 10
    assert len(seeds) > 10


def test_rows_are_mixed_within_a_window_and_come_from_few_groups():
    order = Order(groups([8] * 64), 8, 8, 16, seed=3)
    for part in windows(order, 0):
        for lane in range(8):
            rows = part.rows[:, lane]
            assert len(set(rows // 8)) <= 3  # 16 rows of consecutive groups of 8
    first = np.stack([window(order, epoch, 0, 0, 1).rows for epoch in range(40)])
    assert len({tuple(rows % 8) for rows in first[:, :, 0]}) > 30  # not only the row groups are permuted


def test_lanes_are_shuffled_independently():
    order = Order(groups([64]), 2, 2, 32, seed=0)
    rows = window(order, 0, 0, 0, 1).rows
    assert (np.argsort(rows[:, 0]) != np.argsort(rows[:, 1])).any()


def test_a_split_smaller_than_a_batch_is_one_step():
    order = Order(groups([2, 1]), 16, 8, 256, seed=0, shuffle=False)
    rows, weights = worker(order, 0)
    np.testing.assert_array_equal(rows, [np.resize([0, 1, 2], 16)])
    np.testing.assert_array_equal(weights, [[1.0] * 3 + [0.0] * 13])


def test_groups_contain_only_the_kept_rows():
    keep = np.array([True, False, False, False, True, True])
    found = groups([1, 3, 2], keep)
    assert [rows.tolist() for rows in np.split(found.rows, found.begins[1:-1])] == [[0], [4, 5]]
    assert found.num_rows == 3


SCRIPT = """
import hashlib
from arspm.training.order import Order, groups, window
order = Order(groups([7] * 30), 16, 8, 32, 5)
rows = b"".join(window(order, 3, index, 1, 2).rows.tobytes() for index in range(order.num_windows))
print(hashlib.sha256(rows).hexdigest())
"""


def test_another_process_reads_the_same_order():
    order = Order(groups([7] * 30), 16, 8, 32, 5)
    expected = hashlib.sha256(worker(order, 3, 1, 2)[0].tobytes()).hexdigest()
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected

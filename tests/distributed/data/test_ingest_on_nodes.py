"""A streamed training on a cluster of several nodes: one execution, whose readers run on them, serves all workers."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.conftest import REPO

PROGRAM = """
import sys
import numpy as np
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from arspm.config import Tasks
from arspm.corpus import schema, tables
from arspm.distributed.data import ingest
from arspm.distributed.data.readings import Plan, Reading, kinds, part_of
from arspm.training.columns import ROW
from arspm.training.order import Order, groups

corpus, num_nodes = sys.argv[1], int(sys.argv[2])
cluster = Cluster(
    initialize_head=True,
    head_node_args={"num_cpus": 0, "object_store_memory": 80 << 20, "include_dashboard": False}
)
for _ in range(num_nodes):
    cluster.add_node(num_cpus=2, object_store_memory=80 << 20)
ray.init(cluster.address, log_to_driver=False, logging_level="error")
cluster.wait_for_nodes()
split = tables.open_split(corpus, "train")
order = Order(groups(split.group_sizes()), num_nodes, num_nodes, 2, seed=1)
readings = [Reading(split, order, {"features": (schema.FACE_FEATURE,)}, 32, {})]
plan, types = Plan(readings, 2), kinds(readings[0])


@ray.remote(num_cpus=1)
class Worker:
    def train(self, source, rank):
        rows = [
            batch[ROW]
            for batch in ingest.stream(readings, plan, source, rank=rank, kinds_of_row=types, prefetch_batches=2)
        ]
        expected = [rows for entry in plan for rows in part_of(readings[0], entry, rank, num_nodes).rows]
        assert np.array_equal(np.stack(rows), np.stack(expected)), rank
        return len(rows)


nodes = [node["NodeID"] for node in ray.nodes() if node["Resources"].get("CPU")]
workers = [
    Worker.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote() for node in nodes
]
tasks = Tasks(cpus=0.5)
source = ingest.open_stream(readings, plan, world_size=num_nodes, tasks=tasks, kinds_of_row=types)
steps = ray.get([worker.train.remote(source, rank) for rank, worker in enumerate(workers)], timeout=500)
assert steps == [2 * order.num_steps] * num_nodes
print(f"{len(nodes)} nodes, {sum(steps)} batches", flush=True)
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(("num_nodes", "num_batches"), [(4, 240), (16, 256)])
def test_workers_on_nodes_of_their_own_read_in_the_planned_order(
    write_corpus: Callable[..., Any], num_nodes: int, num_batches: int
) -> None:
    """Each node has one of its two CPUs left for readers. With an execution for each worker, none would get any."""
    corpus, _ = write_corpus({"train": (40, 40, 40)})
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, corpus, str(num_nodes)],
        env=os.environ | {"PYTHONPATH": str(REPO)},
        cwd=Path(corpus).parent,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == f"{num_nodes} nodes, {num_batches} batches"

"""Independent stages on a cluster that starts with only its head and can grow to three nodes.

Ray's autoscaler starts the nodes. They are Ray's fake ones: raylets on the head's machine.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_TYPE

from cluster import client
from cluster.chain import Stage, run_chain
from tests.cluster.fake_autoscaler import FAKE_ENV, fake_config
from tests.cluster.nodes import Nodes

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long]
NUM_NODES = 3
TASK = """
import json, pathlib, sys, time, ray
ray.init(address="auto", log_to_driver=False)

@ray.remote(num_cpus=1)
def work():
    begin = time.time()
    time.sleep(12)
    return ray.get_runtime_context().get_node_id(), begin, time.time()

print("asked", time.time(), flush=True)
pathlib.Path(sys.argv[1]).write_text(json.dumps(ray.get(work.remote())))
"""


def autoscaling() -> dict[str, Any]:
    """Return the configuration of a cluster of a head without CPUs and up to three nodes of one CPU."""
    one = {"node_config": {}, "docker": {}, "min_workers": 0}
    types = {
        FAKE_HEAD_NODE_TYPE: {**one, "resources": {"CPU": 0, "object_store_memory": 200_000_000}, "max_workers": 0},
        "node": {**one, "resources": {"CPU": 1, "object_store_memory": 80_000_000}, "max_workers": NUM_NODES},
    }
    return fake_config(types, max_workers=NUM_NODES)


def test_six_independent_stages_run_three_at_a_time_on_three_nodes(nodes: Nodes, tmp_path: Path) -> None:
    file = tmp_path / "autoscaling.json"
    file.write_text(json.dumps(autoscaling()))
    nodes.env |= FAKE_ENV | {"RAY_NODE_TYPE_NAME": FAKE_HEAD_NODE_TYPE}  # as `ray up` and KubeRay set it
    nodes.add(num_cpus=0, flags=[f"--autoscaling-config={file}"])
    (tmp_path / "task.py").write_text(TASK)
    jobs_client = client.connect(nodes.address)
    assert client.capacity(jobs_client).grows
    outcomes = run_chain(
        [
            Stage(name, (), shlex.join(["python", str(tmp_path / "task.py"), str(tmp_path / name)]), num_cpus=1)
            for name in "abcdef"
        ],
        runner=client.RayJobs(jobs_client),
        is_done=lambda stage: (
            json.loads((tmp_path / stage.name).read_text()) if (tmp_path / stage.name).exists() else None
        ),
        fingerprint=lambda stage: "0123456789abcdef",
        prefix="six",
        capacity=lambda: client.capacity(jobs_client),
    )
    assert {outcome.status for outcome in outcomes.values()} == {"done"}
    spans = [outcome.done for outcome in outcomes.values()]
    at_once = [sum(begin <= moment < end for _, begin, end in spans) for _, moment, _ in spans]
    assert max(at_once) == NUM_NODES
    assert len({node for node, _, _ in spans}) == NUM_NODES

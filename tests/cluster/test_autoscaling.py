"""The chain on a cluster that starts with only its head.

Ray's autoscaler, with the groups of `ray_cluster.yaml`, starts the nodes that the stages request and ends idle ones.
The nodes are Ray's fake ones: raylets on the head's machine, with fewer CPUs than in the file.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE
from ray.util.state import list_nodes

from arspm.config import TRAINED_STAGES
from arspm.runs import stages
from arspm.synthetic.films import write_corpus
from cluster import client
from tests.cluster.fake_autoscaler import FAKE_ENV, fake_config, launcher_config
from tests.cluster.nodes import Nodes

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long]
ARSPM = Path(sys.executable).with_name("arspm")
CPUS = 4  # of a worker node, for 16 in the file
IDLE_SECONDS = 8


def autoscaling() -> dict[str, Any]:
    """Return the launcher's configuration with Ray's fake provider, which starts raylets instead of machines."""
    types = {}
    for name, kind in launcher_config()["available_node_types"].items():
        resources = {**kind["resources"], "object_store_memory": 200_000_000}
        resources |= {"CPU": CPUS} if name != "head" else {}
        types[FAKE_HEAD_NODE_TYPE if name == "head" else name] = kind | {
            "resources": resources,
            "node_config": {},
            "docker": {},
        }
    return fake_config(types, idle_timeout_minutes=IDLE_SECONDS / 60)


def pools(nodes: Nodes) -> list[str]:
    """Return the pool of each worker node that was ever started."""
    found = [each for each in list_nodes(nodes.address, detail=True, limit=1000) if not each.is_head_node]
    return [name for each in found for name in ("cpu_only", "spot", "on_demand") if name in each.resources_total]


def test_nodes_start_when_a_stage_requests_them_and_end_when_idle(
    nodes: Nodes, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    file = tmp_path / "autoscaling.json"
    file.write_text(json.dumps(autoscaling()))
    nodes.env |= FAKE_ENV
    nodes.add(num_cpus=0, flags=[f"--autoscaling-config={file}"])
    assert pools(nodes) == []

    clips, run = tmp_path / "clips", tmp_path / "run"
    write_corpus(clips, num_speakers=14, clips_per_speaker=2, seconds=(1.0, 1.5), fps=10)
    requests = {f"resources.{stage}.pool": "spot" for stage in (*TRAINED_STAGES, "infer")}
    requests |= {"resources.preprocess.pool": "cpu_only"}
    words = [ARSPM, "submit", "--run", run, "--preset", "smoke", "--ray-address", nodes.address]
    words += ["--csv", clips / "avspeech.csv", "--clips", clips / "clips"]
    words += [word for name, value in requests.items() for word in ("--set", f"{name}={value}")]
    chain = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=900)
    assert chain.returncode == 0, chain.stdout + chain.stderr
    assert (run / "report/index.html").exists()

    started = Counter(pools(nodes))
    assert started["cpu_only"] >= 1, "the pool of preprocess"
    assert started["spot"] >= 1, "the pool of the other stages"
    assert started["on_demand"] == 0, "no stage requested these"
    drivers = {job.metadata["stage"]: job.driver_node_id for job in client.connect(nodes.address).list_jobs()}
    assert set(drivers) == set(stages.STAGES)
    assert set(drivers.values()) == {FAKE_HEAD_NODE_ID}, "drivers stay on the head"
    wait_until(lambda: list(nodes.alive()) == [FAKE_HEAD_NODE_ID], seconds=IDLE_SECONDS + 60)

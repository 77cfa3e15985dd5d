"""Two nodes that use TLS with certificates of `cluster.tls`, and a client without a certificate."""

import subprocess
import sys
from pathlib import Path

import pytest

from cluster.tls import CA_CERT, NODE_CERT, NODE_KEY, make_authority, make_node
from tests.cluster.nodes import Nodes

pytestmark = [pytest.mark.ray, pytest.mark.slow]  # several nodes
TASKS = """
import ray
ray.init(address="auto", log_to_driver=False)
where = ray.remote(lambda value: (ray.util.get_node_ip_address(), len(value)))
value = ray.put(bytes(2_000_000))  # large enough to go from node to node
found = ray.get([where.options(resources={name: 1}).remote(value) for name in ("one", "two")])
print("ran on", *sorted(found))
"""


def test_nodes_with_certificates_work_together_and_a_client_without_one_is_refused(
    nodes: Nodes, tmp_path: Path
) -> None:
    subnet = nodes.host.rpartition(".")[0]
    make_authority(tmp_path / "ca")
    make_node(tmp_path / "ca", tmp_path / "node", [f"{subnet}.1", f"{subnet}.2"])
    tls = {
        "RAY_USE_TLS": "1",
        "RAY_TLS_CA_CERT": str(tmp_path / "node" / CA_CERT),
        "RAY_TLS_SERVER_CERT": str(tmp_path / "node" / NODE_CERT),
        "RAY_TLS_SERVER_KEY": str(tmp_path / "node" / NODE_KEY),
    }
    nodes.env |= tls
    nodes.add(num_cpus=1, resources={"one": 1})
    nodes.add(num_cpus=1, resources={"two": 1})

    def run_tasks(seconds: int) -> tuple[int, str]:
        command = ["timeout", "--signal=KILL", str(seconds), sys.executable, "-c", TASKS]
        program = nodes.popen(nodes.head, command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output, _ = program.communicate()
        return program.returncode, output.decode()

    status, output = run_tasks(60)
    assert status == 0, output
    assert f"ran on ('{subnet}.1', 2000000) ('{subnet}.2', 2000000)" in output
    for name in tls:
        del nodes.env[name]
    status, output = run_tasks(10)  # until the timeout, because Ray keeps retrying
    assert status != 0
    assert "ran on" not in output

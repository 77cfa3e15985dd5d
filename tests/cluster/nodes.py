"""A Ray cluster of several nodes on this machine, each in a network namespace with its own IP address.

A bridge connects them like a switch, so that a node can be killed, or cut off and reconnected. Needs root and Linux's
`ip` (Debian: iproute2).
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

REPO = Path(__file__).parents[2]
_GCS, _API, _READY_SECONDS = 6379, 8265, 180


def namespaces_unavailable() -> str:
    """Return the reason why network namespaces cannot be used here; empty if they can."""
    name = f"arspm-{secrets.token_hex(2)}"
    try:
        _ip("netns", "add", name)
        _ip("netns", "del", name)
    except FileNotFoundError:
        return "there is no `ip` (Debian: iproute2)"
    except subprocess.CalledProcessError as error:
        return f"`ip netns add` is refused: {error.stderr.strip()}"
    return ""


class Node(NamedTuple):
    """One node: its namespace, the host's end of its network cable, its IP address."""

    namespace: str
    cable: str
    address: str


class Nodes:
    """The nodes of one Ray cluster, the head first. A context manager: its exit ends all processes and namespaces.

    host: this machine's address on the bridge, for servers that the nodes must reach.
    env: variables for the processes of the cluster, in addition to this process's environment. Later additions apply
        only to processes that start afterwards.
    own_disks: each node has its own /tmp, whose files neither other nodes nor this process can see.
    """

    def __init__(self, env: Mapping[str, str] | None = None, *, own_disks: bool = False) -> None:
        self._own_disks = own_disks
        self._tag = secrets.token_hex(2)
        self._bridge, self._subnet = f"arspm{self._tag}", f"10.{100 + secrets.randbelow(100)}.{secrets.randbelow(250)}"
        self.host = f"{self._subnet}.254"
        self.env = dict(env or {})
        self._folder = Path(tempfile.mkdtemp(prefix="arspm-"))
        self.nodes: list[Node] = []
        self._ray_processes: list[tuple[Node, subprocess.Popen[bytes]]] = []

    def __enter__(self) -> Nodes:
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{self.host}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            self.kill(node)
            _ip("netns", "del", node.namespace)
        for _, process in self._ray_processes:
            process.wait()
        _ip("link", "del", self._bridge)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def head(self) -> Node:
        return self.nodes[0]

    @property
    def address(self) -> str:
        """URL of the Jobs API."""
        return f"http://{self.head.address}:{_API}"

    @property
    def gcs_address(self) -> str:
        """Address for `ray.init`."""
        return f"{self.head.address}:{_GCS}"

    def add(self, *, num_cpus: int, resources: Mapping[str, float] | None = None, flags: Sequence[str] = ()) -> Node:
        """Add a node and start Ray on it; the first node is the head. `flags`: further options of `ray start`."""
        number = len(self.nodes) + 1
        node = Node(f"arspm{self._tag}-{number}", f"arspm{self._tag}-{number}", f"{self._subnet}.{number}")
        _ip("netns", "add", node.namespace)
        self.nodes.append(node)
        if self._own_disks:
            self._disk(node).mkdir()
            shutil.copy(os.environ["RAY_AUTH_TOKEN_PATH"], self._disk(node) / "token")
        _ip("link", "add", node.cable, "type", "veth", "peer", "name", "eth0", "netns", node.namespace)
        _ip("link", "set", node.cable, "master", self._bridge, "up")
        _ip("-n", node.namespace, "addr", "add", f"{node.address}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            _ip("-n", node.namespace, "link", "set", link, "up")
        self.start(node, num_cpus=num_cpus, resources=resources, flags=flags)
        return node

    def start(
        self,
        node: Node,
        *,
        num_cpus: int,
        resources: Mapping[str, float] | None = None,
        flags: Sequence[str] = (),
    ) -> None:
        """Start Ray on a node where it is not running, and wait until the cluster knows the node."""
        folder = self._folder / node.address.rsplit(".")[-1]
        flags = [
            *flags,
            f"--node-ip-address={node.address}",
            f"--num-cpus={num_cpus}",
            "--object-store-memory=300000000",
        ]
        flags += [f"--resources={json.dumps(dict(resources or {}))}", "--disable-usage-stats", "--block"]
        flags += ["--temp-dir=/tmp/ray" if self._own_disks else f"--temp-dir={folder}"]
        if node == self.head:
            flags += ["--head", f"--port={_GCS}", f"--dashboard-host={node.address}", f"--dashboard-port={_API}"]
        else:
            flags += [f"--address={self.head.address}:{_GCS}"]
        log = folder.with_suffix(".log")
        before = self.alive() if node != self.head else {}
        with log.open("wb") as file:
            process = self.popen(node, ["ray", "start", *flags], stdout=file, stderr=subprocess.STDOUT)
        self._ray_processes.append((node, process))
        deadline = time.monotonic() + _READY_SECONDS
        while node.address not in {address for id, address in self.alive().items() if id not in before}:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"node {node.address} did not join ({process.poll()}):\n{log.read_text()}")
            time.sleep(0.3)

    def ray_process(self, node: Node) -> subprocess.Popen[bytes]:
        """Return the `ray start --block` process of a node, to which Kubernetes and Slurm send SIGTERM."""
        return [process for started_on, process in self._ray_processes if started_on == node][-1]

    def popen(self, node: Node, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a program on a node, with this process's Python environment."""
        env = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(REPO),
            "GLOO_SOCKET_IFNAME": "eth0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # the tests set 0 for the head on loopback
            "RAY_JOB_STOP_SIGNAL": "SIGINT",
            "RAY_health_check_period_ms": "1000",  # a node that is cut off counts as dead after 5 s
            "RAY_health_check_timeout_ms": "1000",
            "RAY_health_check_failure_threshold": "5",
            **({} if command[0] == "ray" else {"RAY_ADDRESS": self.gcs_address}),  # another Ray may be running
            **self.env,
        }
        inside = ["ip", "netns", "exec", node.namespace]
        if self._own_disks:  # possible because `ip netns exec` unshares the mounts
            env |= {"RAY_AUTH_TOKEN_PATH": "/tmp/token"}
            inside += ["sh", "-c", 'mount --bind "$0" /tmp && exec "$@"', str(self._disk(node))]
        return subprocess.Popen([*inside, *command], env=env, cwd=REPO, start_new_session=True, **options)

    def _disk(self, node: Node) -> Path:
        return self._folder / f"disk-{node.address.rsplit('.')[-1]}"

    def kill(self, node: Node) -> None:
        """Send SIGKILL to every process on a node, as if the machine lost power."""
        while pids := _ip("netns", "pids", node.namespace).split():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.05)

    def remove(self, node: Node) -> None:
        """Kill a node and forget it."""
        self.kill(node)
        _ip("netns", "del", node.namespace)
        self.nodes.remove(node)

    def runs(self, node: Node, title: str) -> list[int]:
        """Return the pids on the node whose command line contains `title`; Ray puts a worker's task there."""
        pids = []
        for pid in _ip("netns", "pids", node.namespace).split():
            with contextlib.suppress(OSError):
                if title.encode() in Path("/proc", pid, "cmdline").read_bytes():
                    pids.append(int(pid))
        return pids

    def pids(self) -> list[int]:
        """Return the pids of all processes of the cluster."""
        return [int(pid) for node in self.nodes for pid in _ip("netns", "pids", node.namespace).split()]

    def cut(self, node: Node) -> None:
        """Unplug the node's network cable."""
        _ip("link", "set", node.cable, "down")

    def join(self, node: Node) -> None:
        """Plug the cable in again."""
        _ip("link", "set", node.cable, "up")

    def alive(self) -> dict[str, str]:
        """Return the nodes that Ray considers alive: id -> IP address. Empty while the head does not answer."""
        from ray.util.state import list_nodes
        from ray.util.state.exception import RayStateApiException

        try:
            nodes = list_nodes(self.address, filters=[("state", "=", "ALIVE")], raise_on_missing_output=False)
        except (RayStateApiException, OSError):
            return {}
        return {each.node_id: each.node_ip for each in nodes}


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout

"""Drains this Ray node before its machine is taken away, so that training can save and continue elsewhere.

    python -m cluster.drain --address HEAD:6379

Runs beside Ray. It waits for EC2's notice that a spot instance will be reclaimed, which comes two minutes before, or
for SIGTERM. Then it has Ray drain the node: Ray starts nothing new on it, and Ray Train's workers learn the deadline.
Only the first notice counts. `ray start --block` does the same on SIGTERM, which is what Kubernetes sends.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError, Unreachable

METADATA_URL = "http://169.254.169.254"  # of EC2, the same on every instance
POLL_SECONDS = 5.0  # as EC2's documentation recommends
_REQUEST_SECONDS = 2
_TOKEN_SECONDS = 60
_START_SECONDS = 3  # for the import of Ray in `ray drain-node`
_COMMAND_SECONDS = 30


def spot_notice(metadata_url: str) -> float | None:
    """Return when EC2 will reclaim this instance (Unix time), or None if it has not announced that.

    Raises Unreachable if no metadata service answers, as on machines outside EC2.
    """
    try:
        token = _request(
            metadata_url,
            "/latest/api/token",
            method="PUT",
            headers={"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)},
        )
        notice = _request(
            metadata_url, "/latest/meta-data/spot/instance-action", headers={"X-aws-ec2-metadata-token": token.decode()}
        )
        return datetime.fromisoformat(json.loads(notice)["time"].replace("Z", "+00:00")).timestamp()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise Unreachable(f"{metadata_url} answers {error.code} {error.reason}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unreachable(f"{metadata_url} gives no spot notices: {error}") from None


def drain(address: str, node_address: str, deadline: float, reason: str) -> str:
    """Have Ray drain the live node with this IP address until the deadline (Unix time), and return the node's id.

    address: host and port of the head's GCS. Raises ClusterError if Ray knows no such node or refuses to drain it.
    """
    from ray.autoscaler.v2.sdk import get_cluster_status  # needs only the GCS, and no driver on this node

    status = get_cluster_status(address, timeout=_REQUEST_SECONDS)
    nodes = [*status.active_nodes, *status.idle_nodes]
    ids = [node.node_id for node in nodes if node.node_id and node.ip_address == node_address]
    if not ids:
        raise ClusterError(f"Ray at {address} knows no live node {node_address}: set --node-ip-address")
    # `ray drain-node` is hidden from Ray's help and may change: tests/cluster/test_drain.py checks its options. It adds
    # the seconds to its own clock, after it has imported Ray; without the deduction the deadline would be too late.
    seconds = max(0, int(deadline - time.time() - _START_SECONDS))
    command = [str(Path(sys.executable).with_name("ray")), "drain-node", f"--address={address}", f"--node-id={ids[0]}"]
    command += ["--reason=DRAIN_NODE_REASON_PREEMPTION", f"--reason-message={reason}"]
    result = subprocess.run(
        [*command, f"--deadline-remaining-seconds={seconds}"], capture_output=True, text=True, timeout=_COMMAND_SECONDS
    )
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
        raise ClusterError(f"Ray does not drain node {ids[0]}: {lines[-1].removeprefix('Error: ')}")
    return ids[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, wait for a notice and drain the node. Returns at the deadline."""
    parser = argparse.ArgumentParser(
        prog="python -m cluster.drain",
        description="Wait for EC2's spot notice or SIGTERM, then have Ray drain this node.",
        epilog="example: python -m cluster.drain --address 10.0.0.5:6379",
    )
    parser.add_argument("--address", required=True, help="host:port of Ray's head, as for ray start")
    parser.add_argument("--node-ip-address", help="this node's address in Ray (default: as ray start determines it)")
    parser.add_argument(
        "--grace-seconds", type=float, default=30.0, help="how long the node stays after SIGTERM (default: 30)"
    )
    parser.add_argument(
        "--metadata-url", default=METADATA_URL, help=f"URL of the EC2 metadata service (default: {METADATA_URL})"
    )
    chosen = parser.parse_args(arguments)
    # Blocked, because _wait_for_notice waits for it. Before Ray is imported: threads that Ray starts inherit the mask.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    import ray.autoscaler.v2.sdk  # takes seconds, of which there are few after a notice
    import ray.util

    node_address = chosen.node_ip_address or ray.util.get_node_ip_address(chosen.address)
    deadline, reason = _wait_for_notice(chosen.metadata_url, chosen.grace_seconds)
    try:
        node = drain(chosen.address, node_address, deadline, reason)
    except Exception as error:  # Ray's client has exceptions of its own
        sys.exit(f"error: {error}")
    print(f"{reason}: Ray drains node {node} for {deadline - time.time():.0f} s", flush=True)
    time.sleep(max(0.0, deadline - time.time()))


def _wait_for_notice(metadata_url: str, grace_seconds: float) -> tuple[float, str]:
    """Return the deadline (Unix time) and its reason."""
    reachable = True
    while signal.sigtimedwait({signal.SIGTERM}, POLL_SECONDS) is None:
        try:
            deadline = spot_notice(metadata_url)
        except Unreachable as error:
            if reachable:  # printed once, because outside EC2 this never changes
                print(f"{error}; waiting for SIGTERM", flush=True)
            reachable = False
            continue
        reachable = True
        if deadline is not None:
            return deadline, "spot notice"
    return time.time() + grace_seconds, "SIGTERM"


def _request(metadata_url: str, path: str, **options: Any) -> bytes:
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({})
    )  # a proxy cannot reach it, and must not see it
    with opener.open(urllib.request.Request(metadata_url + path, **options), timeout=_REQUEST_SECONDS) as answer:
        return answer.read()


if __name__ == "__main__":
    main()

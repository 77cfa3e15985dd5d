"""Tells Ray that this node will be taken away, so that what runs here can save and go on elsewhere.

    python -m cluster.drain --address HEAD:6379

It waits beside Ray for EC2's notice that a spot machine will be reclaimed (two minutes before), or for SIGTERM, and
then has Ray drain the node: nothing new is started here, and Ray Train's workers are told the deadline. A second
notice makes no difference. `ray start --block` does the same by itself on SIGTERM, which is what Kubernetes sends.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from cluster.errors import ClusterError, Unreachable

METADATA_URL = "http://169.254.169.254"  # EC2's, the same on every machine
POLL_SECONDS = 5.0  # as EC2 advises
_REQUEST_SECONDS = 2.0
_TOKEN_SECONDS = 60


def spot_notice(metadata_url: str) -> float | None:
    """When EC2 will take this machine away, as seconds of the Unix time; None while it will not.

    Raises Unreachable where no metadata service answers, as on other machines than EC2's.
    """
    try:
        token = _ask(
            metadata_url,
            "/latest/api/token",
            method="PUT",
            headers={"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)},
        )
        told = _ask(
            metadata_url, "/latest/meta-data/spot/instance-action", headers={"X-aws-ec2-metadata-token": token.decode()}
        )
        return datetime.fromisoformat(json.loads(told)["time"].replace("Z", "+00:00")).timestamp()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise Unreachable(f"{metadata_url} answers {error.code} {error.reason}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unreachable(f"{metadata_url} gives no spot notices: {error}") from None


def drain(address: str, node_address: str, deadline: float, reason: str) -> str:
    """Have Ray drain the live node of this address until the deadline (Unix time); the node's id.

    address: host and port of the head's GCS. Raises ClusterError for a node that Ray does not know or will not drain.
    """
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason  # type: ignore[attr-defined]
    from ray.core.generated.gcs_pb2 import GcsNodeInfo  # type: ignore[attr-defined]

    client = GcsClient(address=address)
    nodes = client.get_all_node_info(timeout=_REQUEST_SECONDS)
    ids = [
        node.node_id.hex()
        for node in nodes.values()
        if node.node_manager_address == node_address and node.state == GcsNodeInfo.ALIVE
    ]
    if not ids:
        raise ClusterError(f"Ray at {address} knows no live node {node_address}")
    taken, why_not = client.drain_node(
        ids[0], DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION, reason, int(deadline * 1000), timeout=_REQUEST_SECONDS
    )
    if not taken:
        raise ClusterError(f"Ray does not drain node {ids[0]}: {why_not}")
    return ids[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; it ends when the node's time is up."""
    parser = argparse.ArgumentParser(prog="python -m cluster.drain", description="Tells Ray of a spot notice.")
    parser.add_argument("--address", required=True, help="host:port of Ray's head, as for ray start")
    parser.add_argument("--node-ip-address", help="this node's, as Ray knows it; otherwise as Ray finds it out")
    parser.add_argument("--grace-seconds", type=float, default=30.0, help="how long the node stays after SIGTERM")
    parser.add_argument("--metadata-url", default=METADATA_URL, help="where spot notices are asked for")
    chosen = parser.parse_args(arguments)
    node_address = chosen.node_ip_address or _own_address(chosen.address)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # it is waited for below
    deadline, reason = _wait_for_notice(chosen.metadata_url, chosen.grace_seconds)
    try:
        node = drain(chosen.address, node_address, deadline, reason)
    except Exception as error:  # Ray's client raises its own kinds
        sys.exit(f"error: {error}")
    print(f"{reason}: node {node} is drained for {deadline - time.time():.0f} s", flush=True)
    time.sleep(max(0.0, deadline - time.time()))


def _wait_for_notice(metadata_url: str, grace_seconds: float) -> tuple[float, str]:
    """The deadline (Unix time) and what gave it."""
    answers = True
    while signal.sigtimedwait({signal.SIGTERM}, POLL_SECONDS) is None:
        try:
            deadline = spot_notice(metadata_url)
        except Unreachable as error:
            if answers:  # told once: on most machines it stays so
                print(f"{error}; waiting for SIGTERM", flush=True)
            answers = False
            continue
        answers = True
        if deadline is not None:
            return deadline, "spot notice"
    return time.time() + grace_seconds, "SIGTERM"


def _own_address(address: str) -> str:
    from ray._private.services import get_node_ip_address

    return get_node_ip_address(address)


def _ask(metadata_url: str, path: str, **request: Any) -> bytes:
    with urllib.request.urlopen(
        urllib.request.Request(metadata_url + path, **request), timeout=_REQUEST_SECONDS
    ) as answer:
        return answer.read()


if __name__ == "__main__":
    main()

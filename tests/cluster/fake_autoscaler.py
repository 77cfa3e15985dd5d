"""Ray's autoscaler with its fake provider, which starts raylets on the head's machine instead of machines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE
from ray.autoscaler._private.util import prepare_config

from tests.cluster.nodes import REPO

# Named by its class: the name "fake_multinode" needs a file that Ray's wheel lacks.
_FAKE = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
FAKE_ENV = {  # of the head
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
}


def launcher_config() -> dict[str, Any]:
    """Return the launcher's file, as Ray completes it."""
    config: dict[str, Any] = prepare_config(yaml.safe_load((REPO / "ray_cluster.yaml").read_text()))
    return config


def fake_config(types: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """Return the launcher's configuration with these node types, that of the head among them, on fake nodes."""
    provider = {"type": "external", "module": _FAKE, "launch_multiple": True, "head_node_id": FAKE_HEAD_NODE_ID}
    return launcher_config() | {
        "provider": provider | {"disable_node_updaters": True},  # nothing to install
        "docker": {},
        "auth": {},
        "file_mounts": {},
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "available_node_types": dict(types),
        **fields,
    }

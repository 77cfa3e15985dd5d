"""The nodes that Ray's autoscaler starts for resource requests, with the launcher's file and with KubeRay's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.schema import AutoscalerInstance
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import GangResourceRequest
from ray.core.generated.instance_manager_pb2 import Instance

from arspm.config import ResourceRequest, Tasks, override
from arspm.config.presets import PAPER
from tests.cluster.cluster_files import aws, groups, kuberay, launcher


def test_kuberay_and_the_launcher_describe_the_same_cluster() -> None:
    on_kubernetes, on_aws = kuberay(), launcher()
    assert on_kubernetes["idle_timeout_minutes"] == on_aws["idle_timeout_minutes"]
    types = on_kubernetes["available_node_types"]
    assert set(types) == set(on_aws["available_node_types"])
    for name, kind in on_aws["available_node_types"].items():
        group = types[name]
        assert {key: value for key, value in group["resources"].items() if key != "memory"} == kind["resources"]
        assert group.get("priority", 0) == kind.get("priority", 0)
        if name != "head":
            assert (group["min_workers"], group["max_workers"]) == (kind["min_workers"], kind["max_workers"])
            assert groups()[name]["replicas"] == 0, "scales from zero"


@pytest.mark.parametrize("read", [aws, kuberay])
@pytest.mark.parametrize(
    ("bundle", "number", "launched"),
    [
        ({"CPU": 1}, 1, {"cpu": 1}),
        ({"CPU": 1, "GPU": 1}, 3, {"gpu_spot": 3}),
        ({"GPU": 0.5, "on_demand": 0.01}, 2, {"gpu": 1}),
        ({"GPU": 0.5, "spot": 0.01}, 2, {"gpu_spot": 1}),
        ({"GPU": 1}, 10, {"gpu_spot": 8, "gpu": 2}),
    ],
)
def test_the_autoscaler_starts_the_intended_group(
    read: Callable[[], dict[str, Any]], bundle: dict[str, float], number: int, launched: dict[str, int]
) -> None:
    assert to_launch(read(), [bundle] * number) == launched


@pytest.mark.parametrize("read", [aws, kuberay])
@pytest.mark.parametrize(
    ("stage", "changes", "launched"),
    [
        ("preprocess", {}, {"cpu": 4}),
        ("preprocess", {"preprocess.pool": "cpu_only"}, {"cpu": 4}),
        ("preprocess", {"preprocess.num_tasks": 200, "preprocess.pool": ""}, {"cpu": 8, "gpu_spot": 5}),
        ("preprocess", {"preprocess.memory_gib": 1}, {"cpu": 4}),
        ("preprocess", {"preprocess.memory_gib": 5, "preprocess.num_tasks": 8}, {"cpu": 2}),
        ("vggface", {}, {"gpu_spot": 4}),
        ("gender", {}, {"gpu_spot": 1}),
        ("decoder", {}, {"gpu_spot": 4}),
        ("encoder", {}, {"gpu_spot": 1}),
        ("encoder", {"encoder.pool": "on_demand", "encoder.num_workers": 4}, {"gpu": 4}),
        ("decoder", {"decoder.pool": "spot", "decoder.memory_gib": 40, "read.memory_gib": 1}, {"gpu_spot": 4}),
        ("decoder", {"read.pool": "cpu_only", "read.cpus": 2}, {"gpu_spot": 4, "cpu": 2}),
        ("infer", {}, {"gpu_spot": 4}),
        ("infer", {"infer.gpus": 0.5, "infer.memory_gib": 20}, {"gpu_spot": 2}),
        ("infer", {"infer.gpus": 0.5, "infer.memory_gib": 30}, {"gpu_spot": 4}),
    ],
)
def test_the_papers_preset_starts_the_intended_nodes(
    read: Callable[[], dict[str, Any]], stage: str, changes: dict[str, Any], launched: dict[str, int]
) -> None:
    """One stage on an empty cluster; training's workers start together, and read tasks beside them and beside infer."""
    resources = override(PAPER, {f"resources.{name}": value for name, value in changes.items()}).resources
    workload = getattr(resources, stage)
    if isinstance(workload, Tasks):
        readers = [resources.read.bundle] * (workload.num_tasks * resources.read.num_tasks if workload.gpus else 0)
        assert to_launch(read(), [workload.bundle] * workload.num_tasks + readers) == launched
    else:
        readers = [resources.read.bundle] * (workload.num_workers * resources.read.num_tasks)
        assert to_launch(read(), readers, [workload.bundle] * workload.num_workers) == launched


@pytest.mark.parametrize(("read", "launched"), [(aws, {"cpu": 6}), (kuberay, {"cpu": 5})])
def test_memory_requests_count_against_a_nodes_memory(
    read: Callable[[], dict[str, Any]], launched: dict[str, int]
) -> None:
    """64 tasks of 2 GiB each. A node offers 70% of 32 GiB on AWS, and the pod's 27 GiB on Kubernetes."""
    tasks = override(PAPER, {"resources.preprocess.memory_gib": 2}).resources.preprocess
    assert to_launch(read(), [tasks.bundle] * tasks.num_tasks) == launched


@pytest.mark.parametrize("read", [aws, kuberay])
def test_without_spot_nodes_training_runs_on_demand(read: Callable[[], dict[str, Any]]) -> None:
    assert to_launch(read(), [{"GPU": 1}] * 2, recoverable_resource_availabilities={"gpu_spot": 0.0}) == {"gpu": 2}


@pytest.mark.parametrize("read", [aws, kuberay])
def test_tasks_in_the_cpu_pool_do_not_use_gpu_nodes(read: Callable[[], dict[str, Any]]) -> None:
    """A GPU node with 16 CPUs is starting; tasks without a pool would be placed on it."""
    queued = Instance(instance_type="gpu_spot", status=Instance.QUEUED)
    coming = {"current_instances": [AutoscalerInstance(im_instance=queued)]}
    assert to_launch(read(), [ResourceRequest().bundle] * 16, **coming) == {}
    assert to_launch(read(), [ResourceRequest(pool="cpu_only").bundle] * 16, **coming) == {"cpu": 1}


def to_launch(
    config: dict[str, Any], requests: list[dict[str, float]], group: Sequence[dict[str, float]] = (), **state: Any
) -> dict[str, int]:
    """Return the nodes that Ray's autoscaler starts for tasks and for a placement group's bundles: type -> number."""
    autoscaling = AutoscalingConfig(config, skip_content_hash=True)
    gang = GangResourceRequest(requests=[ResourceRequestUtil.make(bundle) for bundle in group])
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=autoscaling.get_node_type_configs(),
        max_num_nodes=autoscaling.get_max_num_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(each) for each in requests]),
        gang_resource_requests=[gang] if group else [],
        **state,
    )
    reply = ResourceDemandScheduler(None).schedule(request)
    assert not reply.infeasible_resource_requests
    assert not reply.infeasible_gang_resource_requests
    return {each.instance_type: each.count for each in reply.to_launch}

"""The manifests for Kubernetes, checked with the schemas and rules of Kubernetes and of KubeRay's operator."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from ray._private.ray_constants import RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S

from tests.cluster.kuberay_rules import mistakes
from tests.cluster.kuberay_schema import KUBERNETES, SCHEMAS

MANIFESTS = Path(__file__).parents[2] / "cluster/kuberay"
HEAD, CPU, GPU = "spec/headGroupSpec", "spec/workerGroupSpecs/0", "spec/workerGroupSpecs/1"


def manifests() -> Iterator[dict[str, Any]]:
    for path in sorted(MANIFESTS.glob("*.yaml")):
        yield from yaml.safe_load_all(path.read_text())


def changed(kind: str, **values: Any) -> dict[str, Any]:
    """Return our manifest of this kind with changed values, each given by its path; None removes a field."""
    [manifest, *_] = [json.loads(json.dumps(each)) for each in manifests() if each["kind"] == kind]
    for path, value in values.items():
        *parents, last = path.split("/")
        target = manifest
        for name in parents:
            target = target[int(name)] if isinstance(target, list) else target[name]
        if value is None:
            del target[last]
        else:
            target[last] = value
    return manifest


def test_kuberay_and_kubernetes_accept_the_manifests() -> None:
    kinds = []
    for each in manifests():
        kinds.append(each["kind"])
        if each["kind"] in SCHEMAS:
            assert mistakes(each) == []
        else:
            kubernetes_validate.validate(each, KUBERNETES, strict=True)
    assert sorted(kinds) == ["NetworkPolicy"] * 2 + ["RayCluster", "RayJob"] + ["ServiceAccount"] * 2


# The following tests show that the test above finds errors.


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        ("metadata/name", "Arspm", "$.metadata.name: 'Arspm' does not match"),
        ("metadata/label", {}, "$.metadata: Additional properties are not allowed ('label' was unexpected)"),
        ("spec/rayVersions", "2.60.0", "$.spec: Additional properties are not allowed ('rayVersions' was unexpected)"),
        ("spec/authOptions/mode", "tokens", "$.spec.authOptions.mode: 'tokens' is not one of"),
        ("spec/autoscalerOptions/env/0/valeu", "1", "$.spec.autoscalerOptions.env[0]: Additional properties"),
        ("spec/autoscalerOptions/idleTimeoutSeconds", -1, "$.spec.autoscalerOptions.idleTimeoutSeconds: -1 is less"),
        ("spec/autoscalerOptions/volumeMounts/0/mountPath", None, "'mountPath' is a required property"),
        (f"{HEAD}/rayStartParams/num-cpus", 0, "$.spec.headGroupSpec.rayStartParams['num-cpus']: 0 is not of type"),
        (f"{HEAD}/replicas", 1, "$.spec.headGroupSpec: Additional properties"),
        (f"{HEAD}/headService", {"spec": {"typ": "NodePort"}}, "$.spec.headGroupSpec.headService.spec: Additional"),
        (f"{CPU}/groupName", None, "$.spec.workerGroupSpecs[0]: 'groupName' is a required property"),
        (f"{CPU}/maxReplicas", "8", "$.spec.workerGroupSpecs[0].maxReplicas: '8' is not of type 'integer'"),
        (f"{CPU}/maxReplicas", 2**31, "$.spec.workerGroupSpecs[0].maxReplicas: 2147483648 is greater"),
        (f"{CPU}/labels", {"pool": "spot nodes"}, "$.spec.workerGroupSpecs[0].labels.pool: 'spot nodes' does not"),
        (f"{GPU}/template/spec/containers", [], "$.spec.workerGroupSpecs[1].template.spec.containers: []"),
        (f"{GPU}/template/spec/securityContexts", {}, "$.spec.workerGroupSpecs[1].template.spec: Additional"),
        (f"{GPU}/template/spec/containers/0/resources/limits", ["nvidia.com/gpu"], "template.spec.containers[0]"),
    ],
)
def test_an_error_in_the_cluster_is_found(path: str, value: Any, found: str) -> None:
    assert any(found in line for line in mistakes(changed("RayCluster", **{path: value})))


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        ("metadata/name", "a" * 48, "$.metadata.name: 'aaa"),
        ("spec/entryPoint", "arspm", "$.spec: Additional properties are not allowed ('entryPoint' was unexpected)"),
        ("spec/submissionMode", "HTTP", "$.spec.submissionMode: 'HTTP' is not one of"),
        ("spec/activeDeadlineSeconds", 0, "$.spec.activeDeadlineSeconds: 0 is less"),
        ("spec/deletionStrategy", {"onSuccess": {"policy": "DeleteNone"}}, "$.spec.deletionStrategy: {"),
        (
            "spec/deletionStrategy",
            {"deletionRules": [{"policy": "DeleteSelf", "condition": {"ttlSeconds": 60}}]},
            "$.spec.deletionStrategy.deletionRules[0].condition: {",
        ),
    ],
)
def test_an_error_in_the_job_is_found(path: str, value: Any, found: str) -> None:
    assert any(found in line for line in mistakes(changed("RayJob", **{path: value})))


AUTOSCALER_V1 = {"spec/autoscalerOptions/version": "v1"}


@pytest.mark.parametrize(
    ("values", "broken"),
    [
        ({f"{CPU}/rayStartParams/num-cpus": "16"}, ["cpu: resources are either in `resources` or in rayStartParams"]),
        ({f"{HEAD}/rayStartParams/labels": "a=b"}, ["head: labels are in `labels`, not in rayStartParams"]),
        ({f"{GPU}/groupName": "cpu"}, ["cpu: 2 groups have this name"]),
        ({f"{CPU}/minReplicas": 9}, ["cpu: minReplicas are more than maxReplicas"]),
        ({f"{CPU}/suspend": True}, ["cpu: no group is suspended where the autoscaler is on"]),
        ({f"{GPU}/template/spec/restartPolicy": "Always"}, ["gpu: autoscaler v2 wants restartPolicy Never"]),
        (AUTOSCALER_V1, ["gpu-spot: priority needs autoscaler v2 and rayVersion 2.56"]),
        ({"spec/rayVersion": "2.55.1"}, ["gpu-spot: priority needs autoscaler v2 and rayVersion 2.56"]),
        (
            {**AUTOSCALER_V1, "spec/workerGroupSpecs/2/priority": 0, f"{CPU}/idleTimeoutSeconds": 60},
            ["cpu: a group's idleTimeoutSeconds needs autoscaler v2"],
        ),
        (
            {"spec/workerGroupSpecs/2/priority": 0, "spec/rayVersion": None},
            ["authOptions.mode token needs rayVersion 2.52"],
        ),
        ({"spec/authOptions/enableK8sTokenAuth": True}, ["enableK8sTokenAuth has no secretName"]),
        (
            {"spec/authOptions": {"mode": "disabled", "enableK8sTokenAuth": True}},
            ["enableK8sTokenAuth needs mode token"],
        ),
        (
            {f"{HEAD}/template/spec/containers/0/env": [{"name": "RAY_enable_autoscaler_v2", "value": "1"}]},
            ["the autoscaler's version is set twice: in autoscalerOptions and as RAY_enable_autoscaler_v2"],
        ),
        (
            {
                f"{HEAD}/template/spec/containers/0/env": [{"name": "RAY_enable_autoscaler_v2", "value": "1"}],
                "spec/enableInTreeAutoscaling": False,
                "spec/workerGroupSpecs/2/priority": 0,
            },
            ["RAY_enable_autoscaler_v2 needs enableInTreeAutoscaling"],
        ),
        (
            {"spec/autoscalerOptions/env": [{"name": "KUBERAY_GEN_AUTOSCALER_START_CMD", "value": "true"}]},
            ["KUBERAY_GEN_AUTOSCALER_START_CMD is the operator's own"],
        ),
        ({"spec/networkPolicy": {}}, ["networkPolicy needs the operator's feature gate RayClusterNetworkPolicy"]),
    ],
)
def test_a_rule_that_the_cluster_violates_is_found(values: dict[str, Any], broken: list[str]) -> None:
    assert mistakes(changed("RayCluster", **values)) == broken


def test_kuberays_certificates_and_ours_exclude_each_other() -> None:
    """If `tlsOptions` is on, the errors name the variables that must be removed."""
    both = changed("RayCluster", **{"spec/tlsOptions": {"enabled": True}})
    variables = "RAY_TLS_CA_CERT, RAY_TLS_SERVER_CERT, RAY_TLS_SERVER_KEY, RAY_USE_TLS"
    broken = [
        f"{name}: tlsOptions sets {variables} itself" for name in ("head", "cpu", "gpu", "gpu-spot", "autoscaler")
    ]
    assert mistakes(both) == ["tlsOptions needs the operator's feature gate RayClusterMTLS", *broken]
    assert mistakes(both, "RayClusterMTLS") == broken


@pytest.mark.parametrize(
    ("values", "broken"),
    [
        ({"spec/clusterSelector": None}, ["a RayJob has a clusterSelector or a rayClusterSpec"]),
        ({"spec/clusterSelector": {"app": "arspm"}}, ["clusterSelector names the cluster by ray.io/cluster"]),
        ({"spec/submissionMode": "SidecarMode"}, ["SidecarMode has no clusterSelector"]),
        (
            {"spec/backoffLimit": 1},
            ["with a clusterSelector there is no backoffLimit: a try again would be a new cluster"],
        ),
        (
            {"spec/suspend": True},
            ["a RayJob with a clusterSelector is not suspended", "suspend needs shutdownAfterJobFinishes"],
        ),
        (
            {"spec/deletionStrategy": {name: {"policy": "DeleteCluster"} for name in ("onSuccess", "onFailure")}},
            ["with a clusterSelector the cluster is not the job's to delete"],
        ),
        ({"spec/ttlSecondsAfterFinished": 60}, ["ttlSecondsAfterFinished needs shutdownAfterJobFinishes"]),
        ({"spec/runtimeEnvYAML": "pip: ["}, ["runtimeEnvYAML is no YAML"]),
    ],
)
def test_a_rule_that_the_job_violates_is_found(values: dict[str, Any], broken: list[str]) -> None:
    assert mistakes(changed("RayJob", **values)) == broken


ON_EACH_RESULT = {name: {"policy": "DeleteNone"} for name in ("onSuccess", "onFailure")}
AFTER_SUCCESS = {"deletionRules": [{"policy": "DeleteWorkers", "condition": {"jobStatus": "SUCCEEDED"}}]}


@pytest.mark.parametrize(
    ("values", "broken"),
    [
        ({}, []),
        ({"spec/rayClusterSpec/workerGroupSpecs/0/minReplicas": 9}, ["cpu: minReplicas are more than maxReplicas"]),
        ({"spec/suspend": True}, ["suspend needs shutdownAfterJobFinishes"]),
        ({"spec/suspend": True, "spec/shutdownAfterJobFinishes": True}, []),
        (
            {"spec/deletionStrategy": ON_EACH_RESULT, "spec/shutdownAfterJobFinishes": True},
            ["shutdownAfterJobFinishes has no DeleteNone"],
        ),
        (
            {"spec/deletionStrategy": AFTER_SUCCESS, "spec/shutdownAfterJobFinishes": True},
            ["shutdownAfterJobFinishes has no deletionRules", "DeleteWorkers and the autoscaler exclude each other"],
        ),
        (
            {"spec/submissionMode": "InteractiveMode", "spec/backoffLimit": 1},
            ["InteractiveMode has no backoffLimit"],
        ),
        (
            {"spec/submissionMode": "SidecarMode", "spec/submitterConfig": {"backoffLimit": 1}},
            ["SidecarMode has no submitterPodTemplate and no submitterConfig"],
        ),
        (
            {
                "spec/submissionMode": "SidecarMode",
                "spec/rayClusterSpec/enableInTreeAutoscaling": False,
                "spec/rayClusterSpec/workerGroupSpecs": [],
                "spec/rayClusterSpec/headGroupSpec/template/spec/restartPolicy": "Always",
            },
            ["SidecarMode wants the head's restartPolicy Never"],
        ),
        (
            {
                "spec/rayClusterSpec/authOptions": {"enableK8sTokenAuth": True},
                "spec/rayClusterSpec/rayVersion": "2.54.0",
                "spec/rayClusterSpec/workerGroupSpecs": [],
            },
            ["a RayJob has no enableK8sTokenAuth", "enableK8sTokenAuth needs rayVersion 2.55"],
        ),
        (
            {"spec/rayClusterSpec/upgradeStrategy": {"type": "Recreate"}},
            ["upgradeStrategy is for a RayCluster of its own"],
        ),
    ],
)
def test_a_job_with_its_own_cluster_is_checked_completely(values: dict[str, Any], broken: list[str]) -> None:
    own = {"spec/clusterSelector": None, "spec/rayClusterSpec": changed("RayCluster")["spec"]}
    assert mistakes(changed("RayJob", **own, **values)) == broken


def test_the_job_selects_the_cluster_of_the_other_manifest() -> None:
    cluster, job = changed("RayCluster"), changed("RayJob")
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}


def test_the_documented_options_for_redis_are_accepted() -> None:
    text = (MANIFESTS.parents[1] / "docs/cluster.md").read_text()
    [block] = [each for each in re.findall(r"^```yaml\n(.*?)^```", text, re.M | re.S) if "redisAddress" in each]
    [(name, options)] = yaml.safe_load(block).items()
    assert mistakes(changed("RayCluster", **{f"spec/{name}": options})) == []
    options["redisAdress"] = options.pop("redisAddress")
    assert mistakes(changed("RayCluster", **{f"spec/{name}": options})) != []


def test_a_pods_grace_period_covers_rays_draining() -> None:
    """It also ends within the two minutes of a spot machine's notice."""
    for group in changed("RayCluster")["spec"]["workerGroupSpecs"]:
        grace = group["template"]["spec"]["terminationGracePeriodSeconds"]
        assert RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S < grace <= 110


def test_an_error_in_a_network_policy_is_found() -> None:
    with pytest.raises(kubernetes_validate.ValidationError, match="ingres"):
        kubernetes_validate.validate(changed("NetworkPolicy", **{"spec/ingres": []}), KUBERNETES, strict=True)

"""The rules between fields that KubeRay's operator checks in a RayCluster or RayJob, in addition to the schema.

Source: ray-operator/controllers/ray/utils/validation.go of the version KUBERAY in kuberay_schema, with the default
feature gates. One rule is from KubeRay's webhook, which is installed separately: groups have different names. Without
the webhook, groups with the same name end each other's pods (github.com/ray-project/kuberay/issues/718).

Not covered: the rules for Redis and RocksDB, KubeRay's own network policies, its history server, and the order of
deletions after a job has finished.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import yaml
from packaging.version import InvalidVersion, Version

from tests.cluster.kuberay_schema import SCHEMAS, Json

# Fields that need a feature gate of the operator which is off by default.
GATES = {
    "tlsOptions": "RayClusterMTLS",
    "networkPolicy": "RayClusterNetworkPolicy",
    "historyServerOptions": "RayClusterHistoryServer",
}
TLS_VARIABLES = {"RAY_USE_TLS", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT"}


def mistakes(manifest: Json, *gates: str) -> list[str]:
    """Return the reasons why KubeRay refuses a RayCluster or RayJob, one line each.

    If the schema finds errors, these are returned; otherwise the violated rules between fields. `gates`: feature gates
    that are on in addition to the default ones.
    """
    errors = SCHEMAS[manifest["kind"]].iter_errors(manifest)
    rules = {"RayCluster": cluster_rules, "RayJob": job_rules}[manifest["kind"]]
    return [f"{error.json_path}: {error.message}" for error in errors] or list(rules(manifest["spec"], set(gates)))


def cluster_rules(spec: Json, gates: set[str]) -> Iterator[str]:
    """Yield the rules that a RayCluster violates."""
    workers = [(group["groupName"], group) for group in spec.get("workerGroupSpecs", [])]
    groups = [("head", spec["headGroupSpec"]), *workers]
    scales, options = spec.get("enableInTreeAutoscaling", False), spec.get("autoscalerOptions", {})
    v2 = scales and options.get("version") == "v2"
    version = ray_version(spec)

    for field, gate in GATES.items():
        if field in spec and gate not in gates:
            yield f"{field} needs the operator's feature gate {gate}"
    for name, group in groups:
        start, pod = group.get("rayStartParams", {}), group["template"]["spec"]
        if group.get("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & start.keys():
            yield f"{name}: resources are either in `resources` or in rayStartParams"
        if "labels" in start:
            yield f"{name}: labels are in `labels`, not in rayStartParams"
        if v2 and pod.get("restartPolicy", "Never") != "Never":
            yield f"{name}: autoscaler v2 wants restartPolicy Never"
    for name, number in Counter(name for name, _ in workers).items():
        if number > 1:
            yield f"{name}: {number} groups have this name"
    for name, group in workers:
        if group.get("minReplicas", 0) > group.get("maxReplicas", 2**31 - 1):
            yield f"{name}: minReplicas are more than maxReplicas"
        if not v2 and "idleTimeoutSeconds" in group:
            yield f"{name}: a group's idleTimeoutSeconds needs autoscaler v2"
        if group.get("priority") and (not v2 or version < Version("2.56")):
            yield f"{name}: priority needs autoscaler v2 and rayVersion 2.56"
        if scales and group.get("suspend"):
            yield f"{name}: no group is suspended where the autoscaler is on"

    head = variables(spec["headGroupSpec"])
    if scales and "version" in options and "RAY_enable_autoscaler_v2" in head:
        yield "the autoscaler's version is set twice: in autoscalerOptions and as RAY_enable_autoscaler_v2"
    if not scales and head.get("RAY_enable_autoscaler_v2") in {"1", "true"}:
        yield "RAY_enable_autoscaler_v2 needs enableInTreeAutoscaling"
    if "KUBERAY_GEN_AUTOSCALER_START_CMD" in named(options.get("env", [])):
        yield "KUBERAY_GEN_AUTOSCALER_START_CMD is the operator's own"

    yield from auth_rules(spec.get("authOptions"), version)
    if spec.get("tlsOptions", {}).get("enabled", False):
        containers = [(name, variables(group)) for name, group in groups]
        for name, env in [*containers, ("autoscaler", named(options.get("env", [])))]:
            if duplicates := sorted(env.keys() & TLS_VARIABLES):
                yield f"{name}: tlsOptions sets {', '.join(duplicates)} itself"


def auth_rules(auth: Json | None, version: Version) -> Iterator[str]:
    if auth is None:
        return
    token, by_kubernetes = auth.get("mode", "token") == "token", auth.get("enableK8sTokenAuth", False)
    if token and version < Version("2.52"):
        yield "authOptions.mode token needs rayVersion 2.52"
    if by_kubernetes and not token:
        yield "enableK8sTokenAuth needs mode token"
    if by_kubernetes and version < Version("2.55"):
        yield "enableK8sTokenAuth needs rayVersion 2.55"
    if by_kubernetes and auth.get("secretName"):
        yield "enableK8sTokenAuth has no secretName"


def job_rules(spec: Json, gates: set[str]) -> Iterator[str]:
    """Yield the rules that a RayJob violates."""
    selector, cluster, mode = spec.get("clusterSelector"), spec.get("rayClusterSpec"), spec.get("submissionMode")
    ends, deletion = spec.get("shutdownAfterJobFinishes", False), spec.get("deletionStrategy", {})
    policies = {rule["policy"] for rule in deletion.get("deletionRules", [])}
    policies |= {deletion[when]["policy"] for when in ("onSuccess", "onFailure") if when in deletion}

    if not selector and cluster is None:
        yield "a RayJob has a clusterSelector or a rayClusterSpec"
    if selector:
        if not selector.get("ray.io/cluster"):
            yield "clusterSelector names the cluster by ray.io/cluster"
        if mode == "SidecarMode":
            yield "SidecarMode has no clusterSelector"
        if spec.get("backoffLimit"):
            yield "with a clusterSelector there is no backoffLimit: a try again would be a new cluster"
        if spec.get("suspend"):
            yield "a RayJob with a clusterSelector is not suspended"
        if policies & {"DeleteCluster", "DeleteWorkers"}:
            yield "with a clusterSelector the cluster is not the job's to delete"
    if spec.get("suspend") and not ends:
        yield "suspend needs shutdownAfterJobFinishes"
    if spec.get("ttlSecondsAfterFinished") and not ends:
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"
    if ends and "deletionRules" in deletion:
        yield "shutdownAfterJobFinishes has no deletionRules"
    if ends and "DeleteNone" in policies:
        yield "shutdownAfterJobFinishes has no DeleteNone"
    if mode == "InteractiveMode" and spec.get("backoffLimit"):
        yield "InteractiveMode has no backoffLimit"
    if mode == "SidecarMode" and {"submitterPodTemplate", "submitterConfig"} & spec.keys():
        yield "SidecarMode has no submitterPodTemplate and no submitterConfig"
    try:
        yaml.safe_load(spec.get("runtimeEnvYAML", ""))
    except yaml.YAMLError:
        yield "runtimeEnvYAML is no YAML"

    if cluster is not None:
        pod = cluster["headGroupSpec"]["template"]["spec"]
        if mode == "SidecarMode" and pod.get("restartPolicy", "Never") != "Never":
            yield "SidecarMode wants the head's restartPolicy Never"
        if cluster.get("authOptions", {}).get("enableK8sTokenAuth"):
            yield "a RayJob has no enableK8sTokenAuth"
        if cluster.get("upgradeStrategy"):
            yield "upgradeStrategy is for a RayCluster of its own"
        if cluster.get("enableInTreeAutoscaling") and "DeleteWorkers" in policies:
            yield "DeleteWorkers and the autoscaler exclude each other"
        yield from cluster_rules(cluster, gates)


def ray_version(spec: Json) -> Version:
    """Return `rayVersion`, or 0 if it is missing or invalid."""
    try:
        return Version(spec.get("rayVersion", ""))
    except InvalidVersion:
        return Version("0")


def variables(group: Json) -> dict[str, str]:
    """Return the environment of a group's Ray container, which is the first container."""
    return named(group["template"]["spec"]["containers"][0].get("env", []))


def named(env: list[Json]) -> dict[str, str]:
    """Return a container's `env` as a dict."""
    return {each["name"]: each.get("value", "") for each in env}

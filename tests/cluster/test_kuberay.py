"""The manifests for Kubernetes, by the schemas of those who read them: unknown fields and wrong types are errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

MANIFESTS = Path(__file__).parents[2] / "cluster/kuberay"
KUBERNETES = "1.33"  # the oldest that is still maintained


def manifests() -> Iterator[dict[str, Any]]:
    for path in sorted(MANIFESTS.glob("*.yaml")):
        yield from yaml.safe_load_all(path.read_text())


def strict(required: str = "", **fields: Any) -> dict[str, Any]:
    """The schema of an object with these fields and no other."""
    return {
        "type": "object",
        "properties": fields,
        "required": required.split(),
        "additionalProperties": False,
    }


TEXT: dict[str, Any] = {"type": "string"}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
TEXTS: dict[str, Any] = {"type": "object", "additionalProperties": TEXT}
ANY: dict[str, Any] = {}  # Kubernetes' own: see as_kubernetes_has_them
# The fields in use of KubeRay 1.7's ray.io/v1, after its API reference: the resource definitions themselves are in no
# Python package. A field that is missing here is no mistake in a manifest, but has to be looked up there.
RAY_CLUSTER = strict(
    "headGroupSpec",
    rayVersion=TEXT,
    authOptions=strict(mode={"enum": ["disabled", "token"]}, secretName=TEXT),
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=strict(
        version={"enum": ["v1", "v2"]},
        idleTimeoutSeconds=COUNT,
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        **dict.fromkeys(("resources", "securityContext", "env", "volumeMounts"), ANY),
    ),
    headGroupSpec=strict("rayStartParams template", rayStartParams=TEXTS, template=ANY),
    workerGroupSpecs={
        "type": "array",
        "items": strict(
            "groupName minReplicas maxReplicas rayStartParams template",
            groupName={"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"},
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            priority={"type": "integer"},
            rayStartParams=TEXTS,
            template=ANY,
        ),
    },
)
RAY_JOB = strict(
    clusterSelector=TEXTS,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    entrypoint=TEXT,
)
KUBERAY = {
    kind: strict(
        "apiVersion kind metadata spec",
        apiVersion={"const": "ray.io/v1"},
        kind={"const": kind},
        metadata=strict("name", name={"type": "string", "maxLength": 47}),
        spec=spec,
    )
    for kind, spec in (("RayCluster", RAY_CLUSTER), ("RayJob", RAY_JOB))
}


def as_kubernetes_has_them(cluster: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The parts of a RayCluster that are Kubernetes' own, as objects that it knows."""
    spec = cluster["spec"]
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        yield {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "any"}, "template": group["template"]}
    own = ("resources", "securityContext", "env", "volumeMounts")
    container = {"name": "autoscaler", **{name: spec["autoscalerOptions"][name] for name in own}}
    yield {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any"}, "spec": {"containers": [container]}}


def check(each: dict[str, Any]) -> None:
    """Raise what is wrong with a manifest, by KubeRay's fields and Kubernetes' schemas: unknown fields, wrong types."""
    if each["kind"] not in KUBERAY:
        kubernetes_validate.validate(each, KUBERNETES, strict=True)
        return
    jsonschema.validate(each, KUBERAY[each["kind"]])
    for part in as_kubernetes_has_them(each) if each["kind"] == "RayCluster" else ():
        kubernetes_validate.validate(part, KUBERNETES, strict=True)


def test_the_manifests_are_valid_by_kuberays_and_kubernetes_schemas() -> None:
    kinds = []
    for each in manifests():
        check(each)
        kinds.append(each["kind"])
    assert sorted(kinds) == ["NetworkPolicy"] * 2 + ["RayCluster", "RayJob"] + ["ServiceAccount"] * 2


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("RayCluster", "spec/rayVersions", "2.60.0"),
        ("RayCluster", "spec/headGroupSpec/rayStartParams/num-cpus", 0),
        ("RayCluster", "spec/workerGroupSpecs/0/maxReplicas", "8"),
        ("RayCluster", "spec/workerGroupSpecs/1/template/spec/securityContexts", {}),
        ("RayCluster", "spec/workerGroupSpecs/1/template/spec/containers/0/resources/limits", ["nvidia.com/gpu"]),
        ("RayCluster", "spec/autoscalerOptions/env/0/valeu", "1"),
        ("RayJob", "spec/submissionMode", "HTTP"),
        ("NetworkPolicy", "spec/ingres", []),
    ],
)
def test_a_slip_in_a_manifest_is_found(kind: str, path: str, value: Any) -> None:
    """Without this the test above could pass because nothing is looked at."""
    each = json.loads(json.dumps(next(each for each in manifests() if each["kind"] == kind)))
    check(each)
    *parents, last = path.split("/")
    target = each
    for name in parents:
        target = target[int(name)] if isinstance(target, list) else target[name]
    target[last] = value
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(each)

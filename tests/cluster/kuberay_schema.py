"""JSON Schemas of KubeRay's RayCluster and RayJob (ray.io/v1), with every field of their specs.

No package that a test could install has KubeRay's resource definitions. They are written here for the version KUBERAY:
fields, types, limits, defaults and CEL rules as in ray-operator/apis/ray/v1/raycluster_types.go and rayjob_types.go,
from which KubeRay generates its definitions. Kubernetes' own types, such as a pod's template, refer to Kubernetes'
schemas. kuberay_rules.py has the operator's further rules.

Unknown fields are errors. Fields with a default are optional, because Kubernetes fills them in before it validates.
Checks of the operator are included if a schema can express them: a negative number, a pod without a container, an
invalid name. Not covered: `status`, and which fields are immutable.
"""

from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator
from kubernetes_validate.utils import schema_contents
from referencing import Registry, Resource

Json = dict[str, Any]

KUBERAY = "1.7.0"  # the version that docs/cluster.md installs
KUBERNETES = "1.33"  # the oldest version that is still maintained
DEFINITIONS = schema_contents(f"kubernetes-json-schema/v{KUBERNETES}.0-local-strict/_definitions.json", KUBERNETES)

# --- building blocks


def strict(required: str = "", **fields: Json) -> Json:
    """Return the schema of an object with only these fields. `required`: names, separated by blanks."""
    return {"type": "object", "properties": fields, "required": required.split(), "additionalProperties": False}


def several(items: Json, **limits: Any) -> Json:
    return {"type": "array", "items": items, **limits}


def one_of(*values: str) -> Json:
    return {"type": "string", "enum": list(values)}


def integer(minimum: int = -(2**31), **more: Any) -> Json:
    """Return the schema of an int32."""
    return {"type": "integer", "minimum": minimum, "maximum": 2**31 - 1, **more}


def kubernetes(name: str) -> Json:
    """Return a reference to Kubernetes' own type with this name."""
    [definition] = [key for key in DEFINITIONS["$defs"] if key.endswith(name) and key.startswith("io.k8s.api")]
    return {"$ref": f"{DEFINITIONS['$id']}#/$defs/{definition}"}


TEXT: Json = {"type": "string"}
SWITCH: Json = {"type": "boolean"}
TEXTS: Json = {"type": "object", "additionalProperties": TEXT}
LABEL = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
DOMAIN = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
LABELS: Json = {
    "type": "object",
    "propertyNames": {"pattern": f"^({DOMAIN}/)?{LABEL}$"},
    "additionalProperties": {"type": "string", "pattern": f"^({LABEL})?$"},
}
POD: Json = {
    **kubernetes("core.v1.PodTemplateSpec"),
    "required": ["spec"],
    "properties": {"spec": {"required": ["containers"], "properties": {"containers": {"minItems": 1}}}},
}
MANAGED_BY = one_of("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue")

# --- RayCluster

CONTAINER: dict[str, Json] = {  # fields of a container that KubeRay adds
    "image": TEXT,
    "imagePullPolicy": TEXT,
    "resources": kubernetes("core.v1.ResourceRequirements"),
    "env": several(kubernetes("core.v1.EnvVar")),
}
AUTOSCALER = strict(
    **CONTAINER,
    envFrom=several(kubernetes("core.v1.EnvFromSource")),
    volumeMounts=several(kubernetes("core.v1.VolumeMount")),
    securityContext=kubernetes("core.v1.SecurityContext"),
    command=several(TEXT),
    args=several(TEXT),
    version=one_of("v1", "v2"),
    upscalingMode=one_of("Default", "Aggressive", "Conservative"),
    idleTimeoutSeconds=integer(0),
)
REDIS_CREDENTIAL = strict(value=TEXT, valueFrom=kubernetes("core.v1.EnvVarSource"))
FAULT_TOLERANCE = strict(
    backend=one_of("redis", "rocksdb"),
    redisAddress=TEXT,
    redisUsername=REDIS_CREDENTIAL,
    redisPassword=REDIS_CREDENTIAL,
    externalStorageNamespace=TEXT,
    storage=strict(
        claimName=TEXT,
        size=kubernetes("resource.Quantity"),
        storageClassName=TEXT,
        accessModes=several(TEXT),
        subPath=TEXT,
        deletionPolicy=one_of("DeleteWithCluster", "Retain"),
    ),
)
POLICY_RULES: dict[str, Json] = {
    "ingressRules": several(kubernetes("networking.v1.NetworkPolicyIngressRule")),
    "egressRules": several(kubernetes("networking.v1.NetworkPolicyEgressRule")),
}
NETWORK_POLICY = strict(
    mode={**one_of("DenyAll", "DenyAllIngress", "DenyAllEgress"), "default": "DenyAll"},
    head=strict(**POLICY_RULES),
    worker=strict(**POLICY_RULES),
    workerGroups=several(strict("groupName", groupName=TEXT, **POLICY_RULES)),
)
GROUP: dict[str, Json] = {"rayStartParams": TEXTS, "resources": TEXTS, "labels": LABELS, "template": POD}
HEAD_GROUP = strict(
    "template",
    **GROUP,
    serviceType=TEXT,
    headService=kubernetes("core.v1.Service"),
    enableIngress=SWITCH,
    ingressOptions=strict(
        host=TEXT,
        path=TEXT,
        pathType=one_of("Exact", "Prefix", "ImplementationSpecific"),
        tls=several(kubernetes("networking.v1.IngressTLS")),
    ),
)
WORKER_GROUP = strict(
    "groupName template",
    **GROUP,
    groupName=TEXT,
    replicas=integer(default=0),
    minReplicas=integer(0, default=0),
    maxReplicas=integer(0, default=2**31 - 1),
    numOfHosts=integer(default=1),
    priority=integer(default=0),
    idleTimeoutSeconds=integer(0),
    scaleStrategy=strict(workersToDelete=several(TEXT)),
    suspend=SWITCH,
)
RAY_CLUSTER = strict(
    "headGroupSpec",
    rayVersion=TEXT,
    headGroupSpec=HEAD_GROUP,
    workerGroupSpecs=several(WORKER_GROUP),
    enableInTreeAutoscaling=SWITCH,
    autoscalerOptions=AUTOSCALER,
    authOptions=strict(mode=one_of("disabled", "token"), secretName=TEXT, enableK8sTokenAuth=SWITCH),
    tlsOptions=strict(enabled=SWITCH),
    networkPolicy=NETWORK_POLICY,
    gcsFaultToleranceOptions=FAULT_TOLERANCE,
    historyServerOptions=strict(collectorOptions=strict(**CONTAINER)),
    upgradeStrategy=strict(type=one_of("Recreate", "None")),
    headServiceAnnotations=TEXTS,
    managedBy=MANAGED_BY,
    suspend=SWITCH,
)

# --- RayJob

DELETION = one_of("DeleteCluster", "DeleteWorkers", "DeleteSelf", "DeleteNone")
DELETION_CONDITION: Json = {
    **strict(
        jobStatus=one_of("SUCCEEDED", "FAILED"),
        jobDeploymentStatus=one_of("Failed"),
        ttlSeconds=integer(0, default=0),
    ),
    "oneOf": [{"required": ["jobStatus"]}, {"required": ["jobDeploymentStatus"]}],
}
DELETION_STRATEGY: Json = {
    **strict(
        onSuccess=strict("policy", policy=DELETION),
        onFailure=strict("policy", policy=DELETION),
        deletionRules=several(
            strict("policy condition", policy=DELETION, condition=DELETION_CONDITION),
            minItems=1,
        ),
    ),
    "oneOf": [
        {"required": ["deletionRules"], "properties": {"onSuccess": False, "onFailure": False}},
        {"required": ["onSuccess", "onFailure"], "properties": {"deletionRules": False}},
    ],
}
RAY_JOB = strict(
    entrypoint=TEXT,
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    entrypointResources=TEXT,
    runtimeEnvYAML=TEXT,
    jobId=TEXT,
    metadata=TEXTS,
    # The type takes any text; these are the modes that the operator knows.
    submissionMode={**one_of("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"), "default": "K8sJobMode"},
    submitterConfig=strict(backoffLimit=integer()),
    submitterPodTemplate=POD,
    clusterSelector=TEXTS,
    rayClusterSpec=RAY_CLUSTER,
    activeDeadlineSeconds=integer(1),
    preRunningDeadlineSeconds=integer(1),
    backoffLimit=integer(0, default=0),
    ttlSecondsAfterFinished=integer(0, default=0),
    shutdownAfterJobFinishes=SWITCH,
    deletionStrategy=DELETION_STRATEGY,
    managedBy=MANAGED_BY,
    suspend=SWITCH,
)


def of_kind(kind: str, spec: Json, longest_name: int) -> Draft202012Validator:
    name = {
        "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$",
        "maxLength": longest_name,
    }  # it becomes part of the names of services
    metadata = {**kubernetes("meta.v1.ObjectMeta"), "required": ["name"], "properties": {"name": name}}
    schema = strict(
        "apiVersion kind metadata spec",
        apiVersion={"const": "ray.io/v1"},
        kind={"const": kind},
        metadata=metadata,
        spec=spec,
    )
    return Draft202012Validator(schema, registry=Resource.from_contents(DEFINITIONS) @ Registry())


SCHEMAS = {"RayCluster": of_kind("RayCluster", RAY_CLUSTER, 53), "RayJob": of_kind("RayJob", RAY_JOB, 47)}

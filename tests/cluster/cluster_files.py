"""Readers for the deployment files: Ray's launcher on AWS, KubeRay, Slurm, the image."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from moto.utilities.utils import load_resource
from ray.autoscaler._private.aws import node_provider
from ray.autoscaler._private.command_runner import DockerCommandRunner
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

REPO = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent  # hadolint and shellcheck are installed beside Python
LAUNCHER = REPO / "ray_cluster.yaml"
DOCKERFILE = REPO / "cluster/Dockerfile"
SBATCH = REPO / "cluster/slurm/arspm.sbatch"
MANIFESTS = [REPO / "cluster/kuberay" / f"{name}.yaml" for name in ("access", "raycluster", "rayjob")]
FILES = [LAUNCHER, DOCKERFILE, SBATCH, *MANIFESTS]
STORAGE = "ARSPM_STORAGE"
DOCUMENT = REPO / "docs/cluster.md"


def launcher() -> dict[str, Any]:
    """Return the launcher's file with Ray's defaults."""
    return prepare_config(yaml.safe_load(LAUNCHER.read_text()))


def aws() -> dict[str, Any]:
    """Return the launcher's file as completed by Ray's AWS provider: with each worker's memory, as EC2 describes it."""
    config = launcher()
    types = load_resource("ec2/resources/instance_types.json")
    used = [types[kind["node_config"]["InstanceType"]] for kind in config["available_node_types"].values()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node_provider, "list_ec2_instances", lambda *_: used)
        return node_provider.AWSNodeProvider.fillout_available_node_types_resources(config)


def manifests() -> Iterator[dict[str, Any]]:
    for path in MANIFESTS:
        yield from yaml.safe_load_all(path.read_text())


def manifest(kind: str, name: str) -> dict[str, Any]:
    [found] = [each for each in manifests() if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def ray_cluster() -> dict[str, Any]:
    """Return the RayCluster's spec."""
    return manifest("RayCluster", "arspm")["spec"]


def kuberay() -> dict[str, Any]:
    """Return the RayCluster as Ray's autoscaler reads it, with the launcher's names for its groups."""
    cluster = manifest("RayCluster", "arspm")
    cluster["metadata"]["namespace"] = "default"
    config = _derive_autoscaling_config_from_ray_cr(cluster)
    types = {name.replace("-", "_"): kind for name, kind in config["available_node_types"].items()}
    types["head"] = types.pop(config["head_node_type"])
    return config | {"available_node_types": types, "head_node_type": "head"}


def groups() -> dict[str, dict[str, Any]]:
    """Return the RayCluster's groups of pods, by the launcher's names."""
    spec = ray_cluster()
    return {"head": spec["headGroupSpec"]} | {
        group["groupName"].replace("-", "_"): group for group in spec["workerGroupSpecs"]
    }


def pods() -> dict[str, dict[str, Any]]:
    return {name: group["template"]["spec"] for name, group in groups().items()}


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container.get("env", []) if "value" in each}


def launcher_environment() -> dict[str, str]:
    """Return the variables that the launcher adds to the image's environment."""
    words = [shlex.split(option) for option in launcher()["docker"]["run_options"]]
    return dict(word.split("=", 1) for flag, word in words if flag == "--env")


def container_start(group: str, runtimes: str = "runc", gpus: bool = False) -> list[str]:
    """Return the words of `docker run` on a new node of a group, from the launcher's own code.

    runtimes: those of the node's Docker. gpus: whether nvidia-smi finds one there.
    """
    config, commands = launcher(), []
    docker = AutoscalingConfig(config, skip_content_hash=True).get_docker_config(group)

    def over_ssh(command: str, **_: Any) -> bytes:
        commands.append(command)
        if command == "nvidia-smi" and not gpus:
            raise RuntimeError("nvidia-smi: command not found")
        if ".Runtimes" in command:
            return runtimes.encode()
        environment = [f"{name}={value}" for name, value in image_environment().items()]
        return json.dumps(environment).encode() if ".Config.Env" in command else b""

    own = {"auth_config": config["auth"], "cluster_name": config["cluster_name"], "use_internal_ip": False}
    runner = DockerCommandRunner(docker, log_prefix="", node_id="", provider=None, process_runner=subprocess, **own)
    runner.ssh_command_runner.run = over_ssh
    runner.run_init(as_head=group == config["head_node_type"], file_mounts=config["file_mounts"], sync_run_yet=True)
    [start] = [shlex.split(command) for command in commands if command.startswith("docker run ")]
    return start


def image_environment() -> dict[str, str]:
    """Return the variables that the Dockerfile's ENV instructions set."""
    lines = DOCKERFILE.read_text().replace("\\\n", " ").splitlines()
    words = [word for line in lines if line.startswith("ENV ") for word in shlex.split(line)[1:]]
    return dict(word.split("=", 1) for word in words)

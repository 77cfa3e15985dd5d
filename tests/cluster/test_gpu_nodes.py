"""Nodes with GPUs in the deployment files: the containers see the GPUs, and the driver is new enough for torch."""

from __future__ import annotations

import re
from importlib import metadata
from itertools import pairwise

import pytest
from ray.autoscaler._private.aws import config as aws_config

from arspm.distributed.gpus import MINIMUM_DRIVER
from tests.cluster.cluster_files import (
    DOCUMENT,
    LAUNCHER,
    MANIFESTS,
    SBATCH,
    container_start,
    environment,
    groups,
    image_environment,
    launcher,
    pods,
)

WITH_GPUS = {"gpu", "gpu_spot"}
VISIBLE = "NVIDIA_VISIBLE_DEVICES"


@pytest.mark.parametrize("group", launcher()["available_node_types"])
def test_only_a_container_on_a_node_with_gpus_gets_them(group: str) -> None:
    """NVIDIA's runtime gives a container the GPUs that a variable names, and none without it."""
    runtimes = "map[io.containerd.runc.v2:{runc} nvidia:{nvidia-container-runtime} runc:{runc}]"
    start = container_start(group, runtimes, gpus=group in WITH_GPUS)
    assert ("--runtime=nvidia" in start) == (group in WITH_GPUS)
    variables = dict(word.split("=", 1) for flag, word in pairwise(start) if flag == "--env")
    assert variables.get(VISIBLE) == ("all" if group in WITH_GPUS else None)
    capabilities = variables.get("NVIDIA_DRIVER_CAPABILITIES", "compute,utility").split(",")
    assert set(capabilities) == {"compute", "utility"}, "CUDA and nvidia-smi"


def test_neither_the_image_nor_a_pod_says_which_gpus_it_gets() -> None:
    """In the image, the variable would give every GPU to a pod that requests none. The device plugin sets it."""
    assert VISIBLE not in image_environment()
    for pod in pods().values():
        for container in [*pod["initContainers"], *pod["containers"]]:
            assert VISIBLE not in environment(container)


def test_the_machines_do_not_use_the_old_image_that_ray_would_choose() -> None:
    config = launcher()
    aws_config._check_ami(config)
    images = {kind["node_config"]["ImageId"] for kind in config["available_node_types"].values()}
    [image] = images - set(aws_config.DEFAULT_AMI.values())
    assert re.fullmatch(r"resolve:ssm:/aws/service/deeplearning/ami/x86_64/[\w.-]+/latest/ami-id", image)
    assert image.rpartition(":")[2] in DOCUMENT.read_text()


def test_every_deployment_names_the_driver_that_torchs_cuda_needs() -> None:
    [cuda] = {
        int(found[1])
        for each in metadata.requires("torch") or ()
        if (found := re.match(r"cuda-toolkit\b.*==(\d+)\.", each))
    }
    raycluster = next(path for path in MANIFESTS if path.stem == "raycluster")
    for path in (LAUNCHER, raycluster, SBATCH, DOCUMENT):
        text = re.sub(r"\s*\n[\s#]*", " ", path.read_text())
        assert f"driver {MINIMUM_DRIVER[cuda]} or newer" in text, path.name
        assert f"CUDA {cuda}" in text, path.name


def test_karpenter_may_not_end_the_head_and_what_must_not_be_interrupted() -> None:
    annotations = {
        name: group["template"].get("metadata", {}).get("annotations", {}) for name, group in groups().items()
    }
    stays = {name for name, own in annotations.items() if own.get("karpenter.sh/do-not-disrupt") == "true"}
    assert (
        stays
        == {name for name, pod in pods().items() if "on-demand" in pod["nodeSelector"].values()}
        == {"head", "gpu"}
    )

"""The reason why a process that was promised a GPU sees none, from files as the nodes have them."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from arspm.distributed import gpus

REPO = Path(__file__).parents[2]
# /proc/driver/nvidia/version of the closed and of the open kernel module.
CLOSED = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  525.60.13  Wed Nov 30 06:39:21 UTC 2022\n"
    "GCC version:  gcc version 11.3.0 (Ubuntu 11.3.0-1ubuntu1~22.04)\n"
)
OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs-builder@U22-I3)  "
    "Tue Sep 23 09:55:41 UTC 2025\nGCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)\n"
)
CUDA_13 = ("2.14.1+cu130", "13.0", "")
DOCKER, DEVICE = {".dockerenv": ""}, {"dev/nvidia0": "", "dev/nvidiactl": ""}


def node(root: Path, *parts: dict[str, str], driver: str = "") -> Path:
    """Write a node's files. `driver`: the text of the kernel module's file."""
    files = {"proc/driver/nvidia/version": driver} if driver else {}
    for each in (files, *parts):
        for name, text in each.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
    return root


def test_a_build_without_cuda(tmp_path: Path) -> None:
    why = gpus.explain("2.14.1+cpu", None, "Torch not compiled with CUDA enabled", node(tmp_path, driver=OPEN), {})
    assert why.startswith("torch 2.14.1+cpu is a build without CUDA;")


@pytest.mark.parametrize(
    ("cuda", "driver", "why"),
    [
        ("13.0", CLOSED, "driver 525.60.13, needs 580 or newer for CUDA 13.0; update the node's driver"),
        ("12.8", CLOSED.replace("525.60.13", "470.82.01"), "driver 470.82.01, needs 525 or newer for CUDA 12.8;"),
        ("13.2", OPEN.replace("580.95.05", "575.57"), "driver 575.57, needs 580 or newer for CUDA 13.2;"),
    ],
)
def test_a_driver_that_is_too_old(cuda: str, driver: str, why: str, tmp_path: Path) -> None:
    """It is named even if the container has no devices either: both must be repaired, and this takes longer."""
    for parts in ((DEVICE,), (DOCKER,)):
        assert gpus.explain("2.14.1", cuda, "", node(tmp_path, *parts, driver=driver), {}).startswith(why)


@pytest.mark.parametrize("driver", [OPEN, ""])
@pytest.mark.parametrize("marker", [DOCKER, {"run/.containerenv": ""}, {}])
def test_a_container_without_nvidia_visible_devices(marker: dict[str, str], driver: str, tmp_path: Path) -> None:
    """The kernel module's file is the node's, so it shows the driver in such a container too; not in every runtime."""
    environ = {} if marker else {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    root = node(tmp_path, marker, driver=driver)
    line = "the container was started without NVIDIA_VISIBLE_DEVICES; set it in the launcher's run options"
    assert gpus.explain(*CUDA_13, root, environ) == line
    hides = gpus.explain(*CUDA_13, root, environ | {"NVIDIA_VISIBLE_DEVICES": "void"})
    assert hides == "the container was started with NVIDIA_VISIBLE_DEVICES='void'; set it to 'all'"
    assert "NVIDIA's runtime" in gpus.explain(*CUDA_13, root, environ | {"NVIDIA_VISIBLE_DEVICES": "all"})


def test_a_container_of_apptainer_without_the_drivers_libraries(tmp_path: Path) -> None:
    """It has the node's /dev, and the libraries only with --nv."""
    root, environ = node(tmp_path, DEVICE, driver=OPEN), {"APPTAINER_CONTAINER": "/images/arspm.sif"}
    assert gpus.explain(*CUDA_13, root, environ) == "the container was started without --nv"
    node(root, {".singularity.d/libs/libcuda.so.1": ""})
    assert "--nv" not in gpus.explain(*CUDA_13, root, environ)


def test_a_node_without_a_driver_or_without_devices(tmp_path: Path) -> None:
    why = gpus.explain(*CUDA_13, tmp_path, {})
    assert why == "no NVIDIA driver on this node, needs 580 or newer for CUDA 13.0"
    why = gpus.explain(*CUDA_13, node(tmp_path, {"dev/nvidiactl": ""}, driver=OPEN), {})
    assert why.startswith("driver 580.95.05 is loaded, but there is no /dev/nvidia0;")


@pytest.mark.parametrize(
    ("visible", "why"),
    [
        ("", "CUDA_VISIBLE_DEVICES='' hides its GPUs from this process"),
        ("-1", "CUDA_VISIBLE_DEVICES='-1' hides its GPUs from this process"),
        ("1", "CUDA_VISIBLE_DEVICES='1', but it has 1: Ray was started with too many (--num-gpus)"),
        ("0", "driver 580.95.05 is new enough; torch says: CUDA error 802: system not yet initialized"),
        ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "driver 580.95.05 is new enough; torch says: CUDA error 802: "),
    ],
)
def test_cuda_visible_devices_and_otherwise_torchs_own_words(visible: str, why: str, tmp_path: Path) -> None:
    said = "\nCUDA error 802: system not yet initialized\nCUDA kernel errors might be reported later"
    root = node(tmp_path, DEVICE, driver=OPEN)
    assert gpus.explain("2.14.1", "13.0", said, root, {"CUDA_VISIBLE_DEVICES": visible}).startswith(why)


@pytest.mark.parametrize(
    ("body", "version"),
    [
        ("echo 580.95.05; echo 580.95.05", "580.95.05"),  # a line for each GPU
        ("echo 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.'; exit 9", None),
        ("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", None),
        ("echo No devices were found", None),
    ],
)
def test_where_the_kernel_module_has_no_file_the_program_names_the_driver(
    body: str, version: str | None, tmp_path: Path
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n[ $1 = --query-gpu=driver_version ] || exit 2\n{body}\n")
    program.chmod(0o700)
    assert gpus.driver_version(tmp_path, {"PATH": str(tmp_path)}) == version
    assert gpus.driver_version(tmp_path, {"PATH": "/nowhere"}) is None


def test_the_cuda_of_our_torch_has_a_minimum_driver() -> None:
    from torch.version import cuda

    assert cuda is None or int(cuda.partition(".")[0]) in gpus.MINIMUM_DRIVER


def test_a_process_without_a_gpu_raises_one_line_with_its_node() -> None:
    """In a process of its own: torch and CUDA read the variable once. Every GPU of this machine is hidden from it."""
    code = "from arspm.distributed import gpus\nprint(gpus.device(0))\ngpus.device(0.5)"
    hidden = {"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": "", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, cwd=REPO, env=hidden, capture_output=True, text=True)
    assert result.stdout == "cpu\n"
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"arspm.distributed.gpus.NoGpu: torch sees no GPU on node {socket.gethostname()} ("), last
    assert not last.endswith(("no reason", ": ")), last

"""Check that a process which was promised a GPU sees one, and say in one line why it does not.

`python -m arspm.distributed.gpus` checks the node that it runs on.

Ray believes what it was started with: on a node whose container, driver or torch is wrong it still counts GPUs and
sends work there. `explain` reads only files, so it needs neither torch nor a GPU.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# CUDA's major version -> oldest driver. Source: NVIDIA, "CUDA Compatibility", section "Minor Version Compatibility":
# docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
MINIMUM_DRIVER = {11: 450, 12: 525, 13: 580}

# The first line of /proc/driver/nvidia/version; the version is the first number with a dot.
_KERNEL_MODULE = re.compile(r"^NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", re.MULTILINE)
_VERSION = re.compile(r"\d+\.\d+(?:\.\d+)?")
_SHOWS_NOTHING = {"", "void", "none"}  # values of NVIDIA_VISIBLE_DEVICES with which a container gets no GPU


class NoGpu(RuntimeError):
    """A process was promised a GPU, and torch sees none."""

    temporary = False  # another try would find the same node


def device(num_gpus: float) -> torch.device:
    """Return the device of a process that was promised `num_gpus` GPUs, which may be a fraction.

    Raises NoGpu, in one line, if it was promised one and torch sees none.
    """
    import torch

    if num_gpus:
        require_gpu()
    return torch.device("cuda" if num_gpus else "cpu")


def require_gpu() -> None:
    """Raise NoGpu, with the node and the reason in one line, unless torch sees a GPU in this process."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of an old driver, which the error names
        if torch.cuda.is_available():
            return
        try:
            torch.cuda.init()
            own_words = "no device"
        except Exception as error:  # AssertionError in a build without CUDA, RuntimeError otherwise
            own_words = str(error)
    reason = explain(torch.__version__, torch.version.cuda, own_words)
    raise NoGpu(f"torch sees no GPU on node {_node()}: {reason}")


def explain(
    version: str, cuda: str | None, own_words: str, root: Path = Path("/"), environ: Mapping[str, str] = os.environ
) -> str:
    """Return why torch sees no GPU, in one line with what to do.

    `version`, `cuda`: torch's and that of the CUDA that it is built with, None for a build without. `own_words`:
    torch's own error, the answer if nothing else explains it. `root`: where the node's files are.
    """
    if cuda is None:
        return f"torch {version} is a build without CUDA; install torch with CUDA there, or use the image with CUDA"
    needed = MINIMUM_DRIVER.get(int(cuda.partition(".")[0]))
    needs = f"needs {needed} or newer for CUDA {cuda}" if needed else f"needs the driver of CUDA {cuda}"
    driver = driver_version(root, environ)
    if driver and needed and int(driver.partition(".")[0]) < needed:
        return f"driver {driver}, {needs}; update the node's driver or its machine image"
    if why := _container(root, environ):
        return why
    if not driver:
        return f"no NVIDIA driver on this node, {needs}"
    if not any((root / "dev").glob("nvidia[0-9]*")):
        return f"driver {driver} is loaded, but there is no /dev/nvidia0; check `nvidia-smi` on this node"
    if why := _hidden(root, environ):
        return why
    said = next((line.strip() for line in own_words.splitlines() if line.strip()), "no reason")
    return f"driver {driver} is new enough; torch says: {said}"


def driver_version(root: Path, environ: Mapping[str, str]) -> str | None:
    """Return the version of the node's NVIDIA driver, such as "580.95.05"; None if there is none.

    The kernel module's file names it, also in a container without GPUs. Windows' Linux has no such file, only the
    program nvidia-smi.
    """
    try:
        found = _KERNEL_MODULE.search((root / "proc/driver/nvidia/version").read_text())
    except OSError:
        found = None
    if found:
        return found[1]
    program = shutil.which("nvidia-smi", path=environ.get("PATH"))
    if program is None:
        return None
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        printed = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    line = printed.stdout.strip().partition("\n")[0]
    return line if printed.returncode == 0 and _VERSION.fullmatch(line) else None


def _container(root: Path, environ: Mapping[str, str]) -> str:
    """Return why a container got no GPU from its node, or "" if this is no container or it got the devices."""
    if {"APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"} & environ.keys():
        got_libraries = (root / ".singularity.d/libs/libcuda.so.1").exists()
        return "" if got_libraries else "the container was started without --nv"
    is_container = any((root / name).exists() for name in (".dockerenv", "run/.containerenv"))
    if not (is_container or "KUBERNETES_SERVICE_HOST" in environ) or any((root / "dev").glob("nvidia[0-9]*")):
        return ""
    visible = environ.get("NVIDIA_VISIBLE_DEVICES")
    if visible is None:
        return "the container was started without NVIDIA_VISIBLE_DEVICES; set it in the launcher's run options"
    if visible in _SHOWS_NOTHING:
        return f"the container was started with NVIDIA_VISIBLE_DEVICES={visible!r}; set it to 'all'"
    return f"the container was started without NVIDIA's runtime (NVIDIA_VISIBLE_DEVICES={visible!r} is set)"


def _hidden(root: Path, environ: Mapping[str, str]) -> str:
    """Return why CUDA_VISIBLE_DEVICES hides every GPU of the node, or "" if it does not."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return ""
    if visible in ("", "-1", "NoDevFiles"):
        return f"CUDA_VISIBLE_DEVICES={visible!r} hides its GPUs from this process"
    count = len(list((root / "dev").glob("nvidia[0-9]*")))
    first = visible.split(",")[0]
    if first.isdecimal() and int(first) >= count:  # CUDA ignores what follows the first invalid number
        return f"CUDA_VISIBLE_DEVICES={visible!r}, but it has {count}: Ray was started with too many (--num-gpus)"
    return ""


def _node() -> str:
    """Return this node's host name and its address as Ray knows it."""
    import ray.util

    return f"{socket.gethostname()} ({ray.util.get_node_ip_address()})"


def main() -> None:
    try:
        require_gpu()
    except NoGpu as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

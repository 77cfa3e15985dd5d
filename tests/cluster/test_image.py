"""The images, as far as they can be checked without building one: the context, the package, the steps' choices."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.cluster.cluster_files import DOCKERFILE, REPO

PACKAGES = ("arspm", "jobs", "cluster", "tune_spaces")


def instructions() -> list[str]:
    """Return the Dockerfile's instructions, each in one line."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    return "\n".join(lines).replace("\\\n", " ").splitlines()


def copied() -> list[str]:
    """Return what the Dockerfile copies from the checkout."""
    return [word for line in instructions() if line.startswith("COPY ") for word in line.split()[1:-1]]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a build gets of a clean checkout: the committed files, without those that .dockerignore leaves out."""
    first, *kept = (REPO / "cluster/Dockerfile.dockerignore").read_text().split()
    assert first == "*"
    assert kept.pop() == "**/__pycache__"
    folder = tmp_path_factory.mktemp("context")
    archive = subprocess.run(
        ["git", "archive", "HEAD", *(name.removeprefix("!") for name in kept)],
        cwd=REPO,
        check=True,
        capture_output=True,
    )
    subprocess.run(["tar", "--extract", "--directory", folder], input=archive.stdout, check=True)
    return folder


def test_the_context_has_exactly_what_the_image_copies(context: Path) -> None:
    assert sorted(copied()) == sorted(each.name for each in context.iterdir())


def test_the_package_of_a_clean_checkout_is_complete_and_runs(context: Path, tmp_path: Path) -> None:
    """As the image installs it, but without its dependencies, which this environment has."""
    wheel = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        tmp_path,
        context,
    ]
    subprocess.run(wheel, check=True, capture_output=True)
    [built] = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "zipfile", "-e", built, site], check=True)
    source = {
        str(path.relative_to(context))
        for package in PACKAGES
        for path in (context / package).rglob("*")
        if path.suffix in (".py", ".j2", ".css", ".js")
        or path.name in ("prices.yaml", "default_cluster.yaml", "py.typed")
    }
    assert {str(path.relative_to(site)) for package in PACKAGES for path in (site / package).rglob("*.*")} == source

    alone = {"PYTHONPATH": str(site), "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    program = "import sys, jobs.cli; assert jobs.cli.__file__.startswith(sys.argv.pop(1)); jobs.cli.main()"
    command = [sys.executable, "-c", program, site, "--help"]
    help_text = subprocess.run(command, cwd=tmp_path, env=alone, check=True, capture_output=True, text=True).stdout
    assert "submit" in help_text


def test_every_package_that_the_image_installs_is_pinned() -> None:
    """Except CUDA's, which torch pins itself."""
    lines = (REPO / "constraints.txt").read_text().splitlines()
    pins = {canonicalize_name(line.split("==")[0]) for line in lines if "==" in line}
    wanted, seen = [Requirement("arspm"), Requirement("boto3")], set()
    while wanted:
        requirement = wanted.pop()
        name, extras = canonicalize_name(requirement.name), requirement.extras or {""}
        for extra in extras - {known for other, known in seen if other == name}:
            seen.add((name, extra))
            for text in metadata.requires(name) or ():
                each = Requirement(text)
                if each.marker is None or each.marker.evaluate({"extra": extra}):
                    wanted.append(each)
    unpinned = {name for name, _ in seen} - pins - {"arspm"}
    assert {name for name in unpinned if not name.startswith(("nvidia-", "cuda-"))} <= {"setuptools", "triton"}


WITHOUT_CUDA = "pip install --no-deps --constraint constraints.txt --index-url {} torch torchaudio torchvision"
COMPILER = ["apt-get update", "apt-get install --yes --no-install-recommends g++", "rm -rf /var/lib/apt/lists/*"]


@pytest.mark.parametrize(("index", "called"), [("INDEX", [WITHOUT_CUDA.format("INDEX")]), ("", COMPILER)])
def test_an_image_has_a_compiler_or_no_cuda(index: str, called: list[str], tmp_path: Path) -> None:
    """The step's own shell, with stand-ins for the programs that it calls."""
    [step] = [
        line.removeprefix("RUN ") for line in instructions() if "TORCH_CPU_INDEX" in line and line.startswith("RUN")
    ]
    for name in ("pip", "apt-get", "rm"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $*"\n')
        (tmp_path / name).chmod(0o700)
    variables = {"PATH": str(tmp_path), "TORCH_CPU_INDEX": index}
    result = subprocess.run(["/bin/sh", "-efc", step], env=variables, check=True, capture_output=True, text=True)
    assert result.stdout.splitlines() == called


def test_the_pins_accept_builds_without_cuda() -> None:
    """pip keeps the installed torch X+cpu for the pin torch==X, so the second step does not replace it."""
    lines = (REPO / "constraints.txt").read_text().splitlines()
    for name in ("torch", "torchaudio", "torchvision"):
        [pin] = [line for line in lines if re.match(rf"{name}==", line)]
        assert Requirement(pin).specifier.contains(pin.partition("==")[2] + "+cpu")

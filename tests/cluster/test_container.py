"""The image, built from its Dockerfile, and the demo in it, by a user whom the image does not know.

Built by buildah, without a container daemon. The base image is not Python's own: it is Debian's base system of the same
release with Debian's Python 3.11. Isolation is that of chroot: the container has the machine's network and /dev/shm.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from tests.cluster.cluster_files import DOCKERFILE, REPO

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(
        os.geteuid() != 0 or not (shutil.which("buildah") and shutil.which("debootstrap")),
        reason="needs root, buildah and debootstrap: apt-get install buildah debootstrap",
    ),
]
IMAGE = f"arspm-cpu:{metadata.version('arspm')}"
DEBIAN_PYTHON = """
FROM scratch
ADD root /
RUN rm -f /usr/lib/python3*/EXTERNALLY-MANAGED && ln -s /usr/bin/python3 /usr/local/bin/python
"""


def run(*words: object, cwd: Path | None = None, limit: float = 1800) -> str:
    done = subprocess.run([*map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=limit)
    assert done.returncode == 0, f"{words}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def pip_options(folder: Path) -> list[str]:
    """Return mounts with which pip in the container uses the package index and certificates of this machine's pip."""
    settings = [line.split("=", 1) for line in run("pip", "config", "list").splitlines() if line.startswith("global.")]
    lines = [f"{name.removeprefix('global.')} = {value.strip(chr(39))}" for name, value in settings]
    (folder / "pip.conf").write_text("\n".join(["[global]", *lines, ""]))
    named = {Path(path) for line in lines for path in re.findall(r"(?<![\w/:])(?:file://)?(/[^\s']+)", line)}
    places = {path.parent if path.name == "simple" else path for path in named}  # an index links to files beside it
    shared = [f"{path}:{path}:ro" for path in places if path.is_dir()]
    mounts = [f"{folder}/pip.conf:/etc/pip.conf:ro", "/etc/ssl/certs:/etc/ssl/certs:ro", *shared]
    return [word for mount in mounts for word in ("--volume", mount)]


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The command, with the image in a store of its own."""
    folder = tmp_path_factory.mktemp("container")
    command = ["buildah", "--root", f"{folder}/store", "--runroot", f"{folder}/run"]
    release, base = "bookworm", re.search(r"^FROM (python:3\.11-slim-bookworm)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert base is not None, "another base: change the imitation of it"
    packages = "python3,python3-pip,python3-venv,ca-certificates"
    run("debootstrap", "--variant=minbase", f"--include={packages}", release, folder / "root")
    (folder / "base").write_text(DEBIAN_PYTHON)
    build = [*command, "bud", "--isolation", "chroot", "--pull-never"]
    run(*build, "--file", folder / "base", "--tag", f"docker.io/library/{base[1]}", folder)
    context = folder / "context"
    context.mkdir()
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=REPO, check=True, capture_output=True)
    subprocess.run(["tar", "--extract", "--directory", context], input=archive.stdout, check=True)
    ignored = ["--ignorefile", context / "cluster/Dockerfile.dockerignore"]
    run(*build, *pip_options(folder), *ignored, "--file", "cluster/Dockerfile", "--tag", IMAGE, ".", cwd=context)
    yield command
    run(*command, "rm", "--all")
    run(*command, "rmi", "--all", "--force")


def test_the_demo_in_a_container_ends_in_a_report_that_its_user_can_read(buildah: list[str], tmp_path: Path) -> None:
    """The options are those of docs/install.md, as far as buildah has them."""
    tmp_path.chmod(0o755)
    runs = tmp_path / "runs"
    runs.mkdir()
    os.chown(runs, 4321, 4321)
    container = run(*buildah, "from", "--pull-never", IMAGE).strip()
    options = ["--isolation", "chroot", "--user", "4321:4321", "--env", "HOME=/tmp", "--volume", f"{runs}:/runs"]
    inside = [*buildah, "run", *options, container, "--"]
    assert run(*inside, "arspm", "--help").lstrip().startswith("Usage: arspm")
    demo = ("arspm", "demo", "--run", "/runs/demo", "--preset", "smoke", "--num-speakers", "14")
    printed = run(*inside, *demo)
    assert printed.splitlines()[-1] == "open file:///runs/demo/report/index.html"
    report = runs / "demo" / "report" / "index.html"
    assert "<!doctype html>" in report.read_text()[:20].lower()
    assert json.loads((report.parent / "metrics.json").read_text())["table4"]
    written = [path.stat() for path in runs.rglob("*")]
    assert {(each.st_uid, each.st_gid) for each in written} == {(4321, 4321)}
    assert all(each.st_mode & 0o400 for each in written)

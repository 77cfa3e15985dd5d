"""docs/install.md: its table of extras, and the versions of Python for which all dependencies have wheels."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "install.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSIONS = re.findall(r"^\| (3\.\d+) \|", PAGE, re.MULTILINE)


def test_the_table_of_extras_is_that_of_pyproject() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", PAGE, re.MULTILINE))
    wanted = {
        extra: {Requirement(each).name for each in requirements}
        for extra, requirements in PROJECT["optional-dependencies"].items()
    }
    tools = wanted.pop("dev")
    assert {extra: {*re.findall(r"`([\w-]+)`", added)} for extra, added in rows.items() if extra != "dev"} == wanted
    assert {*re.findall(r"`([\w-]+)`", rows["dev"])} <= tools


def test_the_versions_of_python_are_those_of_pyproject() -> None:
    classifiers = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert classifiers == VERSIONS
    wanted = SpecifierSet(PROJECT["requires-python"])
    major, oldest = VERSIONS[0].split(".")
    assert all(version in wanted for version in VERSIONS)
    assert f"{major}.{int(oldest) - 1}" not in wanted


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("version", VERSIONS)
def test_all_dependencies_have_wheels(version: str, tmp_path: Path) -> None:
    """With the pins, on Linux. uv evaluates markers for that Python, and builds nothing."""
    extras = [word for extra in PROJECT["optional-dependencies"] for word in ("--extra", extra)]
    command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "pyproject.toml", *extras, "--quiet"]
    command += ["--constraints", "constraints.txt", "--only-binary", ":all:", "--no-annotate"]
    command += ["--python-version", version, "--python-platform", "x86_64-manylinux_2_28"]
    command += ["--output-file", str(tmp_path / "pins")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {canonicalize_name(line.split("==")[0]) for line in (tmp_path / "pins").read_text().splitlines()}
    needed = {Requirement(each).name for each in PROJECT["dependencies"] if ";" not in each}
    assert {canonicalize_name(name) for name in needed} <= found

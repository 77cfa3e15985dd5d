"""The house: its rooms, their names, who imports whom, and what the README says of it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from arspm.corpus import schema

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
ROOMS = ("arspm", "jobs", "cluster", "tune_spaces")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def packages() -> set[str]:
    """Every folder with Python's `__init__.py`, as a path from the root."""
    return {path.parent.relative_to(ROOT).as_posix() for path in sources(*ROOMS) if path.name == "__init__.py"}


# --- imports


def test_the_import_contract_is_kept():
    command = "import importlinter.cli as cli; cli.lint_imports_command(['--no-cache'])"
    result = subprocess.run([sys.executable, "-c", command], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


IMPORT_ALL = """
import importlib, pkgutil, sys
forbidden, *names = sys.argv[1:]
for name in names:
    module = importlib.import_module(name)
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), f"{name}."):
        importlib.import_module(found.name)
        names.append(found.name)
print(len(names))
loaded = {name.split(".")[0] for name in sys.modules} & set(forbidden.split(","))
sys.exit(f"loaded: {sorted(loaded)}" if loaded else 0)
"""


@pytest.mark.parametrize(
    ("forbidden", "names", "at_least"),
    [
        (
            "ray",
            ["arspm.model", "arspm.training", "arspm.evaluation", "arspm.media", "arspm.synthetic"],
            35,
        ),
        (
            "ray,torch",
            [
                *(f"arspm.{name}" for name in ("storage", "config", "corpus", "runs", "report")),
            ],
            20,
        ),
    ],
)
def test_importing_does_not_bring(forbidden, names, at_least):
    """The contract sees what is written; this sees what other packages bring along."""
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, forbidden, *names], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) >= at_least


# --- names


def test_no_file_is_named_for_what_does_not_fit_elsewhere():
    vague = {"utils", "util", "common", "misc", "helpers", "helper", "core", "base"}
    files = sources(*ROOMS, "tests", "benchmarks")
    assert [path for path in files if {path.stem, *path.relative_to(ROOT).parent.parts} & vague] == []


def classes() -> Iterator[tuple[Path, str]]:
    for path in sources(*ROOMS):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                yield path, node.name


def test_no_class_is_named_for_a_pattern_or_like_one_of_rays():
    found = list(classes())
    assert len(found) > 30
    rays = {"RunConfig", "ScalingConfig", "CheckpointConfig", "DataConfig", "FailureConfig", "Checkpoint", "Result"}
    for path, name in found:
        assert not name.endswith(("Factory", "Manager", "Helper", "Base")), path
        assert name not in rays, path


# Those whose names mean nothing else: others are also storage kinds, a stage, columns of labels.csv or keys of JSON.
COLUMNS = (schema.FACE_JPEG, schema.FACE_FEATURE)


def test_columns_are_named_in_the_schema_alone():
    """Elsewhere `schema.FACE_JPEG` and its like stand for them, so that a misspelt column is no new column."""
    found = []
    for path in sources(*ROOMS):
        if path == ROOT / "arspm" / "corpus" / "schema.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and node.value in COLUMNS:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.value!r}")
    assert found == []


# --- what is told of it


def test_the_project_lists_every_package():
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert {name.replace(".", "/") for name in listed} == packages()
    assert len(set(listed)) == len(listed)


def tree_of(text: str) -> dict[str, bool]:
    """The paths in a README's annotated tree, each with whether it is said to be a folder.

    The tree is the first fenced block with a line that begins with `arspm/`. A line is an indent (blanks or the
    strokes of a drawn tree), one name or several with commas between, and words after two blanks or a `#`.
    """
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    blocks = [block for block in blocks if re.search(r"^\W*arspm/(\s|$)", block, re.MULTILINE)]
    assert blocks, "the README has no tree with a line 'arspm/'"
    found: dict[str, bool] = {}
    above: list[tuple[int, str]] = []  # (indent, folder) of the lines that this one is inside of
    for line in blocks[0].splitlines():
        match = re.match(r"([\s│├└─|`+-]*)(\S.*)", line)
        if not match:
            continue
        indent, rest = len(match[1]), re.split(r"\s{2,}|\s#", match[2])[0].strip()
        above = [(column, folder) for column, folder in above if column < indent]
        for name in re.split(r",\s*", rest):
            path = "/".join([*(folder for _, folder in above), name.rstrip("/")])
            found[path] = name.endswith("/")
        if rest.endswith("/"):
            above.append((indent, rest.rstrip("/")))
    return found


def test_a_tree_is_read_as_people_read_it():
    text = """
```
not this one
```
```text
arspm/            the system, all of it
  config.py       every knob
  schema.py, corpus.py   the corpus
  media/          clips
    audio.py  # sound
tests/
├── learning/     maths
│   └── test_fit.py
└── conftest.py
Makefile          commands
```
"""
    assert tree_of(text) == {
        "arspm": True,
        "arspm/config.py": False,
        "arspm/schema.py": False,
        "arspm/corpus.py": False,
        "arspm/media": True,
        "arspm/media/audio.py": False,
        "tests": True,
        "tests/learning": True,
        "tests/learning/test_fit.py": False,
        "tests/conftest.py": False,
        "Makefile": False,
    }


def test_the_readmes_tree_is_the_real_one():
    tree = tree_of((ROOT / "README.md").read_text())
    for path, is_folder in tree.items():
        assert (ROOT / path).is_dir() if is_folder else (ROOT / path).is_file(), f"the README names {path}"
    assert packages() - set(tree) == set(), "not in the README"

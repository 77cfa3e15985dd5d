"""The layout of the repository: names, directions of imports, and the tree in the README."""

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
TOP_PACKAGES = ("arspm", "jobs", "cluster", "tune_spaces")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def sources(*folders: str) -> list[Path]:
    """Return the Python files in these folders."""
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def packages() -> set[str]:
    """Return every folder with an `__init__.py`, as a path from the root."""
    return {path.parent.relative_to(ROOT).as_posix() for path in sources(*TOP_PACKAGES) if path.name == "__init__.py"}


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
    for submodule in pkgutil.walk_packages(getattr(module, "__path__", []), f"{name}."):
        importlib.import_module(submodule.name)
        names.append(submodule.name)
print(len(names))
loaded = {name.split(".")[0] for name in sys.modules} & set(forbidden.split(","))
sys.exit(f"loaded: {sorted(loaded)}" if loaded else 0)
"""


@pytest.mark.parametrize(
    ("forbidden", "names", "at_least"),
    [
        (
            "ray",
            [
                *("arspm.model", "arspm.training", "arspm.evaluation", "arspm.media", "arspm.synthetic"),
                *("arspm.export", "arspm.portrait", "arspm.bulk"),
            ],
            40,
        ),
        (
            "ray,torch",
            [
                *(f"arspm.{name}" for name in ("storage", "config", "corpus", "runs", "report")),
            ],
            20,
        ),
        # The processes of preprocessing that wait for the ones that decode: 0.3 GB less in each.
        ("torch,av,dlib,onnxruntime", ["jobs.preprocess"], 1),
    ],
)
def test_importing_does_not_import(forbidden, names, at_least):
    """The contract checks our own import statements; this also checks imports by other packages."""
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, forbidden, *names], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) >= at_least


# --- names


def test_no_file_has_a_vague_name():
    vague = {"utils", "util", "common", "misc", "helpers", "helper", "core", "base"}
    files = sources(*TOP_PACKAGES, "tests", "benchmarks")
    assert [path for path in files if {path.stem, *path.relative_to(ROOT).parent.parts} & vague] == []


def classes() -> Iterator[tuple[Path, str]]:
    """Yield the file and the name of every class."""
    for path in sources(*TOP_PACKAGES):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                yield path, node.name


def test_no_class_is_named_after_a_pattern_or_a_ray_class():
    named = list(classes())
    assert len(named) > 30
    ray_classes = {
        "RunConfig",
        "ScalingConfig",
        "CheckpointConfig",
        "DataConfig",
        "FailureConfig",
        "Checkpoint",
        "Result",
    }
    for path, name in named:
        assert not name.endswith(("Factory", "Manager", "Helper", "Base")), path
        assert name not in ray_classes, path


# Columns whose names mean nothing else. Other names are also formats, a stage, columns of labels.csv or JSON keys.
COLUMNS = (schema.FACE_JPEG, schema.FACE_FEATURE)


def test_column_names_are_written_only_in_the_schema():
    """Other files use `schema.FACE_JPEG` and so on, so that a misspelt name is an error and not a new column."""
    literals = []
    for path in sources(*TOP_PACKAGES):
        if path == ROOT / "arspm" / "corpus" / "schema.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and node.value in COLUMNS:
                literals.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.value!r}")
    assert literals == []


# --- packages and the README


def test_the_project_lists_every_package():
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert {name.replace(".", "/") for name in listed} == packages()
    assert len(set(listed)) == len(listed)


def tree_of(text: str) -> dict[str, bool]:
    """Return the paths in a README's annotated tree, each with whether it is marked as a folder.

    The tree is the first fenced block with a line that starts with `arspm/`. A line is an indent (blanks or the lines
    of a drawn tree), one or more names separated by commas, and a comment after two blanks or a `#`.
    """
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    blocks = [block for block in blocks if re.search(r"^\W*arspm/(\s|$)", block, re.MULTILINE)]
    assert blocks, "the README has no tree with a line 'arspm/'"
    tree: dict[str, bool] = {}
    parents: list[tuple[int, str]] = []  # (indent, folder) of the folders that contain this line
    for line in blocks[0].splitlines():
        match = re.match(r"([\s│├└─|`+-]*)(\S.*)", line)
        if not match:
            continue
        indent, rest = len(match[1]), re.split(r"\s{2,}|\s#", match[2])[0].strip()
        parents = [(column, folder) for column, folder in parents if column < indent]
        for name in re.split(r",\s*", rest):
            path = "/".join([*(folder for _, folder in parents), name.rstrip("/")])
            tree[path] = name.endswith("/")
        if rest.endswith("/"):
            parents.append((indent, rest.rstrip("/")))
    return tree


def test_a_tree_is_parsed():
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


def test_the_readme_tree_matches_the_repository():
    tree = tree_of((ROOT / "README.md").read_text())
    for path, is_folder in tree.items():
        assert (ROOT / path).is_dir() if is_folder else (ROOT / path).is_file(), f"the README names {path}"
    assert packages() - set(tree) == set(), "not in the README"


# --- documents

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_paths_in_a_document_exist(document):
    text = document.read_text()
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", text):
        assert (document.parent / target).exists(), f"link to {target}"
    for path in re.findall(r"`([\w./-]+)(?:::\w+)?`", text):
        if path.partition("/")[0] in (*TOP_PACKAGES, "tests", "docs", "benchmarks") and "/" in path:
            assert (ROOT / path).exists(), path


def test_names_in_the_contributing_tables_exist():
    """Where a row says "`NAME` in `FILE`", the file contains the name."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    mentions = re.findall(r"((?:`[\w.]+`(?:, | and )?)+)[^`|;]* in `(\w+/[\w/]+\.py)`", text)
    assert len(mentions) > 15
    for names, path in mentions:
        for name in re.findall(r"[\w]+", re.sub(" and ", " ", names)):
            assert re.search(rf"\b{name}\b", (ROOT / path).read_text()), (name, path)

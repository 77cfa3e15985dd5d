"""docs/paper.md: everything that it names exists, and it names everything that the paper has."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from arspm.config import Config, field_names
from arspm.config.variants import TABLE4, VARIANTS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "paper.md").read_text()
LINKS = re.findall(r"\[([^\]]+)\]\(([^)]+)\)", PAGE)
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")[1:]}


@cache
def defined(path: Path) -> set[str]:
    """Return the names that a file defines at module level."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def first_cells(section: str) -> list[str]:
    """Return the first cell of each row of a section's table."""
    lines = [line for line in SECTIONS[section].splitlines() if line.startswith("| ")]
    return [line.split("|")[1].strip() for line in lines]


def test_every_link_target_exists():
    tests, code = 0, 0
    for text, target in LINKS:
        if target.startswith("https://"):
            continue
        path = (ROOT / "docs" / target).resolve()
        assert path.is_file(), target
        assert path.is_relative_to(ROOT), target
        if path.name.startswith("test_"):
            assert f"test_{text.replace(' ', '_')}" in defined(path), (target, text)
            tests += 1
        elif text.startswith("`"):
            assert text.strip("`") in defined(path), (target, text)
            code += 1
        else:
            assert text == path.name, (target, text)
    assert tests > 100
    assert code > 50


def test_every_file_and_test_named_outside_a_link_exists():
    paths = re.findall(r"`([\w/]+\.(?:py|md))(?:::(\w+))?`", PAGE)
    assert paths
    for path, test in paths:
        assert (ROOT / path).is_file(), path
        assert not test or test in defined(ROOT / path), (path, test)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("Equations", [f"eq. {number}" for number in range(1, 8)]),
        ("Tables", [f"Table {number}" for number in range(1, 7)]),
        ("Figures", [f"Figure {number}" for number in range(1, 7)]),
        ("Readings", list("ABCDEFGHIJKLMNOPQRS")),
        ("Models", [f"`{name}`" for name in VARIANTS]),
    ],
)
def test_each_part_of_the_paper_has_a_row_with_code_and_a_proof(section, expected):
    assert [cell for cell in first_cells(section) if cell not in ("", "variant")] == expected
    for line in SECTIONS[section].splitlines():
        if section != "Models" and line.split("|")[1:2] and line.split("|")[1].strip() in expected:
            assert re.search(r"\]\(\.\./(arspm|jobs)/", line), line
            assert "](../tests/" in line, line


@pytest.mark.parametrize("section", ["Defects of public ports", "Beyond the paper"])
def test_each_further_row_has_a_proof(section):
    rows = [line for line in SECTIONS[section].splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 9
    for row in rows:
        assert "](../tests/" in row, row


def test_the_default_variants_of_the_ablation_are_the_first_eight():
    assert list(VARIANTS)[:8] == list(TABLE4)
    assert "without names the first eight" in PAGE


def test_settings_are_fields_of_the_configuration():
    words = re.findall(r"`([a-z_0-9]+(?:\.[a-z_0-9]+)+)(?:=[^`]*)?`", PAGE)
    settings = [word for word in words if word.partition(".")[0] in Config.model_fields]
    assert len(settings) > 10
    assert set(settings) <= set(field_names())


def test_sections_and_keys_exist_on_the_pages():
    """Sections are ids in the templates; keys are written by the files that measure or gather."""
    templates = "".join(path.read_text() for path in (ROOT / "arspm" / "report").glob("*.j2"))
    for section in set(re.findall(r"`#([a-z0-9]+)`", PAGE)):
        assert f'"{section}"' in templates, section
    writers = (
        "distributed/evaluate.py",
        "distributed/measures.py",
        "report/gather.py",
        "evaluation/ablation.py",
        "distributed/ablation.py",
    )
    source = "".join((ROOT / "arspm" / path).read_text() for path in writers)
    keys = re.findall(r"key `(\w+)`", PAGE) + re.findall(r"`#[a-z0-9]+`; `(\w+)`", PAGE)
    assert len(set(keys)) > 12
    for key in keys:
        assert f'"{key}"' in source, key


def test_letters_in_docstrings_are_readings():
    letters = set()
    for path in [*ROOT.glob("arspm/**/*.py"), *ROOT.glob("jobs/*.py"), *ROOT.glob("tune_spaces/*.py")]:
        for mention in re.findall(r"[Rr]eadings? ((?:[A-Z]\b(?:, | and | to )?)+)", path.read_text()):
            letters |= set(re.findall(r"\b[A-Z]\b", mention))
    assert len(letters) > 10
    assert letters <= set(first_cells("Readings"))

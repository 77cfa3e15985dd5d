"""The pages of docs/: their commands exist, their code blocks parse, and what is generated or quoted is up to date."""

import ast
import doctest
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from arspm.config import reference
from jobs.cli import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^[ >]*```(?P<language>\w*)\n(?P<text>.*?)^[ >]*```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, *languages: str) -> list[str]:
    return [found["text"] for found in BLOCK.finditer(page.read_text()) if found["language"] in languages]


def commands() -> Iterator[tuple[str, str]]:
    """Yield the page and the words of every `arspm ...` in a code block; a line that ends in a backslash goes on."""
    for page in PAGES:
        for text in blocks(page, "", "bash", "sh"):
            for line in text.replace("\\\n", " ").splitlines():
                command = line.strip().removeprefix("$ ")
                if re.match(r"arspm +(?!synth/)[a-z-]+( |$)", command) and not re.match(r"arspm +the\b", command):
                    yield page.name, command


ALL_COMMANDS = sorted(set(commands()))


def test_there_are_commands_to_check() -> None:
    assert len(ALL_COMMANDS) > 40


@pytest.mark.parametrize(("page", "command"), ALL_COMMANDS, ids=[f"{page}: {each}"[:90] for page, each in ALL_COMMANDS])
def test_a_documented_command_parses(page: str, command: str) -> None:
    """By the real parser, without running it: options that do not exist or lack a value are errors."""
    words = shlex.split(command, comments=True)[1:]
    app.commands[words[0]].make_context(words[0], words[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_blocks_parse(page: Path) -> None:
    for text in blocks(page, "python", "py"):
        examples = doctest.DocTestParser().get_examples(text)  # code with its output, after >>>
        ast.parse("".join(example.source for example in examples) or text)
    for text in blocks(page, "yaml", "yml"):
        list(yaml.safe_load_all(text))
    for text in blocks(page, "json"):
        json.loads(text)


def test_the_configuration_reference_is_up_to_date() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page == reference.markdown(), "run: python -m arspm.config.reference > docs/configuration.md"


def test_every_setting_has_a_meaning() -> None:
    rows = [line.split(" | ") for line in reference.markdown().splitlines() if line.startswith("| `")]
    assert len(rows) > 200
    assert [row for row in rows if not row[-1].strip(" |")] == []


def messages() -> str:
    """All string constants of the program, one per line; what an f-string inserts is `…`."""
    found = []
    for package in ("arspm", "cluster", "jobs", "tune_spaces"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
                elif isinstance(node, ast.JoinedStr):
                    parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                    found.append("".join(map(str, parts)))
    return "\n".join(found)


def test_the_lines_of_troubleshooting_are_the_program_s_own() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    lines = re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    assert len(lines) > 25
    program = messages()
    assert [line for line in lines if line.removesuffix("…").strip() not in program] == []


def test_every_page_is_in_the_site_s_navigation() -> None:
    def pages(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        for each in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
            yield from pages(each)

    navigation = list(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert sorted(navigation) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_the_site_builds_without_warnings_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """`strict` in mkdocs.yml makes a broken link or anchor an error."""
    pytest.importorskip("material", reason="mkdocs-material needs Python 3.11.5")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    loaded = r"""<(?:script|img|iframe)[^>]+src="(https?:[^"]+)|<link[^>]+rel="stylesheet"[^>]+href="(https?:[^"]+)"""
    for page in tmp_path.rglob("*.html"):
        assert re.findall(loaded, page.read_text()) == [], page.name
    assert (tmp_path / "troubleshooting.html").exists()

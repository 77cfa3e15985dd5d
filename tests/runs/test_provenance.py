"""What a manifest says of where a result comes from."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from arspm import storage
from arspm.config import Config, override
from arspm.runs import stages
from arspm.runs.provenance import command_line, provenance
from jobs.submission import source, submitted_by

ROOT = Path(__file__).parents[2]
SHOW = "import json; from arspm.runs.provenance import code_commit; print(json.dumps(code_commit()))"
NO_GIT_SETTINGS = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
COMMIT = [
    "-c",
    "user.name=n",
    "-c",
    "user.email=e@example.org",
    "-c",
    "commit.gpgsign=false",
    "commit",
    "-q",
    "-m",
    "m",
]


def git(folder: Path, *words: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *words], check=True, capture_output=True, text=True, env=NO_GIT_SETTINGS
    ).stdout.strip()


def code_commit_of(folder: Path, **environment: str) -> dict[str, Any]:
    """What the code in a folder says of itself."""
    done = subprocess.run(
        [sys.executable, "-c", SHOW],
        cwd=folder,
        env={**NO_GIT_SETTINGS, "PYTHONPATH": str(folder), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A copy of the packages that the commit is read with, outside a git repository."""
    for package in ("storage", "config", "corpus", "runs"):
        shutil.copytree(ROOT / "arspm" / package, tmp_path / "code" / "arspm" / package)
    shutil.copy(ROOT / "arspm" / "__init__.py", tmp_path / "code" / "arspm")
    for package in ("jobs", "cluster", "tune_spaces"):
        (tmp_path / "code" / package).mkdir()
        (tmp_path / "code" / package / "__init__.py").touch()
    (tmp_path / "code" / ".gitignore").write_text("__pycache__\n")
    return tmp_path / "code"


def test_the_commit_and_whether_the_code_equals_it(code: Path) -> None:
    unknown = {"commit": None, "clean": None}
    assert code_commit_of(code) == unknown
    git(code, "init", "-q")
    git(code, "add", ".")
    git(code, *COMMIT)
    head = git(code, "rev-parse", "HEAD")
    assert code_commit_of(code) == {"commit": head, "clean": True}
    (code / "notes.txt").write_text("not code")
    assert code_commit_of(code) == {"commit": head, "clean": True}
    assert code_commit_of(code, PATH="/nowhere") == unknown
    (code / "jobs" / "new.py").touch()
    assert code_commit_of(code) == {"commit": head, "clean": False}
    (code / "jobs" / "new.py").unlink()
    with (code / "arspm" / "__init__.py").open("a") as file:
        file.write("\n")
    assert code_commit_of(code) == {"commit": head, "clean": False}


def test_the_commit_of_another_repository_is_not_the_codes(code: Path) -> None:
    """As of a project with this package installed in its virtual environment."""
    project = code.parent
    git(project, "init", "-q")
    (project / ".gitignore").write_text("code/\n")
    git(project, "add", ".")
    git(project, *COMMIT)
    assert code_commit_of(code) == {"commit": None, "clean": None}


def test_the_code_of_a_job_says_the_commit_that_it_was_packaged_from() -> None:
    expected = code_commit_of(ROOT)
    assert expected["commit"] == git(ROOT, "rev-parse", "HEAD")
    staged = source()
    assert not (staged / ".git").exists()
    assert code_commit_of(staged) == expected


def test_a_setting_omits_what_a_manifest_says(tmp_path: Path) -> None:
    found = {}
    for detail in ("all", "code", "none"):
        run, config = f"{tmp_path}/{detail}", override(Config(), {"provenance": detail})
        stages.commit(run, "preprocess", fingerprint="f", config=config, files={}, seconds=1.0, figures={})
        found[detail] = storage.read_json(f"{run}/preprocess/{stages.SUCCESS}")["provenance"]
    assert found["none"] is None
    assert set(found["code"]) == {"commit", "clean"}
    assert found["all"] == found["code"] | {
        "command": command_line(sys.argv),
        "user": getpass.getuser(),
        "host": socket.gethostname(),
    }


def test_a_job_is_told_who_submitted_it() -> None:
    """The process that writes the manifest is another one, of another user on another host."""
    told = {"command": "arspm submit --run r", "user": "someone", "host": "laptop"}
    option, text = submitted_by(Config(), told)
    assert option == "--submitted-by"
    assert provenance("all", json.loads(text)) == provenance("code") | told
    own = json.loads(submitted_by(Config())[1])
    assert own["user"] == getpass.getuser()
    for detail in ("code", "none"):
        assert submitted_by(override(Config(), {"provenance": detail}), told) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["/usr/bin/arspm", "submit", "--set", "seed=1"], "arspm submit --set seed=1"),
        (["arspm", "submit", "--clips", "my clips"], "arspm submit --clips 'my clips'"),
        (["arspm", "--ray-address", "http://me:pass@host:8265"], "arspm --ray-address http://***@host:8265"),
        (
            ["arspm", "--csv", "https://h/x?X-Amz-Signature=abc&v=1"],
            "arspm --csv https://h/x?X-Amz-Signature=***&v=1",
        ),
        (["arspm", "--token", "abc", "x"], "arspm --token *** x"),
        (["arspm", "--auth-token=abc", "x"], "arspm --auth-token=*** x"),
        (["arspm", "AWS_SECRET_ACCESS_KEY=a b"], "arspm AWS_SECRET_ACCESS_KEY=***"),
        (["arspm", "--password=a&b", "c"], "arspm --password=*** c"),
        (["arspm", "AKIAABCDEFGHIJKLMNOP"], "arspm ***"),
        (["arspm", "submit", "--run", "runs/tokens"], "arspm submit --run runs/tokens"),
        ([""], "python"),
    ],
)
def test_a_command_has_no_credentials(words: list[str], expected: str) -> None:
    assert command_line(words) == expected


def test_the_value_of_a_credential_in_the_environment_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    assert command_line(["arspm", "x-wJalrXUtnFEMI"]) == "arspm x-***"


def test_provenance_is_in_no_fingerprint() -> None:
    first, second = (stages.fingerprints(override(Config(), {"provenance": each}), "i") for each in ("all", "none"))
    assert first == second

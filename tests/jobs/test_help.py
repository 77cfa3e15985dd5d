"""Help texts, exit codes, shell completion, -q and -v of the real `arspm` command."""

from __future__ import annotations

import ast
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.exit_codes import ExitCode
from jobs import verbosity
from jobs.cli import app
from tests.jobs.conftest import arspm
from tests.jobs.conftest import arspm_in_process as run_here

ROOT = Path(__file__).parents[2]
ARSPM = str(Path(sys.executable).with_name("arspm"))


@pytest.mark.parametrize("name", sorted(app.commands))
def test_the_help_of_a_command_ends_with_examples_that_its_parser_accepts(name: str) -> None:
    command = app.commands[name]
    heading, *examples = command.epilog.split("\n\n")
    assert heading == ("Example:" if len(examples) == 1 else "Examples:")
    assert examples
    for example in examples:
        program, said, *words = shlex.split(example)
        assert (program, said) == ("arspm", name)
        command.make_context(name, words)  # raises for an unknown option, a missing or an invalid value
    with pytest.raises(Exception, match="No such option"):
        command.make_context(name, [*words, "--no-such-option"])


@pytest.mark.parametrize("name", sorted(app.commands))
def test_every_option_is_explained(name: str) -> None:
    command = app.commands[name]
    assert command.help
    for parameter in command.params:
        assert parameter.name == "help" or parameter.help, parameter.name


def test_the_exit_codes_are_in_the_help_and_in_the_documentation() -> None:
    shown = " ".join(arspm("--help").stdout.split())
    page = (ROOT / "docs" / "commands.md").read_text()
    for code in ExitCode:
        assert f"{code:d} {code.meaning}" in shown
        assert f"| {code:d} | {code.meaning} |" in page


def test_no_command_has_an_exit_code_of_its_own() -> None:
    for path in sorted((ROOT / "jobs" / "commands").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("typer.Exit", "sys.exit"):
                assert all(ast.unparse(argument).startswith("ExitCode.") for argument in node.args), (path, node.lineno)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], ExitCode.DONE),
        (["report", "nowhere"], ExitCode.FAILED),
        (["submit"], ExitCode.USAGE),
        (["submti", "--run", "x"], ExitCode.USAGE),
        (["status", "nowhere", "--no-such-option"], ExitCode.USAGE),
    ],
)
def test_exit_codes(words: list[str], code: ExitCode) -> None:
    assert arspm(*words).returncode == code


def test_the_exit_code_after_ctrl_c(tmp_path: Path, wait_until: Callable[..., None]) -> None:
    command = [ARSPM, "synth", str(tmp_path / "out"), "--num-speakers", "500"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        wait_until(lambda: any(tmp_path.iterdir()), 30)  # a folder with clips, which is moved to its place at the end
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == ExitCode.INTERRUPTED
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["report", "-v", "nowhere"], ["-v", "report", "nowhere"]])
def test_verbose_shows_the_traceback_of_an_error(words: list[str]) -> None:
    done = arspm(*words)
    assert done.returncode == ExitCode.FAILED
    assert "Traceback" in done.stderr
    assert re.search(r"^error: .*nowhere: there is no such run", done.stderr, re.MULTILINE)


def test_quiet_leaves_progress_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbosity, "_level", 0)
    sizes = ("--num-speakers", 1, "--clips-per-speaker", 2)
    assert run_here("synth", tmp_path / "loud", *sizes) == 0
    loud = capsys.readouterr().out.splitlines()
    assert loud[:-1], "progress"
    assert run_here("synth", "-q", tmp_path / "quiet", *sizes) == 0
    assert capsys.readouterr().out.splitlines() == [loud[-1].replace("/loud", "/quiet")]


def completions(line: str) -> list[str]:
    """What bash offers after this line, whose last word is incomplete."""
    words = line.split(" ")
    asked = {"_ARSPM_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run([ARSPM], env={**os.environ, **asked}, capture_output=True, text=True, timeout=60)
    return done.stdout.split()


def test_a_shell_completes_commands_options_and_names() -> None:
    script = subprocess.run(
        [ARSPM], env={**os.environ, "_ARSPM_COMPLETE": "source_bash"}, capture_output=True, text=True
    )
    assert "complete_bash" in script.stdout
    assert completions("arspm sub") == ["submit"]
    assert {"--preset", "--dry-run"} <= {*completions("arspm submit --")}
    assert completions("arspm submit --preset ma") == ["many-gpus"]
    assert completions("arspm submit --until enc") == ["encoder"]
    assert completions("arspm submit --format vox") == ["voxceleb"]
    assert "no_face" in completions("arspm drops runs/one --reason ")
    assert completions("arspm sweep loss_w") == ["loss_weights"]
    assert "neutral+fc" in completions("arspm ablation --variants neu")

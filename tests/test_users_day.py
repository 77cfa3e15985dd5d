"""`make day` notices a command that does not end as it should. The day itself needs minutes and is no test."""

import sys
from pathlib import Path

import pytest

from tests import users_day


@pytest.fixture
def day(tmp_path: Path) -> users_day.Day:
    return users_day.Day(tmp_path, Path(sys.executable).parent)


@pytest.mark.parametrize(
    ("code", "expected", "file", "ok"),
    [
        (0, 0, "here", True),
        (3, 0, "here", False),
        (3, 3, "here", True),
        (0, 3, "here", False),
        (0, 0, "missing", False),
    ],
)
def test_exit_codes_and_results_are_checked(
    day: users_day.Day, capfd: pytest.CaptureFixture[str], code: int, expected: int, file: str, ok: bool
) -> None:
    (day.folder / "here").touch()
    day.run("python", "-c", f"raise SystemExit({code})", expected=expected, check=day.exists(file))
    assert [(each.code, each.ok) for each in day.done] == [(code, ok)]
    assert ("(wrong)" in users_day.table(day.done)) is not ok
    assert f"exit code {code}" in capfd.readouterr().out


def test_watch_runs_in_a_terminal(
    day: users_day.Day, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script = "import sys; print('runs/first'); print('\\x1b[2Kpreprocess', sys.stdout.isatty())"
    monkeypatch.setattr(users_day, "WATCH", ("python", "-c", script))
    with day.watching():
        pass
    assert [each.ok for each in day.done] == [True]
    assert "runs/first\npreprocess True" in capfd.readouterr().out


def test_a_command_that_hangs_is_killed(day: users_day.Day, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users_day, "LIMIT_SECONDS", 0.2)
    day.run("sleep", "60")
    assert [each.ok for each in day.done] == [False]
    assert day.done[0].seconds < 30

"""`make day` notices a command that does not end as it should. The day itself needs minutes and is no test."""

import sys
from pathlib import Path

import pytest

from tests import users_day

SERVER = """
import http.server
handler = http.server.SimpleHTTPRequestHandler
with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
    print(f"serving http://127.0.0.1:{server.server_port}/page")
    handler.translate_path = lambda self, path: "page.html"
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
"""


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


def test_watch_runs_in_a_terminal(day: users_day.Day, capfd: pytest.CaptureFixture[str]) -> None:
    script = "import sys; print('runs/first'); print('\\x1b[2Kpreprocess', sys.stdout.isatty())"
    with day.watching("python", "-c", script, "runs/first"):
        pass
    assert [each.ok for each in day.done] == [True]
    assert "runs/first\npreprocess True" in capfd.readouterr().out


def test_a_command_that_hangs_is_killed(day: users_day.Day, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users_day, "LIMIT_SECONDS", 0.2)
    day.run("sleep", "60")
    assert [each.ok for each in day.done] == [False]
    assert day.done[0].seconds < 30


@pytest.mark.parametrize(("page", "ok"), [("<html>a page</html>", True), ("nothing", False)])
def test_a_page_is_opened_and_its_server_stopped(day: users_day.Day, page: str, ok: bool) -> None:
    (day.folder / "page.html").write_text(page)
    day.visit("python", "-u", "-c", SERVER)
    assert [each.ok for each in day.done] == [ok]


def test_a_server_that_does_not_start_has_no_page(day: users_day.Day) -> None:
    day.visit("python", "-c", "raise SystemExit(2)")
    assert [(each.code, each.ok) for each in day.done] == [(2, False)]

"""How often a stage prints progress, which decides how fast its job's log grows: Ray does not rotate it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from arspm.runs import progress as module
from arspm.runs.progress import MARKER, print_progress

DOCUMENT = Path(__file__).parents[2] / "docs/cluster.md"
DAY = 86_400
RAY_PREFIX = (
    "\x1b[36m(RayTrainWorker pid=1234567, ip=100.100.100.100)\x1b[0m "  # Ray prints it before each line of a worker
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds since the process started, set by the test."""
    seconds = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: 1000 + seconds[0])
    monkeypatch.setattr(module, "_started", 1000)
    monkeypatch.setattr(module, "_last", 0)
    monkeypatch.setattr(module, "_first", None)
    return seconds


def test_a_log_grows_as_documented(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    """Steps are at most a twentieth of the interval, so the number of lines is within 5 % of the largest possible."""
    [numbers] = re.findall(
        r"([\d,]+) lines in the first day, ([\d,]+) in a month, under (\d+) MB", DOCUMENT.read_text()
    )
    in_a_day, in_a_month, megabytes = (int(number.replace(",", "")) for number in numbers)
    lines: list[str] = []
    for end, most in ((DAY, in_a_day), (30 * DAY, in_a_month)):
        while clock[0] < end:
            step = 12_345_678 + round(clock[0])
            print_progress(step, 123_456_789, "steps", "epoch 1000 of 1000, loss 0.0001234")
            clock[0] += max(0.02, clock[0] / 20_000)
        lines += capsys.readouterr().out.splitlines()
        assert 0.94 * most < len(lines) <= most
    assert megabytes - 1 < sum(len(RAY_PREFIX + line) + 1 for line in lines) / 1e6 < megabytes


def test_the_first_and_last_lines_are_not_delayed(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    for step in range(11):
        print_progress(step, 10, "steps")
        clock[0] += 0.01
    lines = [json.loads(line.removeprefix(MARKER)) for line in capsys.readouterr().out.splitlines()]
    assert [line["current"] for line in lines] == [0, 10]


def test_the_eta_is_computed_from_the_first_step_not_from_the_start(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """961 steps at one a second, of which a resumed worker does 860; then another count, which begins again."""
    for now, step, total, unit in (
        *((18, 101, 961, "steps"), (19, 102, 961, "steps"), (118, 201, 961, "steps"), (878, 961, 961, "steps")),
        *((900, 2, 10, "clips"), (910, 7, 10, "clips"), (911, 1, 10, "clips"), (921, 2, 10, "clips")),
    ):
        clock[0] = now
        print_progress(step, total, unit)
    lines = [json.loads(line.removeprefix(MARKER)) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("eta") for line in lines] == [None, 859, 760, None, None, 6, None, 80]

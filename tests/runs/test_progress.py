"""How often a stage says how far it is, and so how much the log of its job grows, which Ray does not rotate."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from arspm.runs import progress as module
from arspm.runs.progress import MARKER, progress

DOCUMENT = Path(__file__).parents[1] / "docs/cluster.md"
DAY = 86_400
RAYS = "\x1b[36m(RayTrainWorker pid=1234567, ip=100.100.100.100)\x1b[0m "  # before each line of a worker


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds since the process began, for the test to set."""
    seconds = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: 1000 + seconds[0])
    monkeypatch.setattr(module, "_begun", 1000)
    monkeypatch.setattr(module, "_last", 0)
    return seconds


def test_a_log_grows_as_the_document_says(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    """With steps so short that twenty and more are in any pause: fewer lines by a twentieth at most than with any."""
    [told] = re.findall(r"([\d,]+) lines in the first day, ([\d,]+) in a month, under (\d+) MB", DOCUMENT.read_text())
    in_a_day, in_a_month, megabytes = (int(number.replace(",", "")) for number in told)
    lines: list[str] = []
    for end, most in ((DAY, in_a_day), (30 * DAY, in_a_month)):
        while clock[0] < end:
            progress(12_345_678, 123_456_789, "steps", "epoch 1000 of 1000, loss 0.0001234")
            clock[0] += max(0.02, clock[0] / 20_000)
        lines += capsys.readouterr().out.splitlines()
        assert 0.94 * most < len(lines) <= most
    assert megabytes - 1 < sum(len(RAYS + line) + 1 for line in lines) / 1e6 < megabytes


def test_the_first_line_and_the_last_are_told_at_once(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    for step in range(11):
        progress(step, 10, "steps")
        clock[0] += 0.01
    lines = [json.loads(line.removeprefix(MARKER)) for line in capsys.readouterr().out.splitlines()]
    assert [line["current"] for line in lines] == [0, 10]

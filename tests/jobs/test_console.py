"""The lines that show a running chain."""

import pytest

from cluster import events
from jobs import console


def test_the_eta_is_computed_from_the_first_step_not_from_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([18.0, 19.0, 118.0, 138.0, 218.0, 238.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    show = console._lines()
    show(events.Started(stage="encoder", submission_id="one"))
    for step in (1, 2, 101, 121):
        show(events.StageProgress(stage="encoder", current=step, total=961, unit="steps"))
    show(events.Started(stage="encoder", submission_id="two"))  # again, from a checkpoint
    for step in (101, 141):
        show(events.StageProgress(stage="encoder", current=step, total=961, unit="steps"))
    assert [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines() if " of " in line] == [
        "1 of 961 steps",
        "101 of 961 steps, about 14 min 20 s left",
        "121 of 961 steps, about 14 min 00 s left",
        "101 of 961 steps",
        "141 of 961 steps, about 6 min 50 s left",
    ]

"""The lines that show a running chain."""

import pytest

from cluster import events
from jobs import console


def test_progress_is_shown_every_ten_seconds_with_its_eta(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([18.0, 19.0, 118.0, 127.9, 128.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    show = console._lines()
    show(events.Started(stage="encoder", submission_id="one"))
    for step, message, eta in ((1, "", None), (2, "", 5.0), (101, "", 860.0), (111, "", 850.0), (112, "epoch 1", 0.0)):
        progress = {"current": step, "total": 961, "unit": "steps", "message": message, "eta_seconds": eta}
        show(events.StageProgress(stage="encoder", **progress))
    assert capsys.readouterr().out.splitlines() == [
        "encoder: started",
        "encoder: 1 of 961 steps",
        "encoder: 101 of 961 steps, about 14 min 20 s left",
        "encoder: 112 of 961 steps, epoch 1, about 0.0 s left",
    ]

"""The driver's side of a run's live page: what it writes, when, and what it leaves alone."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytest

from arspm import storage
from arspm.report.live_page import PAGE
from arspm.runs import live, stages
from cluster import events
from jobs import live as driving
from tests.report.live_run import LiveRun, until


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UPDATE_SECONDS", "FIRST_SECONDS"):
        monkeypatch.setattr(driving, name, 0.05)


def rows(run: LiveRun) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in run.state()["stages"]}


def test_every_event_is_shown(tmp_path: Path) -> None:
    run = LiveRun(tmp_path, planned=tuple(stages.STAGES)[:8])
    run.begin("preprocess", "vggface", "gender")
    run.finish("preprocess")
    say = run.page.on_event
    say(events.Reused(stage="features"))
    say(events.Retry(stage="vggface", error="error: vggface: lost", retry=1, max_retries=2, wait_seconds=5.0))
    say(events.Failed(stage="gender", error="error: gender: no labels", seconds=4.5, submission_id="gender-1"))
    say(events.Skipped(stage="prior", reason="needs gender, which failed: no labels"))
    say(events.Cancelled(stage="decoder", reason="was cancelled"))
    say(events.StageProgress(stage="encoder", current=30, total=20, unit="steps", message="m"))
    say(events.Warned(stage="oracle", text="waits for more nodes"))
    say(events.Warned(stage="submit", text="of no stage"))
    run.page.how = "failed: gender: no labels"
    run.page.start()
    run.page.close()
    found, done = rows(run), stages.success(run.uri, "preprocess")
    assert done is not None
    assert (found["preprocess"]["state"], found["preprocess"]["seconds"]) == ("done", done.seconds)
    assert {name: row["state"] for name, row in found.items()} == {
        **{"preprocess": "done", "vggface": "queued", "gender": "failed", "features": "reused", "prior": "skipped"},
        **{"decoder": "stopped", "encoder": "waiting", "oracle": "waiting", "evaluate": "left", "report": "left"},
    }
    assert found["vggface"]["text"] == "lost; retry 1 of 2"
    assert (found["gender"]["reason"], found["gender"]["seconds"]) == ("no labels", 4.5)
    assert found["prior"]["reason"] == "needs gender, which failed"
    assert found["encoder"]["fraction"] == 1.0
    assert found["oracle"]["text"] == "waits for more nodes"
    state = run.state()
    assert (state["state"], state["reason"]) == ("failed", "gender: no labels")
    assert state["corpus"]["num_dropped"] == 5
    assert [each["reason"] for each in state["corpus"]["dropped"]] == ["no_face"]
    assert state["corpus"]["dropped"][0]["about"]


def test_trainings_are_read_again_until_they_are_done(tmp_path: Path) -> None:
    run = LiveRun(tmp_path)
    run.page.start()
    run.begin("decoder")
    run.train("decoder", 0)
    until(lambda: Path(run.uri, live.FILE).exists() and len(run.state()["trainings"]) == 1, 10)
    assert "epoch 1 of 8, step 5 of 10" in run.state()["trainings"][0]["text"]
    run.train("decoder", 3)
    until(lambda: (run.state()["trainings"][0]["pictures"] or {}).get("epochs", [])[2:] != [], 10)
    [training] = run.state()["trainings"]
    assert training["text"] == "epoch 4 of 8, step 5 of 10; after epoch 3: loss 0.400"
    assert training["pictures"]["epochs"][2] == [3, "decoder/epochs/00003.jpg"]
    Path(run.uri, "decoder", live.FILE).write_text("{")  # not a training's: the next one may be
    run.finish("decoder")
    until(lambda: rows(run)["decoder"]["state"] == "done", 10)
    run.train("decoder", 3)
    until(lambda: [each["text"][:15] for each in run.state()["trainings"]] == ["kept epoch 2 of"], 10)
    run.page.close()


def test_a_finished_report_is_left_alone_until_the_next_one(tmp_path: Path) -> None:
    run = LiveRun(tmp_path)
    run.finish(*(stage for stage in stages.STAGES if stage != "report"))
    run.report()
    before = Path(run.uri, PAGE).stat()
    run.page.start()
    run.begin("encoder")
    until(lambda: Path(run.uri, live.FILE).exists() and rows(run)["encoder"]["state"] == "running", 10)
    run.page.close()
    assert Path(run.uri, PAGE).stat().st_mtime_ns == before.st_mtime_ns


def test_nothing_is_written_between_the_reports_submission_and_its_end(tmp_path: Path) -> None:
    """If it fails, the live page comes back, with the reason."""
    run = LiveRun(tmp_path)
    run.page.start()
    until(Path(run.uri, PAGE).exists, 10)
    run.begin("report")
    Path(run.uri, PAGE).unlink()
    begun = run.state()["updated"]
    until(lambda: run.state()["updated"] > begun + 0.3, 10)
    assert not Path(run.uri, PAGE).exists()
    run.page.on_event(events.Failed(stage="report", error="no space", seconds=1.0, submission_id="report-1"))
    run.page.how = "failed: report: no space"
    run.page.close()
    assert "no space" in Path(run.uri, PAGE).read_text()


def test_a_driver_that_has_lost_the_run_writes_nothing_more(tmp_path: Path) -> None:
    with driving.live_page(LiveRun(tmp_path).config, f"{tmp_path}/lost", stages.STAGES, ["report"], lambda: True):
        time.sleep(0.3)
    assert not Path(tmp_path, "lost").exists()
    with driving.live_page(LiveRun(tmp_path / "2").config, f"{tmp_path}/done", stages.STAGES, [], lambda: False):
        time.sleep(0.3)
    assert not Path(tmp_path, "done").exists(), "nothing is pending"


def test_storage_that_fails_is_logged_once_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, fail = LiveRun(tmp_path), OSError("disk full")

    def broken(uri: str, data: bytes) -> None:
        raise fail

    write = storage.write_bytes
    monkeypatch.setattr(storage, "write_bytes", broken)
    with caplog.at_level(logging.WARNING, driving.__name__):
        run.page.start()
        time.sleep(0.5)
    [record] = [record for record in caplog.records if record.name == driving.__name__]
    assert record.getMessage() == f"{run.uri}: the run's live page is not up to date: disk full"
    monkeypatch.setattr(storage, "write_bytes", write)
    until(Path(run.uri, PAGE).exists, 10)
    run.page.close()


def test_an_error_and_an_interruption_are_shown(tmp_path: Path) -> None:
    for number, (error, state, reason) in enumerate(
        [
            (ValueError("one\ntwo"), "failed", "one"),
            (KeyboardInterrupt(), "stopped", "The chain was stopped. Run the same command again to resume."),
        ]
    ):
        run = LiveRun(tmp_path / str(number))
        with (
            pytest.raises(type(error)),
            driving.live_page(run.config, run.uri, stages.STAGES, ["report"], lambda: False),
        ):
            raise error
        assert (run.state()["state"], run.state()["reason"]) == (state, reason)

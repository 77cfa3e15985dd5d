"""What the chain reads from jobs and their logs: errors, infrastructure failures, progress."""

from __future__ import annotations

from cluster import events
from cluster.job import error_line, is_infrastructure
from tests.cluster.scripted_cluster import ScriptedCluster, failed, run, stage


def test_log_lines_and_progress_become_events_and_rays_messages_do_not() -> None:
    cluster, seen = ScriptedCluster(), []
    cluster.logs["a"] = [
        "2026-01-01 00:00:00,000\tINFO job_manager.py:581 -- Runtime env is setting up.",
        "Running entrypoint for job t-a: run a",
        '@progress {"current": 3, "total": 10, "unit": "clips", "message": "faces", "eta": 7.5}',
        '\x1b[36m(Worker pid=12, ip=127.0.0.1)\x1b[0m @progress {"current": 4}',
        "@progress {broken",
        "plain",
    ]
    run(cluster, [stage("a")], seen=seen)
    assert [event.text for event in seen if isinstance(event, events.LogLine)] == ["@progress {broken", "plain"]
    first, second = [event for event in seen if isinstance(event, events.StageProgress)]
    assert (first.current, first.total, first.unit, first.message, first.eta_seconds) == (3, 10, "clips", "faces", 7.5)
    assert (second.current, second.total) == (4, None)


def test_an_error_line_is_preferred_to_the_last_line() -> None:
    assert error_line(["a", "error: b", "c", ""], "m") == "b"
    assert error_line(["a", "c ", ""], "m") == "c"
    assert error_line([], "first\nlast\n") == "last"
    assert error_line([], "") == "no reason was given"


def test_every_error_type_of_ray_but_the_programs_own_is_infrastructure() -> None:
    from ray.job_submission import JobErrorType

    program = JobErrorType.JOB_ENTRYPOINT_COMMAND_ERROR
    assert {kind for kind in JobErrorType if not is_infrastructure(failed(error_type=kind.value))} == {program}

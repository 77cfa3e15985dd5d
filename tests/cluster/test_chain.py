"""Running a chain: parallel stages, reuse, failures, retries, attaching and cancelling.

The jobs are scripted; `test_on_ray.py` runs chains on a real head.
"""

from __future__ import annotations

import pytest

from cluster import events
from cluster.errors import ClusterError, Unreachable
from cluster.job import Job, Resources
from tests.cluster.scripted_cluster import (
    BY_PROGRAM,
    DIAMOND,
    SUPERVISOR_DIED,
    ScriptedCluster,
    failed,
    run,
    stage,
    statuses,
)


def test_a_diamond_runs_in_order_and_its_middle_in_parallel() -> None:
    cluster, seen = ScriptedCluster(), []
    assert set(statuses(run(cluster, DIAMOND, seen=seen)).values()) == {"done"}
    assert cluster.submitted[0] == "t-top-01234567-1"
    assert cluster.submitted[3] == "t-bottom-01234567-1"
    assert cluster.most_in_parallel == 2
    kinds = [type(event).__name__ for event in seen if event.stage == "bottom"]
    assert kinds == ["Queued", "Started", "Finished"]


def test_a_finished_stage_is_reused_and_not_submitted() -> None:
    cluster, seen = ScriptedCluster(), []
    cluster.done["top"] = "manifest"
    outcomes = run(cluster, DIAMOND[:2], seen=seen)
    assert statuses(outcomes) == {"top": "reused", "left": "done"}
    assert outcomes["top"].done == "manifest"
    assert cluster.submitted == ["t-left-01234567-1"]
    assert isinstance(seen[0], events.Reused)


def test_a_stage_is_looked_up_only_when_everything_it_needs_is_done() -> None:
    cluster, lookups = ScriptedCluster(), []
    run(
        cluster,
        DIAMOND[:2],
        is_done=lambda s: lookups.append((s.name, "top" in cluster.done)) or cluster.done.get(s.name),
    )
    assert lookups.index(("left", True)) > lookups.index(("top", True))
    assert ("left", False) not in lookups


def test_a_failure_skips_its_dependents_and_other_branches_continue() -> None:
    cluster, seen = ScriptedCluster(left=[["RUNNING", BY_PROGRAM]]), []
    cluster.logs["left"] = ["starting", "error: no clip has a face", "  at line 3"]
    outcomes = run(cluster, [*DIAMOND, stage("last", "bottom")], seen=seen)
    assert statuses(outcomes) == {
        "top": "done", "left": "failed", "right": "done", "bottom": "skipped", "last": "skipped",
    }  # fmt: skip
    assert outcomes["left"].reason == "no clip has a face"
    assert outcomes["last"].reason == "needs left, which failed: no clip has a face"
    assert len([name for name in cluster.submitted if "left" in name]) == 1, "a program's own failure is not retried"
    assert [event.error for event in seen if isinstance(event, events.Failed)] == ["no clip has a face"]


@pytest.mark.parametrize(
    ("states", "complete", "status"),
    [(["SUCCEEDED"], False, "failed"), ([BY_PROGRAM], True, "done"), (["STOPPED"], False, "cancelled")],
)
def test_storage_and_not_the_jobs_status_decides_whether_a_stage_is_done(
    states: list, complete: bool, status: str
) -> None:
    cluster, lookups = ScriptedCluster(a=[states]), []
    outcomes = run(
        cluster, [stage("a")], is_done=lambda s: lookups.append(s) or (complete and len(lookups) > 1) or None
    )
    assert statuses(outcomes) == {"a": status}


def test_unreadable_storage_fails_the_stage() -> None:
    def is_done(s: Stage) -> str | None:
        if cluster.submitted:
            raise OSError("bucket gone")
        return None

    cluster = ScriptedCluster()
    outcomes = run(cluster, [stage("a"), stage("b", "a")], is_done=is_done)
    assert outcomes["a"].reason == "cannot tell whether it is done: bucket gone"
    assert outcomes["b"].status == "skipped"


@pytest.mark.parametrize(
    "end",
    [SUPERVISOR_DIED, failed(exit_code=137, error_type="JOB_ENTRYPOINT_COMMAND_ERROR"), failed(exit_code=75), "GONE"],
)
def test_infrastructure_failures_are_retried_under_another_id(end: Job | str) -> None:
    cluster, seen = ScriptedCluster(a=[["RUNNING", end], ["SUCCEEDED"]]), []
    assert statuses(run(cluster, [stage("a")], seen=seen)) == {"a": "done"}
    expected = "t-a-01234567-1" if end == "GONE" else "t-a-01234567-2"  # a new head has not seen the first id
    assert cluster.submitted == ["t-a-01234567-1", expected]
    assert [event.retry for event in seen if isinstance(event, events.Retry)] == [1]


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        (['@progress {"current": 3, "total": 4}', "step 3"], "Job entrypoint command failed with exit code 137"),
        (["error: s3://speech: the server does not answer", "bye"], "s3://speech: the server does not answer"),
    ],
)
def test_a_retry_reports_the_error_and_not_the_last_line(lines: list[str], error: str) -> None:
    message = f"Job entrypoint command failed with exit code 137, last available logs (truncated):\n{lines[-1]}\n"
    cluster, seen = ScriptedCluster(a=[["RUNNING", failed(exit_code=137, message=message)], ["SUCCEEDED"]]), []
    cluster.logs["a"] = lines
    run(cluster, [stage("a")], seen=seen)
    assert [event.error for event in seen if isinstance(event, events.Retry)] == [error]


def test_retries_are_limited_and_back_off() -> None:
    cluster, seen = ScriptedCluster(a=[[SUPERVISOR_DIED]]), []
    outcomes = run(cluster, [stage("a")], seen=seen, max_retries=2)
    assert outcomes["a"].reason == "Job supervisor actor died: node lost (after 2 retries)"
    assert len(cluster.submitted) == 3
    first, second = [event.wait_seconds for event in seen if isinstance(event, events.Retry)]
    assert second == 2 * first


def test_a_retry_waits_before_it_submits_again() -> None:
    cluster, seen = ScriptedCluster(a=[["RUNNING", SUPERVISOR_DIED], ["SUCCEEDED"]]), []
    run(cluster, [stage("a")], seen=seen, backoff_seconds=0.2)
    [again] = [event.time for event in seen if isinstance(event, events.Retry)]
    assert [event.time for event in seen if isinstance(event, events.Started)][1] - again >= 0.2


def test_a_cluster_that_is_briefly_unreachable_is_waited_for() -> None:
    cluster = ScriptedCluster(a=[["RUNNING", Unreachable("no answer"), Unreachable("no answer"), "SUCCEEDED"]])
    assert statuses(run(cluster, [stage("a")])) == {"a": "done"}
    assert len(cluster.submitted) == 1


def test_a_cluster_that_stays_unreachable_fails_the_stage() -> None:
    cluster = ScriptedCluster(a=[[Unreachable("no answer")] * 1000])
    outcomes = run(cluster, [stage("a")], unreachable_seconds=0.01, max_retries=0)
    assert outcomes["a"].reason == "no answer (after 0 retries)"


def test_a_submission_without_an_answer_is_retried_under_the_same_id() -> None:
    cluster = ScriptedCluster()
    cluster.submit_errors = [Unreachable("no answer")]
    assert statuses(run(cluster, [stage("a")])) == {"a": "done"}
    assert cluster.submitted == ["t-a-01234567-1"]


def test_a_refused_submission_is_not_retried() -> None:
    cluster = ScriptedCluster()
    cluster.submit_errors = [ClusterError("wrong token")]
    assert run(cluster, [stage("a")])["a"].reason == "wrong token"
    assert cluster.submitted == []


def test_a_live_job_is_attached_to_and_a_dead_ones_id_is_not_reused() -> None:
    cluster, seen = ScriptedCluster(), []
    cluster.jobs["t-a-01234567-1"] = Job("t-a-01234567-1", "STOPPED")
    cluster.jobs["t-a-01234567-2"] = Job("t-a-01234567-2", "RUNNING")
    cluster.steps["t-a-01234567-2"] = ["RUNNING", "RUNNING", "SUCCEEDED"]
    cluster.stages["t-a-01234567-2"] = "a"
    assert run(cluster, [stage("a")], seen=seen)["a"].submission_id == "t-a-01234567-2"
    assert cluster.submitted == []
    assert [event.attached for event in seen if isinstance(event, events.Started)] == [True]


def test_a_conflict_prevents_submission_but_not_attaching_to_a_live_job() -> None:
    cluster = ScriptedCluster()
    cluster.jobs["t-a-01234567-1"] = Job("t-a-01234567-1", "RUNNING")
    cluster.steps["t-a-01234567-1"], cluster.stages["t-a-01234567-1"] = ["RUNNING", "SUCCEEDED"], "a"
    outcomes = run(cluster, [stage("a"), stage("b", "a")], conflict=lambda: "c is at work")
    assert statuses(outcomes) == {"a": "done", "b": "failed"}
    assert outcomes["b"].reason == "c is at work"
    assert cluster.submitted == []


SIX = [stage(name, cpus=2, gpus=1) for name in "abcdef"]


@pytest.mark.parametrize(
    ("grows", "limit", "in_parallel"), [(True, None, 6), (True, 4, 4), (False, None, 1), (False, 4, 1)]
)
def test_stages_wait_in_ray_for_nodes_where_nodes_are_added(grows: bool, limit: int | None, in_parallel: int) -> None:
    cluster, seen = ScriptedCluster(), []
    capacity = Resources(num_cpus=2, num_gpus=1, grows=grows)
    outcomes = run(cluster, SIX, seen=seen, capacity=lambda: capacity, max_concurrent=limit)
    assert set(statuses(outcomes).values()) == {"done"}
    assert cluster.most_in_parallel == in_parallel
    warned = [event.text for event in seen if isinstance(event, events.Warned)]
    assert all(text.endswith("of a cluster with 1; waits for more nodes") for text in warned)
    assert bool(warned) is grows


@pytest.mark.parametrize("limit", [1, 2, 9])
def test_a_limit_holds_where_all_stages_fit(limit: int) -> None:
    cluster = ScriptedCluster()
    run(cluster, SIX, capacity=lambda: Resources(num_cpus=99, num_gpus=99), max_concurrent=limit)
    assert cluster.most_in_parallel == min(limit, 6)


def test_stages_wait_until_the_head_has_memory_for_their_drivers() -> None:
    cluster, seen = ScriptedCluster(), []

    def capacity() -> Resources:
        active = sum(job.active for job in cluster.jobs.values())
        return Resources(num_cpus=99, num_gpus=99, free_drivers=2 - active)

    outcomes = run(cluster, SIX, seen=seen, capacity=capacity)
    assert set(statuses(outcomes).values()) == {"done"}
    assert cluster.most_in_parallel == 2
    assert next(event.text for event in seen if isinstance(event, events.Warned)).startswith("waits: the drivers of")


def test_a_full_head_does_not_keep_a_chain_from_its_live_job() -> None:
    cluster = ScriptedCluster()
    cluster.jobs["t-a-01234567-1"] = Job("t-a-01234567-1", "RUNNING")
    cluster.steps["t-a-01234567-1"], cluster.stages["t-a-01234567-1"] = ["RUNNING", "SUCCEEDED"], "a"
    outcomes = run(cluster, [stage("a")], capacity=lambda: Resources(free_drivers=0))
    assert statuses(outcomes) == {"a": "done"}


def test_ctrl_c_stops_running_stages_and_cancels_the_others() -> None:
    cluster, seen = ScriptedCluster(left=[["RUNNING", "RUNNING", KeyboardInterrupt()]], right=[["RUNNING"] * 100]), []
    outcomes = run(cluster, DIAMOND, seen=seen)
    assert statuses(outcomes) == {"top": "done", "left": "cancelled", "right": "cancelled", "bottom": "cancelled"}
    assert cluster.stopped == ["t-left-01234567-1", "t-right-01234567-1"]
    assert len([event for event in seen if isinstance(event, events.Cancelled)]) == 3


def test_a_chain_that_is_told_to_stop_stops_its_stages() -> None:
    cluster = ScriptedCluster(left=[["RUNNING"] * 99], right=[["RUNNING"] * 99])
    outcomes = run(cluster, DIAMOND, stop=lambda: len(cluster.submitted) == 3)
    assert statuses(outcomes) == {"top": "done", "left": "cancelled", "right": "cancelled", "bottom": "cancelled"}
    assert len(cluster.stopped) == 2


def test_a_stage_that_finishes_while_being_cancelled_is_done() -> None:
    class Stubborn(ScriptedCluster):
        def stop(self, submission_id: str) -> None:
            self.steps[submission_id] = ["RUNNING", "SUCCEEDED"]

    cluster = Stubborn(a=[["RUNNING", KeyboardInterrupt()]])
    assert statuses(run(cluster, [stage("a"), stage("b", "a")])) == {"a": "done", "b": "cancelled"}


def test_a_head_that_restarts_between_two_stages_is_waited_for():
    answers = [Unreachable("gone"), Unreachable("gone"), Resources(num_cpus=2)]
    outcomes = run(ScriptedCluster(), DIAMOND, capacity=lambda: _next(answers))
    assert set(statuses(outcomes).values()) == {"done"}
    with pytest.raises(Unreachable, match="gone"):
        run(ScriptedCluster(), DIAMOND, capacity=lambda: _next([Unreachable("gone")]), unreachable_seconds=0.01)


def _next(answers: list[Resources | Exception]) -> Resources:
    """Return or raise the next of these answers; the last one is repeated."""
    answer = answers.pop(0) if len(answers) > 1 else answers[0]
    if isinstance(answer, Exception):
        raise answer
    return answer

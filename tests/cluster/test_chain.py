"""What the chain promises, against a runner whose jobs are scripted; `test_on_ray.py` does the same on a real head."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from cluster import events
from cluster.chain import Outcome, Stage, check, run_chain
from cluster.errors import ClusterError, Unreachable
from cluster.job import Job, Resources, error_line, is_infrastructure


def stage(name: str, *needs: str, cpus: float = 0, gpus: float = 0) -> Stage:
    return Stage(name, needs, f"run {name}", num_cpus=cpus, num_gpus=gpus)


DIAMOND = [stage("top"), stage("left", "top"), stage("right", "top"), stage("bottom", "left", "right")]


class Cluster:
    """Runs jobs by script: each poll of `info` moves a job on by one of the states its stage lists."""

    def __init__(self, **scripts: list[list[Job | str | Exception]]) -> None:
        self.scripts = scripts  # by stage, one list of states per job
        self.jobs: dict[str, Job] = {}
        self.stages: dict[str, str] = {}
        self.steps: dict[str, list] = {}
        self.submitted: list[str] = []
        self.stopped: list[str] = []
        self.done: dict[str, str] = {}
        self.logs: dict[str, list[str]] = {}
        self.most_side_by_side = 0
        self.refuse: list[Exception] = []

    def submit(self, submission_id: str, *, stage: str, entrypoint: str) -> None:
        if self.refuse:
            raise self.refuse.pop(0)
        assert entrypoint == f"run {stage}"
        script = self.scripts.get(stage) or [["RUNNING", "RUNNING", "SUCCEEDED"]]
        self.steps[submission_id] = list(script.pop(0) if len(script) > 1 else script[0])
        self.submitted.append(submission_id)
        self.stages[submission_id] = stage
        self.jobs[submission_id] = Job(submission_id, "PENDING")
        self.most_side_by_side = max(self.most_side_by_side, sum(job.active for job in self.jobs.values()))

    def info(self, submission_id: str) -> Job | None:
        steps = self.steps.get(submission_id)
        if steps:
            step = steps.pop(0)
            if isinstance(step, Exception):
                raise step
            if isinstance(step, BaseException):
                raise step
            if step == "GONE":
                del self.jobs[submission_id]
            else:
                job = Job(submission_id, step) if isinstance(step, str) else step
                self.jobs[submission_id] = job
                if job.status == "SUCCEEDED":
                    self.done[self.stages[submission_id]] = "yes"
        return self.jobs.get(submission_id)

    def new_lines(self, submission_id: str, *, last: bool = False) -> list[str]:
        return self.logs.pop(self.stages.get(submission_id, ""), [])

    def stop(self, submission_id: str) -> None:
        self.stopped.append(submission_id)
        self.steps[submission_id] = ["STOPPED"]


def run(
    cluster: Cluster,
    stages: Iterable[Stage],
    *,
    seen: list[events.Event] | None = None,
    num_cpus: float = 2,
    **options,
) -> dict[str, Outcome]:
    seen = [] if seen is None else seen
    defaults = {
        "backoff_seconds": 0.001,
        "is_done": lambda s: cluster.done.get(s.name),
        "fingerprint": lambda s: "0123456789abcdef",
    }
    return run_chain(
        list(stages),
        runner=cluster,
        prefix="t",
        on_event=seen.append,
        poll_seconds=0.001,
        **{"capacity": lambda: Resources(num_cpus=num_cpus), **defaults, **options},
    )


def statuses(outcomes: dict[str, Outcome]) -> dict[str, str]:
    return {name: outcome.status for name, outcome in outcomes.items()}


def failed(submission_id: str = "x", **how) -> Job:
    return Job(submission_id, "FAILED", **how)


BY_PROGRAM = failed(error_type="JOB_ENTRYPOINT_COMMAND_ERROR", exit_code=1, message="Job failed")
SUPERVISOR_DIED = failed(error_type="JOB_SUPERVISOR_ACTOR_DIED", message="Job supervisor actor died: node lost")


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (
            [stage("a", "b"), stage("b", "c"), stage("c", "a")],
            r"in a circle: (a -> b -> c -> a|b -> c -> a -> b|c -> a -> b -> c)",
        ),
        ([stage("a", "a")], "in a circle: a -> a"),
        ([stage("a", "b")], "stage 'a' needs 'b', which is no stage"),
        ([stage("a"), stage("a")], "two stages are called 'a'"),
        ([stage("a/b")], "stage name 'a/b'"),
    ],
)
def test_nonsense_is_refused_before_anything_is_submitted(stages: list[Stage], message: str) -> None:
    cluster = Cluster()
    with pytest.raises(ValueError, match=message):
        run(cluster, stages)
    assert cluster.submitted == []


def test_an_unknown_until_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no stage 'botom'; the stages are top, "):
        run(Cluster(), DIAMOND, until="botom")


def test_order_respects_needs_however_the_stages_are_listed() -> None:
    assert check(DIAMOND[::-1])[0] == "top"
    assert check(DIAMOND[::-1])[-1] == "bottom"


def test_a_diamond_runs_in_order_and_its_middle_side_by_side() -> None:
    cluster, seen = Cluster(), []
    assert set(statuses(run(cluster, DIAMOND, seen=seen)).values()) == {"done"}
    assert cluster.submitted[0] == "t-top-01234567-1"
    assert cluster.submitted[3] == "t-bottom-01234567-1"
    assert cluster.most_side_by_side == 2
    kinds = [type(event).__name__ for event in seen if event.stage == "bottom"]
    assert kinds == ["Queued", "Started", "Finished"]


def test_until_runs_only_what_it_needs() -> None:
    cluster = Cluster()
    assert list(run(cluster, DIAMOND, until="left")) == ["top", "left"]
    assert len(cluster.submitted) == 2


def test_a_finished_stage_is_reused_and_not_submitted() -> None:
    cluster, seen = Cluster(), []
    cluster.done["top"] = "manifest"
    outcomes = run(cluster, DIAMOND[:2], seen=seen)
    assert statuses(outcomes) == {"top": "reused", "left": "done"}
    assert outcomes["top"].done == "manifest"
    assert cluster.submitted == ["t-left-01234567-1"]
    assert isinstance(seen[0], events.Reused)


def test_whether_a_stage_is_done_is_asked_only_after_what_it_needs() -> None:
    cluster, asked = Cluster(), []
    run(
        cluster,
        DIAMOND[:2],
        is_done=lambda s: asked.append((s.name, "top" in cluster.done)) or cluster.done.get(s.name),
    )
    assert asked.index(("left", True)) > asked.index(("top", True))
    assert ("left", False) not in asked


def test_the_next_stages_fit_the_cluster_or_wait() -> None:
    stages = [stage("a", cpus=1.5), stage("b", cpus=1), stage("c", cpus=0.5)]
    cluster = Cluster()
    run(cluster, stages)
    assert cluster.most_side_by_side == 2
    assert [name.split("-")[1] for name in cluster.submitted] == ["a", "c", "b"]


def test_a_stage_larger_than_the_cluster_runs_alone_with_a_warning() -> None:
    cluster, seen = Cluster(), []
    outcomes = run(cluster, [stage("big", cpus=64, gpus=1), stage("small", cpus=1)], seen=seen)
    assert set(statuses(outcomes).values()) == {"done"}
    assert cluster.most_side_by_side == 1
    [warning] = [event for event in seen if isinstance(event, events.Warned)]
    assert warning.text == "asks for 64 CPUs of a cluster with 2 and 1 GPUs of a cluster with 0; submitted all the same"


def test_a_failure_skips_its_dependents_and_other_branches_go_on() -> None:
    cluster, seen = Cluster(left=[["RUNNING", BY_PROGRAM]]), []
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
def test_storage_decides_not_the_status_of_the_job(states: list, complete: bool, status: str) -> None:
    cluster, asked = Cluster(a=[states]), []
    outcomes = run(cluster, [stage("a")], is_done=lambda s: asked.append(s) or (complete and len(asked) > 1) or None)
    assert statuses(outcomes) == {"a": status}


def test_storage_that_cannot_be_read_fails_the_stage() -> None:
    def is_done(s: Stage) -> str | None:
        if cluster.submitted:
            raise OSError("bucket gone")
        return None

    cluster = Cluster()
    outcomes = run(cluster, [stage("a"), stage("b", "a")], is_done=is_done)
    assert outcomes["a"].reason == "cannot tell whether it is done: bucket gone"
    assert outcomes["b"].status == "skipped"


@pytest.mark.parametrize(
    "end",
    [SUPERVISOR_DIED, failed(exit_code=137, error_type="JOB_ENTRYPOINT_COMMAND_ERROR"), failed(exit_code=75), "GONE"],
)
def test_the_clusters_own_failures_are_tried_again_under_another_id(end: Job | str) -> None:
    cluster, seen = Cluster(a=[["RUNNING", end], ["SUCCEEDED"]]), []
    assert statuses(run(cluster, [stage("a")], seen=seen)) == {"a": "done"}
    expected = "t-a-01234567-1" if end == "GONE" else "t-a-01234567-2"  # a new head has not seen the first id
    assert cluster.submitted == ["t-a-01234567-1", expected]
    assert [event.retry for event in seen if isinstance(event, events.Retry)] == [1]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (['@progress {"current": 3, "total": 4}', "step 3"], "Job entrypoint command failed with exit code 137"),
        (["error: s3://speech: the server does not answer", "bye"], "s3://speech: the server does not answer"),
    ],
)
def test_why_it_is_tried_again_is_told_and_not_what_was_said_last(said: list[str], told: str) -> None:
    message = f"Job entrypoint command failed with exit code 137, last available logs (truncated):\n{said[-1]}\n"
    cluster, seen = Cluster(a=[["RUNNING", failed(exit_code=137, message=message)], ["SUCCEEDED"]]), []
    cluster.logs["a"] = said
    run(cluster, [stage("a")], seen=seen)
    assert [event.error for event in seen if isinstance(event, events.Retry)] == [told]


def test_retries_are_counted_and_wait_longer_each_time() -> None:
    cluster, seen = Cluster(a=[[SUPERVISOR_DIED]]), []
    outcomes = run(cluster, [stage("a")], seen=seen, max_retries=2)
    assert outcomes["a"].reason == "Job supervisor actor died: node lost (after 2 retries)"
    assert len(cluster.submitted) == 3
    first, second = [event.wait_seconds for event in seen if isinstance(event, events.Retry)]
    assert second == 2 * first


def test_a_retry_waits_before_it_submits_again() -> None:
    cluster, seen = Cluster(a=[["RUNNING", SUPERVISOR_DIED], ["SUCCEEDED"]]), []
    run(cluster, [stage("a")], seen=seen, backoff_seconds=0.2)
    [again] = [event.time for event in seen if isinstance(event, events.Retry)]
    assert [event.time for event in seen if isinstance(event, events.Started)][1] - again >= 0.2


def test_a_cluster_that_is_briefly_silent_is_waited_for() -> None:
    cluster = Cluster(a=[["RUNNING", Unreachable("no answer"), Unreachable("no answer"), "SUCCEEDED"]])
    assert statuses(run(cluster, [stage("a")])) == {"a": "done"}
    assert len(cluster.submitted) == 1


def test_a_cluster_that_stays_silent_fails_the_stage() -> None:
    cluster = Cluster(a=[[Unreachable("no answer")] * 1000])
    outcomes = run(cluster, [stage("a")], unreachable_seconds=0.01, max_retries=0)
    assert outcomes["a"].reason == "no answer (after 0 retries)"


def test_a_submission_that_got_no_answer_is_tried_again_under_the_same_id() -> None:
    cluster = Cluster()
    cluster.refuse = [Unreachable("no answer")]
    assert statuses(run(cluster, [stage("a")])) == {"a": "done"}
    assert cluster.submitted == ["t-a-01234567-1"]


def test_a_submission_that_was_refused_is_not_tried_again() -> None:
    cluster = Cluster()
    cluster.refuse = [ClusterError("wrong token")]
    assert run(cluster, [stage("a")])["a"].reason == "wrong token"
    assert cluster.submitted == []


def test_a_live_job_is_joined_and_a_dead_ones_id_is_not_used_again() -> None:
    cluster, seen = Cluster(), []
    cluster.jobs["t-a-01234567-1"] = Job("t-a-01234567-1", "STOPPED")
    cluster.jobs["t-a-01234567-2"] = Job("t-a-01234567-2", "RUNNING")
    cluster.steps["t-a-01234567-2"] = ["RUNNING", "RUNNING", "SUCCEEDED"]
    cluster.stages["t-a-01234567-2"] = "a"
    assert run(cluster, [stage("a")], seen=seen)["a"].submission_id == "t-a-01234567-2"
    assert cluster.submitted == []
    assert [event.attached for event in seen if isinstance(event, events.Started)] == [True]


def test_nothing_is_submitted_where_something_is_in_the_way_but_a_live_job_is_joined() -> None:
    cluster = Cluster()
    cluster.jobs["t-a-01234567-1"] = Job("t-a-01234567-1", "RUNNING")
    cluster.steps["t-a-01234567-1"], cluster.stages["t-a-01234567-1"] = ["RUNNING", "SUCCEEDED"], "a"
    outcomes = run(cluster, [stage("a"), stage("b", "a")], in_the_way=lambda: "c is at work")
    assert statuses(outcomes) == {"a": "done", "b": "failed"}
    assert outcomes["b"].reason == "c is at work"
    assert cluster.submitted == []


def test_ctrl_c_stops_what_runs_and_cancels_the_rest() -> None:
    cluster, seen = Cluster(left=[["RUNNING", "RUNNING", KeyboardInterrupt()]], right=[["RUNNING"] * 100]), []
    outcomes = run(cluster, DIAMOND, seen=seen)
    assert statuses(outcomes) == {"top": "done", "left": "cancelled", "right": "cancelled", "bottom": "cancelled"}
    assert cluster.stopped == ["t-left-01234567-1", "t-right-01234567-1"]
    assert len([event for event in seen if isinstance(event, events.Cancelled)]) == 3


def test_what_finished_while_being_cancelled_is_done() -> None:
    class Stubborn(Cluster):
        def stop(self, submission_id: str) -> None:
            self.steps[submission_id] = ["RUNNING", "SUCCEEDED"]

    cluster = Stubborn(a=[["RUNNING", KeyboardInterrupt()]])
    assert statuses(run(cluster, [stage("a"), stage("b", "a")])) == {"a": "done", "b": "cancelled"}


def test_log_lines_and_progress_become_events_and_rays_chatter_does_not() -> None:
    cluster, seen = Cluster(), []
    cluster.logs["a"] = [
        "2026-01-01 00:00:00,000\tINFO job_manager.py:581 -- Runtime env is setting up.",
        "Running entrypoint for job t-a: run a",
        '@progress {"current": 3, "total": 10, "unit": "clips", "message": "faces", "eta": 7.5}',
        '\x1b[36m(Worker pid=12, ip=127.0.0.1)\x1b[0m @progress {"current": 4}',
        "@progress {broken",
        "plain",
    ]
    run(cluster, [stage("a")], seen=seen)
    assert [event.text for event in seen if isinstance(event, events.Line)] == ["@progress {broken", "plain"]
    first, second = [event for event in seen if isinstance(event, events.Progress)]
    assert (first.current, first.total, first.unit, first.message, first.eta_seconds) == (3, 10, "clips", "faces", 7.5)
    assert (second.current, second.total) == (4, None)


def test_error_line() -> None:
    assert error_line(["a", "error: b", "c", ""], "m") == "b"
    assert error_line(["a", "c ", ""], "m") == "c"
    assert error_line([], "first\nlast\n") == "last"
    assert error_line([], "") == "no reason was given"


def test_rays_error_types_are_all_known() -> None:
    from ray.job_submission import JobErrorType

    program = JobErrorType.JOB_ENTRYPOINT_COMMAND_ERROR
    assert {kind for kind in JobErrorType if not is_infrastructure(failed(error_type=kind.value))} == {program}


def test_a_head_that_starts_again_between_two_stages_is_waited_for():
    answers = [Unreachable("gone"), Unreachable("gone"), Resources(num_cpus=2)]
    outcomes = run(Cluster(), DIAMOND, capacity=lambda: _next(answers))
    assert set(statuses(outcomes).values()) == {"done"}
    with pytest.raises(Unreachable, match="gone"):
        run(Cluster(), DIAMOND, capacity=lambda: _next([Unreachable("gone")]), unreachable_seconds=0.01)


def _next(answers: list[Resources | Exception]) -> Resources:
    """The next of these answers, the last again and again."""
    answer = answers.pop(0) if len(answers) > 1 else answers[0]
    if isinstance(answer, Exception):
        raise answer
    return answer

"""A stand-in for a Ray cluster whose jobs follow a script, and short ways to run a chain on it."""

from __future__ import annotations

from collections.abc import Iterable

from cluster import events
from cluster.chain import Outcome, run_chain
from cluster.graph import Stage
from cluster.job import Job, Resources


def stage(name: str, *needs: str, cpus: float = 0, gpus: float = 0) -> Stage:
    return Stage(name, needs, f"run {name}", num_cpus=cpus, num_gpus=gpus)


DIAMOND = [stage("top"), stage("left", "top"), stage("right", "top"), stage("bottom", "left", "right")]


class ScriptedCluster:
    """A `JobRunner` with scripted jobs: each call of `info` takes the next of the states listed for the stage."""

    def __init__(self, **scripts: list[list[Job | str | BaseException]]) -> None:
        self.scripts = scripts  # stage -> one list of states per job; a state is a status, a Job or an error to raise
        self.jobs: dict[str, Job] = {}
        self.stages: dict[str, str] = {}
        self.steps: dict[str, list] = {}
        self.submitted: list[str] = []
        self.stopped: list[str] = []
        self.done: dict[str, str] = {}
        self.logs: dict[str, list[str]] = {}
        self.most_in_parallel = 0
        self.submit_errors: list[Exception] = []

    def submit(self, submission_id: str, *, stage: str, entrypoint: str) -> None:
        if self.submit_errors:
            raise self.submit_errors.pop(0)
        assert entrypoint == f"run {stage}"
        script = self.scripts.get(stage) or [["RUNNING", "RUNNING", "SUCCEEDED"]]
        self.steps[submission_id] = list(script.pop(0) if len(script) > 1 else script[0])
        self.submitted.append(submission_id)
        self.stages[submission_id] = stage
        self.jobs[submission_id] = Job(submission_id, "PENDING")
        self.most_in_parallel = max(self.most_in_parallel, sum(job.active for job in self.jobs.values()))

    def info(self, submission_id: str) -> Job | None:
        steps = self.steps.get(submission_id)
        if steps:
            step = steps.pop(0)
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
    cluster: ScriptedCluster,
    stages: Iterable[Stage],
    *,
    seen: list[events.Event] | None = None,
    num_cpus: float = 2,
    **options,
) -> dict[str, Outcome]:
    """Run a chain on the cluster without delays. Its events are appended to `seen`."""
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


def failed(**fields) -> Job:
    return Job("x", "FAILED", **fields)


BY_PROGRAM = failed(error_type="JOB_ENTRYPOINT_COMMAND_ERROR", exit_code=1, message="Job failed")
SUPERVISOR_DIED = failed(error_type="JOB_SUPERVISOR_ACTOR_DIED", message="Job supervisor actor died: node lost")

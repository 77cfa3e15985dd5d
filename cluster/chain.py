"""The chain: runs stages as Ray jobs, each after the stages it needs.

Ray jobs have no dependencies, queue or retries; this module adds them. It reaches the cluster through a `JobRunner`
(`cluster.client.RayJobs`) and storage through the caller's `is_done`. A job's status alone never decides whether a
stage is done.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cluster import events
from cluster.errors import ClusterError, Unreachable
from cluster.graph import Stage, missing_resources, select_stages
from cluster.job import Job, JobRunner, Resources, error_line, is_infrastructure, is_ray_message

__all__ = ["Outcome", "Stage", "job_id_prefix", "run_chain"]


@dataclass(frozen=True)
class Outcome:
    """How a stage ended. `done`: what `is_done` returned. `reason`: one line, for a stage that is not done."""

    stage: str
    status: Literal["done", "reused", "failed", "skipped", "cancelled"]
    seconds: float = 0.0
    submission_id: str = ""
    reason: str = ""
    done: Any = None

    @property
    def ok(self) -> bool:
        return self.status in ("done", "reused")


def job_id_prefix(prefix: str, stage: str, fingerprint: str) -> str:
    """Return the start of the ids of a stage's jobs; the attempt's number follows it."""
    return f"{prefix}-{stage}-{fingerprint[:8]}-"


def run_chain(
    stages: Sequence[Stage],
    *,
    runner: JobRunner,
    is_done: Callable[[Stage], Any],
    fingerprint: Callable[[Stage], str],
    prefix: str,
    capacity: Callable[[], Resources],
    conflict: Callable[[], str] = lambda: "",
    stop: Callable[[], bool] = lambda: False,
    on_event: Callable[[events.Event], None] = lambda event: None,
    until: str | None = None,
    max_concurrent: int | None = None,
    max_retries: int = 2,
    poll_seconds: float = 0.5,
    backoff_seconds: float = 5.0,
    unreachable_seconds: float = 60.0,
    stop_seconds: float = 60.0,
) -> dict[str, Outcome]:
    """Run the stages (or only `until` and those it depends on) and return how each ended.

    is_done: looks in storage and returns the stage's result, or None if it is not done. A stage with a result is reused
        or finished, whatever its job's status. It and `fingerprint` are called only when everything the stage needs is
        done.
    prefix: a job's id is `<prefix>-<stage>-<first 8 characters of the fingerprint>-<attempt>`. If a job with this id
        is live, the chain attaches to it and submits nothing.
    capacity: returns the cluster's resources. A stage waits until it fits beside the running ones, and one that exceeds
        them runs alone. On a cluster that grows, stages are submitted at once and wait in Ray for nodes.
    max_concurrent: limit of stages that run at the same time (default: none).
    conflict: returns the reason why this run is locked, or an empty text. It is called before each submission; a
        reason fails the stage.

    stop: True ends the chain as Ctrl-C does.

    Infrastructure failures are retried up to `max_retries` times, with `backoff_seconds` doubling each time. Ctrl-C
    stops the running jobs, waits up to `stop_seconds` for them and returns; unfinished stages are marked cancelled.

    Raises ValueError for invalid stages or an unknown `until`, before anything is submitted.
    """
    order = select_stages(stages, until)
    chain = _Chain(
        order,
        runner,
        is_done,
        fingerprint,
        prefix,
        capacity,
        conflict,
        on_event,
        max_concurrent,
        max_retries,
        backoff_seconds,
        unreachable_seconds,
    )
    try:
        while chain.waiting or chain.running:
            ended = len(chain.outcomes)
            if stop():
                chain.cancel(stop_seconds, poll_seconds)
                break
            chain.settle()
            chain.admit()
            chain.poll()
            if len(chain.outcomes) == ended:
                time.sleep(poll_seconds)
    except KeyboardInterrupt:
        chain.cancel(stop_seconds, poll_seconds)
    return {stage.name: chain.outcomes[stage.name] for stage in order}


@dataclass
class _Waiting:
    stage: Stage
    queued: bool = False  # everything the stage needs is done, and the stage itself is not
    warned: bool = False  # that it requests more than the cluster has
    not_before: float = 0.0
    retries: int = 0
    started_at: float | None = None  # of its first job

    def seconds(self) -> float:
        return 0.0 if self.started_at is None else time.time() - self.started_at


@dataclass
class _Running:
    waiting: _Waiting  # the stage's state before, which a retry restores
    submission_id: str
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=50))
    unreachable_since: float | None = None


@dataclass
class _Chain:
    """The state of one `run_chain`: every stage is in one of `waiting`, `running` and `outcomes`."""

    order: list[Stage]
    runner: JobRunner
    is_done: Callable[[Stage], Any]
    fingerprint: Callable[[Stage], str]
    prefix: str
    capacity: Callable[[], Resources]
    conflict: Callable[[], str]
    on_event: Callable[[events.Event], None]
    max_concurrent: int | None
    max_retries: int
    backoff_seconds: float
    unreachable_seconds: float
    waiting: dict[str, _Waiting] = field(init=False)
    running: dict[str, _Running] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    unreachable_since: float | None = None
    free_drivers: int = 0  # as of the latest look at the cluster
    head_is_full: bool = False

    def __post_init__(self) -> None:
        self.waiting = {stage.name: _Waiting(stage) for stage in self.order}

    def settle(self) -> None:
        """Skip stages that can no longer run. Reuse or queue those whose needs are all done."""
        for name, wait in list(self.waiting.items()):
            needs = [self.outcomes[need] for need in wait.stage.needs if need in self.outcomes]
            bad = next((need for need in needs if not need.ok), None)
            if bad is not None:
                ending = f"failed: {bad.reason}" if bad.status == "failed" else "was cancelled"
                reason = bad.reason if bad.status == "skipped" else f"needs {bad.stage}, which {ending}"
                self._end(Outcome(name, "skipped", reason=reason), events.Skipped(stage=name, reason=reason))
            elif not wait.queued and len(needs) == len(wait.stage.needs):
                if (done := self.is_done(wait.stage)) is not None:
                    self._end(Outcome(name, "reused", done=done), events.Reused(stage=name))
                else:
                    wait.queued = True
                    self.on_event(events.Queued(stage=name))

    def admit(self) -> None:
        """Submit the queued stages, in order, that fit beside the running ones."""
        ready = [wait for wait in self.waiting.values() if wait.queued and wait.not_before <= time.time()]
        if self.max_concurrent is not None:
            ready = ready[: max(0, self.max_concurrent - len(self.running))]
        try:
            total = self.capacity() if ready else Resources()
        except Unreachable:  # the head may be restarting
            self.unreachable_since = self.unreachable_since or time.time()
            if time.time() - self.unreachable_since > self.unreachable_seconds:
                raise
            return
        self.unreachable_since = None
        self.free_drivers = len(ready) if total.free_drivers is None else total.free_drivers
        self.head_is_full = self.head_is_full and self.free_drivers <= 0
        for wait in ready:
            missing = missing_resources(wait.stage, [run.waiting.stage for run in self.running.values()], total)
            if missing and self.running and not total.grows:
                continue
            if missing and not wait.warned:
                text = f"requests {missing}; " + ("waits for more nodes" if total.grows else "submitted anyway")
                self.on_event(events.Warned(stage=wait.stage.name, text=text))
                wait.warned = True
            self._start(wait)

    def _start(self, wait: _Waiting) -> None:
        """Attach to the live job of this stage and fingerprint, or submit one under the next unused id."""
        name = wait.stage.name
        id_prefix = job_id_prefix(self.prefix, name, self.fingerprint(wait.stage))
        attempt = 1
        try:
            while (job := self.runner.info(f"{id_prefix}{attempt}")) is not None and not job.active:
                attempt += 1
            if job is None and (reason := self.conflict()):
                return self._fail(wait, reason, "")
            if job is None and self.free_drivers <= 0:
                return self._wait_for_driver(wait)
            wait.started_at = wait.started_at or time.time()
            # Listed as running before it is submitted: a Ctrl-C in between then still stops the job.
            run = self.running[name] = _Running(wait, f"{id_prefix}{attempt}")
            del self.waiting[name]
            if job is None:
                self.runner.submit(run.submission_id, stage=name, entrypoint=wait.stage.entrypoint)
                self.free_drivers -= 1
        except Unreachable as error:
            return self._retry(wait, str(error), f"{id_prefix}{attempt}")
        except ClusterError as error:
            return self._fail(wait, str(error), f"{id_prefix}{attempt}")
        self.on_event(events.Started(stage=name, submission_id=run.submission_id, attached=job is not None))

    def _wait_for_driver(self, wait: _Waiting) -> None:
        if not self.head_is_full:
            text = "waits: the drivers of other jobs fill the head's memory (docs/cluster.md, Size of the head)"
            self.on_event(events.Warned(stage=wait.stage.name, text=text))
        self.head_is_full = True

    def poll(self) -> None:
        """Report new log lines, and settle the stages whose jobs have ended."""
        for run in list(self.running.values()):
            try:
                self._forward(run)
                job = self.runner.info(run.submission_id)
                if job is not None and not job.active:
                    self._forward(run, last=True)
                run.unreachable_since = None
            except Unreachable as error:
                run.unreachable_since = run.unreachable_since or time.time()
                if time.time() - run.unreachable_since > self.unreachable_seconds:
                    self._retry(run.waiting, str(error), run.submission_id)
                continue
            if job is None or not job.active:
                self._conclude(run, job)

    def _forward(self, run: _Running, *, last: bool = False) -> None:
        for text in self.runner.new_lines(run.submission_id, last=last):
            if is_ray_message(text):
                continue
            event = events.parse_line(run.waiting.stage.name, text)
            if isinstance(event, events.LogLine):
                run.tail.append(text)
            self.on_event(event)

    def _conclude(self, run: _Running, job: Job | None) -> None:
        """Settle a stage whose job has ended. `job` is None when a new head does not know it."""
        wait, name, submission_id, seconds = (
            run.waiting,
            run.waiting.stage.name,
            run.submission_id,
            run.waiting.seconds(),
        )
        try:
            done = self.is_done(wait.stage)
        except Exception as error:
            return self._fail(wait, f"cannot tell whether it is done: {error}", submission_id)
        if done is not None:
            event = events.Finished(stage=name, seconds=seconds, submission_id=submission_id)
            self._end(Outcome(name, "done", seconds, submission_id, done=done), event)
        elif job is None:
            self._retry(wait, "the cluster no longer knows the job", submission_id)
        elif is_infrastructure(job):
            errors = [line for line in run.tail if line.startswith("error: ")]  # none if the program was killed
            self._retry(wait, error_line(errors, job.message.partition(", last available logs")[0]), submission_id)
        elif job.status == "STOPPED":
            self._cancelled(wait, "was stopped", submission_id)
        elif job.status == "SUCCEEDED":
            self._fail(wait, "its job succeeded but its output is incomplete", submission_id)
        else:
            self._fail(wait, error_line(run.tail, job.message), submission_id)

    def cancel(self, stop_seconds: float, poll_seconds: float) -> None:
        """Stop the running jobs and wait for them. A stage that finishes meanwhile still counts as done."""
        deadline = time.time() + stop_seconds
        for run in self.running.values():
            try:
                self.runner.stop(run.submission_id)
            except ClusterError as error:
                text = f"could not be stopped: {error}"
                self.on_event(events.Warned(stage=run.waiting.stage.name, text=text))
        while self.running and time.time() < deadline:
            self.poll()
            time.sleep(poll_seconds if self.running else 0)
        for run in list(self.running.values()):
            self._cancelled(run.waiting, "was cancelled but is still running", run.submission_id)
        for wait in list(self.waiting.values()):
            self._cancelled(wait, "was cancelled", "")

    def _retry(self, wait: _Waiting, error: str, submission_id: str) -> None:
        """After an infrastructure failure: put the stage back to waiting, or fail it if no retries are left."""
        name = wait.stage.name
        if wait.retries >= self.max_retries:
            return self._fail(wait, f"{error} (after {wait.retries} retries)", submission_id)
        wait.retries += 1
        seconds = self.backoff_seconds * 2 ** (wait.retries - 1)
        wait.not_before = time.time() + seconds
        self.running.pop(name, None)
        self.waiting[name] = wait
        self.on_event(
            events.Retry(
                stage=name, error=error, retry=wait.retries, max_retries=self.max_retries, wait_seconds=seconds
            )
        )

    def _fail(self, wait: _Waiting, error: str, submission_id: str) -> None:
        name, seconds = wait.stage.name, wait.seconds()
        event = events.Failed(stage=name, error=error, seconds=seconds, submission_id=submission_id)
        self._end(Outcome(name, "failed", seconds, submission_id, error), event)

    def _cancelled(self, wait: _Waiting, reason: str, submission_id: str) -> None:
        outcome = Outcome(wait.stage.name, "cancelled", wait.seconds(), submission_id, reason)
        self._end(outcome, events.Cancelled(stage=wait.stage.name, reason=reason))

    def _end(self, outcome: Outcome, event: events.Event) -> None:
        self.waiting.pop(outcome.stage, None)
        self.running.pop(outcome.stage, None)
        self.outcomes[outcome.stage] = outcome
        self.on_event(event)

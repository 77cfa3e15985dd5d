"""The chain: stages with needs, each one Ray job, run in order.

Ray jobs know no dependencies, queue or retries, so this does. It talks to the cluster through a `JobRunner`
(`cluster.client.RayJobs`) and to storage through the caller's `is_done`, and nothing else: job status alone never
decides whether a stage is done.
"""

from __future__ import annotations

import graphlib
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cluster import events
from cluster.errors import ClusterError, Unreachable
from cluster.job import Job, JobRunner, Resources, error_line, is_chatter, is_infrastructure


@dataclass(frozen=True)
class Stage:
    """One step. The resources are what it will use in all; they decide which stages run side by side."""

    name: str
    needs: tuple[str, ...]
    entrypoint: str
    num_cpus: float = 0
    num_gpus: float = 0
    memory_bytes: float = 0


@dataclass(frozen=True)
class Outcome:
    """How a stage ended. `done` is what `is_done` gave; `reason` is one line, for what is not done."""

    stage: str
    status: Literal["done", "reused", "failed", "skipped", "cancelled"]
    seconds: float = 0.0
    submission_id: str = ""
    reason: str = ""
    done: Any = None

    @property
    def ok(self) -> bool:
        return self.status in ("done", "reused")


def check(stages: Sequence[Stage]) -> list[str]:
    """The stages' names in an order that respects their needs. ValueError naming every mistake found."""
    problems = []
    names = [stage.name for stage in stages]
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.append(f"two stages are called {name!r}")
    for stage in stages:
        if not re.fullmatch(r"[a-z0-9_-]+", stage.name):
            problems.append(f"stage name {stage.name!r}: only a-z, 0-9, _ and - (it becomes part of a job id)")
        for need in stage.needs:
            if need not in names:
                problems.append(f"stage {stage.name!r} needs {need!r}, which is no stage")
    if problems:
        raise ValueError("; ".join(problems))
    try:
        return list(graphlib.TopologicalSorter({stage.name: stage.needs for stage in stages}).static_order())
    except graphlib.CycleError as error:
        raise ValueError(f"the stages need each other in a circle: {' -> '.join(error.args[1][::-1])}") from None


def needed_for(stages: Sequence[Stage], until: str | None) -> list[Stage]:
    """The stages in order; with `until`, only that one and what it needs. ValueError as `check`, or no such stage."""
    order, by_name = check(stages), {stage.name: stage for stage in stages}
    if until is None:
        return [by_name[name] for name in order]
    if until not in by_name:
        raise ValueError(f"there is no stage {until!r}; the stages are {', '.join(order)}")
    wanted: set[str] = set()
    todo = [until]
    while todo:
        wanted.add(name := todo.pop())
        todo.extend(by_name[name].needs)
    return [by_name[name] for name in order if name in wanted]


def job_stem(prefix: str, stage: str, fingerprint: str) -> str:
    """How the ids of a stage's jobs begin; the number of the attempt follows."""
    return f"{prefix}-{stage}-{fingerprint[:8]}-"


def run_chain(
    stages: Sequence[Stage],
    *,
    runner: JobRunner,
    is_done: Callable[[Stage], Any],
    fingerprint: Callable[[Stage], str],
    prefix: str,
    capacity: Callable[[], Resources],
    in_the_way: Callable[[], str] = lambda: "",
    on_event: Callable[[events.Event], None] = lambda event: None,
    until: str | None = None,
    max_retries: int = 2,
    poll_seconds: float = 0.5,
    backoff_seconds: float = 5.0,
    unreachable_seconds: float = 60.0,
    stop_seconds: float = 60.0,
) -> dict[str, Outcome]:
    """Run the stages (or `until` and what it needs) and return how each ended.

    `is_done(stage)` looks in storage: a stage for which it does not give None is reused or finished, whatever its
    job's status; it and `fingerprint(stage)` are called only once everything the stage needs is done. A job's id is
    `<prefix>-<stage>-<first 8 of the fingerprint>-<attempt>`; a live job of that id is joined, not submitted again.
    `in_the_way()` is asked before a job is submitted, and fails the stage with the reason that it gives, if any.
    `capacity()` is the cluster's total; a stage always gets to run when nothing else does. Ctrl-C stops the running
    jobs, waits up to `stop_seconds` and returns with what is left marked cancelled.

    Raises ValueError, before anything is submitted, when the stages or `until` make no sense.
    """
    order = needed_for(stages, until)
    chain = _Chain(
        order,
        runner,
        is_done,
        fingerprint,
        prefix,
        capacity,
        in_the_way,
        on_event,
        max_retries,
        backoff_seconds,
        unreachable_seconds,
    )
    try:
        while chain.waiting or chain.running:
            ended = len(chain.outcomes)
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
    queued: bool = False  # what it needs is done, and it is not
    not_before: float = 0.0
    retries: int = 0
    started_at: float | None = None  # of its first job

    def seconds(self) -> float:
        return 0.0 if self.started_at is None else time.time() - self.started_at


@dataclass
class _Running:
    was: _Waiting
    submission_id: str
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=50))
    silent_since: float | None = None


@dataclass
class _Chain:
    """The state of one `run_chain`: every stage is in one of `waiting`, `running` and `outcomes`."""

    order: list[Stage]
    runner: JobRunner
    is_done: Callable[[Stage], Any]
    fingerprint: Callable[[Stage], str]
    prefix: str
    capacity: Callable[[], Resources]
    in_the_way: Callable[[], str]
    on_event: Callable[[events.Event], None]
    max_retries: int
    backoff_seconds: float
    unreachable_seconds: float
    waiting: dict[str, _Waiting] = field(init=False)
    running: dict[str, _Running] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    away_since: float | None = None  # when the cluster was first found not to answer

    def __post_init__(self) -> None:
        self.waiting = {stage.name: _Waiting(stage) for stage in self.order}

    def settle(self) -> None:
        """Skip what can no longer run; reuse, or queue, what has everything it needs."""
        for name, wait in list(self.waiting.items()):
            needs = [self.outcomes[need] for need in wait.stage.needs if need in self.outcomes]
            bad = next((need for need in needs if not need.ok), None)
            if bad is not None:
                said = f"failed: {bad.reason}" if bad.status == "failed" else "was cancelled"
                reason = bad.reason if bad.status == "skipped" else f"needs {bad.stage}, which {said}"
                self._end(Outcome(name, "skipped", reason=reason), events.Skipped(stage=name, reason=reason))
            elif not wait.queued and len(needs) == len(wait.stage.needs):
                if (done := self.is_done(wait.stage)) is not None:
                    self._end(Outcome(name, "reused", done=done), events.Reused(stage=name))
                else:
                    wait.queued = True
                    self.on_event(events.Queued(stage=name))

    def admit(self) -> None:
        """Submit what is queued, in order, as far as it fits beside what runs."""
        ready = [wait for wait in self.waiting.values() if wait.queued and wait.not_before <= time.time()]
        try:
            total = self.capacity() if ready else Resources()
        except Unreachable:  # the head may be starting again
            self.away_since = self.away_since or time.time()
            if time.time() - self.away_since > self.unreachable_seconds:
                raise
            return
        self.away_since = None
        for wait in ready:
            lacking = _lacking(wait.stage, [run.was.stage for run in self.running.values()], total)
            if lacking and self.running:
                continue
            if lacking:
                text = f"asks for {lacking}; submitted all the same"
                self.on_event(events.Warned(stage=wait.stage.name, text=text))
            self._start(wait)

    def _start(self, wait: _Waiting) -> None:
        """Join the live job of this stage and fingerprint, else submit one under the next unused id."""
        name = wait.stage.name
        wait.started_at = wait.started_at or time.time()
        stem = job_stem(self.prefix, name, self.fingerprint(wait.stage))
        attempt = 1
        try:
            while (job := self.runner.info(f"{stem}{attempt}")) is not None and not job.active:
                attempt += 1
            if job is None and (why := self.in_the_way()):
                return self._fail(wait, why, "")
            # Running before it is submitted, so that a Ctrl-C in between still stops it.
            run = self.running[name] = _Running(wait, f"{stem}{attempt}")
            del self.waiting[name]
            if job is None:
                self.runner.submit(run.submission_id, stage=name, entrypoint=wait.stage.entrypoint)
        except Unreachable as error:
            return self._retry(wait, str(error), f"{stem}{attempt}")
        except ClusterError as error:
            return self._fail(wait, str(error), f"{stem}{attempt}")
        self.on_event(events.Started(stage=name, submission_id=run.submission_id, attached=job is not None))

    def poll(self) -> None:
        """Forward new log lines and settle what became of the jobs that ended."""
        for run in list(self.running.values()):
            try:
                self._forward(run)
                job = self.runner.info(run.submission_id)
                if job is not None and not job.active:
                    self._forward(run, last=True)
                run.silent_since = None
            except Unreachable as error:
                run.silent_since = run.silent_since or time.time()
                if time.time() - run.silent_since > self.unreachable_seconds:
                    self._retry(run.was, str(error), run.submission_id)
                continue
            if job is None or not job.active:
                self._conclude(run, job)

    def _forward(self, run: _Running, *, last: bool = False) -> None:
        for text in self.runner.new_lines(run.submission_id, last=last):
            if is_chatter(text):
                continue
            event = events.of_line(run.was.stage.name, text)
            if isinstance(event, events.Line):
                run.tail.append(text)
            self.on_event(event)

    def _conclude(self, run: _Running, job: Job | None) -> None:
        """The job has ended, or is unknown because the head was replaced: is the stage done?"""
        wait, name, submission_id, seconds = run.was, run.was.stage.name, run.submission_id, run.was.seconds()
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
            said = [line for line in run.tail if line.startswith("error: ")]  # one that was killed has none
            self._retry(wait, error_line(said, job.message.partition(", last available logs")[0]), submission_id)
        elif job.status == "STOPPED":
            self._cancelled(wait, "was stopped", submission_id)
        elif job.status == "SUCCEEDED":
            self._fail(wait, "its job ended well but its output is not complete", submission_id)
        else:
            self._fail(wait, error_line(run.tail, job.message), submission_id)

    def cancel(self, stop_seconds: float, poll_seconds: float) -> None:
        """Stop what runs and wait for it; what finished meanwhile still counts as done."""
        deadline = time.time() + stop_seconds
        for run in self.running.values():
            try:
                self.runner.stop(run.submission_id)
            except ClusterError as error:
                text = f"could not be stopped: {error}"
                self.on_event(events.Warned(stage=run.was.stage.name, text=text))
        while self.running and time.time() < deadline:
            self.poll()
            time.sleep(poll_seconds if self.running else 0)
        for run in list(self.running.values()):
            self._cancelled(run.was, "was cancelled but still runs", run.submission_id)
        for wait in list(self.waiting.values()):
            self._cancelled(wait, "was cancelled", "")

    def _retry(self, wait: _Waiting, error: str, submission_id: str) -> None:
        """The cluster's fault: back to waiting, or failed when there were enough tries."""
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


def _lacking(stage: Stage, others: Iterable[Stage], total: Resources) -> str:
    """What the cluster is short of for the stage beside the others, as text; empty when it fits."""
    others, missing = list(others), []
    for key, what in (("num_cpus", "CPUs"), ("num_gpus", "GPUs"), ("memory_bytes", "bytes of memory")):
        asked, has = getattr(stage, key), getattr(total, key)
        if asked > 0 and asked + sum(getattr(other, key) for other in others) > has + 1e-9:
            missing.append(f"{asked:g} {what} of a cluster with {has:g}")
    return " and ".join(missing)

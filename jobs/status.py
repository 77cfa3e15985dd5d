"""The state of a run: stages, drivers, ablations, sweeps and jobs, from storage and, if there is one, a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from arspm.report.words import format_duration, format_gpus, format_hundredths
from arspm.runs import find, lease, stages
from arspm.runs.adopted import FIGURE
from arspm.runs.spent import Spent
from arspm.storage import in_threads
from cluster import client, events
from cluster.errors import ClusterError
from cluster.head import heads_elsewhere
from cluster.job import Job
from jobs.console import progress_text
from jobs.driver_status import driver_lines
from jobs.run_jobs import name_of
from jobs.spending import spending, spent_lines
from jobs.sweep_status import sweep_lines
from jobs.view import View, row

_TAIL_LINES = 200  # of a job's log: a progress record is among them unless the program prints a lot


class Status(NamedTuple):
    """What storage and the cluster know of a run.

    manifests: of each stage, with whether a stage before it has run again since. progress: the latest records of
    running jobs, oldest first, by id. visible: whether this machine sees the run's files. note: why the cluster's jobs
    are not known, "" if they are.
    """

    view: View
    manifests: dict[str, tuple[stages.Success | None, bool]]
    progress: dict[str, list[events.StageProgress]]
    visible: bool
    note: str


def status(run: str, address: str | None) -> list[str]:
    """Return the state of everything that belongs to a run, line by line. Arguments and errors as in `look`."""
    return lines_of(look(run, address))


def look(run: str, address: str | None) -> Status:
    """Return the state of everything that belongs to a run.

    address: of the cluster's dashboard, or None. If it does not answer, the note says so, and the rest is what storage
    shows. Raises FileNotFoundError if there is no such run.
    """
    session, jobs, progress = "", list[Job](), dict[str, list[events.StageProgress]]()
    note = "no cluster was asked: start one with `arspm up`, or pass --ray-address"
    if address is not None:
        try:
            jobs_client = client.connect(address)
            session, note = client.session(jobs_client), ""
            jobs = client.list_jobs(jobs_client, {"run": run})
            progress = _progress(jobs_client, [job for job in jobs if job.status == "RUNNING"])
        except ClusterError as error:
            note = f"the cluster could not be asked: {error}"
    else:
        note += heads_elsewhere()
    visible = find.is_run(run)
    if not visible and not jobs:  # the folder of a run with jobs may be on a disk that this machine does not have
        find.require_run(run)
    manifests = dict(zip(stages.STAGES, in_threads(lambda name: _manifest(run, name), stages.STAGES), strict=True))
    latest = {job: progress_text(records[-1]) for job, records in progress.items()}
    view = View(run, session, jobs, latest, all(done is not None for done, _ in manifests.values()))
    return Status(view, manifests, progress, visible, note)


def lines_of(found: Status) -> list[str]:
    """Return a status as text."""
    return state_lines(found) + spent_lines(spending_of(found))


def state_lines(found: Status) -> list[str]:
    """Return a status as text, without what the run has used."""
    view, manifests = found.view, found.manifests
    return [row(name, stage_line(view, name, *manifests[name])) for name in stages.STAGES] + other_lines(found)


def spending_of(found: Status) -> Spent:
    """Return what the run has used so far."""
    return spending(found.view, {name: done for name, (done, _) in found.manifests.items()})


def other_lines(found: Status) -> list[str]:
    """Return the lines after the stages: drivers, ablations, sweeps, other jobs, the lease, what is not known."""
    view, run, jobs = found.view, found.view.run, found.view.jobs
    lines, shown = list[str](), set(stages.STAGES)
    for part in (driver_lines(view), sweep_lines(view)):
        lines += part.lines
        shown |= part.jobs
    others = [job for job in jobs if job.active and name_of(job) not in shown]
    lines += [row(name_of(job), view.state(job)) for job in others]
    if held := lease.describe(run):
        lines.append(held)
    if not found.visible:
        lines.append(f"{run}: this machine sees no file of it, so only the cluster's jobs are shown")
    if found.note:
        lines.append(f"{found.note}; this is what storage shows")
    return lines


def stage_line(view: View, name: str, done: stages.Success | None, outdated: bool) -> str:
    """Return the state of a stage, in one line."""
    job = view.latest(name)
    if job is not None and job.active:
        return view.state(job)
    if done is not None:
        text = _done(done)
        if name == "preprocess" and (dropped := done.figures.get("num_dropped")):
            text += f"; {done.figures['num_clips']:,} clips, {dropped:,} dropped: arspm drops {view.run}"
        if outdated:
            text += "; outdated, because a stage before it has run again"
        if job is not None and job.status == "FAILED" and f"-{done.fingerprint[:8]}-" not in job.submission_id:
            text += f"; with other settings it {view.state(job)}"
        return text
    if job is None:
        return "not done"
    if job.status == "SUCCEEDED":
        return f"not done: its job finished without its result; log: arspm logs {view.run} {name}"
    text = view.state(job).replace(f": {name}: ", ": ", 1)
    return text if job.status == "STOPPED" else f"{text}; log: arspm logs {view.run} {name}"


def _done(done: stages.Success) -> str:
    """Return how long a finished stage took, on which GPUs and for how much."""
    text = f"done in {format_duration(done.seconds)}"
    if usage := done.usage:
        text += f" on {format_gpus(usage.gpus, usage.gpu_types)}" if usage.gpus else ""
        text += "" if usage.usd is None else f" for {format_hundredths(usage.usd)} USD"
    return text + (f" by {done.figures[FIGURE]}" if FIGURE in done.figures else "")


def _manifest(run: str, name: str) -> tuple[stages.Success | None, bool]:
    """Return a stage's manifest, None if there is none, and whether a stage before it has run again since."""
    done = stages.success(run, name)
    return done, done is not None and done.upstream != stages.upstream(run, name)


def _progress(jobs_client: Any, jobs: Sequence[Job]) -> dict[str, list[events.StageProgress]]:
    """Return the progress records at the ends of the logs of running jobs, by job id; none for a job without any."""

    def read(job: Job) -> list[events.StageProgress]:
        try:
            lines = client.last_lines(jobs_client, job, _TAIL_LINES)
        except ClusterError:  # its log's node is away; its state is known
            return []
        found = (events.parse_line(name_of(job), line) for line in lines)
        return [event for event in found if isinstance(event, events.StageProgress)]

    records = zip(jobs, in_threads(read, jobs), strict=True)
    return {job.submission_id: found for job, found in records if found}

"""The state of a run as plain values, for `arspm status --json` and `arspm sweeps --json`."""

from __future__ import annotations

from typing import Any

from arspm.runs import drivers, lease, stages, sweeps
from cluster.job import Job
from jobs.run_jobs import name_of, of_sweep
from jobs.spending import running_usage, sweep_usage
from jobs.status import Status, spending_of, stage_line
from jobs.sweep_status import sweep_names, sweep_state
from jobs.view import View


def status_record(found: Status) -> dict[str, Any]:
    """Return what a run's status says. `text` is the line of `arspm status`; its wording may change."""
    view = found.view
    return {
        "run": view.run,
        "done": view.all_done,
        "visible": found.visible,
        "cluster": view.session or None,
        "note": found.note,
        "lease": lease.describe(view.run),
        "stages": {name: _stage(view, name, *found.manifests[name]) for name in stages.STAGES},
        "drivers": [_driver(view, name) for name in drivers.names(view.run)],
        "sweeps": [sweep_record(view, name) for name in sorted(sweep_names(view))],
        "jobs": [_job(view, job) for job in view.jobs],
        "spent": spending_of(found)._asdict(),
    }


def _stage(view: View, name: str, done: stages.Success | None, outdated: bool) -> dict[str, Any]:
    """Return a stage. state: that of its job while it is active, otherwise done, or how its latest job ended."""
    job, usage = view.latest(name), done.usage if done else None
    if job is not None and job.active:
        state = job.status.lower()
        usage = running_usage(job)
    elif done is not None:
        state = "done"
    else:
        state = "not done" if job is None or job.status == "SUCCEEDED" else job.status.lower()
    return {
        "state": state,
        "outdated": outdated,
        "seconds": done.seconds if done else None,
        "usage": usage.model_dump() if usage else None,
        "figures": done.figures if done else {},
        "fingerprint": done.fingerprint if done else None,
        "progress": view.progress.get(job.submission_id) if job else None,
        "text": stage_line(view, name, done, outdated),
    }


def _driver(view: View, name: str) -> dict[str, Any]:
    record = drivers.read(view.run, name)
    assert record is not None
    fields = record.model_dump(mode="json", include={"name", "where", "user", "job", "since", "ended", "how"})
    return fields | {"models": len(record.models)}


def sweep_record(view: View, name: str) -> dict[str, Any]:
    """Return a sweep: its numbers of trials by state, its best trial, and the line of `arspm status`."""
    folder = sweeps.folder(view.run, name)
    results = sweeps.read_results(folder)
    job = next(reversed(of_sweep(view.jobs, name)), None)
    usage = None if results is None else sweep_usage(results)
    best = None if results is None else sweeps.ended_and_best(results)[1]
    alive = (job is not None and job.active) or lease.last_sign(folder)[0]
    state = "running" if alive else results["state"] if results and results["state"] != "running" else "interrupted"
    return {
        "name": name,
        "state": state,
        "metric": results["sweep"]["metric"] if results else None,
        "counts": results["counts"] if results else {},
        "best": None if best is None else {key: best.get(key) for key in ("number", "best", "best_epoch", "sample")},
        "eta_seconds": results.get("eta_seconds") if results and alive else None,
        "usage": usage.model_dump() if usage else None,
        "page": f"{folder}/{sweeps.PAGE}",
        "text": sweep_state(view, name),
    }


def _job(view: View, job: Job) -> dict[str, Any]:
    return {
        "id": job.submission_id,
        "name": name_of(job),
        "status": job.status,
        "seconds": job.seconds,
        "ended": job.ended,
        "exit_code": job.exit_code,
        "progress": view.progress.get(job.submission_id),
    }

"""A run's jobs on a cluster: found by name, followed and stopped.

A job's name is its metadata `stage`: a stage, STAGE-MODEL for a model of an ablation, a driver, or sweep-NAME.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from arspm.runs import find, lease
from arspm.runs.usage import Requested
from cluster import client
from cluster.errors import ClusterError
from cluster.job import Job


def name_of(job: Job) -> str:
    """Return a job's name."""
    return job.metadata.get("stage", "")


def requested_by(job: Job) -> Requested | None:
    """Return what a job's stage requests, None if the job does not say so, as one of an earlier version."""
    try:
        return Requested.model_validate_json(job.metadata.get("requested", ""))
    except ValueError:
        return None


def list_jobs(jobs_client: Any, run: str) -> list[Job]:
    """Return the run's jobs, oldest first. Raises FileNotFoundError if there are none, and no run either."""
    jobs = client.list_jobs(jobs_client, {"run": run})
    if not jobs:  # the folder of a run with jobs may be on a disk that this machine does not have
        find.require_run(run)
    return jobs


def called(jobs: Iterable[Job], name: str) -> list[Job]:
    """Return the jobs of this name; if there are none, those of the sweep of this name."""
    jobs = list(jobs)
    return [job for job in jobs if name_of(job) == name] or of_sweep(jobs, name)


def of_sweep(jobs: Iterable[Job], name: str) -> list[Job]:
    """Return the jobs of a sweep."""
    return [job for job in jobs if job.metadata.get("sweep") == name]


def latest(jobs_client: Any, run: str, name: str) -> Job:
    """Return the latest job of this name. Raises ClusterError, which names the jobs that are known, if there is none.

    Raises FileNotFoundError if there is no such run.
    """
    jobs = list_jobs(jobs_client, run)
    if found := called(jobs, name):
        return found[-1]
    known = ", ".join(_names(jobs)) or "no job of this run, which may have been another head's"
    raise ClusterError(f"{run}: the cluster knows no job of stage {name!r}; it knows {known}")


def cancel(jobs_client: Any, run: str, names: Sequence[str] = (), sweeps: Sequence[str] = ()) -> list[Job]:
    """Stop the run's live jobs, or only those of these names and sweeps; return them in their final state.

    Raises ClusterError, which names what is running, if nothing of one of the names or sweeps is. Raises
    FileNotFoundError if there is no such run.
    """
    live = [job for job in list_jobs(jobs_client, run) if job.active]
    chosen: list[Job] = []
    for what, name, found in [
        *(("job", name, called(live, name)) for name in names),
        *(("sweep", name, of_sweep(live, name)) for name in sweeps),
    ]:
        if not found:
            raise ClusterError(f"{run}: no {what} {name!r} is running; running: {', '.join(_names(live)) or 'nothing'}")
        chosen += found
    ids = {job.submission_id for job in chosen} if names or sweeps else None
    return client.cancel(jobs_client, {"run": run}, lambda job: ids is None or job.submission_id in ids)


def elsewhere(run: str) -> str:
    """Return a remark on the cluster that works on a run, for a cluster that has no job of it; "" if none does."""
    return f"; {held}" if (held := lease.describe(run)) else ""


def _names(jobs: Iterable[Job]) -> list[str]:
    """Return the jobs' names, sweeps by their own, without repetition."""
    return list(dict.fromkeys(job.metadata.get("sweep") or name_of(job) for job in jobs))

"""The state of a run's sweeps, line by line."""

from __future__ import annotations

from arspm.report.words import format_duration
from arspm.runs import lease, sweeps
from jobs.run_jobs import name_of, of_sweep
from jobs.spending import sweep_words
from jobs.view import RESUME, Part, View


def sweep_lines(view: View) -> Part:
    """Return the state of every sweep of a run: its trials, the best one so far, and whether its job runs."""
    names = sweep_names(view)
    jobs = {name_of(job) for name in names for job in of_sweep(view.jobs, name)}
    return Part([f"sweep {name}: {sweep_state(view, name)}" for name in sorted(names)], jobs)


def sweep_names(view: View) -> set[str]:
    """Return the names of a run's sweeps, those that have only a job yet included."""
    return {*sweeps.names(view.run), *(job.metadata["sweep"] for job in view.jobs if "sweep" in job.metadata)}


def sweep_state(view: View, name: str) -> str:
    """Return the state of a sweep, in one line."""
    folder = sweeps.folder(view.run, name)
    results = sweeps.read_results(folder)
    job = next(reversed(of_sweep(view.jobs, name)), None)
    if job is not None and job.status == "PENDING":
        return view.state(job)
    running = job is not None and job.active
    if not running and results is not None and results["state"] in ("finished", "stopped"):
        reason = f": {results['reason']}" if results.get("reason") else ""  # a target, or failures
        return (
            f"{results['state']}{reason}, {sweeps.summary(results, running=False)}{sweep_words(results, running=False)}"
        )
    elsewhere = not running and lease.last_sign(folder)[0]
    trials = "no trial yet"
    if results is not None:
        alive = running or elsewhere
        trials = sweeps.summary(results, running=alive) + sweep_words(results, running=alive)
    if running:
        assert job is not None
        eta = results.get("eta_seconds") if results else None
        left = "" if eta is None else f"; about {format_duration(float(eta))} left"
        return f"running for {format_duration(job.seconds)}, {trials}{left}"
    if elsewhere:
        return f"running, {trials}; {lease.describe(folder)}"
    ended = "" if job is None else f"; its job {view.state(job)}"
    return f"interrupted, {trials}{ended}: {RESUME}"

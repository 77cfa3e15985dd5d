"""What a run has used so far: finished stages and models, trials of sweeps, and what runs now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from arspm import storage
from arspm.report.words import describe_unpriced, format_duration, format_gpus, format_hundredths
from arspm.runs import spent, stages, sweeps
from arspm.runs.spent import Entry, Spent
from arspm.runs.usage import Requested, Usage
from arspm.storage import in_threads
from cluster.job import Job
from jobs import ablation_plan
from jobs.run_jobs import name_of, requested_by
from jobs.view import View, row


def spending(view: View, manifests: Mapping[str, stages.Success | None]) -> Spent:
    """Return what a run has used so far. Stages that another run computed do not count.

    manifests: of the run's stages. Running jobs count from their submission. Attempts that failed do not count.
    """
    names = storage.entries(storage.join(view.run, stages.VARIANTS)) if stages.parent_run(view.run) == view.run else []
    models = in_threads(lambda name: _manifests_of(view.run, name), names)
    done = [each for each in (*manifests.values(), *(d for found in models for d in found.values())) if each]
    entries = spent.own_entries(view.run, manifests)
    entries += [
        spent.entry(stage, each, f"{stage}-{name}")
        for name, found in zip(names, models, strict=True)
        for stage, each in found.items()
        if each is not None
    ]
    for job in view.jobs:
        if (usage := running_usage(job)) and not _is_finished(job, done):
            entries.append(Entry(name_of(job), job.seconds, usage))
    entries += filter(None, in_threads(lambda name: _sweep(view.run, name), sweeps.names(view.run)))
    return spent.total(entries)


def spent_lines(found: Spent) -> list[str]:
    """Return a run's spending as a line of its status, none if nothing is known of it."""
    if found.gpu_hours is None:
        return []
    parts = [f"{format_duration(found.seconds)} of stages and trials"]
    parts.append(f"{format_hundredths(found.gpu_hours)} GPU-hours" if found.gpu_hours else "no GPUs")
    if found.usd is not None:
        parts.append(f"{format_hundredths(found.usd)} USD ({'; '.join(found.prices)})")
    return [row("so far", "; ".join([", ".join(parts), *describe_unpriced(found.unpriced, found.usd)]))]


def running_usage(job: Job) -> Usage | None:
    """Return what a running job has used since its submission, None if it does not say what it requests."""
    requested = requested_by(job) if job.status == "RUNNING" else None
    return None if requested is None else requested.used(job.seconds)


def sweep_usage(results: Mapping[str, Any]) -> Usage | None:
    """Return what a sweep's trials have used, None if its sweep.json does not say what they request.

    results: the content of results.json. The amounts of the usage are those of one trial, its time that of all trials.
    """
    try:
        requested = Requested.model_validate(results["sweep"]["requested"])
    except (KeyError, ValidationError):
        return None
    return requested.used(_trial_seconds(results))


def sweep_words(results: Mapping[str, Any], *, running: bool) -> str:
    """Return what a sweep holds, if it runs, and costs: ", 2 GPUs, 1.33 USD"; "" if nothing is known of it."""
    usage = sweep_usage(results)
    if usage is None:
        return ""
    gpus = usage.gpus * results["counts"].get("running", 0) if running else 0
    parts = [format_gpus(gpus), "" if usage.usd is None else f"{format_hundredths(usage.usd)} USD"]
    return "".join(f", {part}" for part in parts if part)


def _trial_seconds(results: Mapping[str, Any]) -> float:
    return sum(trial.get("seconds") or 0.0 for trial in results["trials"])


def _manifests_of(run: str, model: str) -> dict[str, stages.Success | None]:
    """Return the manifests of the stages that an ablation's model runs itself."""
    variant = stages.variant_run(run, model)
    return {stage: stages.success(variant, stage) for stage in ablation_plan.STAGES}


def _is_finished(job: Job, done: list[stages.Success]) -> bool:
    """Return whether a job has written its manifest, so that it does not count twice."""
    return any(f"-{each.fingerprint[:8]}-" in job.submission_id for each in done)


def _sweep(run: str, name: str) -> Entry | None:
    """Return what a sweep's trials have used, None before the first trial."""
    results = sweeps.read_results(sweeps.folder(run, name))
    if results is None:
        return None
    return Entry(f"sweep {name}", _trial_seconds(results), sweep_usage(results))

"""The state of a run's drivers, and of its ablations and studies, line by line."""

from __future__ import annotations

import time

from arspm import storage
from arspm.report.ablation_page import PAGE
from arspm.report.words import format_duration
from arspm.runs import drivers, lease, stages
from arspm.runs.drivers import Driver, Planned
from arspm.storage import in_threads
from cluster.job import Job, ending
from jobs.run_jobs import name_of
from jobs.view import RESUME, Part, View, ago, row, with_time


def driver_lines(view: View) -> Part:
    """Return the state of the chain's driver, and of every ablation and study."""
    names = {*drivers.names(view.run), *filter(_is_driver, map(name_of, view.jobs))}
    names |= {name for name in storage.entries(view.run) if name != drivers.CHAIN and _is_driver(name)}
    lines, told = list[str](), set[str]()
    for name in sorted(names, key=lambda name: (name != drivers.CHAIN, name)):
        record = drivers.read(view.run, name)
        told.add(name)
        if name == drivers.CHAIN:
            if text := _driver(view, "the detached chain", record, view.latest(name), view.all_done):
                others = any(job.active and name_of(job) in stages.STAGES for job in view.jobs)
                more = "; jobs that it started go on, but nothing follows them" if others and "died" in text else ""
                lines.append(row(name, text + more))
            continue
        part = _ablation(view, name, record)
        lines += part.lines
        told |= part.jobs
    return Part(lines, told)


def _is_driver(name: str) -> bool:
    return name in (drivers.CHAIN, drivers.ABLATION) or name.startswith(drivers.STUDY)


def _ablation(view: View, name: str, record: Driver | None) -> Part:
    """Return the state of an ablation or study, then one line for each of its models that runs or has failed."""
    models = record.models if record else []
    done = in_threads(lambda model: _done(view.run, model), models)
    left = [model for model, is_done in zip(models, done, strict=True) if not is_done]
    page = storage.join(view.run, name, PAGE)
    has_page = storage.exists(page)
    parts = [f"{len(models) - len(left)} of {len(models)} models done"] if models else []
    what = f"the detached {'ablation' if name == drivers.ABLATION else 'study'}"
    if text := _driver(view, what, record, view.latest(name), not left and has_page):
        parts.append(text)
    if has_page:
        is_new = record is None or (record.ended is not None and record.how.startswith(drivers.FINISHED))
        parts.append(f"page{'' if is_new else ' of an earlier ablation'}: {page}")
    lines = [row(name, "; ".join(parts) or "not begun")]
    own = {f"{stage}-{model.name}" for model in models for stage in model.fingerprints}
    for model in left:
        for stage in model.fingerprints:
            job = view.latest(f"{stage}-{model.name}")
            if job is not None and job.status != "SUCCEEDED":
                lines.append(f"  {name_of(job)} {view.state(job)}")
    return Part(lines, own)


def _done(run: str, model: Planned) -> bool:
    where = storage.join(run, model.run) if model.run else run
    found = {stage: stages.success(where, stage) for stage in model.fingerprints}
    return all(done and done.fingerprint == model.fingerprints[stage] for stage, done in found.items())


def _driver(view: View, what: str, record: Driver | None, job: Job | None, complete: bool) -> str:
    """Return the state of a driver, "" if there is nothing to tell. complete: whether nothing is left to do."""
    if job is not None and record is not None and record.job != job.submission_id:
        if job.active or (job.ended or 0) > record.since:
            record = None
        else:
            job = None  # of an earlier driver
    if job is None and record is None:
        return ""
    subject = f"driver of {what}" if job is not None or (record and record.job) else "driver in the foreground"
    if job is not None:
        state = _job_state(view, job, record)
    elif record is None or (record.ended and record.how == drivers.FINISHED and not record.job):
        return ""
    else:
        state = with_time(record.how, record.ended) if record.ended else _state_in_storage(view, record)
    advice = f": {RESUME}" if state.startswith(("died", "stopped")) and not complete else ""
    return f"{subject}: {state}{advice}"


def _job_state(view: View, job: Job, record: Driver | None) -> str:
    """Return the state of a detached driver whose job the cluster knows."""
    own_words = record is not None and record.ended is not None and record.how
    if job.status == "FAILED" and own_words and not ending(job).startswith("died"):
        assert record is not None
        return with_time(record.how, record.ended)
    return view.state(job)


def _state_in_storage(view: View, record: Driver) -> str:
    """Return the state of a driver that has not recorded its end, and of which the cluster knows nothing."""
    for_how_long = format_duration(max(0.0, time.time() - record.since))
    unknown = f"; its job was submitted to {record.where}, and the cluster that was asked does not know it"
    unknown = unknown if view.session and record.job else ""
    if record.job and not record.member:
        return f"submitted {ago(time.time() - record.since)}, not begun as far as storage shows{unknown}"
    alive, seconds = lease.last_sign(view.run, record.member)
    if alive:
        return f"running for {for_how_long}, last sign of life {ago(seconds or 0)}"
    last = "" if seconds is None else f", last sign of life {ago(seconds)}"
    return f"died{last}{unknown}"

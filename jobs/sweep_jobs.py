"""Submit a sweep as one Ray job, whose program is `jobs.sweep`."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from arspm import config as configuration
from arspm import storage
from arspm.config import Config
from arspm.runs import lease, sweeps
from cluster import chain, client, events
from cluster.errors import ClusterError
from cluster.graph import Stage
from jobs import stage_cost
from jobs.submission import PYTHON, job_prefix, lease_holder, sharing, source, total_resources
from jobs.sweep_plan import save


def run_sweep(
    run: str,
    folder: str,
    sweep: Mapping[str, Any],
    address: str,
    on_event: Callable[[events.Event], None],
    extra: Sequence[str] = (),
) -> chain.Outcome:
    """Submit the sweep's job, or attach to the one that is running, and wait for it.

    `extra`: further words of the job's command line. Raises LeaseHeld if another cluster runs this sweep, and
    LeaseLost, after the job was stopped, if one has taken over. Raises as `storage.require_store` does.
    """
    storage.require_store(run)
    jobs_client = client.connect(address)
    config = configuration.from_dict(sweep["config"])
    holder = lease_holder(jobs_client, address, config)
    with lease.hold(folder, holder, say=lambda line: on_event(events.Warned(stage="sweep", text=line))) as held:
        stage_name, stem = job_names(run, sweep)
        require_one_driver(run, stage_name, stem, jobs_client)
        save(folder, _priced(sweep, config, jobs_client))
        trial = config.resources.trial  # without resources for one, no sweep can start
        resources = total_resources((trial.num_workers, trial))
        stage = Stage(stage_name, (), entrypoint(run, sweep["name"], [*extra, *sharing(holder)]), *resources)
        outcomes = chain.run_chain(
            [stage],
            runner=client.RayJobs(jobs_client, working_dir=source(), metadata={"run": run, "sweep": sweep["name"]}),
            is_done=lambda _: finished_results(folder, sweep),
            fingerprint=lambda _: _fingerprint(sweep),
            prefix=job_prefix(run),
            capacity=lambda: client.capacity(jobs_client),
            stop=lambda: bool(held.lost),
            on_event=on_event,
        )
        if held.lost:
            raise lease.LeaseLost(held.lost)
    return outcomes[stage.name]


def detach(run: str, folder: str, sweep: Mapping[str, Any], address: str, extra: Sequence[str] = ()) -> str:
    """Submit the sweep's job and return its id. A later `run_sweep` attaches to it."""
    storage.require_store(run)
    jobs_client = client.connect(address)
    config = configuration.from_dict(sweep["config"])
    holder = lease_holder(jobs_client, address, config)
    stage_name, stem = job_names(run, sweep)
    require_one_driver(run, stage_name, stem, jobs_client)
    client.require_driver_room(jobs_client)
    with lease.hold(folder, holder, say=print):
        save(folder, _priced(sweep, config, jobs_client))
    attempt = 1
    while (job := client.info(jobs_client, f"{stem}-{attempt}")) is not None and not job.active:
        attempt += 1
    return client.submit(
        jobs_client,
        submission_id=f"{stem}-{attempt}",
        entrypoint=entrypoint(run, sweep["name"], [*extra, *sharing(holder)]),
        working_dir=source(),
        metadata={"run": run, "stage": stage_name, "sweep": sweep["name"]},
    )


def _priced(sweep: Mapping[str, Any], config: Config, jobs_client: Any) -> dict[str, Any]:
    """Return the sweep with what one trial requests, and the price of its part of the nodes."""
    requested = stage_cost.request_of_trial(config, stage_cost.find_market(jobs_client))
    return {**sweep, "requested": requested.model_dump()}


def finished_results(folder: str, sweep: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the results in a sweep's folder if the sweep, as planned now, needs no further trial; otherwise None."""
    uri = storage.join(folder, sweeps.RESULTS)
    if not storage.exists(uri):
        return None
    results = storage.read_json(uri)
    return results if sweeps.is_done(results, sweep) else None


def job_names(run: str, sweep: Mapping[str, Any]) -> tuple[str, str]:
    """Return the sweep's stage name, in characters that a job id may have, and the job id without its attempt."""
    stage_name = "sweep-" + re.sub("[^a-z0-9_-]", "-", sweep["name"].lower())
    return stage_name, f"{job_prefix(run)}-{stage_name}-{_fingerprint(sweep)[:8]}"


def require_one_driver(run: str, stage_name: str, stem: str, jobs_client: Any) -> None:
    """Raise ClusterError if the sweep is running with other limits: two drivers would write one folder."""
    for job in client.list_jobs(jobs_client, {"run": run, "stage": stage_name}):
        if job.active and not job.submission_id.startswith(stem):
            raise ClusterError(
                f"{job.submission_id} runs a sweep of this name with another --num-trials, --target or "
                f"--max-consecutive-failures: wait for it, or stop it with `arspm cancel {run} --stage {stage_name}`"
            )


def entrypoint(run: str, name: str, extra: Sequence[str]) -> str:
    """Return the command line of the sweep's job."""
    return shlex.join([*PYTHON, "jobs.sweep", "--run", run, "--name", name, *extra])


def _fingerprint(sweep: Mapping[str, Any]) -> str:
    identity = [sweep["name"], sweep["created"], sweep["num_trials"]]
    identity += [[name, sweep[name]] for name in ("target", "max_consecutive_failures") if sweep.get(name) is not None]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()

"""A run's chain: its stages as Ray jobs. `python -m jobs.chain` is the driver of a detached chain."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from arspm import config as configuration
from arspm import storage
from arspm.config import Config, require_workers
from arspm.runs import adopted, drivers, inventory, lease, reused, stages
from arspm.runs.gender_weights import find_gender_weights
from arspm.runs.usage import Requested
from cluster import chain, client, events
from cluster.graph import Stage, select_stages
from jobs import stage_cost
from jobs.console import watch
from jobs.live import live_page
from jobs.preflight import require_report
from jobs.stage import readable_end
from jobs.submission import (
    PYTHON,
    check_reused,
    job_prefix,
    lease_holder,
    own_cluster_address,
    resources_of,
    save_config,
    sharing,
    source,
    submitted_by,
    trained_stages,
)


def submit_run(
    config: Config,
    run: str,
    address: str,
    *,
    until: str | None = None,
    max_concurrent: int | None = None,
    on_event: Callable[[events.Event], None],
    invocation: Mapping[str, Any] | None = None,
    requests: Mapping[str, Requested] | None = None,
    job: str = "",
) -> dict[str, chain.Outcome]:
    """Run a configuration's stages on the cluster at `address` and wait for them. Finished stages are reused.

    `max_concurrent`: limit of stages that run at the same time. `invocation`: the command, user and host that the
    manifests record (default: those of this process). `requests`: what each stage requests, with prices (default: those
    of the cluster file of this machine). `job`: the id of the job that this process is, "" for none.

    The input files are listed here, so that new files are found; the stages' jobs read the stored listing.
    Raises ClusterError when no cluster answers there, FileNotFoundError for missing inputs, and ConfigError or
    ValueError for inputs that cannot end in a report, for a `gender.weights` that cannot be used, or for a file of a
    reused stage that is not what its manifest lists. Raises LeaseHeld if another cluster works on the run, and
    LeaseLost, after its jobs were stopped, if one has taken over.
    """
    trees, fingerprints = adopted.inputs_of(config, run)
    storage.require_store(run)
    if config.gender.weights:
        find_gender_weights(config, run)  # now, because preprocessing comes first and may take hours
    if stages.done(run, "preprocess", fingerprints["preprocess"]) is None:
        require_report(config, trees)
    inventory.write_inventory(run, config.data, fingerprints["preprocess"], trees)
    config_uri = save_config(config, run)
    jobs_client = client.connect(address)
    holder = lease_holder(jobs_client, address, config, invocation)
    more = [*submitted_by(config, invocation), *sharing(holder)]
    requests = requests or _requests(config, jobs_client)
    chain_stages = _chain_stages(config, run, config_uri, fingerprints, requests, more)
    planned = [stage.name for stage in select_stages(chain_stages, until)]
    pending = [stage for stage in planned if stages.done(run, stage, fingerprints[stage]) is None]
    require_workers(config, trained_stages(config, pending))
    with (
        lease.hold(run, holder, say=lambda line: on_event(events.Warned(stage="submit", text=line))) as held,
        drivers.driving(run, drivers.CHAIN, holder, held, job=job) as end,
    ):
        _check_reused(config, run, planned, pending, on_event)
        with live_page(config, run, planned, pending, lambda: bool(held.lost)) as page:

            def note(event: events.Event) -> None:
                page.on_event(event)
                on_event(event)

            outcomes = chain.run_chain(
                chain_stages,
                runner=stage_cost.runner(jobs_client, run, requests),
                is_done=lambda stage: stages.done(run, stage.name, fingerprints[stage.name]),
                fingerprint=lambda stage: fingerprints[stage.name],
                prefix=job_prefix(run),
                capacity=lambda: client.capacity(jobs_client),
                conflict=lambda: _conflict(jobs_client, run, fingerprints),
                stop=lambda: bool(held.lost),
                on_event=note,
                until=until,
                max_concurrent=max_concurrent,
            )
            if held.lost:
                raise lease.LeaseLost(held.lost)
            page.how = end.how = how_it_ended(outcomes.values())
    return outcomes


def how_it_ended(outcomes: Iterable[chain.Outcome]) -> str:
    """Return how a driver ended, in one line, from the outcomes of its stages."""
    unfinished = [outcome for outcome in outcomes if not outcome.ok]
    failed = next((outcome for outcome in unfinished if outcome.status == "failed"), None)
    if failed is not None:
        return f"failed: {failed.stage}: {failed.reason.removeprefix(f'{failed.stage}: ')}"
    return "stopped" if unfinished else drivers.FINISHED


def _check_reused(
    config: Config,
    run: str,
    planned: Sequence[str],
    pending: Sequence[str],
    on_event: Callable[[events.Event], None],
) -> None:
    """Raise ValueError if a file of a finished stage is not what its manifest lists.

    The SHA-256 is compared for stages that others will build on; otherwise the sizes are.
    """
    shards = list(pending) != ["report"]  # the report reads none
    if needed := reused.built_on(pending):
        check_reused(run, needed, config, on_event, shards=shards)
    reused.require_sizes(run, [stage for stage in planned if stage not in (*pending, *needed)])


def _conflict(jobs_client: Any, run: str, fingerprints: Mapping[str, str]) -> str:
    """Return why this run is locked: another job works on it with other settings, and would overwrite our files.

    Empty if it is not locked.
    """
    for job in client.list_jobs(jobs_client, {"run": run}):
        stage = job.metadata.get("stage", "")
        if not job.active or stage not in fingerprints:
            continue
        if not job.submission_id.startswith(chain.job_id_prefix(job_prefix(run), stage, fingerprints[stage])):
            return (
                f"job {job.submission_id} runs stage {stage} of this run with other settings: wait for it, stop it "
                f"with `arspm cancel {run}`, or use another --run for these settings"
            )
    return ""


def detach(config: Config, run: str, address: str, until: str | None, max_concurrent: int | None = None) -> str:
    """Submit the chain's driver as a job and return its id. Raises ClusterError if the head has no room for it."""
    storage.require_store(run)
    jobs_client = client.connect(address)
    client.require_driver_room(jobs_client)
    job = f"{job_prefix(run)}-{drivers.CHAIN}-{int(time.time())}"
    command = [*PYTHON, "jobs.chain", "--run", run, "--config", save_config(config, run), "--job", job]
    command += ["--until", until] if until else []
    command += ["--max-concurrent", str(max_concurrent)] if max_concurrent else []
    command += submitted_by(config)
    command += stage_cost.words_of_all(_requests(config, jobs_client))  # the cluster file is on this machine
    with drivers.submitting(run, drivers.CHAIN, lease_holder(jobs_client, address, config), job):
        return client.submit(
            jobs_client,
            submission_id=job,
            entrypoint=shlex.join(command),
            working_dir=source(),
            metadata={"run": run, "stage": drivers.CHAIN},
        )


def _requests(config: Config, jobs_client: Any) -> dict[str, Requested]:
    """Return what each stage requests, with the prices of the cluster file of this machine."""
    market = stage_cost.find_market(jobs_client)
    return {name: stage_cost.request_of(config, name, market) for name in stages.STAGES}


def _chain_stages(
    config: Config,
    run: str,
    config_uri: str,
    fingerprints: Mapping[str, str],
    requests: Mapping[str, Requested],
    more: Sequence[str],
) -> list[Stage]:
    where = ["--run", run, "--config", config_uri, *more]

    def own_words(name: str) -> list[str]:
        return ["--fingerprint", fingerprints[name], *stage_cost.words(requests[name])]

    return [
        Stage(
            name,
            stage.needs,
            shlex.join([*PYTHON, f"jobs.{name}", *where, *own_words(name)]),
            *resources_of(config, name),
        )
        for name, stage in stages.STAGES.items()
    ]


def main() -> None:
    """Submit a run's stages as jobs to the cluster that this process runs on, and wait for them."""
    parser = argparse.ArgumentParser(prog="python -m jobs.chain", description=main.__doc__)
    parser.add_argument("--run", required=True, help="run directory: a local path or s3://bucket/prefix")
    parser.add_argument("--config", required=True, help="complete configuration: URI of a JSON file")
    parser.add_argument("--until", help="last stage to run (default: report)")
    parser.add_argument("--max-concurrent", type=int, help="limit of concurrent stages (default: none)")
    parser.add_argument("--job", default="", help="id of the job that this program is")
    parser.add_argument("--submitted-by", type=json.loads, metavar="JSON", help="see the stages' programs")
    parser.add_argument(
        "--requests", type=stage_cost.parse_all, metavar="JSON", help="what each stage requests, with prices"
    )
    arguments = parser.parse_args()
    with readable_end(drivers.CHAIN), watch() as on_event:
        config = configuration.load(storage.read_bytes(arguments.config))
        outcomes = submit_run(
            config,
            arguments.run,
            own_cluster_address(),
            until=arguments.until,
            max_concurrent=arguments.max_concurrent,
            on_event=on_event,
            invocation=arguments.submitted_by,
            requests=arguments.requests,
            job=arguments.job,
        )
    sys.exit(0 if all(outcome.ok for outcome in outcomes.values()) else 1)


if __name__ == "__main__":
    main()

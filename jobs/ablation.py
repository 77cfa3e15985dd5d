"""Table 4, or a study, in one command: variants trained as jobs over one run, then compared on one page.

`python -m jobs.ablation` is the driver of a detached ablation.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from arspm import storage
from arspm.config.studies import STUDIES
from arspm.config.variants import TABLE4, VARIANTS
from arspm.runs import drivers, lease, reused, stages
from arspm.runs.usage import Requested
from cluster import chain, client, events
from cluster.graph import Stage
from jobs import stage_cost
from jobs.ablation_plan import STAGES, Model, plan
from jobs.console import watch
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
)

INCOMPLETE = f"{drivers.FINISHED} without some models"


def run_ablation(
    run: str,
    models: Sequence[Model],
    missing: Sequence[Mapping[str, Any]],
    address: str,
    on_event: Callable[[events.Event], None],
    study: str = "",
    max_concurrent: int | None = None,
    invocation: Mapping[str, Any] | None = None,
    requests: Mapping[str, Requested] | None = None,
    job: str = "",
) -> bool | None:
    """Train and measure the models that are not done, as many in parallel as fit, then write the page.

    `max_concurrent`: limit of jobs that run at the same time. `study`: the models' study, "" for none. `invocation`:
    the command, user and host that the manifests record (default: those of this process). `requests`: what each
    STAGE-SLUG requests, with prices (default: those of the cluster file of this machine). `job`: the id of the job
    that this process is, "" for none. Returns whether every model is there, or None after Ctrl-C: finished models are
    kept and the page is not written. Raises ValueError if no model could be trained, or for a file of the run that is
    not what its manifest lists, and as `storage.require_store` does.
    """
    storage.require_store(run)
    jobs_client = client.connect(address)
    holder = lease_holder(jobs_client, address, models[0].config, invocation)
    with (
        lease.hold(run, holder, say=lambda line: on_event(events.Warned(stage="ablation", text=line))) as held,
        drivers.driving(run, driver_name(study), holder, held, job=job, models=_planned(run, models)) as end,
    ):
        complete = _run_ablation(
            run,
            models,
            missing,
            jobs_client,
            holder,
            held,
            on_event,
            study,
            max_concurrent,
            invocation,
            requests or _requests(models, jobs_client),
        )
        if held.lost:
            raise lease.LeaseLost(held.lost)
        end.how = "stopped" if complete is None else drivers.FINISHED if complete else INCOMPLETE
    return complete


def driver_name(study: str) -> str:
    """Return the name of the driver of an ablation, or of a study, in job ids and metadata."""
    return f"{drivers.STUDY}{study}" if study else drivers.ABLATION


def _requests(models: Sequence[Model], jobs_client: Any) -> dict[str, Requested]:
    """Return what each STAGE-SLUG requests, with the prices of the cluster file of this machine."""
    market = stage_cost.find_market(jobs_client)
    return {
        f"{stage}-{model.slug}": stage_cost.request_of(model.config, stage, market)
        for model in models
        for stage in STAGES
    }


def _planned(run: str, models: Sequence[Model]) -> list[drivers.Planned]:
    return [
        drivers.Planned(
            name=model.slug, run=model.run.removeprefix(run).strip("/"), fingerprints=dict(model.fingerprints)
        )
        for model in models
    ]


def _run_ablation(
    run: str,
    models: Sequence[Model],
    missing: Sequence[Mapping[str, Any]],
    jobs_client: Any,
    holder: lease.Holder,
    held: lease.Lease,
    on_event: Callable[[events.Event], None],
    study: str,
    max_concurrent: int | None,
    invocation: Mapping[str, Any] | None,
    requests: Mapping[str, Requested],
) -> bool | None:
    started = time.monotonic()
    outcomes = _run_stages(run, models, jobs_client, holder, held, on_event, max_concurrent, invocation, requests)
    if any(outcome.status == "cancelled" for outcome in outcomes.values()):
        return None
    complete, absent = [], [*missing]
    for model in models:
        ended = [outcomes[f"{stage}-{model.slug}"] for stage in STAGES]
        failed = next((outcome for outcome in ended if not outcome.ok), None)
        if failed is None:
            complete.append(model)
        else:
            absent.append({"variant": model.variant, "seed": model.seed, "reason": failed.reason})
    if not complete:
        raise ValueError(f"no model of the ablation could be trained; the first: {absent[0]['reason']}")
    from arspm.distributed.ablation import Finished, write_page

    write_page(
        run,
        complete[0].config,
        [Finished(model.variant, model.seed, model.run) for model in complete],
        {model.variant: (model.description, VARIANTS[model.variant].published) for model in complete},
        absent,
        time.monotonic() - started,
        study,
    )
    return len(complete) == len(models)


def _run_stages(
    run: str,
    models: Sequence[Model],
    jobs_client: Any,
    holder: lease.Holder,
    held: lease.Lease,
    on_event: Callable[[events.Event], None],
    max_concurrent: int | None,
    invocation: Mapping[str, Any] | None,
    requests: Mapping[str, Requested],
) -> dict[str, chain.Outcome]:
    """Run the models' stages as one chain. Its stages are named STAGE-SLUG."""
    by_name: dict[str, tuple[Model, str]] = {}
    chain_stages = []
    for model in models:
        config_uri = save_config(model.config, run)
        for stage in STAGES:
            name = f"{stage}-{model.slug}"
            by_name[name] = model, stage
            where = ["--run", model.run, "--config", config_uri, "--fingerprint", model.fingerprints[stage]]
            where += [*submitted_by(model.config, invocation), *sharing(holder), *stage_cost.words(requests[name])]
            entrypoint = shlex.join([*PYTHON, f"jobs.{stage}", *where])
            needs = () if stage == "encoder" else (f"encoder-{model.slug}",)
            chain_stages.append(Stage(name, needs, entrypoint, *resources_of(model.config, stage)))

    def fingerprint(stage: Stage) -> str:
        model, name = by_name[stage.name]
        return model.fingerprints[name]

    def is_done(stage: Stage) -> stages.Success | None:
        model, name = by_name[stage.name]
        return stages.done(model.run, name, model.fingerprints[name])

    if any(is_done(stage) is None for stage in chain_stages):
        check_reused(run, reused.built_on(STAGES), models[0].config, on_event)
    return chain.run_chain(
        chain_stages,
        runner=stage_cost.runner(jobs_client, run, requests),
        is_done=is_done,
        fingerprint=fingerprint,
        prefix=job_prefix(run),
        capacity=lambda: client.capacity(jobs_client),
        stop=lambda: bool(held.lost),
        on_event=on_event,
        max_concurrent=max_concurrent,
    )


def detach(
    run: str,
    variants: Sequence[str],
    num_seeds: int,
    changes: Sequence[str],
    models: Sequence[Model],
    address: str,
    study: str = "",
    max_concurrent: int | None = None,
) -> str:
    """Submit the driver as a job and return the job's id. `changes`: texts of --set. `models`: those of the plan.

    Raises ClusterError if the head has no room for it.
    """
    storage.require_store(run)
    jobs_client = client.connect(address)
    client.require_driver_room(jobs_client)
    command = [*PYTHON, "jobs.ablation", "--run", run, "--seeds", str(num_seeds)]
    command += ["--study", study] if study else ["--variants", ",".join(variants)]
    command += ["--max-concurrent", str(max_concurrent)] if max_concurrent else []
    command += submitted_by(models[0].config)
    command += stage_cost.words_of_all(_requests(models, jobs_client))
    name = driver_name(study)
    job = f"{job_prefix(run)}-{name}-{int(time.time())}"
    holder = lease_holder(jobs_client, address, models[0].config)
    with drivers.submitting(run, name, holder, job, _planned(run, models)):
        return client.submit(
            jobs_client,
            submission_id=job,
            entrypoint=shlex.join([*command, "--job", job, *(w for change in changes for w in ("--set", change))]),
            working_dir=source(),
            metadata={"run": run, "stage": name},
        )


def main() -> None:
    """Submit the variants' stages as jobs to the cluster that this process runs on, and compare the models."""
    parser = argparse.ArgumentParser(prog="python -m jobs.ablation", description=main.__doc__)
    parser.add_argument("--run", required=True, help="run directory: a local path or s3://bucket/prefix")
    parser.add_argument("--variants", default=",".join(TABLE4), help="variants, separated by commas (default: Table 4)")
    parser.add_argument("--study", choices=STUDIES, default="", help="train a study's arms instead of --variants")
    parser.add_argument("--seeds", type=int, default=3, help="number of models per variant (default: 3)")
    parser.add_argument("--set", action="append", default=[], help="change one field, e.g. training.encoder.epochs=9")
    parser.add_argument("--max-concurrent", type=int, help="limit of concurrent jobs (default: none)")
    parser.add_argument("--job", default="", help="id of the job that this program is")
    parser.add_argument("--submitted-by", type=json.loads, metavar="JSON", help="see the stages' programs")
    parser.add_argument("--requests", type=stage_cost.parse_all, metavar="JSON", help="see `python -m jobs.chain`")
    arguments = parser.parse_args()
    with readable_end(drivers.ABLATION), watch() as on_event:
        models, missing = plan(
            arguments.run,
            STUDIES[arguments.study].variants if arguments.study else arguments.variants.split(","),
            arguments.seeds,
            dict(change.split("=", 1) for change in arguments.set),  # `arspm ablation` has checked the "="
            arguments.study,
        )
        complete = run_ablation(
            arguments.run,
            models,
            missing,
            own_cluster_address(),
            on_event,
            arguments.study,
            arguments.max_concurrent,
            arguments.submitted_by,
            arguments.requests,
            arguments.job,
        )
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    main()

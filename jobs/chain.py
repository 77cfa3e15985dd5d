"""The chain of a run: its stages as jobs. `python -m jobs.chain` is its detached driver."""

from __future__ import annotations

import argparse
import hashlib
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import arspm
import cluster
import jobs
import tune_spaces
from arspm import config as configuration
from arspm import storage
from arspm.config import TRAINED_STAGES, Config, ResourceRequest
from arspm.runs import stages
from cluster import chain, client, events
from cluster.errors import ClusterError
from cluster.head import find_head
from cluster.job import Job
from cluster.package import stage_package
from jobs.console import watch

CONFIGS = "configs"
DRIVER = "chain"
PYTHON = ("python", "-m")  # the cluster's, not this machine's


def save_config(config: Config, run: str) -> str:
    """Put the resolved configuration into the run, named by its content; its URI."""
    text = configuration.dump(config).encode()
    uri = storage.join(run, CONFIGS, f"{hashlib.sha256(text).hexdigest()[:16]}.json")
    storage.put_if_absent(uri, text)
    return uri


def run_chain(
    config: Config, run: str, address: str, *, until: str | None = None, on_event: Callable[[events.Event], None]
) -> dict[str, chain.Outcome]:
    """Run a configuration's stages on the cluster at `address`, reusing what is done.

    Raises ClusterError without a head there, FileNotFoundError for inputs that are not there.
    """
    fingerprints = stages.fingerprints(config, stages.describe_inputs(config))
    config_uri = save_config(config, run)
    jobs_client = client.connect(address)
    runner = client.RayJobs(jobs_client, working_dir=source(), metadata={"run": run})
    return chain.run_chain(
        _stages(config, run, config_uri, fingerprints),
        runner=runner,
        is_done=lambda stage: stages.done(run, stage.name, fingerprints[stage.name]),
        fingerprint=lambda stage: fingerprints[stage.name],
        prefix=prefix(run),
        capacity=lambda: client.capacity(jobs_client),
        in_the_way=lambda: _others(jobs_client, run, fingerprints),
        on_event=on_event,
        until=until,
    )


def _others(jobs_client: Any, run: str, fingerprints: dict[str, str]) -> str:
    """Why no stage of a run may begin: another works there with other settings, and they would overwrite each other."""
    for job in client.list_jobs(jobs_client, {"run": run}):
        stage = job.metadata.get("stage", "")
        if not job.active or stage not in fingerprints:
            continue
        if not job.submission_id.startswith(chain.job_stem(prefix(run), stage, fingerprints[stage])):
            return (
                f"{stage} of this run is at work with other settings ({job.submission_id}): wait for it, stop it with "
                f"`arspm cancel {run}`, or give these settings a run of their own"
            )
    return ""


def detach(config: Config, run: str, address: str, until: str | None) -> str:
    """Submit the chain's driver itself as a job, so that this machine may go; the job's id."""
    jobs_client = client.connect(address)
    command = [*PYTHON, "jobs.chain", "--run", run, "--config", save_config(config, run)]
    return client.submit(
        jobs_client,
        submission_id=f"{prefix(run)}-{DRIVER}-{int(time.time())}",
        entrypoint=shlex.join(command + (["--until", until] if until else [])),
        working_dir=source(),
        metadata={"run": run, "stage": DRIVER},
    )


def live_jobs(run: str, address: str) -> dict[str, Job]:
    """The run's live jobs by stage; none without a cluster."""
    if not address:
        return {}
    found = client.list_jobs(client.connect(address), {"run": run})
    return {job.metadata["stage"]: job for job in found if job.active}


def last_log(run: str, stage: str, address: str) -> str:
    """What the stage's last job wrote. Raises ClusterError when the cluster knows of none."""
    jobs_client = client.connect(address)
    found = client.list_jobs(jobs_client, {"run": run, "stage": stage})
    if not found:
        raise ClusterError(f"the cluster at {address} knows no job of stage {stage!r} of {run}")
    return client.logs(jobs_client, found[-1].submission_id)


def cancel(run: str, address: str) -> list[Job]:
    """Stop the run's live jobs; how each is afterwards."""
    return client.cancel(client.connect(address), {"run": run})


def source() -> Path:
    """A directory with this product's packages, and nothing else, to travel with a job."""
    return stage_package([Path(str(package.__file__)).parent for package in (arspm, jobs, cluster, tune_spaces)])


def prefix(run: str) -> str:
    return f"arspm-{hashlib.sha256(run.encode()).hexdigest()[:8]}"


def _stages(config: Config, run: str, config_uri: str, fingerprints: dict[str, str]) -> list[chain.Stage]:
    where = ["--run", run, "--config", config_uri]
    return [
        chain.Stage(
            name,
            stage.needs,
            shlex.join([*PYTHON, f"jobs.{name}", *where, "--fingerprint", fingerprints[name]]),
            *asks(config, name),
        )
        for name, stage in stages.STAGES.items()
    ]


def asks(config: Config, stage: str) -> tuple[float, float, float]:
    """CPUs, GPUs and bytes of memory that a stage keeps busy: its workers' or tasks', and its readers'."""
    resources = config.resources
    if stage in TRAINED_STAGES:
        workers, read = getattr(resources, stage), resources.read
        return asked((workers.most, workers), (workers.most * read.num_tasks, read))
    inferring = dict.fromkeys(("features", "oracle", "evaluate"), resources.infer)
    tasks = {"preprocess": resources.preprocess, **inferring}.get(stage)
    return asked((tasks.num_tasks, tasks)) if tasks else asked()


def asked(*groups: tuple[int, ResourceRequest]) -> tuple[float, float, float]:
    """CPUs, GPUs and bytes of memory of so many of each together."""
    return (
        sum(number * each.cpus for number, each in groups),
        sum(number * each.gpus for number, each in groups),
        sum(number * each.memory_bytes for number, each in groups),
    )


def main() -> None:
    """The detached driver: a job on the cluster that submits the stages to the head it runs beside."""
    parser = argparse.ArgumentParser(prog="python -m jobs.chain", description=main.__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--config", required=True)
    parser.add_argument("--until")
    arguments = parser.parse_args()
    config = configuration.load(storage.read_bytes(arguments.config))
    with watch() as on_event:
        outcomes = run_chain(config, arguments.run, cluster_address(), until=arguments.until, on_event=on_event)
    sys.exit(0 if all(outcome.ok for outcome in outcomes.values()) else 1)


def cluster_address() -> str:
    """Where the Jobs API answers of the cluster that this process runs on."""
    found = find_head()
    if found is None:
        import ray

        found = client.normal_address(ray.init(address="auto", log_to_driver=False).dashboard_url or "")
    return found


if __name__ == "__main__":
    main()

"""What every driver needs to submit stages as Ray jobs: the code, the configuration, job ids, resource requests."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import arspm
import cluster
import jobs
import tune_spaces
from arspm import config as configuration
from arspm import storage
from arspm.config import Config, ResourceRequest, Workers
from arspm.runs.stages import STAGES
from cluster import client
from cluster.head import find_head
from cluster.package import stage_package

CONFIGS = "configs"  # folder of a run
PYTHON = ("python", "-m")  # the cluster's interpreter, not this machine's


class Resources(NamedTuple):
    """Resources that a stage uses in total. Fields as in `cluster.chain.Stage`."""

    num_cpus: float = 0
    num_gpus: float = 0
    memory_bytes: float = 0


def save_config(config: Config, run: str) -> str:
    """Write the configuration into the run, named by its content, and return its URI."""
    text = configuration.dump(config).encode()
    uri = storage.join(run, CONFIGS, f"{hashlib.sha256(text).hexdigest()[:16]}.json")
    storage.put_if_absent(uri, text)
    return uri


def source() -> Path:
    """Return a directory with the source of this product's packages only, to upload with a job."""
    return stage_package([Path(str(package.__file__)).parent for package in (arspm, jobs, cluster, tune_spaces)])


def job_prefix(run: str) -> str:
    """Return the prefix of the ids of a run's jobs."""
    return f"arspm-{hashlib.sha256(run.encode()).hexdigest()[:8]}"


def resources_of(config: Config, stage: str) -> Resources:
    """Return the most that a stage uses at a time: the resources of its workers or tasks, and of its data readers."""
    sections = [STAGES[stage].resources] if STAGES[stage].resources else []
    if stage == "gender" and config.gender.label_confidence is not None:
        sections.append("infer")  # after training
    used = [_resources_of_section(config, section) for section in sections]
    return Resources(*(max(amounts) for amounts in zip(*used, strict=True)))


def _resources_of_section(config: Config, section: str) -> Resources:
    group, read = getattr(config.resources, section), config.resources.read
    if isinstance(group, Workers):
        return total_resources((group.most, group), (group.most * read.num_tasks, read))
    return total_resources((group.num_tasks, group))


def total_resources(*groups: tuple[int, ResourceRequest]) -> Resources:
    """Return the sum over groups of (number of workers or tasks, request of each)."""
    return Resources(
        sum(number * each.cpus for number, each in groups),
        sum(number * each.gpus for number, each in groups),
        sum(number * each.memory_bytes for number, each in groups),
    )


def own_cluster_address() -> str:
    """Return the URL of the Jobs API of the cluster that this process runs on."""
    address = find_head()
    if address is None:
        import ray

        address = client.normalize_address(ray.init(address="auto", log_to_driver=False).dashboard_url or "")
    return address

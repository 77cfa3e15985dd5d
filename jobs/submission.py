"""What every driver needs to submit stages as Ray jobs: the code, the configuration, job ids, resource requests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import arspm
import cluster
import jobs
import tune_spaces
from arspm import config as configuration
from arspm import storage
from arspm.config import TRAINED_STAGES, Config, ResourceRequest, Workers
from arspm.runs import reused
from arspm.runs.lease import Holder
from arspm.runs.provenance import COMMIT_FILE, code_commit, own_invocation
from arspm.runs.stages import STAGES
from cluster import client, events
from cluster.head import find_head
from cluster.package import stage_package

CONFIGS = "configs"  # folder of a run
NOTE_SECONDS = 10.0  # a check of finished stages that takes longer is mentioned
_GIB = 1 << 30
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
    """Return a directory with the source of this product's packages only, to upload with a job, and its git commit."""
    packages = [Path(str(package.__file__)).parent for package in (arspm, jobs, cluster, tune_spaces)]
    return stage_package(packages, {f"arspm/{COMMIT_FILE}": json.dumps(code_commit()).encode()})


def submitted_by(config: Config, invocation: Mapping[str, Any] | None = None) -> list[str]:
    """Return the words of a job's command line that say who asked for it; none if `provenance` leaves that out.

    invocation: what this process was told itself (default: this process's own command, user and host).
    """
    if config.provenance != "all":
        return []
    return ["--submitted-by", json.dumps(invocation or own_invocation())]


def lease_holder(jobs_client: Any, address: str, config: Config, invocation: Mapping[str, Any] | None = None) -> Holder:
    """Return the holder of leases for all drivers and jobs of the cluster at `address`.

    invocation: as in `submitted_by`.
    """
    asked = (invocation or own_invocation()) if config.provenance == "all" else {}
    user = f"{asked['user']}@{asked['host']}" if {"user", "host"} <= asked.keys() else ""
    return Holder(client.session(jobs_client), address, user)


def sharing(holder: Holder) -> list[str]:
    """Return the words of a job's command line with which it shares its driver's lease."""
    return ["--cluster", json.dumps(holder._asdict())]


def check_reused(
    run: str,
    names: Sequence[str],
    config: Config,
    on_event: Callable[[events.Event], None] = lambda event: None,
    *,
    shards: bool = True,
) -> None:
    """Raise ValueError, in one line, if a file of finished stages is not what its manifest lists.

    names: the stages. Sizes are always compared, SHA-256 of up to `max_hashed_gib`. Says so if that takes long, or if
    it leaves something. `shards`: as in `reused.require_sizes`.
    """
    reused.require_sizes(run, names, shards=shards)
    hashed = reused.require_hashes(run, names, max_bytes=config.max_hashed_gib * _GIB, shards=shards)
    text = f"checked {hashed.num_files:,} files of finished stages, {hashed.num_bytes / _GIB:.1f} GiB, in "
    text += f"{hashed.seconds:.0f} s"
    if hashed.bytes_left:
        text += f"; {hashed.bytes_left / _GIB:.1f} GiB by their size only (max_hashed_gib)"
    if hashed.bytes_left or hashed.seconds > NOTE_SECONDS:
        on_event(events.Warned(stage="submit", text=text))


def trained_stages(config: Config, names: Sequence[str]) -> list[str]:
    """Return which of these stages train a network on workers."""
    given = {"vggface": config.vggface.weights, "gender": config.gender.weights}
    return [name for name in names if name in TRAINED_STAGES and not given.get(name)]


def job_prefix(run: str) -> str:
    """Return the prefix of the ids of a run's jobs."""
    return f"arspm-{hashlib.sha256(run.encode()).hexdigest()[:8]}"


def sections_of(config: Config, stage: str) -> list[str]:
    """Return the sections of `resources` whose workers or tasks a stage uses, one after the other."""
    sections = [STAGES[stage].resources] if STAGES[stage].resources else []
    if stage in TRAINED_STAGES and not trained_stages(config, [stage]):
        sections = []
    if stage == "gender" and config.gender.label_confidence is not None:
        sections.append("infer")  # after training
    return sections


def resources_of(config: Config, stage: str) -> Resources:
    """Return the most that a stage uses at a time: the resources of its workers or tasks, and of its data readers."""
    used = [_resources_of_section(config, section) for section in sections_of(config, stage)]
    return Resources(*(max(amounts) for amounts in zip(*used, strict=True)))


def _resources_of_section(config: Config, section: str) -> Resources:
    group, read = getattr(config.resources, section), config.resources.read
    if isinstance(group, Workers):
        return total_resources((group.most, group), (group.most * read.num_tasks, read))
    readers = group.num_tasks * read.num_tasks if section == "infer" and group.gpus else 0
    return total_resources((group.num_tasks, group), (readers, read))


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

"""A client of Ray's Jobs API over HTTP, with readable errors. It does not call `ray.init`."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from cluster.connection import connect, normalize_address
from cluster.errors import ClusterError, Unreachable
from cluster.job import Job, Node, Resources
from cluster.logs import Tail

__all__ = ["connect", "normalize_address"]  # re-exported: they begin every use of this module

DRIVER_BYTES = 1.5e9  # of a training job's processes on the head; measured in docs/cluster.md, Size of the head
# Ray repeats a task that it killed for memory without end.
_JOB_ENV = {"RAY_task_oom_retries": "3"}
NODE_GROUP = "ray.io/node-group"  # label that Ray derives from RAY_NODE_TYPE_NAME
_MAX_NODES = 10_000  # the largest limit that Ray's State API accepts by default


def session(client: Any) -> str:
    """Return the name of the cluster's session, which no other cluster has, and which a new head does not keep."""
    reply = client._do_request("GET", "/api/version")  # no public method returns it
    try:
        return str(reply.json()["session_name"])
    except (ValueError, KeyError, TypeError):
        raise ClusterError("the Ray head does not name its session: this release needs Ray 2.40 or newer") from None


def submit(
    client: Any,
    *,
    submission_id: str,
    entrypoint: str,
    working_dir: Path | None = None,
    env_vars: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
    **resources: Any,
) -> str:
    """Submit a job and return its id. Does nothing if a job with this id exists.

    resources: `entrypoint_num_cpus` and so on, for the job's driver. Without them the driver runs on the head node and
    reserves nothing, so that all resources are left for tasks.
    """
    runtime_env: dict[str, Any] = {"env_vars": {**_JOB_ENV, **(env_vars or {})}}
    if working_dir is not None:
        runtime_env["working_dir"] = str(working_dir)
    try:
        client.submit_job(
            submission_id=submission_id,
            entrypoint=entrypoint,
            runtime_env=runtime_env,
            metadata=dict(metadata or {}),
            **resources,
        )
    except ClusterError:
        raise
    except RuntimeError as error:
        if "already exists" not in str(error):
            lines = [line for line in str(error).splitlines() if line.strip(" .")]
            kind = Unreachable if "No available agent" in str(error) else ClusterError
            raise kind(f"the cluster did not accept job {submission_id}: {lines[-1]}") from error
    return submission_id


def info(client: Any, submission_id: str) -> Job | None:
    """Return the state of a job, or None if the cluster knows no job with this id."""
    try:
        return _job(client.get_job_info(submission_id))
    except ClusterError:
        raise
    except RuntimeError as error:
        if "status code 404" in str(error):
            return None
        raise Unreachable(f"cannot get the state of job {submission_id}: {_first_line(error)}") from error


def _job(details: Any) -> Job:
    return Job(
        submission_id=details.submission_id,
        status=details.status.value,
        error_type=details.error_type,
        message=details.message or "",
        exit_code=details.driver_exit_code,
        metadata=dict(details.metadata or {}),
        seconds=((details.end_time or time.time() * 1000) - (details.start_time or 0)) / 1000,
        ended=details.end_time / 1000 if details.end_time else None,
        node_id=details.driver_node_id or "",
    )


def list_jobs(client: Any, metadata: Mapping[str, str]) -> list[Job]:
    """Return the submitted jobs that have all of this metadata, such as `{"run": URI}`, oldest first."""
    with _as_unreachable("cannot list the cluster's jobs"):
        jobs = client.list_jobs()
    jobs = [job for job in jobs if job.submission_id and metadata.items() <= dict(job.metadata or {}).items()]
    return [_job(job) for job in sorted(jobs, key=lambda job: job.start_time or 0)]


def logs(client: Any, submission_id: str) -> str:
    """Return the job's log so far; empty if the job has not started."""
    with _as_unreachable(f"cannot get the log of job {submission_id}"):
        return client.get_job_logs(submission_id)


def last_lines(client: Any, job: Job, num_lines: int) -> list[str]:
    """Return the last lines of the job's log, without reading all of it; none if the job has not started.

    Raises Unreachable if there is no log, as when its node is gone.
    """
    if not job.node_id:
        return []
    query = urlencode({"node_id": job.node_id, "submission_id": job.submission_id, "lines": num_lines})
    with _as_unreachable(f"cannot get the end of the log of job {job.submission_id}"):
        answer = client._do_request("GET", f"/api/v0/logs/file?{query}")  # no public method limits what is sent
        answer.raise_for_status()
    return answer.content.decode(errors="replace").splitlines()


def follow(client: Any, submission_id: str, poll_seconds: float = 0.5) -> Iterator[str]:
    """Yield the job's log lines as they arrive, until the job has ended."""
    with Tail(client, submission_id) as tail:
        while True:
            job = info(client, submission_id)
            if job is None or not job.active:
                break
            yield from tail.new_lines()
            time.sleep(poll_seconds)
        if job is not None:
            yield from tail.rest(logs(client, submission_id))


def wait(
    client: Any, submission_id: str, on_log: Callable[[str], None] = lambda line: None, poll_seconds: float = 0.5
) -> Job:
    """Wait until the job has ended and return it. Raises ClusterError if there is no such job."""
    for line in follow(client, submission_id, poll_seconds):
        on_log(line)
    job = info(client, submission_id)
    if job is None:
        raise ClusterError(f"the cluster knows no job {submission_id}")
    return job


def stop(client: Any, submission_id: str) -> None:
    """Ask the job to stop, without waiting for its end. Our heads send SIGINT first, and SIGKILL 60 s later."""
    with _as_unreachable(f"cannot stop job {submission_id}"):
        client.stop_job(submission_id)


def cancel(
    client: Any,
    metadata: Mapping[str, str],
    wanted: Callable[[Job], bool] = lambda job: True,
    stop_seconds: float = 75.0,
) -> list[Job]:
    """Stop every live job that has this metadata and is wanted, wait for them, and return the state of each.

    All jobs are asked to stop before the wait begins, newest first. So the driver of a detached chain, which is one of
    them, submits nothing more.
    """
    live = [job for job in list_jobs(client, metadata) if job.active and wanted(job)]
    for job in reversed(live):
        stop(client, job.submission_id)
    deadline = time.time() + stop_seconds
    while True:
        ids = {job.submission_id for job in live}
        now = [j for j in list_jobs(client, metadata) if j.submission_id in ids or (j.active and wanted(j))]
        if not any(job.active for job in now) or time.time() > deadline:
            return now
        time.sleep(0.5)


def capacity(client: Any) -> Resources:
    """Return the total resources of the cluster's live nodes, whether it grows, and the room for drivers on its head.

    A cluster grows if an autoscaler started one of its nodes: Ray's launcher and KubeRay name the group of each node.
    Raises Unreachable if the head does not list all nodes.
    """
    nodes = _live_nodes(client)
    totals = [node["resources_total"] for node in nodes]
    heads = [node["resources_total"].get("memory", 0) for node in nodes if node.get("is_head_node")]
    return Resources(
        num_cpus=sum(total.get("CPU", 0) for total in totals),
        num_gpus=sum(total.get("GPU", 0) for total in totals),
        memory_bytes=sum(total.get("memory", 0) for total in totals),
        grows=any(NODE_GROUP in (node.get("labels") or {}) for node in nodes),
        free_drivers=_max_drivers(heads[0]) - _num_active(client) if heads and heads[0] else None,
    )


def nodes(client: Any) -> list[Node]:
    """Return the cluster's live nodes. Raises Unreachable if the head does not list all of them."""
    return [
        Node(
            (node.get("labels") or {}).get(NODE_GROUP, ""),
            bool(node.get("is_head_node")),
            node["resources_total"].get("CPU", 0),
            node["resources_total"].get("GPU", 0),
        )
        for node in _live_nodes(client)
    ]


def require_driver_room(client: Any) -> None:
    """Raise ClusterError if the head has no memory for the driver of a detached chain beside the jobs that run.

    Such a driver submits further jobs, so it takes the room of two. Otherwise drivers could fill the head, and none of
    them could submit anything.
    """
    room = capacity(client)
    if room.free_drivers is not None and room.free_drivers < 2:
        raise ClusterError(
            f"the head has memory for no further driver beside its {_num_active(client)} jobs: wait until some have "
            "ended, run the command without --detach, or use a larger head (docs/cluster.md, Size of the head)"
        )


def _max_drivers(head_memory_bytes: float) -> int:
    """Return how many jobs' drivers fit into the memory that the head node offers. One always may run."""
    return max(1, int(head_memory_bytes / DRIVER_BYTES))


def _num_active(client: Any) -> int:
    return sum(job.active for job in list_jobs(client, {}))


def _live_nodes(client: Any) -> list[dict[str, Any]]:
    """Return what Ray's State API tells of every live node. By default it lists 100 nodes, dead ones included."""
    query = {"filter_keys": "state", "filter_predicates": "=", "filter_values": "ALIVE", "detail": 1}
    limit = _MAX_NODES
    with _as_unreachable("cannot list the cluster's nodes"):
        answer = client._do_request("GET", f"/api/v0/nodes?{urlencode({**query, 'limit': limit})}")
        if lower := re.search(r"supported limit (\d+)", answer.text[:1000]) if not answer.ok else None:
            limit = int(lower[1])  # of a head with a setting of its own
            answer = client._do_request("GET", f"/api/v0/nodes?{urlencode({**query, 'limit': limit})}")
        answer.raise_for_status()
        listed = answer.json()["data"]["result"]
        nodes = [node for node in listed["result"] if node["state"] == "ALIVE"]
        num_nodes = listed["num_filtered"]
    if num_nodes > len(listed["result"]):
        raise Unreachable(
            f"the head lists only {limit:,} of its {num_nodes:,} live nodes: start it with "
            f"RAY_MAX_LIMIT_FROM_API_SERVER={num_nodes} or more"
        )
    return nodes


@contextlib.contextmanager
def _as_unreachable(what: str) -> Iterator[None]:
    """Raise any error in the block as Unreachable, with `what` before its first line; leave ClusterErrors alone."""
    try:
        yield
    except ClusterError:
        raise
    except Exception as error:
        raise Unreachable(f"{what}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class RayJobs:
    """The `JobRunner` for Ray clusters. Every job gets this working directory, environment and metadata.

    stage_metadata: further metadata, by stage.
    """

    def __init__(
        self,
        client: Any,
        *,
        working_dir: Path | None = None,
        env_vars: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        stage_metadata: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self._client = client
        self._working_dir = working_dir
        self._env_vars = dict(env_vars or {})
        self._metadata = dict(metadata or {})
        self._stage_metadata = dict(stage_metadata or {})
        self._tails: dict[str, Tail] = {}

    def submit(self, submission_id: str, *, stage: str, entrypoint: str) -> None:
        submit(
            self._client,
            submission_id=submission_id,
            entrypoint=entrypoint,
            working_dir=self._working_dir,
            env_vars=self._env_vars,
            metadata={**self._metadata, "stage": stage, **self._stage_metadata.get(stage, {})},
        )

    def info(self, submission_id: str) -> Job | None:
        return info(self._client, submission_id)

    def new_lines(self, submission_id: str, *, last: bool = False) -> list[str]:
        if last:
            tail = self._tails.pop(submission_id, None) or Tail(self._client, submission_id)
            tail.close()
            return tail.rest(logs(self._client, submission_id))
        if submission_id not in self._tails:
            self._tails[submission_id] = Tail(self._client, submission_id)
        return self._tails[submission_id].new_lines()

    def stop(self, submission_id: str) -> None:
        stop(self._client, submission_id)

"""Ray's Jobs API over HTTP, with readable errors; no `ray.init` in this process."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster.access import auth_headers, token_file
from cluster.errors import ClusterError, Unreachable
from cluster.job import Job, Resources
from cluster.logs import Tail

_REQUEST_SECONDS = 60.0
_ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


def normal_address(address: str) -> str:
    """`HOST:PORT` or a URL as `http(s)://HOST:PORT`. ClusterError for what is no dashboard's address."""
    address = address.strip().rstrip("/")
    parts = urlsplit(address if "://" in address else f"http://{address}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ClusterError(f"{address!r} is not the address of a Ray dashboard: give it as http://HOST:8265")
    return parts.geturl()


def connect(address: str) -> Any:
    """A `JobSubmissionClient` that has spoken with the head at `address`, else Unreachable or ClusterError."""
    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            options.setdefault("timeout", _REQUEST_SECONDS)  # Ray's own has none
            try:
                return super()._do_request(method, endpoint, **options)
            except AuthenticationError as error:
                raise ClusterError(_refusal(address, str(error))) from None
            except (requests.ConnectionError, requests.Timeout):
                raise Unreachable(
                    f"no Ray head answers at {address}: start one with `arspm up`, or pass --ray-address"
                ) from None

    address = normal_address(address)
    headers = auth_headers(address)
    if not headers and os.environ.get("RAY_AUTH_MODE", "").lower() == "token":
        raise ClusterError(
            f"RAY_AUTH_MODE=token, but there is no token in {token_file()}: `arspm up` makes one for a local head; for "
            "another head set RAY_AUTH_TOKEN_PATH to the file that holds its token"
        )
    for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)
    with _without(_ADDRESS_VARIABLES):  # they would win over the address given here
        try:
            return Client(address, headers=headers)
        except ClusterError:
            raise
        except Exception as error:
            raise ClusterError(f"{address} answers, but not as a Ray head does: {_first_line(error)}") from error


def _refusal(address: str, said: str) -> str:
    if said.startswith("Authentication required"):
        return (
            f"the Ray head at {address} wants a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file "
            "that holds it (or RAY_AUTH_TOKEN to the token)"
        )
    source = "RAY_AUTH_TOKEN" if os.environ.get("RAY_AUTH_TOKEN") else str(token_file())
    return (
        f"the Ray head at {address} refuses the token in {source}: set RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN to the "
        "one it was started with"
    )


@contextlib.contextmanager
def _without(names: Sequence[str]) -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


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
    """Submit a job; a job that already has this id is left as it is. `resources`: `entrypoint_num_cpus` and so on.

    Without resources the job's driver runs on the head node and takes nothing from its tasks.
    """
    runtime_env: dict[str, Any] = {"env_vars": dict(env_vars or {})}
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
            said = [line for line in str(error).splitlines() if line.strip(" .")]
            kind = Unreachable if "No available agent" in str(error) else ClusterError
            raise kind(f"the cluster did not take job {submission_id}: {said[-1]}") from error
    return submission_id


def info(client: Any, submission_id: str) -> Job | None:
    """What the cluster knows of the job; None when it knows none of that id."""
    try:
        return _job(client.get_job_info(submission_id))
    except ClusterError:
        raise
    except RuntimeError as error:
        if "status code 404" in str(error):
            return None
        raise Unreachable(f"the cluster does not say how job {submission_id} is: {_first_line(error)}") from error


def _job(details: Any) -> Job:
    return Job(
        submission_id=details.submission_id,
        status=details.status.value,
        error_type=details.error_type,
        message=details.message or "",
        exit_code=details.driver_exit_code,
        metadata=dict(details.metadata or {}),
        seconds=((details.end_time or time.time() * 1000) - (details.start_time or 0)) / 1000,
    )


def list_jobs(client: Any, metadata: Mapping[str, str]) -> list[Job]:
    """The submitted jobs that carry all of this metadata, such as `{"run": URI}`, oldest first."""
    with _as_unreachable("the cluster does not list its jobs"):
        found = client.list_jobs()
    found = [job for job in found if job.submission_id and metadata.items() <= dict(job.metadata or {}).items()]
    return [_job(job) for job in sorted(found, key=lambda job: job.start_time or 0)]


def logs(client: Any, submission_id: str) -> str:
    """All that the job has written so far; empty when it has not started."""
    with _as_unreachable(f"the cluster does not give the log of job {submission_id}"):
        return client.get_job_logs(submission_id)


def follow(client: Any, submission_id: str, poll_seconds: float = 0.5) -> Iterator[str]:
    """The job's log lines as they come, until it has ended."""
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
    """Wait until the job has ended, handing on its log lines. ClusterError when there is no such job."""
    for line in follow(client, submission_id, poll_seconds):
        on_log(line)
    job = info(client, submission_id)
    if job is None:
        raise ClusterError(f"the cluster knows no job {submission_id}")
    return job


def stop(client: Any, submission_id: str) -> None:
    """Ask the job to stop (SIGINT on our heads, then SIGKILL); returns before it has."""
    with _as_unreachable(f"the cluster does not stop job {submission_id}"):
        client.stop_job(submission_id)


def cancel(client: Any, metadata: Mapping[str, str], stop_seconds: float = 75.0) -> list[Job]:
    """Stop every live job that carries this metadata and wait for them; how each of those is afterwards.

    All are asked before any is waited for, so a chain's own driver among them submits nothing more.
    """
    live = [job for job in list_jobs(client, metadata) if job.active]
    for job in reversed(live):
        stop(client, job.submission_id)
    deadline = time.time() + stop_seconds
    while True:
        ids = {job.submission_id for job in live}
        now = [job for job in list_jobs(client, metadata) if job.submission_id in ids or job.active]
        if not any(job.active for job in now) or time.time() > deadline:
            return now
        time.sleep(0.5)


def capacity(client: Any) -> Resources:
    """What the cluster's live nodes have in all. A cluster that scales from zero has little at first."""
    with _as_unreachable("the cluster does not list its nodes"):
        answer = client._do_request("GET", "/api/v0/nodes?detail=1")
        answer.raise_for_status()
        nodes = [node for node in answer.json()["data"]["result"]["result"] if node["state"] == "ALIVE"]
    totals = [node["resources_total"] for node in nodes]
    return Resources(
        num_cpus=sum(total.get("CPU", 0) for total in totals),
        num_gpus=sum(total.get("GPU", 0) for total in totals),
        memory_bytes=sum(total.get("memory", 0) for total in totals),
    )


@contextlib.contextmanager
def _as_unreachable(what: str) -> Iterator[None]:
    try:
        yield
    except ClusterError:
        raise
    except Exception as error:
        raise Unreachable(f"{what}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class RayJobs:
    """The `JobRunner` of real clusters: every job gets this working directory, environment and metadata."""

    def __init__(
        self,
        client: Any,
        *,
        working_dir: Path | None = None,
        env_vars: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._client = client
        self._working_dir = working_dir
        self._env_vars = dict(env_vars or {})
        self._metadata = dict(metadata or {})
        self._tails: dict[str, Tail] = {}

    def submit(self, submission_id: str, *, stage: str, entrypoint: str) -> None:
        submit(
            self._client,
            submission_id=submission_id,
            entrypoint=entrypoint,
            working_dir=self._working_dir,
            env_vars=self._env_vars,
            metadata={**self._metadata, "stage": stage},
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

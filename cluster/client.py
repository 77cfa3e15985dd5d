"""A client of Ray's Jobs API over HTTP, with readable errors. It does not call `ray.init`."""

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
# Loggers of Ray that report connections and uploads at INFO, which would end up between a command's own lines. Two of
# them set their own level, so a level on the parent "ray" has no effect. A name that a later Ray lacks does no harm.
_CHATTY_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)


def normalize_address(address: str) -> str:
    """Return an address, `HOST:PORT` or a URL, as `http(s)://HOST:PORT`.

    Raises ClusterError if it cannot be the address of a dashboard.
    """
    address = address.strip().rstrip("/")
    parts = urlsplit(address if "://" in address else f"http://{address}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ClusterError(f"{address!r} is not the address of a Ray dashboard: write it as http://HOST:8265")
    return parts.geturl()


def connect(address: str) -> Any:
    """Return a `JobSubmissionClient` that is connected to the head at `address`.

    Raises Unreachable if nothing answers there, and ClusterError if the answer is not a head's or refuses the token.
    """
    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        # Every request passes through this private method, and the public ones take no timeout.
        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            options.setdefault("timeout", _REQUEST_SECONDS)  # Ray's default is to wait forever
            try:
                return super()._do_request(method, endpoint, **options)
            except AuthenticationError as error:
                raise ClusterError(_token_error(address, str(error))) from None
            except (requests.ConnectionError, requests.Timeout):
                raise Unreachable(
                    f"no Ray head answers at {address}: start one with `arspm up`, or pass --ray-address"
                ) from None

    address = normalize_address(address)
    headers = auth_headers(address)
    if not headers and os.environ.get("RAY_AUTH_MODE", "").lower() == "token":
        raise ClusterError(
            f"RAY_AUTH_MODE=token, but there is no token in {token_file()}: `arspm up` creates one for a local head; "
            "for another head, set RAY_AUTH_TOKEN_PATH to the file with its token"
        )
    for name in _CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    with _unset(_ADDRESS_VARIABLES):  # Ray would prefer them to the argument
        try:
            return Client(address, headers=headers)
        except ClusterError:
            raise
        except Exception as error:
            raise ClusterError(f"{address} answers, but is not a Ray head: {_first_line(error)}") from error


def session(client: Any) -> str:
    """Return the name of the cluster's session, which no other cluster has, and which a new head does not keep."""
    reply = client._do_request("GET", "/api/version")  # no public method returns it
    try:
        return str(reply.json()["session_name"])
    except (ValueError, KeyError, TypeError):
        raise ClusterError("the Ray head does not name its session: this release needs Ray 2.40 or newer") from None


def _token_error(address: str, message: str) -> str:
    """Return an error message for a request without a token, or with the wrong one. `message`: Ray's."""
    if message.startswith("Authentication required"):
        return (
            f"the Ray head at {address} requires a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file "
            "with the token (or RAY_AUTH_TOKEN to the token)"
        )
    source = "RAY_AUTH_TOKEN" if os.environ.get("RAY_AUTH_TOKEN") else str(token_file())
    return (
        f"the Ray head at {address} refuses the token in {source}: set RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN to the "
        "token that it was started with"
    )


@contextlib.contextmanager
def _unset(names: Sequence[str]) -> Iterator[None]:
    """Remove these environment variables for the duration of the block."""
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
    """Submit a job and return its id. Does nothing if a job with this id exists.

    resources: `entrypoint_num_cpus` and so on, for the job's driver. Without them the driver runs on the head node and
    reserves nothing, so that all resources are left for tasks.
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


def cancel(client: Any, metadata: Mapping[str, str], stop_seconds: float = 75.0) -> list[Job]:
    """Stop every live job that has this metadata, wait for them, and return the state of each.

    All jobs are asked to stop before the wait begins, newest first. So the driver of a detached chain, which is one of
    them, submits nothing more.
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
    """Return the total resources of the cluster's live nodes. A cluster that scales from zero starts with few."""
    with _as_unreachable("cannot list the cluster's nodes"):
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
    """The `JobRunner` for Ray clusters. Every job gets this working directory, environment and metadata."""

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

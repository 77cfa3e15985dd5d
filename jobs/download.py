"""Download AVSpeech's clips, as a job on the cluster or in this process. `python -m jobs.download` is the job."""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

from arspm.distributed.data.download import Settings, Summary, download, last_summary
from arspm.distributed.local import in_process
from arspm.media.downloads import SiteOptions, check_url, read_cookies
from arspm.runs.progress import print_progress
from cluster import chain, client, events
from cluster.graph import Stage
from jobs.stage import readable_end
from jobs.submission import PYTHON, source

STAGE = "download"


def download_here(settings: Settings, cookies: str | None, on_event: Callable[[events.Event], None]) -> Summary:
    """Download in this process, one video at a time."""
    started = time.monotonic()
    on_event(events.Started(stage=STAGE, submission_id=""))

    def progress(done: float, total: float, message: str) -> None:
        on_event(events.StageProgress(stage=STAGE, current=done, total=total, unit="clips", message=message))

    with in_process():
        summary = download(_with_cookies(settings, cookies), progress)
    on_event(events.Finished(stage=STAGE, seconds=time.monotonic() - started, submission_id=""))
    return summary


def download_on(
    address: str, settings: Settings, cookies: str | None, on_event: Callable[[events.Event], None]
) -> Summary | None:
    """Download by a job on the cluster at `address`, and wait for it. Returns None after Ctrl-C or a failure.

    If such a job runs already, this waits for it.
    """
    check_url(settings.site.url)
    options = json.dumps({**asdict(settings), "site": {**asdict(settings.site), "cookies": ""}}, sort_keys=True)
    command = [*PYTHON, "jobs.download", options, *(["--cookies", cookies] if cookies else [])]
    before = last_summary(settings.destination)
    jobs_client = client.connect(address)
    prefix = f"arspm-{hashlib.sha256(settings.destination.encode()).hexdigest()[:8]}"
    fingerprint = hashlib.sha256(shlex.join(command).encode()).hexdigest()

    def is_done(_: Stage) -> Summary | None:
        summary = last_summary(settings.destination)
        return summary if summary is not None and (before is None or summary.id != before.id) else None

    def conflict() -> str:
        for job in client.list_jobs(jobs_client, {"download": settings.destination}):
            if job.active and not job.submission_id.startswith(chain.job_id_prefix(prefix, STAGE, fingerprint)):
                return (
                    f"job {job.submission_id} downloads into {settings.destination} with other options: wait for it, "
                    f"or stop it with `ray job stop {job.submission_id}`"
                )
        return ""

    outcome = chain.run_chain(
        [Stage(STAGE, (), shlex.join(command), settings.concurrency)],
        runner=client.RayJobs(jobs_client, working_dir=source(), metadata={"download": settings.destination}),
        is_done=is_done,
        fingerprint=lambda stage: fingerprint,
        prefix=prefix,
        capacity=lambda: client.capacity(jobs_client),
        conflict=conflict,
        on_event=on_event,
    )[STAGE]
    summary: Summary | None = outcome.done
    return summary


def _with_cookies(settings: Settings, uri: str | None) -> Settings:
    return replace(settings, site=replace(settings.site, cookies=read_cookies(uri))) if uri else settings


def main() -> None:
    """Download the clips on the cluster that this process runs on."""
    parser = argparse.ArgumentParser(prog="python -m jobs.download", description=main.__doc__)
    parser.add_argument("options", help="settings of the download, as JSON")
    parser.add_argument("--cookies", help="cookies file: a path on this machine, or s3://")
    parser.add_argument("--local", action="store_true", help="run in this process, without Ray (default: on Ray)")
    arguments = parser.parse_args()
    with readable_end(STAGE), in_process() if arguments.local else nullcontext():
        options: dict[str, Any] = json.loads(arguments.options)
        site = SiteOptions(**{**options.pop("site"), "cookies": b""})
        settings = _with_cookies(Settings(**options, site=site), arguments.cookies)
        download(settings, lambda done, total, message: print_progress(done, total, "clips", message))
    sys.exit(0)


if __name__ == "__main__":
    main()

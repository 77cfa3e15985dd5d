"""A detached chain on a real head: its driver is killed, and every terminal can tell."""

from __future__ import annotations

import os
import re
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arspm.runs import drivers
from cluster import client
from cluster.host import marked_processes
from jobs.status import status
from tests.jobs.conftest import arspm, submit


def line_of(lines: list[str], name: str) -> str:
    [found] = [line for line in lines if line.split()[0] == name]
    return found


def pid_of(job: str, head: Any) -> int:
    """The process that a driver's job has become, without the shell that started it."""
    commands = {process.pid: process.cmdline() for process in marked_processes(head.pid, head.id)}
    [found] = [pid for pid, words in commands.items() if "jobs.chain" in words and job in words]
    return found


@pytest.mark.ray
def test_status_says_that_the_driver_of_a_detached_chain_was_killed(
    clips: Path, tmp_path: Path, head: Any, jobs_client: Any, wait_until: Callable[..., None]
) -> None:
    run = str(tmp_path / "run")
    done = submit(clips, Path(run), "--detach", "--until", "preprocess")
    assert done.returncode == 0, done.stderr
    job = done.stdout.split()[1].rstrip(",")
    submitted = drivers.read(run, "chain")
    assert submitted is not None
    assert (submitted.job, submitted.where, submitted.how) == (job, head.address, "")

    def begun() -> bool:
        record = drivers.read(run, "chain")
        return record is not None and record.member != ""

    wait_until(begun, seconds=60)
    assert "running for" in line_of(status(run, head.address), "chain")
    assert re.search("running for .*, last sign of life .* ago$", line_of(status(run, None), "chain"))
    os.kill(pid_of(job, head), signal.SIGKILL)
    wait_until(lambda: not client.info(jobs_client, job).active, seconds=30)
    assert arspm("cancel", run).returncode == 0  # preprocess, if the driver has submitted it

    said = arspm("status", run)
    assert said.returncode == 0
    pattern = r"driver of the detached chain: died \(killed by SIGKILL\) \d+\.\d s ago: run the same command again to"
    assert re.search(pattern, line_of(said.stdout.splitlines(), "chain"))
    without = status(run, None)
    pattern = (
        r"driver of the detached chain: died, last sign of life \d+\.\d s ago: run the same command again to resume$"
    )
    assert re.search(pattern, line_of(without, "chain"))
    assert without[-1].startswith("no cluster was asked")


PROGRAM = """
import time
for step in range(1, 2001):
    print(f'@progress {{"current": {step}, "total": 4000, "unit": "steps", "eta": 90}}')
print("a line of another kind", flush=True)
time.sleep(600)
"""


@pytest.mark.ray
def test_progress_is_read_from_the_end_of_a_running_job_s_log(
    tmp_path: Path, head: Any, jobs_client: Any, wait_until: Callable[..., None]
) -> None:
    run = str(tmp_path)
    metadata = {"run": run, "stage": "encoder"}
    command = shlex.join(["python", "-c", PROGRAM])
    job = client.submit(jobs_client, submission_id="talks-1", entrypoint=command, metadata=metadata)
    try:
        wait_until(lambda: client.logs(jobs_client, job).endswith("another kind\n"), seconds=60)
        said = line_of(status(run, head.address), "encoder")
        assert re.search(r"running for .*: 2000 of 4000 steps, about 1 min 30 s left$", said)
        [known] = client.list_jobs(jobs_client, metadata)
        last = client.last_lines(jobs_client, known, 2)
        assert last == client.logs(jobs_client, job).splitlines()[-2:]
        assert last[-1] == "a line of another kind"
    finally:
        said = arspm("cancel", run)
    assert said.stdout == "encoder: stopped (talks-1)\n"
    assert re.search(r"stopped \d+\.\d s ago$", line_of(status(run, head.address), "encoder"))

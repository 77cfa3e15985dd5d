"""The head, the Jobs API client and the chain on a real local head."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster import client as jobs
from cluster import events
from cluster import head as heads
from cluster.chain import Stage, run_chain
from cluster.host import marked_processes
from cluster.package import stage_package

pytestmark = pytest.mark.ray
REPO = Path(__file__).parents[2]


def chain(jobs_client: Any, stages: list[Stage], out: Path, **options: Any) -> tuple[dict, list[events.Event]]:
    seen: list[events.Event] = []
    outcomes = run_chain(
        stages,
        runner=jobs.RayJobs(jobs_client, metadata={"run": str(out)}),
        is_done=lambda stage: (out / stage.name).read_text() if (out / stage.name).exists() else None,
        fingerprint=lambda stage: f"{abs(hash(str(out))):016x}",
        prefix="test",
        capacity=lambda: jobs.capacity(jobs_client),
        on_event=seen.append,
        poll_seconds=0.2,
        **options,
    )
    return outcomes, seen


def writing_stage(name: str, out: Path, *needs: str, seconds: float = 0.0) -> Stage:
    """A stage that prints progress, fails if a file of the stages it needs is missing, and writes its own file."""
    return Stage(
        name,
        needs,
        f"""echo '@progress {{"current": 1, "total": 2}}' && ls {" ".join(str(out / need) for need in needs) or "."} """
        f"&& sleep {seconds} && echo ok > {out / name}",
        num_cpus=1,
    )


def test_a_diamond_runs_and_then_is_reused(jobs_client: Any, tmp_path: Path) -> None:
    stages = [
        writing_stage("top", tmp_path),
        writing_stage("left", tmp_path, "top", seconds=1),
        writing_stage("right", tmp_path, "top", seconds=1),
        writing_stage("bottom", tmp_path, "left", "right"),
    ]
    outcomes, seen = chain(jobs_client, stages, tmp_path)
    assert {outcome.status for outcome in outcomes.values()} == {"done"}, outcomes
    assert {event.stage for event in seen if isinstance(event, events.StageProgress)} == set(outcomes)
    middle = [event for event in seen if event.stage in ("left", "right")]
    kinds = [type(event) for event in middle if isinstance(event, events.Started | events.Finished)]
    assert kinds[:2] == [events.Started, events.Started], "the middle of the diamond runs in parallel"
    again, seen = chain(jobs_client, stages, tmp_path)
    assert {outcome.status for outcome in again.values()} == {"reused"}
    first, *others = jobs.list_jobs(jobs_client, {"run": str(tmp_path)})
    assert first.metadata["stage"] == "top"
    assert len(others) == 3


def test_a_failing_stage_says_why_and_skips_its_dependents(jobs_client: Any, tmp_path: Path) -> None:
    stages = [
        Stage("bad", (), "echo working; echo 'error: no clip has a face'; exit 1"),
        writing_stage("after", tmp_path, "bad"),
        writing_stage("beside", tmp_path),
    ]
    outcomes, _ = chain(jobs_client, stages, tmp_path)
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        "bad": "failed",
        "after": "skipped",
        "beside": "done",
    }
    assert outcomes["after"].reason == "needs bad, which failed: no clip has a face"
    # The second attempt takes the next free id and, without the fault, succeeds.
    stages[0] = writing_stage("bad", tmp_path)
    outcomes, _ = chain(jobs_client, stages, tmp_path)
    assert outcomes["after"].status == "done"
    assert outcomes["bad"].submission_id.endswith("-2")


def test_a_killed_driver_is_retried(jobs_client: Any, tmp_path: Path) -> None:
    dies_once = f"test -e {tmp_path}/tried && echo ok > {tmp_path}/a || (touch {tmp_path}/tried; kill -9 $$)"
    outcomes, seen = chain(jobs_client, [Stage("a", (), dies_once)], tmp_path, backoff_seconds=0.1)
    assert outcomes["a"].status == "done", outcomes
    assert len([event for event in seen if isinstance(event, events.Retry)]) == 1


def test_a_cancelled_job_has_time_to_clean_up(jobs_client: Any, tmp_path: Path) -> None:
    """SIGINT reaches the program, which then has time; the waiting chain reports the stage as cancelled."""
    program = tmp_path / "program.py"
    program.write_text(
        "import pathlib, sys, time\n"
        "try:\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    time.sleep(1)\n"
        f"    pathlib.Path({str(tmp_path / 'cleaned')!r}).touch()\n"
        "    sys.exit(130)\n"
    )
    result: list[dict] = []
    stages = [Stage("long", (), f"python {program}"), writing_stage("after", tmp_path, "long")]
    thread = threading.Thread(target=lambda: result.append(chain(jobs_client, stages, tmp_path)[0]))
    thread.start()
    deadline = time.time() + 30
    while time.time() < deadline:
        found = jobs.list_jobs(jobs_client, {"run": str(tmp_path)})
        if found and "ready" in jobs.logs(jobs_client, found[0].submission_id):
            break
        time.sleep(0.2)
    [job] = jobs.cancel(jobs_client, {"run": str(tmp_path)})
    thread.join(30)
    assert job.status == "STOPPED"
    assert (tmp_path / "cleaned").exists()
    assert result[0]["long"].status == "cancelled"
    assert result[0]["after"].reason == "needs long, which was cancelled"


def test_submitting_an_id_twice_runs_it_once(jobs_client: Any, tmp_path: Path) -> None:
    for _ in range(2):
        jobs.submit(jobs_client, submission_id="twice", entrypoint=f"sleep 0.5; echo x >> {tmp_path}/ran")
    lines: list[str] = []
    job = jobs.wait(jobs_client, "twice", lines.append)
    assert (job.status, job.exit_code) == ("SUCCEEDED", 0)
    assert (tmp_path / "ran").read_text() == "x\n"
    assert jobs.info(jobs_client, "never-submitted") is None


def test_a_followed_log_is_complete_and_without_repetition(jobs_client: Any) -> None:
    entrypoint = "for i in $(seq 300); do echo line $i; test $((i % 100)) -eq 0 && sleep 1; done; printf 'no newline'"
    jobs.submit(jobs_client, submission_id="talker", entrypoint=entrypoint)
    lines = [line for line in jobs.follow(jobs_client, "talker", poll_seconds=0.1) if "line" in line]
    lines = [line for line in lines if not line.startswith("Running entrypoint")]
    assert lines == [*[f"line {i}" for i in range(1, 301)], "no newline"]


def test_the_job_runs_the_code_that_was_staged(jobs_client: Any, tmp_path: Path) -> None:
    package = tmp_path / "voice"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "say.py").write_text(
        "import os, voice; print('from', sorted(os.listdir(os.path.dirname(voice.__file__))))"
    )
    (package / "weights.bin").write_bytes(bytes(10_000_000))
    jobs.submit(
        jobs_client,
        submission_id="staged",
        entrypoint="python -m voice.say",
        working_dir=stage_package([package]),
        env_vars={"PYTHONDONTWRITEBYTECODE": "1"},
    )
    lines: list[str] = []
    assert jobs.wait(jobs_client, "staged", lines.append).status == "SUCCEEDED"
    assert "from ['__init__.py', 'say.py']" in lines


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, "requires a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH"),
        ({"RAY_AUTH_TOKEN": "guessed"}, "refuses the token in RAY_AUTH_TOKEN: set"),
    ],
)
def test_a_client_without_the_right_token_gets_a_readable_error(
    head: heads.Head, env: dict[str, str], message: str
) -> None:
    program = (
        "import sys\nfrom cluster.client import connect\nfrom cluster.errors import ClusterError\n"
        "try:\n    connect(sys.argv[1])\nexcept ClusterError as error:\n    print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, head.address],
        env={**os.environ, **env},
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    )
    assert message in result.stdout
    assert result.stdout.count("\n") == 1


def test_nothing_listens_beyond_loopback(jobs_client: Any, listening: Callable[[], set[tuple[str, str, int]]]) -> None:
    """While a job runs Ray tasks, whose workers listen as well."""
    program = "import ray; ray.init(); print(ray.get(ray.remote(lambda: 1).remote())); import time; time.sleep(3)"
    jobs.submit(jobs_client, submission_id="listener", entrypoint=f"python -c '{program}'")
    while "\n1\n" not in jobs.logs(jobs_client, "listener"):
        assert jobs.info(jobs_client, "listener").active
        time.sleep(0.2)
    listens = listening()
    assert len(listens) > 5
    assert {ip for _, ip, _ in listens} <= {"127.0.0.1", "::1"}, listens
    assert not [name for name, _, port in listens if port == 10001], "the Ray Client server is off"
    jobs.wait(jobs_client, "listener")


def test_up_returns_a_running_head(head: heads.Head) -> None:
    assert heads.up(num_cpus=1) == head
    assert heads.find_head() == head.address
    assert heads.client_env(head)["RAY_API_SERVER_ADDRESS"] == head.address


@pytest.mark.slow
def test_down_stops_this_users_head_with_its_jobs_and_no_other_head(
    head: heads.Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARSPM_HOME", str(tmp_path / "other"))
    other = heads.up(num_cpus=1, object_store_memory=100_000_000)
    try:
        assert other.address != head.address
        client = jobs.connect(other.address)
        jobs.submit(client, submission_id="sleeper", entrypoint="echo $RAY_ADDRESS; trap '' INT TERM; sleep 600 & wait")
        while other.gcs_address not in jobs.logs(client, "sleeper"):
            time.sleep(0.2)
    finally:
        assert heads.down() == other
        shutil.rmtree(other.temp_dir, ignore_errors=True)
    assert marked_processes(other.pid, other.id) == []
    assert heads.current() is None
    assert len(marked_processes(head.pid, head.id)) > 5
    assert jobs.connect(head.address)

"""Sweeps that are interrupted and resume: Ctrl-C, a killed driver, a lost node. Also a sweep in a bucket."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arspm import storage
from arspm.config import Config
from arspm.runs import stages, sweeps
from cluster import client as jobs
from jobs.sweep_options import Options
from jobs.sweep_plan import plan, save
from tests.cluster.nodes import Nodes
from tests.conftest import Bucket
from tests.distributed.conftest import REPO

pytestmark = pytest.mark.ray
NAME = "loss_weights"


def planned(uri: str, config: Config, num_trials: int, changes: dict[str, str] | None = None) -> str:
    """Plan a random sweep over a run, as the command does. Returns the sweep's folder."""
    stages.commit(uri, "preprocess", fingerprint="f" * 64, config=config, files={}, seconds=1.0, figures={})
    folder, sweep = plan(uri, NAME, Options(num_trials=num_trials, search="random", scheduler="none"), changes or {})
    save(folder, sweep)
    return folder


def ended(folder: str) -> dict[int, sweeps.Record]:
    return {number: each for number, each in sweeps.read_records(folder).items() if each["state"] in sweeps.ENDED}


def check_complete(
    folder: str, before: dict[int, sweeps.Record], num_trials: int, num_epochs: int = 3
) -> dict[int, sweeps.Record]:
    """Check that every trial finished once and that earlier records are unchanged. Returns the records."""
    after = sweeps.read_records(folder)
    assert sorted(after) == list(range(num_trials))
    assert {each["state"] for each in after.values()} == {"finished"}
    for number, record in before.items():
        assert after[number] == record
    assert after[0]["is_paper"]
    assert len({tuple(each["sample"].values()) for each in after.values()}) == num_trials
    for each in after.values():
        assert [epoch["epoch"] for epoch in each["epochs"]] == list(range(1, num_epochs + 1))
    assert storage.read_json(storage.join(folder, sweeps.RESULTS))["state"] == "finished"
    return after


@pytest.mark.slow
def test_a_killed_sweep_resumes_and_has_every_trial_once(
    decoded_run: tuple[str, Config], program_env: dict[str, str], wait_until: Callable[..., None]
) -> None:
    """`python -m jobs.sweep`, SIGKILLed when two of its six trials have ended, and started again."""
    uri, config = decoded_run
    folder = planned(uri, config, 6)
    command = [sys.executable, "-m", "jobs.sweep", "--run", uri, "--name", NAME]
    first = subprocess.Popen(command, env=program_env, start_new_session=True)
    wait_until(lambda: first.poll() is not None or len(ended(folder)) >= 2, 180)
    assert first.poll() is None
    first.kill()
    first.wait()
    before = ended(folder)
    assert len(before) < 6
    subprocess.run(command, env=program_env, check=True, timeout=300)
    check_complete(folder, before, 6)


@pytest.mark.slow
@pytest.mark.long
def test_ctrl_c_stops_a_sweep_and_the_same_command_resumes_it(
    decoded_run: tuple[str, Config], head: Any, wait_until: Callable[..., None], tmp_path: Path
) -> None:
    uri, config = decoded_run
    epochs = "training.encoder.epochs=30"  # so that a trial is still running when Ctrl-C arrives
    folder, best = planned(uri, config, 5, dict([epochs.split("=")])), tmp_path / "best.json"
    command = [
        str(Path(sys.executable).with_name("arspm")),
        "sweep",
        NAME,
        "--run",
        uri,
        "--num-trials",
        "5",
        "--search",
        "random",
    ]
    command += ["--scheduler", "none", "--set", epochs, "--ray-address", head.address, "--export-best", str(best)]
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    first = subprocess.Popen(command, env=env, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_until(lambda: first.poll() is not None or ended(folder), 180)
    first.send_signal(signal.SIGINT)
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 130, output.decode()
    before = ended(folder)
    assert 1 <= len(before) < 5
    assert storage.read_json(storage.join(folder, sweeps.RESULTS))["state"] == "interrupted"
    assert {each["state"] for each in sweeps.read_records(folder).values()} <= {*sweeps.ENDED, "interrupted", "waiting"}
    assert not best.exists()
    assert not [job for job in jobs.list_jobs(jobs.connect(head.address), {"run": uri}) if job.active]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    after = check_complete(folder, before, 5, num_epochs=30)
    winner = min(after.values(), key=lambda each: each["best"])
    chosen = storage.read_json(str(best))["loss"]
    assert {f"loss.{name}": chosen[name] for name in ("lambda1", "lambda2", "lambda3")} == winner["sample"]
    assert re.search(rf"trial {winner['number']}\b", done.stdout)


@pytest.mark.slow
def test_a_sweep_over_a_bucket(
    decoded_run: tuple[str, Config], jobs_client: Any, bucket: Bucket, s3: str, tmp_path: Path
) -> None:
    uri, config = decoded_run
    remote = storage.join(s3, "runs/swept")
    for path in storage.files_below(uri):
        storage.upload(Path(uri, path), storage.join(remote, path))
    folder = planned(remote, config, 3)
    command = ["python", "-m", "jobs.sweep", "--run", remote, "--name", NAME]
    name = f"s3-sweep-{bucket.env['AWS_ACCESS_KEY_ID']}"
    jobs.submit(
        jobs_client,
        submission_id=name,
        entrypoint=shlex.join(command),
        env_vars={**bucket.env, "PYTHONPATH": str(REPO)},
    )
    lines: list[str] = []
    assert jobs.wait(jobs_client, name, lines.append).status == "SUCCEEDED", "\n".join(lines)
    check_complete(folder, {}, 3)
    found = {path.split("/")[0] for path in storage.files_below(folder)}
    assert found == {
        "sweep.json",
        "results.json",
        "index.html",
        "clips.jpg",
        "curves.json.gz",
        "trials",
        "tensorboard",
        "_lease",
    }
    texts = "\n".join(lines) + storage.read_bytes(storage.join(folder, sweeps.SWEEP)).decode()
    assert bucket.env["AWS_SECRET_ACCESS_KEY"] not in texts


@pytest.mark.slow
@pytest.mark.long
def test_a_sweep_survives_a_lost_node(
    nodes: Nodes, decoded_run: tuple[str, Config], wait_until: Callable[..., None]
) -> None:
    """Two nodes with room for one trial each. One is killed 2 s into its trial, which takes much longer."""
    uri, config = decoded_run
    folder = planned(uri, config, 4, {"training.encoder.epochs": "30"})
    nodes.add(num_cpus=1)
    lost = nodes.add(num_cpus=1)
    sweep = nodes.popen(nodes.head, [sys.executable, "-m", "jobs.sweep", "--run", uri, "--name", NAME])
    wait_until(lambda: sweep.poll() is not None or nodes.runs(lost, "ImplicitFunc"), 180)
    time.sleep(2)
    nodes.kill(lost)
    assert sweep.wait(timeout=300) == 0
    after = check_complete(folder, {}, 4, num_epochs=30)
    assert max(each["attempts"] for each in after.values()) == 2

"""Faults of the chain: its driver, its cluster and its users. Two stages of a real run, from clips to a network."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from arspm.runs import stages
from arspm.synthetic.films import write_corpus
from arspm.training import artifacts
from cluster import client
from tests.cluster.nodes import Nodes
from tests.faults.conftest import NODE_CPUS, STAGE, mend, workers

pytestmark = pytest.mark.faults
EPOCHS = 12
CHANGES = {
    "data.val_fraction": 0.2,
    "data.test_fraction": 0.2,
    "face.min_side_pixels": 60,
    f"training.{STAGE}.epochs": EPOCHS,
    f"training.{STAGE}.checkpoint_steps": 5,
    f"resources.{STAGE}.num_workers": 2,
    f"resources.{STAGE}.cpus": 2.4,
}


class Chain:
    """A run of `arspm submit --until gender` on this machine, against the cluster."""

    def __init__(self, nodes: Nodes, clips: Path, run: Path, log: Path):
        self._log = log
        words = [str(Path(sys.executable).with_name("arspm")), "submit", "--run", str(run), "--preset", "smoke"]
        words += ["--csv", str(clips / "avspeech.csv"), "--clips", str(clips / "clips"), "--until", STAGE]
        words += ["--ray-address", nodes.address]
        for name, value in CHANGES.items():
            words += ["--set", f"{name}={value}"]
        with log.open("ab") as file:
            self.process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_for(self, condition: Callable[[], object], seconds: float = 180.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)

    def wait(self, status: int = 0) -> None:
        assert self.process.wait(timeout=400) == status, self.log


@pytest.fixture
def submit(nodes: Nodes, clips: Path, tmp_path: Path) -> Iterator[Callable[[], Chain]]:
    """A function that submits the run of this test."""
    started: list[Chain] = []

    def begin() -> Chain:
        started.append(Chain(nodes, clips, tmp_path / "run", tmp_path / f"chain-{len(started)}.log"))
        return started[-1]

    yield begin
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "made"
    write_corpus(folder, num_speakers=16, clips_per_speaker=3, seconds=(1.0, 1.5), fps=10)
    return folder


@pytest.fixture
def uninterrupted(shared: dict[str, Any], nodes: Nodes, clips: Path, tmp_path: Path) -> dict[str, str]:
    """The hashes of the shards and the network of an uninterrupted chain, computed once."""
    if "chain" not in shared:
        Chain(nodes, clips, tmp_path / "unbroken", tmp_path / "unbroken.log").wait()
        shared["chain"] = hashes_of(tmp_path / "unbroken")
    return shared["chain"]


def hashes_of(run: Path) -> dict[str, str]:
    paths = [*run.glob("corpus/*/*/*.parquet"), run / STAGE / artifacts.MODEL]
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def jobs_by_stage(nodes: Nodes) -> list[str]:
    """Return the stage of each job of the cluster, oldest first."""
    return [job.metadata["stage"] for job in client.list_jobs(client.connect(nodes.address), {})]


def is_done(run: Path, stage: str) -> bool:
    return Path(run, stage, stages.SUCCESS).exists()


def test_a_preprocess_worker_is_killed(
    nodes: Nodes, uninterrupted: dict[str, str], submit: Callable[[], Chain], tmp_path: Path, note: Callable[..., None]
) -> None:
    chain, receipts = submit(), tmp_path / "run/corpus/receipts"
    chain.wait_for(lambda: any(nodes.runs(node, "ray::Map") for node in workers(nodes)))
    chain.wait_for(lambda: len(list(receipts.glob("*.json"))) >= 2)
    pids = [pid for node in workers(nodes) for pid in nodes.runs(node, "ray::Map")]
    broken_at, done = time.monotonic(), len(list(receipts.glob("*.json")))
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    chain.wait_for(lambda: len(list(receipts.glob("*.json"))) > done or is_done(tmp_path / "run", "preprocess"))
    seconds = time.monotonic() - broken_at
    chain.wait()
    assert pids
    assert hashes_of(tmp_path / "run") == uninterrupted
    note("preprocess worker SIGKILL", f"{len(pids)}, {done} blocks of clips done", seconds, None)


def test_the_chains_driver_is_killed_and_submitted_again(
    nodes: Nodes, uninterrupted: dict[str, str], submit: Callable[[], Chain], tmp_path: Path, note: Callable[..., None]
) -> None:
    """The job continues without the driver, and the next driver joins it."""
    before = len(jobs_by_stage(nodes))
    first = submit()
    first.wait_for(lambda: any(nodes.runs(node, "RayTrainWorker") for node in workers(nodes)))
    first.process.kill()
    first.process.wait()
    broken_at = time.monotonic()
    again = submit()
    again.wait_for(lambda: f"{STAGE}: attached to a running job" in again.log)
    seconds = time.monotonic() - broken_at
    again.wait()
    assert "preprocess: already done, reused" in again.log
    assert jobs_by_stage(nodes)[before:] == ["preprocess", STAGE]
    assert hashes_of(tmp_path / "run") == uninterrupted
    note("chain driver SIGKILL", "amid the second stage; same command", seconds, 0)


def test_two_people_submit_the_same_run_concurrently(
    nodes: Nodes, uninterrupted: dict[str, str], submit: Callable[[], Chain], tmp_path: Path, note: Callable[..., None]
) -> None:
    before, began = len(jobs_by_stage(nodes)), time.monotonic()
    one, two = submit(), submit()
    one.wait()
    two.wait()
    assert jobs_by_stage(nodes)[before:] == ["preprocess", STAGE], "each stage once"
    assert hashes_of(tmp_path / "run") == uninterrupted
    note("the same run twice at once", "two commands, two stages: two jobs", time.monotonic() - began, 0)


def test_the_head_restarts_between_two_stages(
    nodes: Nodes, uninterrupted: dict[str, str], submit: Callable[[], Chain], tmp_path: Path, note: Callable[..., None]
) -> None:
    """Ray keeps no state, so its nodes are restarted too. The driver waits, and no stage runs twice."""
    chain, run = submit(), tmp_path / "run"
    chain.wait_for(lambda: is_done(run, "preprocess"))
    broken_at = time.monotonic()
    for node in nodes.nodes:
        nodes.kill(node)
    nodes.start(nodes.head, num_cpus=0)
    mend(nodes)
    written = (run / "preprocess" / stages.SUCCESS).stat().st_mtime_ns
    chain.wait_for(lambda: any(nodes.runs(node, "RayTrainWorker") for node in workers(nodes)))
    seconds = time.monotonic() - broken_at
    chain.wait()
    assert (run / "preprocess" / stages.SUCCESS).stat().st_mtime_ns == written
    assert hashes_of(run) == uninterrupted
    note("head SIGKILL between stages", "and its nodes, after the first of two stages", seconds, 0)


@pytest.fixture
def second_head() -> Iterator[Nodes]:
    """Another cluster, with its own head and network."""
    with Nodes() as made:
        made.add(num_cpus=2 * NODE_CPUS)  # both workers
        yield made


def test_two_heads_share_no_run(
    nodes: Nodes,
    second_head: Nodes,
    uninterrupted: dict[str, str],
    submit: Callable[[], Chain],
    clips: Path,
    tmp_path: Path,
    note: Callable[..., None],
) -> None:
    first, run = submit(), tmp_path / "run"
    first.wait_for(lambda: is_done(run, "preprocess"))
    second = Chain(second_head, clips, run, tmp_path / "second.log")
    second.wait(1)
    [line] = [line for line in second.log.splitlines() if line.startswith("error: ")]
    assert f"the cluster at {nodes.address} works on this run since" in line
    assert "wait for it, or stop it there with `arspm cancel" in line
    assert jobs_by_stage(second_head) == []
    first.wait()
    assert hashes_of(run) == uninterrupted
    after = Chain(second_head, clips, run, tmp_path / "after.log")
    after.wait()
    assert f"{STAGE}: already done, reused" in after.log
    note("two heads, one run", "the second command while the first trains: refused in one line", 0, 0)


def test_a_head_that_comes_back_after_it_lost_its_lease_ends(
    nodes: Nodes,
    second_head: Nodes,
    uninterrupted: dict[str, str],
    submit: Callable[[], Chain],
    clips: Path,
    tmp_path: Path,
    note: Callable[..., None],
) -> None:
    """All its processes are stopped, as in a virtual machine that is paused, for longer than a lease lasts."""
    first, run = submit(), tmp_path / "run"
    first.wait_for(lambda: any(nodes.runs(node, "RayTrainWorker") for node in workers(nodes)))
    pids = [first.process.pid, *nodes.pids()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    stopped_at = time.monotonic()
    try:
        second = Chain(second_head, clips, run, tmp_path / "second.log")
        second.wait_for(lambda: any(second_head.runs(second_head.head, "RayTrainWorker")))
        seconds = time.monotonic() - stopped_at
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    first.wait(1)
    [line] = [line for line in first.log.splitlines() if line.startswith("error: ")]
    assert f"the cluster at {second_head.address} took over this run, so this program ends" in line
    second.wait()
    assert hashes_of(run) == uninterrupted
    note("lost lease", "head, nodes and driver stopped during training; another head took over", seconds, None)
    for node in nodes.nodes:  # they were dead to each other
        nodes.kill(node)
    nodes.start(nodes.head, num_cpus=0)

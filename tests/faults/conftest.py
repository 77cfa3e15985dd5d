"""Fixtures: a cluster of a head and two nodes for all faults, a training to interrupt, and the table of results."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from arspm import config as configuration
from arspm import storage
from arspm.config import Config, override
from arspm.config.presets import preset
from arspm.runs import stages
from arspm.training import artifacts
from tests.cluster.nodes import Node, Nodes, namespaces_unavailable
from tests.s3_servers import SeaweedFS, s3_env
from tests.training.conftest import TIMINGS

STAGE = "gender"
FINGERPRINT = "f" * 64
STEPS_AN_EPOCH, EPOCHS, CHECKPOINT_STEPS = 20, 8, 5
GRACE_SECONDS = 15.0
NODE_CPUS = 4
WORKER_CPUS = 2.4  # one worker a node, and room for its reader
TABLE = Path("runs/faults.json")
_S3_PORT = 8333
_PROGRESS = re.compile(r"pid=(\d+).*@progress (\{.*\})")
_table: list[Row] = []


class Row(NamedTuple):
    """A row of the table. `repeated`: repeated steps, as far as they were printed; None if no training was broken."""

    fault: str
    broken: str
    recovered_seconds: float
    repeated: int | None
    equal: str


class Step(NamedTuple):
    """A step that rank 0 printed, and the id of its process."""

    pid: str
    step: int


class Training:
    """A run of `python -m jobs.gender` on the head of a cluster, with its log."""

    def __init__(self, nodes: Nodes, run: str, config: Config, folder: Path, env: Mapping[str, str] | None = None):
        self.run, self._nodes, self._config = run, nodes, config
        self._log, uri = folder / "training.log", storage.join(run, "config.json")
        storage.write_bytes(uri, configuration.dump(config).encode())
        # RAY_DEDUP_LOGS=0: otherwise Ray drops the lines of a replaced worker as duplicates.
        words = ["env", f"RAY_ADDRESS={nodes.gcs_address}", "RAY_DEDUP_LOGS=0"]
        words += [f"{name}={value}" for name, value in (env or {}).items()]
        words += [sys.executable, "-m", f"jobs.{STAGE}", "--run", run, "--config", uri]
        with self._log.open("ab") as log:
            self.process = nodes.popen(nodes.head, words, stdout=log, stderr=subprocess.STDOUT)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def steps(self) -> list[Step]:
        """Return the steps printed so far."""
        matches = [_PROGRESS.search(line) for line in self.log.splitlines()]
        return [Step(each[1], json.loads(each[2])["current"]) for each in matches if each]

    def wait_for(self, condition: Callable[[], object], seconds: float = 120.0) -> None:
        """Wait for a condition. Fails with the log after `seconds`, or if the program ends before."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.log}"
            assert time.monotonic() < deadline, f"condition not met after {seconds:g} s:\n{self.log}"
            time.sleep(0.05)

    def wait_step(self, step: int) -> None:
        self.wait_for(lambda: any(each.step >= step for each in self.steps()))

    def recovery(self, broken_at: float, before: Sequence[Step]) -> tuple[float, int]:
        """Wait for a step of another process. Returns the seconds since the fault, and the number of repeated steps."""
        self.wait_for(lambda: self.steps()[len(before) :] and self.steps()[-1].pid != before[-1].pid, 180)
        seconds = time.monotonic() - broken_at
        last = max(each.step for each in self.steps() if each.pid == before[-1].pid)
        first = next(each.step for each in self.steps() if each.pid not in {old.pid for old in before})
        return seconds, max(0, last - first + 1)

    def wait(self, status: int = 0, seconds: float = 240.0) -> None:
        try:
            assert self.process.wait(seconds) == status, self.log
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {seconds:g} s:\n{self.log}")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Outcome(NamedTuple):
    """The result of a training: the bytes of the weights, and the history without timings."""

    weights: bytes
    history: dict[str, Any]


def outcome(run: str) -> Outcome:
    history = storage.read_json(storage.join(run, STAGE, artifacts.HISTORY))
    for figures in history["epochs"]:
        for name in TIMINGS:
            del figures[name]
    return Outcome(storage.read_bytes(storage.join(run, STAGE, artifacts.MODEL)), history)


@pytest.fixture(scope="session")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk of 64 MB, in memory."""
    folder = tmp_path_factory.mktemp("disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="session")
def cluster(small_disk: Path) -> Iterator[Nodes]:
    """A head without CPUs and two nodes with four each. They see only mounts that exist when they start."""
    if reason := namespaces_unavailable():
        pytest.fail(f"faults need several nodes, which need network namespaces: {reason}")
    with Nodes() as made:
        made.env |= s3_env(made.host, _S3_PORT) | {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(int(GRACE_SECONDS))}
        for num_cpus in (0, NODE_CPUS, NODE_CPUS):
            made.add(num_cpus=num_cpus)
        yield made


@pytest.fixture
def nodes(cluster: Nodes) -> Iterator[Nodes]:
    """The cluster, repaired before and after the test."""
    mend(cluster)
    yield cluster
    mend(cluster)


def workers(nodes: Nodes) -> list[Node]:
    return [node for node in nodes.nodes if node != nodes.head]


def mend(nodes: Nodes) -> None:
    """Start Ray on every node where it does not run, as an autoscaler would."""
    for node in workers(nodes):
        nodes.join(node)
    alive = set(nodes.alive().values())
    for node in workers(nodes):
        if node.address not in alive or not nodes.runs(node, "raylet"):
            nodes.kill(node)
            nodes.start(node, num_cpus=NODE_CPUS)


@pytest.fixture(scope="session")
def shared() -> dict[str, Any]:
    """Results that the first test computes for all tests."""
    return {}


@pytest.fixture
def config() -> Config:
    return override(
        preset("smoke"),
        {
            "data.storage": "waveform",
            "ingest.window_rows": 64,
            "training.gender.epochs": EPOCHS,
            "training.gender.global_batch_size": 32,
            "training.gender.checkpoint_steps": CHECKPOINT_STEPS,
            "resources.gender.num_workers": 2,
            "resources.gender.cpus": WORKER_CPUS,
        },
    )


@pytest.fixture
def run(request: pytest.FixtureRequest, shared: dict[str, Any], config: Config, tmp_path: Path) -> str:
    """A run with a corpus of random numbers, the same in all tests."""
    if "corpus" not in shared:
        write = request.getfixturevalue("write_corpus")
        shared["corpus"], _ = write({"train": (320, 320), "val": (32,)}, rows_per_group=16)
    else:
        (tmp_path / "corpus").symlink_to(shared["corpus"])
    commit_corpus(str(tmp_path), config)
    return str(tmp_path)


def commit_corpus(run: str, config: Config) -> None:
    stages.commit(run, "preprocess", fingerprint=FINGERPRINT, config=config, files={}, seconds=1.0, figures={})


@pytest.fixture
def train(nodes: Nodes, config: Config, tmp_path: Path) -> Iterator[Callable[..., Training]]:
    """A function that starts the training of a run. Trainings still running after the test are killed."""
    started = []

    def start(run: str, changes: Mapping[str, Any] | None = None, **options: Any) -> Training:
        started.append(Training(nodes, run, override(config, changes or {}), tmp_path, **options))
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.fixture
def uninterrupted(shared: dict[str, Any], run: str, train: Callable[..., Training], tmp_path: Path) -> Outcome:
    """The result of an uninterrupted training, computed once, in the first test's run."""
    if "uninterrupted" not in shared:
        train(run).wait()
        shared["uninterrupted"] = outcome(run)
        shutil.rmtree(tmp_path / STAGE)
        (tmp_path / "training.log").unlink()
    return shared["uninterrupted"]


@pytest.fixture
def s3_server(nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SeaweedFS]:
    """A running server with the bucket s3://speech, reachable from this process too."""
    for name, value in nodes.env.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "s3").mkdir()
    server = SeaweedFS(tmp_path / "s3", nodes.env, host=nodes.host, ports=[f"-s3.port={_S3_PORT}"])
    server.start()
    yield server
    server.kill()


@pytest.fixture
def note() -> Callable[..., None]:
    """A function that adds a row to the table."""

    def add(fault: str, broken: str, recovered_seconds: float, repeated: int | None, equal: str = "to the bit") -> None:
        _table.append(Row(fault, broken, round(recovered_seconds, 1), repeated, equal))

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _table:
        return
    terminalreporter.section("faults")
    lines = [("fault", "what was broken, when", "recovered in", "repeated steps", "result equal")]
    for row in _table:
        repeated = "-" if row.repeated is None else str(row.repeated)
        lines.append((row.fault, row.broken, f"{row.recovered_seconds:.1f} s", repeated, row.equal))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        terminalreporter.write_line("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(json.dumps([row._asdict() for row in _table], indent=2) + "\n")
    terminalreporter.write_line(f"written to {os.fspath(TABLE)}")

"""Faults, each a real kill or cut during work. The result must equal that of an uninterrupted run.

`make faults` runs these and prints the table in docs/reliability.md.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from arspm import config as configuration
from arspm import storage
from arspm.config import Config
from arspm.distributed.ray_private import SNAPSHOT
from arspm.runs import stages
from arspm.training import artifacts, checkpoint
from cluster.exit_codes import ExitCode
from jobs.stage import expected_fingerprint
from tests.cluster.nodes import Node, Nodes
from tests.faults.conftest import (
    CHECKPOINT_STEPS,
    GRACE_SECONDS,
    NODE_CPUS,
    STAGE,
    STEPS_AN_EPOCH,
    Outcome,
    Step,
    Training,
    commit_corpus,
    mend,
    outcome,
    workers,
)
from tests.s3_servers import SeaweedFS

pytestmark = pytest.mark.faults
WORKER = "RayTrainWorker"
BREAK_AT = 28  # a step within the second epoch
CUT_SECONDS, S3_SECONDS = 10.0, 20.0


def training_folder(run: str) -> Path:
    """Return the folder of the stage's checkpoints."""
    config = configuration.load(storage.read_bytes(storage.join(run, "config.json")))
    return Path(run, STAGE, stages.training_name(run, STAGE, expected_fingerprint(STAGE, run, config)))


def checkpoints(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("checkpoint_*") if path.is_dir()}


def recovered(training: Training, broken_at: float, before: list[Step], uninterrupted: Outcome) -> tuple[float, int]:
    """Wait for an interrupted training to resume and to end with the result of the uninterrupted one.

    Returns the seconds until it resumed, and the number of repeated steps.
    """
    seconds, repeated = training.recovery(broken_at, before)
    training.wait()
    assert outcome(training.run) == uninterrupted
    assert repeated <= CHECKPOINT_STEPS
    return seconds, repeated


def test_a_node_is_killed(
    nodes: Nodes, run: str, train: Callable[..., Training], uninterrupted: Outcome, note: Callable[..., None]
) -> None:
    training = train(run)
    training.wait_step(BREAK_AT)
    lost, before = workers(nodes)[-1], training.steps()
    assert all(nodes.runs(node, WORKER) for node in workers(nodes)), "one worker a node"
    broken_at = time.monotonic()
    nodes.kill(lost)
    nodes.start(lost, num_cpus=NODE_CPUS)
    seconds, repeated = recovered(training, broken_at, before, uninterrupted)
    note("node SIGKILL", f"one of two nodes, step {before[-1].step}; another came at once", seconds, repeated)


def test_a_node_is_killed_and_fewer_workers_continue(
    nodes: Nodes, run: str, train: Callable[..., Training], uninterrupted: Outcome, note: Callable[..., None]
) -> None:
    """The global batches stay the same. The weights differ, because every worker has its own BatchNorm statistics."""
    training = train(run, {"resources.gender.num_workers": "[1, 2]"})
    training.wait_step(BREAK_AT)
    before, broken_at = training.steps(), time.monotonic()
    nodes.kill(workers(nodes)[-1])
    seconds, repeated = training.recovery(broken_at, before)
    training.wait()
    assert "world_rank=1" not in training.log.rpartition("Started training worker group of size 1")[2]
    found, wanted = outcome(run).history["epochs"], uninterrupted.history["epochs"]
    assert found[0] == wanted[0]
    assert [each["step"] for each in found] == [each["step"] for each in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=0.2)
    assert repeated <= CHECKPOINT_STEPS
    what = f"one of two nodes, step {before[-1].step}; no other came, num_workers [1, 2]"
    note("node SIGKILL, elastic", what, seconds, repeated, "the same clips")


def test_a_node_is_cut_off_and_comes_back(
    nodes: Nodes, run: str, train: Callable[..., Training], uninterrupted: Outcome, note: Callable[..., None]
) -> None:
    """Ray considers it dead after 5 s. Once reconnected it learns that, exits, and is restarted."""
    training = train(run)
    training.wait_step(BREAK_AT)
    lost, before = workers(nodes)[-1], training.steps()
    broken_at = time.monotonic()
    nodes.cut(lost)
    training.wait_for(lambda: lost.address not in nodes.alive().values())
    time.sleep(max(0.0, broken_at + CUT_SECONDS - time.monotonic()))
    mend(nodes)
    seconds, repeated = recovered(training, broken_at, before, uninterrupted)
    what = f"the cable of one of two nodes, step {before[-1].step}, for {CUT_SECONDS:g} s"
    note("node cut off and back", what, seconds, repeated)


def test_a_training_worker_is_killed(
    nodes: Nodes, run: str, train: Callable[..., Training], uninterrupted: Outcome, note: Callable[..., None]
) -> None:
    training = train(run)
    training.wait_step(BREAK_AT)
    before = training.steps()
    broken_at = time.monotonic()
    [pid] = nodes.runs(workers(nodes)[-1], WORKER)
    os.kill(pid, signal.SIGKILL)
    seconds, repeated = recovered(training, broken_at, before, uninterrupted)
    assert "lost a worker of gender (1 of at most 3): resuming from the last checkpoint" in training.log
    note("training worker SIGKILL", f"one of two, step {before[-1].step}", seconds, repeated)


def test_another_nodes_end_with_notice_excuses_no_failure(
    nodes: Nodes, run: str, train: Callable[..., Training], uninterrupted: Outcome, note: Callable[..., None]
) -> None:
    idle = nodes.add(num_cpus=0)
    training = train(run)
    training.wait_step(BREAK_AT)
    nodes.ray_process(idle).send_signal(signal.SIGTERM)
    training.wait_for(lambda: idle.address not in nodes.alive().values())
    nodes.remove(idle)
    before = training.steps()
    broken_at = time.monotonic()
    [pid] = nodes.runs(workers(nodes)[-1], WORKER)
    os.kill(pid, signal.SIGKILL)
    seconds, repeated = recovered(training, broken_at, before, uninterrupted)
    assert "lost a worker of gender (1 of at most 3): resuming from the last checkpoint" in training.log
    assert "was preempted" not in training.log
    what = f"one of two, step {before[-1].step}; an idle node had left on SIGTERM"
    note("training worker SIGKILL beside a preemption", what, seconds, repeated)


def test_a_worker_that_is_killed_for_memory_is_reported_and_not_repeated_forever(
    nodes: Nodes, run: str, train: Callable[..., Training], note: Callable[..., None]
) -> None:
    """By Ray's memory monitor, on a node where it considers one percent of the memory too much."""
    full = workers(nodes)[-1]
    nodes.kill(full)
    before = dict(nodes.env)
    nodes.env |= {"RAY_memory_usage_threshold": "0.01"}
    nodes.start(full, num_cpus=NODE_CPUS)
    nodes.env.clear()
    nodes.env |= before
    began = time.monotonic()
    training = train(run, {"resources.max_failures": 1})
    training.wait(status=1)
    [line] = [line for line in training.log.splitlines() if line.startswith("error: ")]
    nodes.kill(full)
    found = re.fullmatch(
        r"error: gender: lost workers 2 times; the last time: a process was killed for memory: [\d.]+ of [\d.]+ GiB "
        r"were used on node ([\d.]+); reserve what it needs with resources.gender.memory_gib, so that fewer share a "
        "node, or lower resources.gender.num_workers",
        line,
    )
    assert found, line
    assert found[1] == full.address
    what = "both tries, by a memory monitor with a limit of 1 %"
    note("memory monitor", what, time.monotonic() - began, None, "ends with one line: x of y GiB, which setting")


def drain(nodes: Nodes, lost: Node) -> subprocess.Popen[bytes]:
    """Start the watcher that runs on spot nodes of AWS."""
    command = ["-m", "cluster.drain", "--address", nodes.gcs_address, "--node-ip-address", lost.address]
    command += ["--grace-seconds", str(GRACE_SECONDS), "--metadata-url", "http://127.0.0.1:1"]
    return nodes.popen(lost, [sys.executable, *command])


@pytest.mark.parametrize(
    ("fault", "warned"),
    [("spot warning", drain), ("SIGTERM to `ray start --block`", Nodes.ray_process)],
    ids=["spot", "pod"],
)
def test_a_node_is_preempted(
    nodes: Nodes,
    run: str,
    train: Callable[..., Training],
    uninterrupted: Outcome,
    note: Callable[..., None],
    fault: str,
    warned: Callable[[Nodes, Node], subprocess.Popen[bytes]],
) -> None:
    """Checkpoints are saved at the end of each epoch and at the notice. Training continues until the node is lost."""
    lost = workers(nodes)[-1]
    watcher = warned(nodes, lost)
    training = train(run, {"training.gender.checkpoint_steps": "null"})
    training.wait_step(STEPS_AN_EPOCH + 2)
    warned_at = time.monotonic()
    watcher.send_signal(signal.SIGTERM)
    watcher.wait(timeout=GRACE_SECONDS + 15)
    before, broken_at = training.steps(), time.monotonic()
    nodes.kill(lost)
    nodes.start(lost, num_cpus=NODE_CPUS)
    seconds, repeated = training.recovery(broken_at, before)
    training.wait()
    assert outcome(run) == uninterrupted
    # The workers that resume may see the notice too.
    saved, *_ = map(int, re.findall(r"will be preempted: saving at step (\d+)", training.log))
    assert re.search(rf"checkpoint=Checkpoint\(.*'step': {saved}\b", training.log), "saved at the notice"
    went_on_at = next(each.step for each in training.steps() if each.pid != before[0].pid)
    assert went_on_at > saved > STEPS_AN_EPOCH
    assert "lost a worker" not in training.log, "a preemption is not counted as a failure"
    what = f"one of two nodes, {broken_at - warned_at:.0f} s after SIGTERM; saved at step {saved}"
    note(f"{fault}, then node SIGKILL", what, seconds, repeated)


def sizes(folder: Path) -> dict[str, int]:
    """Return the sizes of a checkpoint's weights in bytes, without progress.json, which grows."""
    found = {}
    for path in folder.glob("*.safetensors"):
        with contextlib.suppress(FileNotFoundError):  # it is written under another name first
            found[path.name] = path.stat().st_size
    return found


def test_workers_are_killed_during_a_checkpoint_upload(
    nodes: Nodes, run: str, train: Callable[..., Training], uninterrupted: Outcome, note: Callable[..., None]
) -> None:
    """The workers are paused as soon as a checkpoint appears, and killed if it is still incomplete."""
    training, folder = train(run), training_folder(run)
    training.wait_step(BREAK_AT)
    pids = [pid for node in workers(nodes) for pid in nodes.runs(node, WORKER)]
    while True:
        seen = checkpoints(folder)
        complete = sizes(folder / max(seen))
        while not (torn := checkpoints(folder) - seen):  # no sleep: it is complete within milliseconds
            assert training.process.poll() is None, training.log
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        [left] = torn
        there = sizes(folder / left)
        if there != complete or not (folder / left / checkpoint.PROGRESS).exists():
            break
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    before, broken_at = training.steps(), time.monotonic()
    assert left not in (folder / SNAPSHOT).read_text()
    seconds, repeated = recovered(training, broken_at, before, uninterrupted)
    what = f"both workers SIGKILLed with {sum(there.values())} of its weights' {sum(complete.values())} bytes written"
    note("torn checkpoint", f"{what}, step {before[-1].step}", seconds, repeated)


def test_a_damaged_checkpoint_is_refused(
    nodes: Nodes, run: str, train: Callable[..., Training], uninterrupted: Outcome, note: Callable[..., None]
) -> None:
    """One byte of the weights is changed. Training does not start from it, and the error says what to do."""
    training, folder = train(run), training_folder(run)
    training.wait_step(BREAK_AT)
    training.stop()
    snapshot = (folder / SNAPSHOT).read_text()
    last = max(name for name in checkpoints(folder) if name in snapshot)
    weights = bytearray((folder / last / checkpoint.MODEL).read_bytes())
    weights[-1] ^= 1
    (folder / last / checkpoint.MODEL).write_bytes(weights)
    broken_at = time.monotonic()
    again = train(run)
    again.wait(status=1)
    seconds = time.monotonic() - broken_at
    [line] = [line for line in again.log.splitlines() if line.startswith("error: ")]
    assert line == (
        f"error: {STAGE}: {folder / last / checkpoint.MODEL}: torn: its size or hash is not what progress.json says; "
        f"remove {folder} to train from the start"
    )
    assert not Path(run, STAGE, artifacts.MODEL).exists()
    shutil.rmtree(folder)
    train(run).wait()
    assert outcome(run) == uninterrupted
    note("damaged checkpoint", "one byte of the last one's weights", seconds, None, "refused; anew, to the bit")


def test_the_disk_is_full_at_a_checkpoint(
    nodes: Nodes,
    run: str,
    config: Config,
    train: Callable[..., Training],
    uninterrupted: Outcome,
    note: Callable[..., None],
    small_disk: Path,
) -> None:
    """The program ends with the reason. With more room, the same command resumes from the last complete checkpoint."""
    own = str(small_disk / "run")
    Path(own).mkdir()
    Path(own, "corpus").symlink_to(Path(run, "corpus"))
    commit_corpus(own, config)
    training, folder = train(own), training_folder(own)
    training.wait_step(BREAK_AT)
    size = max(sum(file.stat().st_size for file in (folder / name).iterdir()) for name in checkpoints(folder))
    until = time.monotonic() + 120
    with open(small_disk / "ballast", "ab", buffering=0) as ballast:
        # Repeatedly: an older checkpoint that is removed after the measurement makes room for the next one.
        while training.process.poll() is None and time.monotonic() < until:
            room = shutil.disk_usage(small_disk).free - size // 2
            with contextlib.suppress(OSError):  # training may have used some of the room
                ballast.write(bytes(max(room, 0)))
            time.sleep(0.05)
    training.wait(status=1)
    [line] = [line for line in training.log.splitlines() if line.startswith("error: ")]
    assert "No space left on device; make room for the run" in line
    before, broken_at = training.steps(), time.monotonic()
    subprocess.run(["mount", "-o", "remount,size=512m", small_disk], check=True)
    again = train(own)
    seconds, repeated = recovered(again, broken_at, before, uninterrupted)
    note("disk full at checkpoint", f"step {before[-1].step}; enlarged, same command", seconds, repeated)


def test_s3_is_down_during_training(
    nodes: Nodes,
    run: str,
    config: Config,
    train: Callable[..., Training],
    uninterrupted: Outcome,
    note: Callable[..., None],
    s3_server: SeaweedFS,
) -> None:
    """Rows, checkpoints and results are in the bucket."""
    own = "s3://speech/run"
    for path in storage.files_below(str(Path(run, "corpus").resolve())):
        storage.upload(Path(run, "corpus", path), storage.join(own, "corpus", path))
    commit_corpus(own, config)
    training = train(own)
    training.wait_step(BREAK_AT)
    before, broken_at = training.steps(), time.monotonic()
    s3_server.kill()
    time.sleep(S3_SECONDS)
    s3_server.start()
    heard = len(training.steps())
    while len(training.steps()) == heard:
        if (status := training.process.poll()) is not None:
            assert status == ExitCode.TEMPORARY, training.log
            training = train(own)  # as the chain does
        assert time.monotonic() < broken_at + 300, training.log
        time.sleep(0.2)
    seconds = time.monotonic() - broken_at
    training.wait()
    assert outcome(own) == uninterrupted
    repeated = sum(each.step <= before[-1].step for each in training.steps()[len(before) :])
    assert repeated <= CHECKPOINT_STEPS
    note("S3 down", f"the server SIGKILLed at step {before[-1].step}, for {S3_SECONDS:g} s", seconds, repeated)

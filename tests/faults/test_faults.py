"""Faults, each a real kill or cut amid work: the result must be that of an unbroken run, and nothing be lost.

`make faults` runs these and prints the table that docs/reliability.md has.
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

from arspm import storage
from arspm.config import Config
from arspm.runs import stages
from arspm.training import artifacts, checkpoint
from cluster.job import EXIT_TEMPORARY
from tests.cluster.nodes import Node, Nodes
from tests.faults.conftest import (
    CHECKPOINT_STEPS,
    FINGERPRINT,
    GRACE_SECONDS,
    NODE_CPUS,
    STAGE,
    STEPS_AN_EPOCH,
    Outcome,
    Told,
    Training,
    commit_corpus,
    mend,
    outcome,
    workers,
)
from tests.s3_servers import SeaweedFS

pytestmark = pytest.mark.faults
WORKER = "RayTrainWorker"
SNAPSHOT = "checkpoint_manager_snapshot.json"  # which checkpoints Ray Train knows
BREAK_AT = 28  # amid the second epoch
CUT_SECONDS, S3_SECONDS = 10.0, 20.0


def training_folder(run: str) -> Path:
    """Where Ray Train keeps the checkpoints of the stage."""
    return Path(run, STAGE, stages.training_name(run, STAGE, FINGERPRINT))


def checkpoints(place: Path) -> set[str]:
    return {path.name for path in place.glob("checkpoint_*") if path.is_dir()}


def recovered(training: Training, broken_at: float, before: list[Told], unbroken: Outcome) -> tuple[float, int]:
    """Wait for a training that was broken to go on and end, with the result of the unbroken one.

    The seconds until it went on, and the steps that it did again.
    """
    seconds, repeated = training.recovery(broken_at, before)
    training.wait()
    assert outcome(training.run) == unbroken
    assert repeated <= CHECKPOINT_STEPS
    return seconds, repeated


def test_a_node_is_killed(
    nodes: Nodes, run: str, train: Callable[..., Training], unbroken: Outcome, note: Callable[..., None]
) -> None:
    training = train(run)
    training.wait_step(BREAK_AT)
    lost, before = workers(nodes)[-1], training.told()
    assert all(nodes.runs(node, WORKER) for node in workers(nodes)), "one worker a node"
    broken_at = time.monotonic()
    nodes.kill(lost)
    nodes.start(lost, num_cpus=NODE_CPUS)
    seconds, repeated = recovered(training, broken_at, before, unbroken)
    note("node SIGKILL", f"one of two nodes, step {before[-1].step}; another came at once", seconds, repeated)


def test_a_node_is_killed_and_fewer_workers_go_on(
    nodes: Nodes, run: str, train: Callable[..., Training], unbroken: Outcome, note: Callable[..., None]
) -> None:
    """The global batches stay the same; not so the weights, for BatchNorm's statistics are each worker's own."""
    training = train(run, {"resources.gender.num_workers": "[1, 2]"})
    training.wait_step(BREAK_AT)
    before, broken_at = training.told(), time.monotonic()
    nodes.kill(workers(nodes)[-1])
    seconds, repeated = training.recovery(broken_at, before)
    training.wait()
    assert "world_rank=1" not in training.log.rpartition("Started training worker group of size 1")[2]
    found, wanted = outcome(run).history["epochs"], unbroken.history["epochs"]
    assert found[0] == wanted[0]
    assert [each["step"] for each in found] == [each["step"] for each in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=0.2)
    assert repeated <= CHECKPOINT_STEPS
    what = f"one of two nodes, step {before[-1].step}; no other came, num_workers [1, 2]"
    note("node SIGKILL, elastic", what, seconds, repeated, "the same clips")


def test_a_node_is_cut_off_and_comes_back(
    nodes: Nodes, run: str, train: Callable[..., Training], unbroken: Outcome, note: Callable[..., None]
) -> None:
    """Ray takes it for dead after 5 s; once back it hears so and ends, and is started anew."""
    training = train(run)
    training.wait_step(BREAK_AT)
    lost, before = workers(nodes)[-1], training.told()
    broken_at = time.monotonic()
    nodes.cut(lost)
    training.wait_for(lambda: lost.address not in nodes.alive().values())
    time.sleep(max(0.0, broken_at + CUT_SECONDS - time.monotonic()))
    mend(nodes)
    seconds, repeated = recovered(training, broken_at, before, unbroken)
    what = f"the cable of one of two nodes, step {before[-1].step}, for {CUT_SECONDS:g} s"
    note("node cut off and back", what, seconds, repeated)


def test_a_training_worker_is_killed(
    nodes: Nodes, run: str, train: Callable[..., Training], unbroken: Outcome, note: Callable[..., None]
) -> None:
    training = train(run)
    training.wait_step(BREAK_AT)
    before = training.told()
    broken_at = time.monotonic()
    [pid] = nodes.runs(workers(nodes)[-1], WORKER)
    os.kill(pid, signal.SIGKILL)
    seconds, repeated = recovered(training, broken_at, before, unbroken)
    assert "lost a worker of gender (1 of at most 3): going on from the last checkpoint" in training.log
    note("training worker SIGKILL", f"one of two, step {before[-1].step}", seconds, repeated)


def drain(nodes: Nodes, lost: Node) -> subprocess.Popen[bytes]:
    """Our own watcher, as on a spot node of AWS."""
    command = ["-m", "cluster.drain", "--address", nodes.gcs_address, "--node-ip-address", lost.address]
    command += ["--grace-seconds", str(GRACE_SECONDS), "--metadata-url", "http://127.0.0.1:1"]
    return nodes.popen(lost, [sys.executable, *command])


@pytest.mark.parametrize(
    ("fault", "warned"),
    [("spot warning", drain), ("SIGTERM to `ray start --block`", Nodes.keeper)],
    ids=["spot", "pod"],
)
def test_a_node_is_taken_away_with_warning(
    nodes: Nodes,
    run: str,
    train: Callable[..., Training],
    unbroken: Outcome,
    note: Callable[..., None],
    fault: str,
    warned: Callable[[Nodes, Node], subprocess.Popen[bytes]],
) -> None:
    """No checkpoint but at each epoch's end and upon the warning; training goes on until the node goes at its time."""
    lost = workers(nodes)[-1]
    watcher = warned(nodes, lost)
    training = train(run, {"training.gender.checkpoint_steps": "null"})
    training.wait_step(STEPS_AN_EPOCH + 2)
    warned_at = time.monotonic()
    watcher.send_signal(signal.SIGTERM)
    watcher.wait(timeout=GRACE_SECONDS + 15)
    before, broken_at = training.told(), time.monotonic()
    nodes.kill(lost)
    nodes.start(lost, num_cpus=NODE_CPUS)
    seconds, repeated = training.recovery(broken_at, before)
    training.wait()
    assert outcome(run) == unbroken
    # Those that go on may hear of it too.
    saved, *_ = map(int, re.findall(r"will be taken away: saving at step (\d+)", training.log))
    assert re.search(rf"checkpoint=Checkpoint\(.*'step': {saved}\b", training.log), "saved then"
    went_on_at = next(each.step for each in training.told() if each.pid != before[0].pid)
    assert went_on_at > saved > STEPS_AN_EPOCH
    assert "lost a worker" not in training.log, "a warning is not counted as a failure"
    what = f"one of two nodes, {broken_at - warned_at:.0f} s after SIGTERM; saved at step {saved}"
    note(f"{fault}, then node SIGKILL", what, seconds, repeated)


def sizes(folder: Path) -> dict[str, int]:
    """The bytes of a checkpoint's weights; not of its progress, which grows."""
    found = {}
    for path in folder.glob("*.safetensors"):
        with contextlib.suppress(FileNotFoundError):  # written under another name first
            found[path.name] = path.stat().st_size
    return found


def test_a_kill_amid_a_checkpoints_upload(
    nodes: Nodes, run: str, train: Callable[..., Training], unbroken: Outcome, note: Callable[..., None]
) -> None:
    """The workers are stopped as soon as a checkpoint begins to appear, and killed if it is not whole yet."""
    training, place = train(run), training_folder(run)
    training.wait_step(BREAK_AT)
    pids = [pid for node in workers(nodes) for pid in nodes.runs(node, WORKER)]
    while True:
        seen = checkpoints(place)
        whole = sizes(place / max(seen))
        while not (torn := checkpoints(place) - seen):  # no pause: it is whole within milliseconds
            assert training.process.poll() is None, training.log
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        [left] = torn
        there = sizes(place / left)
        if there != whole or not (place / left / checkpoint.PROGRESS).exists():
            break
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    before, broken_at = training.told(), time.monotonic()
    assert left not in (place / SNAPSHOT).read_text()
    seconds, repeated = recovered(training, broken_at, before, unbroken)
    what = f"both workers SIGKILLed with {sum(there.values())} of its weights' {sum(whole.values())} bytes written"
    note("torn checkpoint", f"{what}, step {before[-1].step}", seconds, repeated)


def test_a_damaged_checkpoint_is_refused(
    nodes: Nodes, run: str, train: Callable[..., Training], unbroken: Outcome, note: Callable[..., None]
) -> None:
    """One byte of the weights is another; nothing is trained from it, and the line says what to do."""
    training, place = train(run), training_folder(run)
    training.wait_step(BREAK_AT)
    training.stop()
    snapshot = (place / SNAPSHOT).read_text()
    last = max(name for name in checkpoints(place) if name in snapshot)
    weights = bytearray((place / last / checkpoint.MODEL).read_bytes())
    weights[-1] ^= 1
    (place / last / checkpoint.MODEL).write_bytes(weights)
    broken_at = time.monotonic()
    again = train(run)
    again.wait(status=1)
    seconds = time.monotonic() - broken_at
    [told] = [line for line in again.log.splitlines() if line.startswith("error: ")]
    assert told == (
        f"error: {STAGE}: {place / last / checkpoint.MODEL}: torn: its size or hash is not what progress.json says; "
        f"remove {place} to train anew"
    )
    assert not Path(run, STAGE, artifacts.MODEL).exists()
    shutil.rmtree(place)
    train(run).wait()
    assert outcome(run) == unbroken
    note("damaged checkpoint", "one byte of the last one's weights", seconds, None, "refused; anew, to the bit")


def test_the_disk_is_full_at_a_checkpoint(
    nodes: Nodes,
    run: str,
    config: Config,
    train: Callable[..., Training],
    unbroken: Outcome,
    note: Callable[..., None],
    small_disk: Path,
) -> None:
    """The program ends and says why; with more room the same command goes on from the last whole checkpoint."""
    own = str(small_disk / "run")
    Path(own).mkdir()
    Path(own, "corpus").symlink_to(Path(run, "corpus"))
    commit_corpus(own, config)
    training, place = train(own), training_folder(own)
    training.wait_step(BREAK_AT)
    size = max(sum(file.stat().st_size for file in (place / name).iterdir()) for name in checkpoints(place))
    until = time.monotonic() + 120
    with open(small_disk / "ballast", "ab", buffering=0) as ballast:
        # Again and again: an older checkpoint, removed after the room was measured, is room for the next.
        while training.process.poll() is None and time.monotonic() < until:
            room = shutil.disk_usage(small_disk).free - size // 2
            with contextlib.suppress(OSError):  # training may have taken of the room meanwhile
                ballast.write(bytes(max(room, 0)))
            time.sleep(0.05)
    training.wait(status=1)
    [line] = [line for line in training.log.splitlines() if line.startswith("error: ")]
    assert "No space left on device; make room for the run" in line
    before, broken_at = training.told(), time.monotonic()
    subprocess.run(["mount", "-o", "remount,size=512m", small_disk], check=True)
    again = train(own)
    seconds, repeated = recovered(again, broken_at, before, unbroken)
    note("disk full at checkpoint", f"step {before[-1].step}; enlarged, same command", seconds, repeated)


def test_s3_is_down_amid_training(
    nodes: Nodes,
    run: str,
    config: Config,
    train: Callable[..., Training],
    unbroken: Outcome,
    note: Callable[..., None],
    s3_server: SeaweedFS,
) -> None:
    """Rows, checkpoints and results are all in the bucket."""
    own = "s3://speech/run"
    for path in storage.files_below(str(Path(run, "corpus").resolve())):
        storage.upload(Path(run, "corpus", path), storage.join(own, "corpus", path))
    commit_corpus(own, config)
    training = train(own)
    training.wait_step(BREAK_AT)
    before, broken_at = training.told(), time.monotonic()
    s3_server.kill()
    time.sleep(S3_SECONDS)
    s3_server.start()
    heard = len(training.told())
    while len(training.told()) == heard:
        if (status := training.process.poll()) is not None:
            assert status == EXIT_TEMPORARY, training.log
            training = train(own)  # as the chain does
        assert time.monotonic() < broken_at + 300, training.log
        time.sleep(0.2)
    seconds = time.monotonic() - broken_at
    training.wait()
    assert outcome(own) == unbroken
    repeated = sum(each.step <= before[-1].step for each in training.told()[len(before) :])
    assert repeated <= CHECKPOINT_STEPS
    note("S3 down", f"the server SIGKILLed at step {before[-1].step}, for {S3_SECONDS:g} s", seconds, repeated)

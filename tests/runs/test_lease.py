"""The lease on a run: one cluster at a time, whoever dies, stops for a while or comes at the same moment."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from arspm import storage
from arspm.runs import lease, stages
from arspm.runs.lease import Holder, LeaseHeld, LeaseLost
from arspm.runs.processes import has_ended, process_name
from tests import faulty_server as faults
from tests.s3_servers import connected_to
from tests.storage.conftest import FaultyFolder, faulty  # noqa: F401 a fixture

A, B = Holder("session_a", "http://a:8265", user="ann@a"), Holder("session_b", "http://b:8265", user="bob@b")

# Holds the lease of a cluster that another machine would not see die, and writes to the run until it loses it.
PROGRAM = """
import sys, time
from pathlib import Path
from arspm.runs import lease
lease.BEAT_SECONDS, lease._GRACE_SECONDS = 0.1, 5.0
try:
    with lease.hold(sys.argv[1], lease.Holder(*sys.argv[2:]), interrupt=True):
        print("held", flush=True)
        while True:
            time.sleep(0.02)
except lease.LeaseLost as error:
    sys.exit(f"error: {error}")
"""


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(lease, "EXPIRY_SECONDS", 2.0)
    monkeypatch.setattr(lease, "_LOOK_SECONDS", 0.05)


@pytest.fixture(params=["local", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "local":
        yield str(tmp_path / "run")
        return
    bucket = request.getfixturevalue("seaweed_bucket")
    with connected_to(bucket.env):
        yield f"{bucket.uri}/{request.node.originalname}"


@contextlib.contextmanager
def holding(run: str, holder: Holder) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lease."""
    command = [sys.executable, "-c", PROGRAM, run, *holder]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_members_of_a_cluster_share_a_lease_and_another_cluster_is_refused(run: str) -> None:
    with lease.hold(run, A) as driver, lease.hold(run, A) as job:
        with pytest.raises(LeaseHeld, match=r"ann@a on the cluster at http://a:8265 works on this run since 20.*UTC"):
            with lease.hold(run, B):
                pass
        assert "ann@a on the cluster at http://a:8265 works on this run since" in lease.describe(run)
        driver.require()
        job.require()


def test_a_lease_ends_with_its_last_member(run: str) -> None:
    with lease.hold(run, A):
        with lease.hold(run, A):
            pass
        with pytest.raises(LeaseHeld), lease.hold(run, B):
            pass
    told: list[str] = []
    with lease.hold(run, B, say=told.append) as held:
        held.require()
    assert told == []
    assert lease.describe(run) == ""


def test_a_variant_has_the_lease_of_its_run(run: str) -> None:
    with lease.hold(run, A), pytest.raises(LeaseHeld), lease.hold(stages.variant_run(run, "neutral-0"), B):
        pass


def test_the_lease_of_a_killed_holder_on_another_machine_expires(run: str) -> None:
    told: list[str] = []
    with holding(run, A) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        [member] = [name for name in storage.files_below(storage.join(run, lease.FOLDER)) if "-" in name]
        uri = storage.join(run, lease.FOLDER, member)
        storage.write_json(uri, storage.read_json(uri) | {"process": "another boot/pid:[4026531836]/7/7"})
        started = time.monotonic()
        with lease.hold(run, B, say=told.append) as held:
            held.require()
    assert time.monotonic() - started >= lease.EXPIRY_SECONDS
    assert told == [
        f"ann@a on the cluster at http://a:8265 has worked on {run}; looking for a sign of life for up to 2 s"
    ]


def test_the_lease_of_processes_that_ended_on_this_machine_is_free_at_once(run: str) -> None:
    told: list[str] = []
    with holding(run, A) as driver, holding(run, A) as job:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        with pytest.raises(LeaseHeld), lease.hold(run, B):
            pass
        job.send_signal(signal.SIGKILL)
        job.wait()
        assert "worked on this run from" in lease.describe(run)
        with lease.hold(run, B, say=told.append):
            assert told == []


def test_a_cluster_comes_back_to_its_own_lease(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver was stopped for so long that its job found no sign of life, and wrote the cluster's next claim."""
    monkeypatch.setattr(lease, "BEAT_SECONDS", 60.0)
    with lease.hold(run, A) as driver:
        for name in storage.files_below(storage.join(run, lease.FOLDER)):
            if "-" in name:
                storage.remove(storage.join(run, lease.FOLDER, name))
        with lease.hold(run, A) as job:
            driver.require()
            job.require()
            assert storage.exists(storage.join(run, lease.FOLDER, "2.json"))


def test_whoever_is_stopped_for_too_long_ends_with_one_line_when_it_continues(run: str) -> None:
    with holding(run, A) as other:
        other.send_signal(signal.SIGSTOP)
        with lease.hold(run, B) as held:
            other.send_signal(signal.SIGCONT)
            _, errors = other.communicate(timeout=10)
            held.require()
    assert other.returncode == 1
    assert errors == f"error: {run}: bob@b on the cluster at http://b:8265 took over this run, so this program ends\n"


def test_a_member_that_does_not_react_to_the_interrupt_is_ended(tmp_path: Path) -> None:
    stubborn = PROGRAM.replace(
        "time.sleep(0.02)", "\n".join(["try: time.sleep(9)", " " * 12 + "except BaseException: pass"])
    )
    command = [sys.executable, "-c", stubborn.replace("_GRACE_SECONDS = 0.1, 5.0", "_GRACE_SECONDS = 0.1, 0.5")]
    run = str(tmp_path)
    with subprocess.Popen([*command, run, *A], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        other.send_signal(signal.SIGSTOP)
        with lease.hold(run, B):
            other.send_signal(signal.SIGCONT)
            _, errors = other.communicate(timeout=10)
    assert (other.returncode, errors.count("\n")) == (1, 1)
    assert "took over this run" in errors


def test_a_loser_is_told_before_it_completes_anything(run: str) -> None:
    with lease.hold(run, Holder("session_c", "c")) as held:
        data = storage.read_bytes(storage.join(run, lease.FOLDER, "1.json"))
        storage.write_bytes(storage.join(run, lease.FOLDER, "2.json"), data.replace(b"session_c", b"session_d"))
        with pytest.raises(LeaseLost, match="took over this run"):
            held.require()


def test_a_lease_that_is_removed_is_lost(run: str) -> None:
    with lease.hold(run, A) as held:
        storage.remove(storage.join(run, lease.FOLDER))
        with pytest.raises(LeaseLost, match="its lease was removed"):
            held.require()


def test_of_many_clusters_at_one_moment_one_gets_the_lease(run: str) -> None:
    """Each holds it until all have tried, so that nobody gets it from somebody who has finished."""
    tried, barrier = threading.Barrier(6), threading.Barrier(6)

    def work(number: int) -> bool:
        barrier.wait()
        try:
            with lease.hold(run, Holder(f"session_{number}", str(number))):
                tried.wait(timeout=60)
        except LeaseHeld:
            tried.wait(timeout=60)
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(work, range(6))) == [False] * 5 + [True]


def test_old_claims_are_removed(run: str) -> None:
    for holder in (A, B, A):
        with lease.hold(run, holder):
            names = sorted(storage.files_below(storage.join(run, lease.FOLDER)))
    assert [name for name in names if "-" not in name] == ["3.json"]
    assert len(names) == 2


@pytest.mark.parametrize("faulty", ["seaweedfs"], indirect=True)
@pytest.mark.parametrize("lack", [faults.NO_CONDITIONS, faults.IGNORED_CONDITIONS])
def test_a_store_without_conditional_writes_is_refused_in_one_line(faulty: FaultyFolder, lack: str) -> None:  # noqa: F811
    faulty.server.lacks.add(lack)
    with pytest.raises(OSError, match=r"has no conditional writes \(If-None-Match\).*docs/storage.md") as caught:
        with lease.hold(faulty.uri, A):
            pass
    assert "\n" not in str(caught.value)


def test_a_damaged_lease_names_its_file(tmp_path: Path) -> None:
    storage.write_bytes(str(tmp_path / "_lease" / "1.json"), b"[]")
    with pytest.raises(ValueError, match=r"_lease/1\.json: not a lease"), lease.hold(str(tmp_path), A):
        pass


@pytest.mark.parametrize("name", ["", "boot/pid:[1]/1/1", "a", "//", "boot/pid:[1]/x/1"])
def test_processes_of_other_machines_have_not_certainly_ended(name: str) -> None:
    assert not has_ended(name)


def test_a_process_that_reuses_a_pid_is_another_one() -> None:
    own = process_name(os.getpid())
    assert not has_ended(own)
    assert has_ended(own.rpartition("/")[0] + "/1")

"""How long storage operations are retried, and the error at the end."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
import s3fs
from packaging.version import Version

from arspm import storage
from arspm.distributed.train import failures
from arspm.storage import retries
from cluster.exit_codes import ExitCode
from jobs.stage import readable_end
from tests import faulty_server as faults
from tests.storage.conftest import FOREVER, ONE_SERVER, FaultyFolder, parquet, read_group

DATA = b"old " * 5000


@ONE_SERVER
def test_after_the_time_limit_one_error_has_all_details(
    faulty: FaultyFolder, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    storage.write_bytes(faulty.file("file"), DATA)
    monkeypatch.setattr(retries, "RETRY_SECONDS", 0.5)
    faulty.server.inject(faults.SLOW_DOWN, times=FOREVER, method="GET")
    faulty.server.requests.clear()
    with pytest.raises(SystemExit) as ended, readable_end("encoder"):
        storage.read_bytes(faulty.file("file"))
    assert ended.value.code == ExitCode.TEMPORARY
    said = capsys.readouterr().err.strip().splitlines()
    tries = faulty.server.requests["GET"]
    assert tries > 2
    assert re.fullmatch(
        rf"error: encoder: {re.escape(faulty.file('file'))}: storage unavailable: tried {tries} times in [01] s; "
        r"last error: \[Errno 16\] Please reduce your request rate\.",
        said[-1],
    )
    assert sum("Traceback" in line for line in said) == 1  # no chain of causes


@ONE_SERVER
def test_pyarrow_raises_the_same_error(faulty: FaultyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes(faulty.file("shard"), parquet())
    monkeypatch.setattr(retries, "RETRY_SECONDS", 0.2)
    faulty.server.inject(faults.SLOW_DOWN, times=FOREVER)
    with pytest.raises(
        storage.StorageUnavailable, match=r"shard: storage unavailable: tried \d+ times in \d s; last.*503"
    ):
        read_group(faulty.file("shard"))


@ONE_SERVER
def test_an_unreachable_server_is_retried(faulty: FaultyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(retries, "RETRY_SECONDS", 0.0)
    with pytest.raises(storage.StorageUnavailable):  # creating a client takes seconds on a busy machine
        storage.exists(faulty.file("file"))
    monkeypatch.setattr(retries, "RETRY_SECONDS", 1.0)
    # pyarrow quotes libcurl, which wrote addresses otherwise in the version that pyarrow 25 has.
    arrow = r"127\.0\.0\.1:9" if Version(pa.__version__) >= Version("26") else r"127\.0\.0\.1 port 9"
    botocore = r"127\.0\.0\.1:9"
    for operation, address in ((storage.read_bytes, botocore), (storage.files_below, botocore), (read_group, arrow)):
        with pytest.raises(storage.StorageUnavailable, match=rf"/file: .*tried \d\d+ times.*{address}") as error:
            operation(faulty.file("file"))
        assert error.value.temporary


@ONE_SERVER
def test_aws_max_attempts_1_turns_retries_off(faulty: FaultyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes(faulty.file("file"), DATA)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    faulty.server.inject(faults.SLOW_DOWN, times=FOREVER)
    faulty.server.requests.clear()
    with pytest.raises(storage.StorageUnavailable, match="tried 1 times") as error:
        storage.read_bytes(faulty.file("file"))
    assert faulty.server.requests.total() == 1
    assert not error.value.temporary


def test_a_training_failure_from_unavailable_storage_is_temporary() -> None:
    cause = ray.exceptions.RayTaskError(
        "read", "Traceback ...", storage.StorageUnavailable("s3://bucket/file: storage unavailable")
    )
    causes = ((cause, True), (cause.as_instanceof_cause(), True), (ValueError("s3://bucket/file"), False))
    for cause, temporary in causes:
        failed = failures.training_failed(cause)
        assert str(failed).startswith("s3://bucket/file")
        assert failed.temporary is temporary


class Clock:
    """A clock that only `sleep` advances."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.waits = 0.0, []
        monkeypatch.setattr(retries, "time", self)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


def unavailable_until(clock: Clock, seconds: float) -> Callable[[], str]:
    def operation() -> str:
        if clock.now < seconds:
            raise ConnectionResetError("gone")
        return "back"

    return operation


@pytest.mark.parametrize("seconds", [0.1, 20.0, 45.0])
def test_an_outage_shorter_than_the_limit_is_survived(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    for seed in range(200):
        random.seed(seed)
        assert storage.retried("s3://bucket/file", unavailable_until(Clock(monkeypatch), seconds)) == "back"


def test_the_limit_runs_from_the_last_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transfer of half an hour that breaks at its end is repeated; one that breaks every time is not without end."""
    for broken, survives in ((1, True), (4, True), (99, False)):
        clock, tries = Clock(monkeypatch), 0

        def transfer(broken: int = broken, clock: Clock = clock) -> str:
            nonlocal tries
            tries += 1
            clock.now += 1800
            if tries <= broken:
                raise ConnectionResetError("gone")
            return "done"

        if survives:
            assert storage.retried("s3://bucket/file", transfer) == "done"
        else:
            with pytest.raises(storage.StorageUnavailable, match="tried 6 times"):
                storage.retried("s3://bucket/file", transfer)


def test_waits_are_uniform_below_a_doubling_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    ceilings = [min(retries.LONGEST_WAIT_SECONDS, retries.FIRST_WAIT_SECONDS * 2**n) for n in range(1, 9)]
    waits = []
    for seed in range(300):
        random.seed(seed)
        clock = Clock(monkeypatch)
        with pytest.raises(storage.StorageUnavailable):
            storage.retried("s3://bucket/file", unavailable_until(clock, 1e9))
        assert retries.RETRY_SECONDS <= clock.now < retries.RETRY_SECONDS + retries.LONGEST_WAIT_SECONDS
        waits.append(clock.waits[: len(ceilings)])
    fractions = np.array(waits) / ceilings
    assert fractions.min() >= 0
    assert fractions.max() <= 1
    np.testing.assert_allclose(np.quantile(fractions, [0.25, 0.5, 0.75], axis=0).T, [[0.25, 0.5, 0.75]] * 8, atol=0.09)


def test_nested_retries_share_one_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    with pytest.raises(storage.StorageUnavailable, match=r"^s3://bucket/file: storage unavailable: tried"):
        storage.retried(
            "s3://bucket/folder", lambda: storage.retried("s3://bucket/file", unavailable_until(clock, 1e9))
        )
    assert clock.now < retries.RETRY_SECONDS + retries.LONGEST_WAIT_SECONDS


def test_local_errors_are_not_retried(tmp_path: Path) -> None:
    calls = itertools.count()
    with pytest.raises(ConnectionResetError):
        storage.retried(str(tmp_path), lambda: [next(calls), unavailable_until(type("C", (), {"now": 0}), 1)()])
    assert next(calls) == 1

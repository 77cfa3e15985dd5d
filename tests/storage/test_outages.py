"""Storage that throttles, resets, stalls, and cuts bodies short: before two real S3 servers, by a proxy's orders."""

from __future__ import annotations

import io
import itertools
import logging
import os
import random
import re
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import s3fs
import soundfile

from arspm import storage
from arspm.corpus import tables
from arspm.distributed.train import launch
from arspm.media import clips
from arspm.media.clip_rows import read_clip_rows
from arspm.storage import retries
from cluster.job import EXIT_TEMPORARY
from jobs.stage import readable_end
from tests import faulty_server as faults
from tests.faulty_server import FaultyServer, faulty_server
from tests.s3_servers import reached_by

FOREVER = 1_000_000
# Where the proxy or the client is what is tested. moto takes any secret, and two of its threads may both find nothing
# there and write.
ONE_SERVER = pytest.mark.parametrize("place", ["seaweedfs"], indirect=True)
# A reset before the reply comes twice: aiohttp tries once more by itself, unseen.
WITHOUT_BODY = (faults.SLOW_DOWN, faults.INTERNAL_ERROR, faults.RESET, faults.RESET, faults.STALL)
AMID_BODY = (faults.TORN, faults.RESET_BODY)


class WorkerContext(NamedTuple):
    """A folder of a bucket behind a proxy."""

    uri: str
    server: FaultyServer
    kind: str

    def file(self, name: str) -> str:
        return storage.join(self.uri, name)


@pytest.fixture(params=["seaweedfs", "moto"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerContext]:
    """Both servers, with short waits, and each try a single request, so that every fault reaches `retried`."""
    bucket = request.getfixturevalue({"seaweedfs": "seaweed_bucket", "moto": "moto_bucket"}[request.param])
    monkeypatch.delenv("AWS_MAX_ATTEMPTS", raising=False)
    monkeypatch.setattr(retries, "REQUEST_TRIES", 1)
    monkeypatch.setattr(retries, "FIRST_WAIT_SECONDS", 0.002)
    monkeypatch.setattr(retries, "LONGEST_WAIT_SECONDS", 0.02)
    with faulty_server(bucket.env["AWS_ENDPOINT_URL"]) as server:
        with reached_by(bucket.env | {"AWS_ENDPOINT_URL": server.url}):
            yield WorkerContext(f"{bucket.uri}/{request.node.name}", server, request.param)


def table() -> pa.Table:
    return pa.table({"clip_id": [f"c{n:05d}" for n in range(4000)], "x": np.arange(4000)})


def parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(table(), sink, row_group_size=1000, compression="none", use_dictionary=False)
    return sink.getvalue()


def read_group(uri: str) -> list[int]:
    (group,) = tables._read_groups(uri, ["x"], np.array([2]), 1000)
    return group["x"].to_pylist()


def local_copy(uri: str) -> bytes:
    with storage.local_copy(uri) as path:
        return path.read_bytes()


def upload(uri: str) -> bytes:
    storage.upload(__file__, uri)
    return storage.read_bytes(uri)


def write(uri: str) -> bytes:
    storage.write_bytes(uri, b"new")
    return storage.read_bytes(uri)


def remove(uri: str) -> bool:
    storage.remove(uri)
    return storage.exists(uri)


class Operation(NamedTuple):
    """What is done to a file that is there, what it gives, and the request of it that faults strike."""

    act: Callable[[str], Any]
    gives: Any
    method: str
    text: str = ""
    has_body: bool = False


DATA = b"old " * 5000
OPERATIONS = {
    "read": Operation(storage.read_bytes, DATA, "GET", has_body=True),
    "local copy": Operation(local_copy, DATA, "GET", has_body=True),
    "describe, the question": Operation(storage.describe, storage.describe_bytes(DATA), "HEAD"),
    "describe, the reading": Operation(storage.describe, storage.describe_bytes(DATA), "GET", has_body=True),
    "write": Operation(write, b"new", "PUT"),
    "upload": Operation(upload, Path(__file__).read_bytes(), "PUT"),
    "put if absent": Operation(lambda uri: storage.put_if_absent(uri + ".new", b"1"), True, "PUT"),
    "exists": Operation(storage.exists, True, "HEAD"),
    "list": Operation(
        lambda uri: storage.files_below(uri[: -len("/file")]), {"file": len(DATA)}, "GET", "list-type", True
    ),
    "remove, the listing": Operation(remove, False, "GET", "list-type", True),
    "remove, the removal": Operation(remove, False, "POST", "delete"),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_survives_each_fault(place: WorkerContext, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, in one call."""
    monkeypatch.setattr(retries, "READ_SECONDS", 0.5)
    operation = OPERATIONS[name]
    uri = place.file("file")
    storage.write_bytes(uri, DATA)
    struck = [*WITHOUT_BODY, faults.LOST_REPLY, *(AMID_BODY if operation.has_body else ())]
    for problem in struck:
        place.server.order(problem, method=operation.method, text=operation.text)
    begun = time.monotonic()
    assert operation.act(uri) == operation.gives
    assert time.monotonic() - begun > retries.READ_SECONDS  # the stall
    assert place.server.done.total() == len(struck)


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_row_groups_survive_each_fault(place: WorkerContext, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "READ_SECONDS", 0.5)
    storage.write_bytes(place.file("shard.parquet"), parquet())
    struck = [*WITHOUT_BODY, faults.LOST_REPLY, *(AMID_BODY if method == "GET" else ())]
    for problem in struck:
        place.server.order(problem, method=method, text="shard.parquet")
    assert read_group(place.file("shard.parquet")) == list(range(2000, 3000))
    assert place.server.done.total() == len(struck)
    place.server.order(faults.TORN, method="GET", text="shard.parquet")
    assert tables.read_table(place.file("shard.parquet")).equals(table())
    assert place.server.done[faults.TORN] == 1 + struck.count(faults.TORN)


def test_a_body_that_stops_coming_is_asked_for_again(place: WorkerContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "READ_SECONDS", 0.5)
    storage.write_bytes(place.file("file"), DATA)
    place.server.order(faults.STALLED_BODY, method="GET")
    assert storage.read_bytes(place.file("file")) == DATA
    assert place.server.done == {faults.STALLED_BODY: 1}


@ONE_SERVER
def test_the_clients_own_tries_come_first(place: WorkerContext, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """A page of a long listing that fails is asked for again alone, and nobody need hear of it."""
    monkeypatch.setattr(retries, "REQUEST_TRIES", 3)
    monkeypatch.setattr(random, "random", lambda: 0.01)  # botocore's waits
    storage.write_bytes(place.file("file"), DATA)
    place.server.order(faults.SLOW_DOWN, times=2, method="GET")
    assert storage.read_bytes(place.file("file")) == DATA
    place.server.order(faults.SLOW_DOWN, method="HEAD")
    storage.write_bytes(place.file("shard"), parquet())
    assert read_group(place.file("shard"))[0] == 2000
    assert place.server.done[faults.SLOW_DOWN] == 3
    assert not [record for record in caplog.records if record.name == retries.__name__]


def test_of_many_files_only_those_that_failed_are_read_again(place: WorkerContext) -> None:
    for n in range(12):
        storage.write_bytes(place.file(f"{n:02d}.json"), f"{n}".encode() * 100)
    storage.files_below(place.uri)
    place.server.seen.clear()
    place.server.order(faults.TORN, times=3, method="GET", text=".json")
    found = storage.read_folder(place.uri, ".json")
    assert found == {f"{n:02d}.json": f"{n}".encode() * 100 for n in range(12)}
    assert list(found) == sorted(found)
    assert place.server.seen["GET"] == 12 + 3 + 1  # and the listing


def test_files_that_a_bulk_request_left_are_removed(place: WorkerContext) -> None:
    for name in ("a", "b/c"):
        storage.write_bytes(place.file(name), b"1")
    place.server.order(faults.NONE_DELETED, times=2, method="POST")
    storage.remove(place.uri)
    assert storage.files_below(place.uri) == {}
    assert place.server.done == {faults.NONE_DELETED: 2}


def test_names_are_no_patterns(place: WorkerContext) -> None:
    """Not to s3fs, which would remove others' files, nor to pyarrow, which would take them for a URI's syntax."""
    odd = ("run*", "run[1]", "run 2%20", "run+#é")
    for folder in (*odd, "run1"):
        storage.write_bytes(place.file(f"{folder}/a.json"), folder.encode())
        storage.write_bytes(place.file(f"{folder}/b.parquet"), parquet())
    for folder in odd:
        assert storage.read_folder(place.file(folder), ".json") == {"a.json": folder.encode()}
        assert storage.describe(place.file(f"{folder}/a.json")) == storage.describe_bytes(folder.encode())
        assert read_group(place.file(f"{folder}/b.parquet"))[0] == 2000
        storage.remove(place.file(folder))
        assert not storage.exists(place.file(f"{folder}/a.json"))
    assert set(storage.files_below(place.uri)) == {"run1/a.json", "run1/b.parquet"}


# ------------------------------------------------------------------------------------------------ exactly one writer


def test_a_lost_reply_to_a_put_is_still_this_writers(place: WorkerContext) -> None:
    uri = place.file("_SUCCESS.json")
    place.server.order(faults.LOST_REPLY, times=2, method="PUT")
    assert storage.put_if_absent(uri, b"same")
    assert place.server.seen["PUT"] >= 2
    place.server.order(faults.LOST_REPLY, times=2, method="PUT")
    assert not storage.put_if_absent(uri, b"other")
    assert not storage.put_if_absent(uri, b"same")  # of another writer, though the bytes are equal
    assert storage.read_bytes(uri) == b"same"


@ONE_SERVER
def test_of_writers_at_once_one_wins_through_lost_replies(place: WorkerContext) -> None:
    for turn in range(5):
        uri = place.file(f"race-{turn}")
        place.server.order(faults.LOST_REPLY, times=6, method="PUT", text=f"race-{turn}")
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda n, uri=uri: storage.put_if_absent(uri, bytes([n])), range(8)))
        assert won.count(True) == 1
        assert storage.read_bytes(uri) == bytes([won.index(True)])


def test_an_upload_in_parts_whose_last_reply_is_lost_is_whole(
    place: WorkerContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client asks again for the end of an upload that has ended, and may hear that there is no such upload."""
    with open(tmp_path / "large", "wb") as file:
        file.write(b"begin")
        file.truncate(101 * 2**20)  # from 100 MiB on s3fs uploads in parts
    monkeypatch.setattr(retries, "REQUEST_TRIES", 2)
    monkeypatch.setattr(random, "random", lambda: 0.01)  # botocore's waits
    place.server.order(faults.LOST_REPLY, method="POST", text="uploadId")
    place.server.order(faults.NO_SUCH_UPLOAD, method="POST", text="uploadId")
    told = storage.upload(tmp_path / "large", place.file("large"))
    assert place.server.done == {faults.LOST_REPLY: 1, faults.NO_SUCH_UPLOAD: 1}
    assert storage.files_below(place.uri) == {"large": told["bytes"]}
    storage.remove(place.file("large"))


# ------------------------------------------------------------------------------------------------ the limit


@ONE_SERVER
def test_after_the_limit_one_error_says_all(place: WorkerContext, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    storage.write_bytes(place.file("file"), DATA)
    monkeypatch.setattr(retries, "RETRY_SECONDS", 0.5)
    place.server.order(faults.SLOW_DOWN, times=FOREVER, method="GET")
    place.server.seen.clear()
    with pytest.raises(SystemExit) as ended, readable_end("encoder"):
        storage.read_bytes(place.file("file"))
    assert ended.value.code == EXIT_TEMPORARY
    said = capsys.readouterr().err.strip().splitlines()
    tries = place.server.seen["GET"]
    assert tries > 2
    assert re.fullmatch(
        rf"error: encoder: {re.escape(place.file('file'))}: storage away: tried {tries} times in [01] s, "
        r"the last time: \[Errno 16\] Please reduce your request rate\.",
        said[-1],
    )
    assert sum("Traceback" in line for line in said) == 1  # no chain of causes


def test_a_stages_error_shows_no_credentials(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Whoever raised it: Train and others ask storage by clients of their own."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not/to+be/told")
    with pytest.raises(SystemExit), readable_end("encoder"):
        raise RuntimeError("PUT s3://AKIAIOSFODNN7EXAMPLE:not/to+be/told@b/x failed: key AKIAIOSFODNN7EXAMPLE")
    said = capsys.readouterr().err
    assert said.endswith("error: encoder: PUT s3://***@b/x failed: key ***\n")
    assert "told" not in said
    assert "AKIA" not in said


@ONE_SERVER
def test_pyarrow_too_ends_in_that_error(place: WorkerContext, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes(place.file("shard"), parquet())
    monkeypatch.setattr(retries, "RETRY_SECONDS", 0.2)
    place.server.order(faults.SLOW_DOWN, times=FOREVER)
    with pytest.raises(
        storage.StorageUnavailable, match=r"shard: storage away: tried \d+ times in \d s, the last.*503"
    ):
        read_group(place.file("shard"))


@ONE_SERVER
def test_no_server_at_all_is_waited_for(place: WorkerContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(retries, "RETRY_SECONDS", 0.0)
    with pytest.raises(storage.StorageUnavailable):  # to make a client takes seconds on a busy machine
        storage.exists(place.file("file"))
    monkeypatch.setattr(retries, "RETRY_SECONDS", 1.0)
    for ask in (storage.read_bytes, storage.files_below, read_group):
        with pytest.raises(storage.StorageUnavailable, match=r"/file: .*tried \d\d+ times.*127\.0\.0\.1:9") as away:
            ask(place.file("file"))
        assert away.value.temporary


@ONE_SERVER
def test_who_asks_for_one_try_gets_one(place: WorkerContext, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes(place.file("file"), DATA)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    place.server.order(faults.SLOW_DOWN, times=FOREVER)
    place.server.seen.clear()
    with pytest.raises(storage.StorageUnavailable, match="tried 1 times") as away:
        storage.read_bytes(place.file("file"))
    assert place.server.seen.total() == 1
    assert not away.value.temporary


def test_a_training_worker_whose_storage_was_away_may_be_run_again() -> None:
    away = ray.exceptions.RayTaskError(
        "read", "Traceback ...", storage.StorageUnavailable("s3://bucket/file: storage away")
    )
    for cause, temporary in ((away, True), (away.as_instanceof_cause(), True), (ValueError("s3://bucket/file"), False)):
        failed = launch._failed(cause)
        assert str(failed).startswith("s3://bucket/file")
        assert failed.temporary is temporary


class Clock:
    """Time that passes by sleeping alone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.waits = 0.0, []
        monkeypatch.setattr(retries, "time", self)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


def away_until(clock: Clock, seconds: float) -> Callable[[], str]:
    def ask() -> str:
        if clock.now < seconds:
            raise ConnectionResetError("gone")
        return "back"

    return ask


@pytest.mark.parametrize("seconds", [0.1, 20.0, 45.0])
def test_storage_may_be_away_for_less_than_the_limit(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    for seed in range(200):
        random.seed(seed)
        assert storage.retried("s3://bucket/file", away_until(Clock(monkeypatch), seconds)) == "back"


def test_waits_double_up_to_a_limit_and_are_anywhere_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ceilings = [min(retries.LONGEST_WAIT_SECONDS, retries.FIRST_WAIT_SECONDS * 2**n) for n in range(1, 9)]
    waits = []
    for seed in range(300):
        random.seed(seed)
        clock = Clock(monkeypatch)
        with pytest.raises(storage.StorageUnavailable):
            storage.retried("s3://bucket/file", away_until(clock, 1e9))
        assert retries.RETRY_SECONDS <= clock.now < retries.RETRY_SECONDS + retries.LONGEST_WAIT_SECONDS
        waits.append(clock.waits[: len(ceilings)])
    shares = np.array(waits) / ceilings
    assert shares.min() >= 0
    assert shares.max() <= 1
    np.testing.assert_allclose(np.quantile(shares, [0.25, 0.5, 0.75], axis=0).T, [[0.25, 0.5, 0.75]] * 8, atol=0.09)


def test_one_limit_inside_another_is_one_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    with pytest.raises(storage.StorageUnavailable, match=r"^s3://bucket/file: storage away: tried"):
        storage.retried("s3://bucket/folder", lambda: storage.retried("s3://bucket/file", away_until(clock, 1e9)))
    assert clock.now < retries.RETRY_SECONDS + retries.LONGEST_WAIT_SECONDS


def test_local_errors_are_as_they_were(tmp_path: Path) -> None:
    calls = itertools.count()
    with pytest.raises(ConnectionResetError):
        storage.retried(str(tmp_path), lambda: [next(calls), away_until(type("C", (), {"now": 0}), 1)()])
    assert next(calls) == 1


# ------------------------------------------------------------------------------------------------ refusals


def test_what_is_not_there_is_asked_for_once(place: WorkerContext) -> None:
    place.server.seen.clear()
    with pytest.raises(FileNotFoundError, match="none: no such file"):
        storage.read_bytes(place.file("none"))
    assert place.server.seen == {"GET": 1}
    with pytest.raises(FileNotFoundError, match="none: no such file"):
        local_copy(place.file("none"))
    with pytest.raises(FileNotFoundError):
        read_group(place.file("none"))
    assert place.server.seen["HEAD"] == 1
    with pytest.raises(FileNotFoundError):
        storage.describe("s3://no-such-bucket/file")
    if place.kind == "moto":  # SeaweedFS makes the bucket
        place.server.seen.clear()
        with pytest.raises(FileNotFoundError, match=r"^s3://no-such-bucket/file: .*bucket does not exist"):
            storage.write_bytes("s3://no-such-bucket/file", b"")
        assert place.server.seen == {"PUT": 1}


ASKED = {
    "read": lambda uri: storage.read_bytes(uri),
    "exists": lambda uri: storage.exists(uri),
    "list": lambda uri: storage.files_below(uri),
    "write": lambda uri: storage.write_bytes(uri, b"1"),
    "put": lambda uri: storage.put_if_absent(uri, b"1"),
    "upload": lambda uri: storage.upload(__file__, uri),
    "remove": lambda uri: storage.remove(uri),
    "row group": read_group,
    "csv": lambda uri: read_clip_rows(uri, uri),
}


@ONE_SERVER
@pytest.mark.parametrize("name", ASKED)
def test_a_refusal_is_told_at_once_and_without_credentials(
    place: WorkerContext, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Of the proxy, which quotes what it was sent as AWS does, and of the server, to a wrong secret and a wrong key."""
    caplog.set_level(logging.DEBUG)
    wrong = [{"AWS_SECRET_ACCESS_KEY": "guessed-but-wrong"}, {"AWS_ACCESS_KEY_ID": "AKIAUNKNOWNUNKNOWN00"}]
    for changes in ({}, *wrong):
        with monkeypatch.context() as changed:
            for variable, value in changes.items():
                changed.setenv(variable, value)
            if not changes:
                changed.setenv("AWS_SESSION_TOKEN", "the-session-token-of-a-role")
                place.server.order(faults.REFUSED)
            s3fs.S3FileSystem.clear_instance_cache()
            place.server.seen.clear()
            with pytest.raises(PermissionError, match=rf"{re.escape(place.uri)}/file: access refused") as refused:
                ASKED[name](place.file("file"))
            assert place.server.seen.total() == 1
            told = "".join(traceback.format_exception(refused.value)) + caplog.text
            for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
                assert os.environ.get(variable, "nothing") not in told
            assert "Signature=" not in told


@ONE_SERVER
def test_a_key_of_a_credentials_file_is_not_told_either(
    place: WorkerContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "ASIA2F6PQ7EXAMPLEKEY"
    (tmp_path / "credentials").write_text(f"[default]\naws_access_key_id={key}\naws_secret_access_key=s\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    place.server.order(faults.REFUSED)
    with pytest.raises(PermissionError, match=r"It was for \*\*\*\.") as refused:
        storage.write_bytes(place.file("file"), b"1")
    assert key not in "".join(traceback.format_exception(refused.value))


@ONE_SERVER
def test_what_is_said_of_storage_that_is_away_holds_no_credentials(
    place: WorkerContext, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "the-session-token-of-a-role")
    monkeypatch.setattr(retries, "RETRY_SECONDS", 0.3)
    caplog.set_level(logging.DEBUG)
    place.server.order(faults.QUOTING_SLOW_DOWN, times=FOREVER)
    for ask in (storage.files_below, read_group, lambda uri: storage.put_if_absent(uri, b"1")):
        caplog.clear()
        with pytest.raises(storage.StorageUnavailable) as away:
            ask(place.file("file"))
        told = "".join(traceback.format_exception(away.value)) + caplog.text
        for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            assert os.environ[variable] not in told
        assert "storage away" in told
        assert ask is read_group or "Too many requests of *** with ***." in told  # pyarrow asks by HEAD first
        assert "Signature=" not in told


def test_a_uri_with_credentials_is_refused_without_them() -> None:
    for ask in (storage.read_bytes, storage.exists, read_group, storage.filesystem, storage.arrow_filesystem):
        with pytest.raises(ValueError, match=r"^s3://\*\*\*@bucket/file: credentials do not belong") as refused:
            ask("s3://AKIAKEY:secret+word@bucket/file")
        told = "".join(traceback.format_exception(refused.value, limit=0))
        assert "secret+word" not in told
        assert "AKIAKEY" not in told


# ------------------------------------------------------------------------------------------------ clips


def test_a_fault_of_storage_is_no_fault_of_a_clip(
    place: WorkerContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    time_s = np.arange(32_000) / 16_000
    soundfile.write(tmp_path / "v_0_2.wav", 0.3 * np.sign(np.sin(2 * np.pi * 120 * time_s)), 16_000)
    storage.upload(tmp_path / "v_0_2.wav", place.file("clips/v_0_2.wav"))
    storage.write_bytes(place.file("rows.csv"), b"v,0,2,,\n")
    for problem in (faults.SLOW_DOWN, faults.TORN):
        for text in ("rows.csv", "list-type", "v_0_2"):
            place.server.order(problem, method="GET", text=text)
    (row,) = read_clip_rows(place.file("rows.csv"), place.file("clips"))
    np.testing.assert_array_equal(clips.load_speech(row.path), clips.load_speech(tmp_path / "v_0_2.wav"))
    assert place.server.done == {faults.SLOW_DOWN: 3, faults.TORN: 3}
    monkeypatch.setattr(retries, "RETRY_SECONDS", 0.1)
    place.server.order(faults.TORN, times=FOREVER, method="GET")
    with pytest.raises(storage.StorageUnavailable):
        clips.decode_clip(row.path)

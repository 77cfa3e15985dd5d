"""Storage operations survive throttling, resets, stalls and truncated bodies, which a proxy injects."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile

from arspm import storage
from arspm.corpus import tables
from arspm.media import clips
from arspm.media.clip_files import ClipFolder
from arspm.media.clip_rows import read_clip_rows
from arspm.storage import retries
from tests import faulty_server as faults
from tests.storage.conftest import (
    AMID_BODY,
    FOREVER,
    ONE_SERVER,
    WITHOUT_BODY,
    FaultyFolder,
    local_copy,
    parquet,
    read_group,
    table,
)


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
    """An operation on an existing file, its result, and which of its requests get faults."""

    act: Callable[[str], Any]
    result: Any
    method: str
    text: str = ""
    has_body: bool = False


DATA = b"old " * 5000
OPERATIONS = {
    "read": Operation(storage.read_bytes, DATA, "GET", has_body=True),
    "local copy": Operation(local_copy, DATA, "GET", has_body=True),
    "describe: the size": Operation(storage.describe, storage.describe_bytes(DATA), "HEAD"),
    "describe: the content": Operation(storage.describe, storage.describe_bytes(DATA), "GET", has_body=True),
    "write": Operation(write, b"new", "PUT"),
    "upload": Operation(upload, Path(__file__).read_bytes(), "PUT"),
    "put if absent": Operation(lambda uri: storage.put_if_absent(uri + ".new", b"1"), True, "PUT"),
    "exists": Operation(storage.exists, True, "HEAD"),
    "list": Operation(
        lambda uri: storage.files_below(uri[: -len("/file")]), {"file": len(DATA)}, "GET", "list-type", True
    ),
    "remove: the listing": Operation(remove, False, "GET", "list-type", True),
    "remove: the removal": Operation(remove, False, "DELETE"),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_survives_each_fault(faulty: FaultyFolder, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All faults one after another, in one call."""
    monkeypatch.setattr(retries, "READ_SECONDS", 0.5)
    operation = OPERATIONS[name]
    uri = faulty.file("file")
    storage.write_bytes(uri, DATA)
    faults_injected = [*WITHOUT_BODY, faults.LOST_REPLY, *(AMID_BODY if operation.has_body else ())]
    for fault in faults_injected:
        faulty.server.inject(fault, method=operation.method, text=operation.text)
    started = time.monotonic()
    assert operation.act(uri) == operation.result
    assert time.monotonic() - started > retries.READ_SECONDS  # the stall
    assert faulty.server.injected.total() == len(faults_injected)


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_row_groups_survive_each_fault(faulty: FaultyFolder, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "READ_SECONDS", 0.5)
    storage.write_bytes(faulty.file("shard.parquet"), parquet())
    faults_injected = [*WITHOUT_BODY, faults.LOST_REPLY, *(AMID_BODY if method == "GET" else ())]
    for fault in faults_injected:
        faulty.server.inject(fault, method=method, text="shard.parquet")
    assert read_group(faulty.file("shard.parquet")) == list(range(2000, 3000))
    assert faulty.server.injected.total() == len(faults_injected)
    faulty.server.inject(faults.TRUNCATED, method="GET", text="shard.parquet")
    assert tables.read_table(faulty.file("shard.parquet")).equals(table())
    assert faulty.server.injected[faults.TRUNCATED] == 1 + faults_injected.count(faults.TRUNCATED)


def test_a_stalled_body_is_read_again(faulty: FaultyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "READ_SECONDS", 0.5)
    storage.write_bytes(faulty.file("file"), DATA)
    faulty.server.inject(faults.STALLED_BODY, method="GET")
    assert storage.read_bytes(faulty.file("file")) == DATA
    assert faulty.server.injected == {faults.STALLED_BODY: 1}


@ONE_SERVER
def test_the_clients_retry_requests_first(faulty: FaultyFolder, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """Then one failed request is repeated, not the complete operation, and nothing is logged."""
    monkeypatch.setattr(retries, "REQUEST_TRIES", 3)
    monkeypatch.setattr(random, "random", lambda: 0.01)  # botocore's back-off
    storage.write_bytes(faulty.file("file"), DATA)
    faulty.server.inject(faults.SLOW_DOWN, times=2, method="GET")
    assert storage.read_bytes(faulty.file("file")) == DATA
    faulty.server.inject(faults.SLOW_DOWN, method="HEAD")
    storage.write_bytes(faulty.file("shard"), parquet())
    assert read_group(faulty.file("shard"))[0] == 2000
    assert faulty.server.injected[faults.SLOW_DOWN] == 3
    assert not [record for record in caplog.records if record.name == retries.__name__]


def test_read_folder_reads_only_failed_files_again(faulty: FaultyFolder) -> None:
    for n in range(12):
        storage.write_bytes(faulty.file(f"{n:02d}.json"), f"{n}".encode() * 100)
    storage.files_below(faulty.uri)
    faulty.server.requests.clear()
    faulty.server.inject(faults.TRUNCATED, times=3, method="GET", text=".json")
    found = storage.read_folder(faulty.uri, ".json")
    assert found == {f"{n:02d}.json": f"{n}".encode() * 100 for n in range(12)}
    assert list(found) == sorted(found)
    assert faulty.server.requests["GET"] == 12 + 3 + 1  # and one for the listing


def test_remove_repeats_for_files_that_s3_did_not_remove(faulty: FaultyFolder) -> None:
    for name in ("a", "b/c", "b/d"):
        storage.write_bytes(faulty.file(name), b"1")
    faulty.server.inject(faults.SLOW_DOWN, times=4, method="DELETE")
    storage.remove(faulty.uri)
    assert storage.files_below(faulty.uri) == {}
    assert faulty.server.injected == {faults.SLOW_DOWN: 4}
    faulty.server.inject(faults.DENIED, method="DELETE")
    storage.write_bytes(faulty.file("a"), b"1")
    with pytest.raises(PermissionError, match="access denied"):
        storage.remove_files(faulty.uri, ["a", "none"])


def test_names_are_not_patterns(faulty: FaultyFolder) -> None:
    """s3fs would remove other files that match, and pyarrow would parse them as URI syntax."""
    odd = ("run*", "run[1]", "run 2%20", "run+#é")
    for folder in (*odd, "run1"):
        storage.write_bytes(faulty.file(f"{folder}/a.json"), folder.encode())
        storage.write_bytes(faulty.file(f"{folder}/b.parquet"), parquet())
    for folder in odd:
        assert storage.read_folder(faulty.file(folder), ".json") == {"a.json": folder.encode()}
        assert storage.describe(faulty.file(f"{folder}/a.json")) == storage.describe_bytes(folder.encode())
        assert read_group(faulty.file(f"{folder}/b.parquet"))[0] == 2000
        storage.remove(faulty.file(folder))
        assert not storage.exists(faulty.file(f"{folder}/a.json"))
    assert set(storage.files_below(faulty.uri)) == {"run1/a.json", "run1/b.parquet"}


def test_put_if_absent_recognizes_its_own_file_after_a_lost_reply(faulty: FaultyFolder) -> None:
    uri = faulty.file("_SUCCESS.json")
    faulty.server.inject(faults.LOST_REPLY, times=2, method="PUT")
    assert storage.put_if_absent(uri, b"same")
    assert faulty.server.requests["PUT"] >= 2
    faulty.server.inject(faults.LOST_REPLY, times=2, method="PUT")
    assert not storage.put_if_absent(uri, b"other")
    assert not storage.put_if_absent(uri, b"same")  # equal bytes, but another writer's file
    assert storage.read_bytes(uri) == b"same"


@ONE_SERVER
def test_one_of_concurrent_writers_wins_despite_lost_replies(faulty: FaultyFolder) -> None:
    for turn in range(5):
        uri = faulty.file(f"race-{turn}")
        faulty.server.inject(faults.LOST_REPLY, times=6, method="PUT", text=f"race-{turn}")
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda n, uri=uri: storage.put_if_absent(uri, bytes([n])), range(8)))
        assert won.count(True) == 1
        assert storage.read_bytes(uri) == bytes([won.index(True)])


def test_a_multipart_upload_survives_a_lost_last_reply(
    faulty: FaultyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client then repeats the last request of a completed upload, and S3 may reply NoSuchUpload."""
    with open(tmp_path / "large", "wb") as file:
        file.write(b"begin")
        file.truncate(101 * 2**20)  # from 100 MiB on s3fs uploads in parts
    monkeypatch.setattr(retries, "REQUEST_TRIES", 2)
    monkeypatch.setattr(random, "random", lambda: 0.01)  # botocore's back-off
    faulty.server.inject(faults.LOST_REPLY, method="POST", text="uploadId")
    faulty.server.inject(faults.NO_SUCH_UPLOAD, method="POST", text="uploadId")
    described = storage.upload(tmp_path / "large", faulty.file("large"))
    assert faulty.server.injected == {faults.LOST_REPLY: 1, faults.NO_SUCH_UPLOAD: 1}
    assert storage.files_below(faulty.uri) == {"large": described["bytes"]}
    storage.remove(faulty.file("large"))


def test_a_storage_fault_does_not_drop_a_clip(
    faulty: FaultyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    time_s = np.arange(32_000) / 16_000
    soundfile.write(tmp_path / "v_0_2.wav", 0.3 * np.sign(np.sin(2 * np.pi * 120 * time_s)), 16_000)
    storage.upload(tmp_path / "v_0_2.wav", faulty.file("clips/v_0_2.wav"))
    storage.write_bytes(faulty.file("rows.csv"), b"v,0,2,,\n")
    for fault in (faults.SLOW_DOWN, faults.TRUNCATED):
        for text in ("rows.csv", "list-type", "v_0_2"):
            faulty.server.inject(fault, method="GET", text=text)
    (row,) = read_clip_rows(faulty.file("rows.csv"), ClipFolder(faulty.file("clips")))
    np.testing.assert_array_equal(clips.decode_sound(row.path), clips.decode_sound(tmp_path / "v_0_2.wav"))
    assert faulty.server.injected == {faults.SLOW_DOWN: 3, faults.TRUNCATED: 3}
    monkeypatch.setattr(retries, "RETRY_SECONDS", 0.1)
    faulty.server.inject(faults.TRUNCATED, times=FOREVER, method="GET")
    with pytest.raises(storage.StorageUnavailable):
        clips.decode_clip(row.path)

"""Credentials that expire, and clocks that are wrong: one line that says so, at once, whichever client finds out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from arspm import storage
from tests import faulty_server as faults
from tests.conftest import Bucket
from tests.faulty_server import FaultyServer, faulty_server
from tests.s3_servers import connected_to
from tests.storage.conftest import FOREVER, ONE_SERVER, FaultyFolder, parquet, read_group
from tests.storage.test_access import ACCESSES

REPO = Path(__file__).parents[2]
RENEW = r"the credentials have expired \({}: .*\); renew them \(docs/storage.md#credentials\) and run the same command"
SAID = {
    faults.EXPIRED: RENEW.format("ExpiredToken"),
    faults.EXPIRED_BY_STS: RENEW.format("ExpiredTokenException"),
    faults.REQUEST_EXPIRED: RENEW.format("RequestExpired"),
    faults.WRONG_TOKEN: r"the session token is not valid \(InvalidToken: .*\); it must belong to the same credentials",
    faults.WRONG_CLOCK: r"the clock of \S+ is not the store's \(RequestTimeTooSkewed: .*\); set it, for example by NTP",
}
OPERATIONS = {**ACCESSES, "empty": storage.require_store, "describe": storage.describe}


@ONE_SERVER
@pytest.mark.parametrize("fault", SAID)
def test_every_operation_says_so_at_once(
    faulty: FaultyFolder, fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "the-session-token-of-a-role")
    faulty.server.inject(fault, times=FOREVER)
    for operation in OPERATIONS.values():
        faulty.server.requests.clear()
        with pytest.raises(PermissionError, match=rf"^{re.escape(faulty.uri)}/file.*: {SAID[fault]}") as refused:
            operation(faulty.file("file"))
        assert "\n" not in str(refused.value)
        assert "the-session-token" not in "".join(traceback.format_exception(refused.value))
        assert faulty.server.requests.total() <= 4


@ONE_SERVER
@pytest.mark.parametrize("fault", [faults.EXPIRED, faults.WRONG_CLOCK])
def test_credentials_that_expire_while_pyarrow_reads_a_file(faulty: FaultyFolder, fault: str) -> None:
    storage.write_bytes(faulty.file("shard"), parquet())
    fs, path = storage.arrow_filesystem(faulty.file("shard"))
    with fs.open_input_file(path) as file:

        def read() -> bytes:
            return bytes(file.read_at(15_000, 0))

        assert len(storage.retried(faulty.uri, read)) == 15_000
        faulty.server.inject(fault, times=FOREVER)
        started = time.monotonic()
        with pytest.raises(PermissionError, match=SAID[fault]):
            storage.retried(faulty.uri, read)
        assert time.monotonic() - started < 5


@pytest.fixture
def renewable(moto_bucket: Bucket, tmp_path: Path) -> Iterator[tuple[FaultyServer, Path]]:
    """A server whose session tokens expire, and the credentials file that this process and its children use."""
    with faulty_server(moto_bucket.env["AWS_ENDPOINT_URL"]) as server:
        env = {
            "AWS_ENDPOINT_URL": server.url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        }
        with pytest.MonkeyPatch.context() as patch:
            for name in moto_bucket.env:
                patch.delenv(name, raising=False)
            with connected_to(env):
                yield server, tmp_path / "credentials"


def write_token(file: Path, token: str) -> None:
    file.write_text(f"[default]\naws_access_key_id = k\naws_secret_access_key = s\naws_session_token = {token}\n")


def write_program(folder: Path, lifetime: timedelta) -> Path:
    """Write a program for credentials and a config file that names it. Return the file that counts the calls."""
    calls, program, expires = folder / "calls", folder / "program", datetime.now(timezone.utc) + lifetime
    reply = '{"Version": 1, "AccessKeyId": "k", "SecretAccessKey": "s", "SessionToken": "%s", "Expiration": "%s"}'
    program.write_text(f"#!/bin/sh\necho >> {calls}\nprintf '{reply}' $(grep -c '' {calls}) {expires.isoformat()}\n")
    program.chmod(0o755)
    (folder / "config").write_text(f"[default]\ncredential_process = {program}\n")
    return calls


def test_a_program_that_prints_expired_credentials_is_named(
    renewable: tuple[FaultyServer, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_program(tmp_path, timedelta(minutes=-1))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for operation in (storage.read_bytes, read_group):
        with pytest.raises(PermissionError, match=r"the credentials have expired .*; renew them"):
            operation("s3://speech/file")
    (tmp_path / "program").write_text("#!/bin/sh\necho no login >&2\nexit 1\n")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")  # a session without the credentials of before
    for operation in (storage.read_bytes, read_group):
        with pytest.raises(PermissionError, match=r"/file: cannot be accessed \(.*no login"):
            operation("s3://speech/file")


def test_both_clients_renew_credentials_of_a_program_that_says_when_they_expire(
    renewable: tuple[FaultyServer, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their tokens are the numbers of the calls. They last a minute, so each use renews them."""
    server, _ = renewable
    calls = write_program(tmp_path, timedelta(minutes=1))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    storage.write_bytes("s3://speech/program/shard", parquet())
    for _ in range(2):
        assert read_group("s3://speech/program/shard")[0] == 2000
        assert storage.files_below("s3://speech/program") == {"shard": len(parquet())}
        server.expired |= {str(1 + number) for number in range(calls.read_text().count("\n"))}


def test_the_same_process_and_the_same_command_continue_with_renewed_credentials(
    renewable: tuple[FaultyServer, Path],
) -> None:
    server, file = renewable
    run = "s3://speech/renewed"
    command = [sys.executable, "-m", "jobs.cli", "status", run]
    write_token(file, "one")
    storage.write_bytes(f"{run}/configs/shard", parquet())
    server.expired.add("one")
    for operation in (storage.files_below, storage.exists, lambda uri: read_group(f"{uri}/configs/shard")):
        with pytest.raises(PermissionError, match=RENEW.format("ExpiredToken")):
            operation(run)
    ended = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert ended.returncode == 1, ended
    assert re.fullmatch(rf"error: {run}\S*: {RENEW.format('ExpiredToken')} again to resume\n", ended.stderr)
    write_token(file, "two")
    assert storage.files_below(run) == {"configs/shard": len(parquet())}
    assert read_group(f"{run}/configs/shard")[0] == 2000
    ended = subprocess.run(command, cwd=REPO, capture_output=True, text=True, env=os.environ)
    assert "expired" not in ended.stderr + ended.stdout
    assert "preprocess" in ended.stdout

"""Missing files, denied access, and errors that must not show credentials."""

from __future__ import annotations

import logging
import os
import re
import traceback
from pathlib import Path
from typing import Any

import pytest
import s3fs

from arspm import storage
from arspm.media.clip_files import ClipFolder
from arspm.media.clip_rows import read_clip_rows
from arspm.storage import retries
from jobs.stage import readable_end
from tests import faulty_server as faults
from tests.storage.conftest import FOREVER, ONE_SERVER, FaultyFolder, local_copy, read_group


def test_a_missing_file_is_requested_once(faulty: FaultyFolder) -> None:
    faulty.server.requests.clear()
    with pytest.raises(FileNotFoundError, match="none: no such file"):
        storage.read_bytes(faulty.file("none"))
    assert faulty.server.requests == {"GET": 1}
    with pytest.raises(FileNotFoundError, match="none: no such file"):
        local_copy(faulty.file("none"))
    with pytest.raises(FileNotFoundError):
        read_group(faulty.file("none"))
    assert faulty.server.requests["HEAD"] == 1
    with pytest.raises(FileNotFoundError):
        storage.describe("s3://no-such-bucket/file")
    if faulty.kind == "moto":  # SeaweedFS creates the bucket
        faulty.server.requests.clear()
        with pytest.raises(FileNotFoundError, match=r"^s3://no-such-bucket/file: .*bucket does not exist"):
            storage.write_bytes("s3://no-such-bucket/file", b"")
        assert faulty.server.requests == {"PUT": 1}


ACCESSES = {
    "read": lambda uri: storage.read_bytes(uri),
    "exists": lambda uri: storage.exists(uri),
    "list": lambda uri: storage.files_below(uri),
    "write": lambda uri: storage.write_bytes(uri, b"1"),
    "put": lambda uri: storage.put_if_absent(uri, b"1"),
    "upload": lambda uri: storage.upload(__file__, uri),
    "remove": lambda uri: storage.remove(uri),
    "row group": read_group,
    "csv": lambda uri: read_clip_rows(uri, ClipFolder(uri)),
}


@ONE_SERVER
@pytest.mark.parametrize("name", ACCESSES)
def test_denied_access_is_not_retried_and_shows_no_credentials(
    faulty: FaultyFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Denied by the proxy, which quotes the request as AWS does, and by the server for a wrong secret or key."""
    caplog.set_level(logging.DEBUG)
    wrong = [{"AWS_SECRET_ACCESS_KEY": "guessed-but-wrong"}, {"AWS_ACCESS_KEY_ID": "AKIAUNKNOWNUNKNOWN00"}]
    for changes in ({}, *wrong):
        with monkeypatch.context() as changed:
            for variable, value in changes.items():
                changed.setenv(variable, value)
            if not changes:
                changed.setenv("AWS_SESSION_TOKEN", "the-session-token-of-a-role")
                faulty.server.inject(faults.DENIED)
            s3fs.S3FileSystem.clear_instance_cache()
            faulty.server.requests.clear()
            with pytest.raises(PermissionError, match=rf"{re.escape(faulty.uri)}/file: access denied") as refused:
                ACCESSES[name](faulty.file("file"))
            num_requests = (
                2 if name in ("exists", "row group") else 1
            )  # a reply to HEAD has no reason, so GET asks for it
            assert faulty.server.requests.total() == num_requests
            shown = "".join(traceback.format_exception(refused.value)) + caplog.text
            for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
                assert os.environ.get(variable, "nothing") not in shown
            assert "Signature=" not in shown


@ONE_SERVER
def test_errors_hide_a_key_from_a_credentials_file(
    faulty: FaultyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "ASIA2F6PQ7EXAMPLEKEY"
    (tmp_path / "credentials").write_text(f"[default]\naws_access_key_id={key}\naws_secret_access_key=s\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    faulty.server.inject(faults.DENIED)
    with pytest.raises(PermissionError, match=r"It was for \*\*\*\.") as refused:
        storage.write_bytes(faulty.file("file"), b"1")
    assert key not in "".join(traceback.format_exception(refused.value))


@ONE_SERVER
def test_errors_of_unavailable_storage_show_no_credentials(
    faulty: FaultyFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "the-session-token-of-a-role")
    monkeypatch.setattr(retries, "RETRY_SECONDS", 0.3)
    caplog.set_level(logging.DEBUG)
    faulty.server.inject(faults.QUOTING_SLOW_DOWN, times=FOREVER)
    for operation in (storage.files_below, read_group, lambda uri: storage.put_if_absent(uri, b"1")):
        caplog.clear()
        with pytest.raises(storage.StorageUnavailable) as error:
            operation(faulty.file("file"))
        shown = "".join(traceback.format_exception(error.value)) + caplog.text
        for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            assert os.environ[variable] not in shown
        assert "storage unavailable" in shown
        assert operation is read_group or "Too many requests of *** with ***." in shown  # pyarrow sends HEAD first
        assert "Signature=" not in shown


def test_a_uri_with_credentials_is_refused_without_showing_them() -> None:
    for operation in (storage.read_bytes, storage.exists, read_group, storage.filesystem, storage.arrow_filesystem):
        with pytest.raises(ValueError, match=r"^s3://\*\*\*@bucket/file: .*must not contain credentials") as refused:
            operation("s3://AKIAKEY:secret+word@bucket/file")
        shown = "".join(traceback.format_exception(refused.value, limit=0))
        assert "secret+word" not in shown
        assert "AKIAKEY" not in shown


def test_a_stages_error_shows_no_credentials(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Whoever raised it: Ray Train, for example, uses its own storage client."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the/secret+key")
    with pytest.raises(SystemExit), readable_end("encoder"):
        raise RuntimeError("PUT s3://AKIAIOSFODNN7EXAMPLE:the/secret+key@b/x failed: key AKIAIOSFODNN7EXAMPLE")
    said = capsys.readouterr().err
    assert said.endswith("error: encoder: PUT s3://***@b/x failed: key ***\n")
    assert "secret" not in said
    assert "AKIA" not in said

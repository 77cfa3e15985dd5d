"""Stores that refuse empty objects, and a pyarrow that was built without S3: one line each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from arspm import storage
from tests import faulty_server as faults
from tests.storage.conftest import FOREVER, ONE_SERVER, FaultyFolder

REPO = Path(__file__).parents[2]


def objects(folder: FaultyFolder) -> set[str]:
    """Return the names of all objects in the folder's bucket below it, with those that end with a slash."""
    fs, path = storage.filesystem(folder.uri)
    bucket, key, _ = fs.split_path(path)
    reply = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=f"{key}/")
    return {each["Key"].removeprefix(f"{key}/") for each in reply.get("Contents", ())}


def test_a_store_that_keeps_empty_objects_has_none_left(faulty: FaultyFolder) -> None:
    storage.write_bytes(faulty.file("one"), b"1")
    storage.require_empty_files(faulty.uri)
    assert {name for name in objects(faulty) if name} == {"one"}


@ONE_SERVER
@pytest.mark.parametrize("fault", [faults.NO_EMPTY_OBJECT, faults.NOT_IMPLEMENTED], ids=["400", "501"])
@pytest.mark.parametrize("text", ["/.empty-", "/file"], ids=["marker", "empty"])
def test_a_store_that_refuses_them_is_named_in_one_line(faulty: FaultyFolder, fault: str, text: str) -> None:
    """As markers of folders, whose names end with a slash, or as files."""
    for method in ("PUT", "POST"):
        faulty.server.inject(fault, times=FOREVER, method=method, text=text)
    with pytest.raises(ValueError, match="this store refuses empty objects") as caught:
        storage.require_empty_files(faulty.uri)
    line = str(caught.value)
    assert line.startswith(f"{faulty.uri}: ")
    assert "\n" not in line
    assert fault.split()[0] in line
    assert faulty.server.injected[fault] < 5, "not repeated for a minute"


@ONE_SERVER
def test_other_errors_are_not_taken_for_it(faulty: FaultyFolder) -> None:
    faulty.server.inject(faults.DENIED, times=FOREVER)
    with pytest.raises(PermissionError, match="access denied"):
        storage.require_empty_files(faulty.uri)


def test_a_local_folder_needs_no_check(tmp_path: Path) -> None:
    storage.require_empty_files(str(tmp_path / "new"))
    assert list(tmp_path.iterdir()) == []


def test_a_pyarrow_without_s3_is_named_in_one_line() -> None:
    """In a process where that part of pyarrow cannot be imported, as in such a build."""
    code = """
import sys
sys.modules["pyarrow._s3fs"] = None
from arspm import storage
print(type(storage.arrow_filesystem("file.parquet")[0]).__name__)
for check in (storage.arrow_filesystem, storage.require_empty_files):
    try:
        check("s3://bucket/run")
    except ValueError as error:
        print(error)
"""
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=REPO, capture_output=True, text=True)
    first, *lines = result.stdout.splitlines()
    assert first == "LocalFileSystem", result.stderr
    assert len(lines) == 2, result
    assert lines[0].startswith("s3://bucket/run: pyarrow "), lines
    assert all("was built without S3; install a build with it" in line for line in lines)

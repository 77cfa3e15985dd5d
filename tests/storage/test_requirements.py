"""Stores that lack what a run needs, and a pyarrow that was built without S3: one line each."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from pyarrow.fs import FileSelector, FileType

from arspm import storage
from tests import faulty_server as faults
from tests.storage.conftest import FOREVER, ONE_SERVER, FaultyFolder, parquet, read_group

REPO = Path(__file__).parents[2]


def objects(folder: FaultyFolder) -> set[str]:
    """Return the names of all objects in the folder's bucket below it, with those that end with a slash."""
    fs, path = storage.filesystem(folder.uri)
    bucket, key, _ = fs.split_path(path)
    reply = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=f"{key}/")
    return {each["Key"].removeprefix(f"{key}/") for each in reply.get("Contents", ())}


def test_a_store_that_has_everything_has_no_test_objects_left(faulty: FaultyFolder) -> None:
    storage.write_bytes(faulty.file("one"), b"1")
    storage.require_store(faulty.uri)
    assert {name for name in objects(faulty) if name} == {"one"}


@ONE_SERVER
@pytest.mark.parametrize("fault", [faults.NO_EMPTY_OBJECT, faults.NOT_IMPLEMENTED], ids=["400", "501"])
def test_a_store_that_refuses_empty_objects_is_named_in_one_line(faulty: FaultyFolder, fault: str) -> None:
    faulty.server.inject(fault, times=FOREVER, method="PUT", text="/.empty-")
    with pytest.raises(ValueError, match="this store refuses empty objects") as caught:
        storage.require_store(faulty.uri)
    line = str(caught.value)
    assert line.startswith(f"{faulty.uri}: ")
    assert "\n" not in line
    assert faulty.server.injected[fault] == 1, "not repeated for a minute"
    assert objects(faulty) == set()


@ONE_SERVER
@pytest.mark.parametrize("lack", [faults.NO_CONDITIONS, faults.IGNORED_CONDITIONS])
def test_a_store_without_conditional_writes_is_named_in_one_line(faulty: FaultyFolder, lack: str) -> None:
    faulty.server.lacks.add(lack)
    with pytest.raises(OSError, match=r"has no conditional writes \(If-None-Match\).*docs/storage.md") as caught:
        storage.require_store(faulty.uri)
    assert str(caught.value).startswith(f"{faulty.uri}")
    assert "\n" not in str(caught.value)
    assert objects(faulty) == set()


@ONE_SERVER
def test_a_store_that_lacks_what_no_run_needs_is_used(faulty: FaultyFolder, tmp_path: Path) -> None:
    """Every operation, those of Ray included, on stores as GCS, Ceph or OSS are or were."""
    faulty.server.lacks |= {faults.MD5_TO_DELETE, faults.NO_CHECKSUMS, faults.MISSING_IS_404}
    storage.require_store(faulty.uri)
    (tmp_path / "file").write_bytes(b"123")
    for name in ("a/b", "a/c/d", "e"):
        storage.upload(tmp_path / "file", faulty.file(name))
    assert storage.put_if_absent(faulty.file("f"), b"1")
    storage.remove_files(faulty.uri, ["e", "none"])
    storage.remove(faulty.file("none"))
    assert storage.files_below(faulty.uri) == {"a/b": 3, "a/c/d": 3, "f": 1}
    storage.write_bytes(faulty.file("a/shard"), parquet())
    assert read_group(faulty.file("a/shard"))[0] == 2000
    storage.remove(faulty.file("a"))
    given = storage.ray_storage(faulty.file("train"))
    ray, path = pickle.loads(pickle.dumps(given["storage_filesystem"])), given["storage_path"]
    for name in ("checkpoint_1/one", "checkpoint_2/one", "snapshot.json"):
        ray.create_dir(f"{path}/checkpoint_1")
        with ray.open_output_stream(f"{path}/{name}") as file:
            file.write(name.encode())
    with ray.open_input_stream(f"{path}/snapshot.json") as file:
        assert file.read() == b"snapshot.json"
    assert not ray.get_file_info(f"{path}/checkpoint_1").is_file
    found = ray.get_file_info(FileSelector(path, recursive=True))
    assert {each.base_name for each in found if each.is_file} == {"one", "snapshot.json"}
    ray.delete_dir(f"{path}/checkpoint_1")
    ray.delete_file(f"{path}/snapshot.json")
    assert ray.get_file_info(f"{path}/checkpoint_1/one").type == FileType.NotFound
    assert storage.files_below(faulty.uri) == {"f": 1, "train/checkpoint_2/one": len("checkpoint_2/one")}
    assert not faulty.server.requests["POST"]


@ONE_SERVER
def test_other_errors_are_not_taken_for_it(faulty: FaultyFolder) -> None:
    faulty.server.inject(faults.DENIED, times=FOREVER)
    with pytest.raises(PermissionError, match="access denied"):
        storage.require_store(faulty.uri)


def test_a_local_folder_needs_no_check(tmp_path: Path) -> None:
    storage.require_store(str(tmp_path / "new"))
    assert list(tmp_path.iterdir()) == []


def test_a_pyarrow_without_s3_is_named_in_one_line() -> None:
    """In a process where that part of pyarrow cannot be imported, as in such a build."""
    code = """
import sys
sys.modules["pyarrow._s3fs"] = None
from arspm import storage
print(type(storage.arrow_filesystem("file.parquet")[0]).__name__)
for check in (storage.arrow_filesystem, storage.require_store):
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

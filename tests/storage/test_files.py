"""Reading, writing, listing and removing local files, and local and remote URIs."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from arspm import storage


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_bytes_and_json_round_trip(tmp_path):
    uri = f"{tmp_path}/a/b/file.json"
    described = storage.write_json(uri, {"x": [1, 2.5, None]})
    assert storage.read_json(uri) == {"x": [1, 2.5, None]}
    data = Path(uri).read_bytes()
    assert described == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert storage.describe(uri) == storage.describe_bytes(data) == described


def test_a_write_replaces_the_file_and_leaves_no_other(tmp_path):
    uri = f"{tmp_path}/file"
    storage.write_bytes(uri, b"old and longer")
    storage.write_bytes(uri, b"new")
    assert storage.read_bytes(uri) == b"new"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_failed_write_leaves_the_old_file_or_none(tmp_path, monkeypatch, exists):
    target, source = tmp_path / "file", tmp_path / "source"
    source.write_bytes(b"x" * 100)
    if exists:
        target.write_bytes(b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    for write in (
        lambda: storage.write_bytes(str(target), b"new"),
        lambda: storage.upload(source, str(target)),
    ):
        with pytest.raises(OSError, match="disk full"):
            write()
    assert names(tmp_path) == (["file", "source"] if exists else ["source"])
    assert not exists or target.read_bytes() == b"old"


def test_readers_never_see_a_partial_write(tmp_path):
    """Two writers and a reader, which always reads one of the complete contents."""
    uri = f"{tmp_path}/file"
    contents = [bytes([n]) * 2_000_000 for n in range(2)]
    storage.write_bytes(uri, contents[0])
    with ThreadPoolExecutor(2) as pool:
        writes = [pool.submit(storage.write_bytes, uri, content) for content in contents * 10]
        while not all(write.done() for write in writes):
            assert storage.read_bytes(uri) in contents
        assert [write.exception() for write in writes] == [None] * 20


def test_files_can_be_read_by_others(tmp_path):
    storage.write_bytes(f"{tmp_path}/a", b"")
    storage.put_if_absent(f"{tmp_path}/b", b"")
    for name in "ab":
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o644


def test_one_of_many_threads_puts_the_file(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        for turn in range(20):
            uri = f"{tmp_path}/deep/{turn}"
            wrote = list(pool.map(lambda n, uri=uri: storage.put_if_absent(uri, str(n).encode()), range(16)))
            assert wrote.count(True) == 1
            assert storage.read_bytes(uri) == str(wrote.index(True)).encode()
    assert len(names(tmp_path / "deep")) == 20


def test_one_of_many_processes_puts_the_file(tmp_path):
    calls = [(f"{tmp_path}/{turn}", str(n).encode()) for turn in range(40) for n in range(2)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        wrote = pool.starmap(storage.put_if_absent, calls, chunksize=1)
    for turn in range(40):
        assert wrote[2 * turn : 2 * turn + 2].count(True) == 1
        assert storage.read_bytes(f"{tmp_path}/{turn}") == str(wrote[2 * turn : 2 * turn + 2].index(True)).encode()
    assert len(names(tmp_path)) == 40


def test_an_existing_file_is_not_put_again(tmp_path):
    storage.write_bytes(f"{tmp_path}/file", b"first")
    assert not storage.put_if_absent(f"{tmp_path}/file", b"second")
    assert storage.read_bytes(f"{tmp_path}/file") == b"first"
    assert names(tmp_path) == ["file"]


def test_files_below_are_relative_with_sizes(tmp_path):
    for path, size in (("run/a", 1), ("run/sub/b", 2), ("run/sub/deep/c", 0), ("runner/d", 4)):
        storage.write_bytes(f"{tmp_path}/{path}", b"x" * size)
    expected = {"a": 1, "sub/b": 2, "sub/deep/c": 0}
    assert storage.files_below(f"{tmp_path}/run") == storage.files_below(f"{tmp_path}/run/") == expected
    assert storage.files_below(f"file://{tmp_path}/run") == expected
    assert storage.files_below(f"{tmp_path}/none") == {}


def test_a_relative_path_means_the_same_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage.write_bytes("runs/x", b"1")
    assert storage.absolute("runs/x") == f"{tmp_path}/runs/x"
    assert storage.read_bytes(f"{tmp_path}/runs/x") == b"1"
    assert storage.exists("runs/x")
    assert storage.files_below("runs") == {"x": 1}


def test_remove_takes_files_folders_and_missing_paths(tmp_path):
    for path in ("keep", "file", "folder/a", "folder/sub/b"):
        storage.write_bytes(f"{tmp_path}/{path}", b"")
    for path in ("file", "folder", "none"):
        storage.remove(f"{tmp_path}/{path}")
    assert names(tmp_path) == ["keep"]
    assert not storage.exists(f"{tmp_path}/folder")


def test_upload_and_local_copy(tmp_path):
    data = os.urandom(5_000_000)  # more than one block
    (tmp_path / "local").write_bytes(data)
    described = storage.upload(tmp_path / "local", f"{tmp_path}/there/file")
    assert described == storage.describe_bytes(data)
    with storage.local_copy(f"{tmp_path}/there/file") as path:
        assert path.read_bytes() == data


def test_errors_name_missing_and_invalid_files(tmp_path):
    missing = f"{tmp_path}/none.json"
    for read in (storage.read_bytes, storage.read_json, lambda uri: storage.local_copy(uri).__enter__()):
        with pytest.raises(FileNotFoundError, match=r"none\.json"):
            read(missing)
    storage.write_bytes(f"{tmp_path}/invalid.json", b'{"a"')
    with pytest.raises(ValueError, match=r"invalid\.json: not JSON"):
        storage.read_json(f"{tmp_path}/invalid.json")
    with pytest.raises(ValueError, match="JSON compliant"):
        storage.write_json(f"{tmp_path}/nan.json", {"x": float("nan")})
    assert names(tmp_path) == ["invalid.json"]


@pytest.mark.parametrize(
    ("uri", "remote", "absolute"),
    [
        ("s3://bucket/a/", True, "s3://bucket/a"),
        ("/a/b/", False, "/a/b"),
        ("file:///a/b", False, "/a/b"),
        ("~", False, os.path.expanduser("~")),
    ],
)
def test_local_and_remote_uris(uri, remote, absolute):
    assert storage.is_remote(uri) is remote
    assert storage.absolute(uri) == absolute


def test_parts_are_joined_with_one_slash():
    assert storage.join("s3://bucket/run/", "/stage/", "file") == "s3://bucket/run/stage/file"

"""Listings as tables: each page of S3 is repeated alone, and local trees are listed completely or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from arspm import storage
from arspm.storage import listing
from tests import faulty_server as faults
from tests.storage.conftest import FOREVER, ONE_SERVER, FaultyFolder


def rows(uri: str) -> list[tuple[str, int]]:
    table = storage.list_files(uri)
    assert table.schema == storage.FILES
    return list(zip(table["path"].to_pylist(), table["bytes"].to_pylist(), strict=True))


@pytest.fixture
def pages(faulty: FaultyFolder, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Files in a folder on S3 that is listed in seven pages, and their rows. Files beside the folder are not listed."""
    monkeypatch.setattr(listing, "_REPLY", 5)
    expected = [(f"{number % 3}/é {number:02d}.mp4", number) for number in range(33)]
    for path, size in expected:
        storage.write_bytes(faulty.file(f"clips/{path}"), b"x" * size)
    for path in ("clips.csv", "clips2/a"):
        storage.write_bytes(faulty.file(path), b"1")
    faulty.server.requests.clear()
    return sorted(expected)


def test_a_failed_page_repeats_only_that_page(faulty: FaultyFolder, pages: list[tuple[str, int]]) -> None:
    assert rows(faulty.file("clips")) == pages
    num_pages = faulty.server.requests["GET"]
    assert num_pages >= 7
    faulty.server.requests.clear()
    for fault in (faults.SLOW_DOWN, faults.TRUNCATED, faults.INTERNAL_ERROR):
        faulty.server.inject(fault, method="GET", text="continuation-token")
    assert rows(faulty.file("clips/")) == pages
    assert faulty.server.requests == {"GET": num_pages + 3}


@ONE_SERVER
def test_a_page_that_fails_for_too_long_ends_the_listing(
    faulty: FaultyFolder, pages: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arspm.storage.retries.RETRY_SECONDS", 0.3)
    faulty.server.inject(faults.SLOW_DOWN, times=FOREVER, method="GET", text="continuation-token")
    with pytest.raises(storage.StorageUnavailable, match=r"/clips: storage unavailable: tried \d+ times"):
        storage.list_files(faulty.file("clips"))


@ONE_SERVER
def test_markers_of_folders_are_not_files(faulty: FaultyFolder) -> None:
    fs, path = storage.filesystem(faulty.uri)
    for key in (f"{path}/clips/", f"{path}/clips/sub/"):
        bucket, name, _ = fs.split_path(key)
        fs.call_s3("put_object", Bucket=bucket, Key=f"{name.rstrip('/')}/", Body=b"")
    storage.write_bytes(faulty.file("clips/sub/a"), b"12")
    assert rows(faulty.file("clips")) == [("sub/a", 2)]
    assert storage.files_below(faulty.file("clips")) == {"sub/a": 2}
    assert rows(faulty.file("none")) == rows(faulty.file("clips/sub/a")) == []


def test_a_missing_bucket_or_a_file_has_no_files_below_it(faulty: FaultyFolder, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    for uri in ("s3://no-such-bucket/a", f"{tmp_path}/none", f"{tmp_path}/file"):
        assert rows(uri) == []


def test_links_and_names_that_are_not_utf_8_are_listed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "real" / "deep" / "a.mp4").write_bytes(b"123")
    (tmp_path / "tree" / "empty").mkdir(parents=True)
    (tmp_path / "tree" / "folder").symlink_to(tmp_path / "real")
    (tmp_path / "tree" / "file.mp4").symlink_to(tmp_path / "real" / "deep" / "a.mp4")
    (tmp_path / "tree" / "broken").symlink_to(tmp_path / "none")
    (tmp_path / "tree" / "loop").symlink_to(tmp_path / "tree" / "loop")
    os.mkfifo(tmp_path / "tree" / "pipe")
    Path(os.fsdecode(os.fsencode(tmp_path / "tree") + b"/\xff.mp4")).write_bytes(b"1")
    found = dict(rows(f"{tmp_path}/tree"))
    found["folder"] = -1  # the size depends on the file system
    expected = {"file.mp4": 3, "broken": 0, "loop": 0, "pipe": 0, "folder": -1, "\ufffd.mp4": 1}
    assert found == expected
    assert list(found) == sorted(expected)
    (tmp_path / "root").symlink_to(tmp_path / "real")  # a link as root is followed
    assert rows(f"file://{tmp_path}/root/") == [("deep/a.mp4", 3)]


@pytest.fixture
def unreadable() -> Iterator[Path]:
    """A tree with a folder that this process cannot read, also if the tests run as root."""
    tree = Path(tempfile.mkdtemp())  # root's tmp_path is closed to other users
    tree.chmod(0o755)
    (tree / "open").mkdir()
    (tree / "open" / "a.mp4").write_bytes(b"1")
    (tree / "closed").mkdir()
    (tree / "closed" / "b.mp4").write_bytes(b"1")
    (tree / "closed").chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield tree
    os.seteuid(user)
    (tree / "closed").chmod(0o755)
    shutil.rmtree(tree)


def test_a_folder_that_cannot_be_read_is_an_error_and_not_an_empty_one(unreadable: Path) -> None:
    with pytest.raises(PermissionError, match="closed"):
        storage.list_files(str(unreadable))
    with pytest.raises(PermissionError, match="closed"):
        storage.files_below(str(unreadable))


def test_large_local_trees_are_listed_in_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_PAGE", 10)
    expected = [(f"v{number % 7}/{number:03d}", number) for number in range(100)]
    for path, size in expected:
        storage.write_bytes(f"{tmp_path}/{path}", b"x" * size)
    assert rows(str(tmp_path)) == sorted(expected)


def test_the_names_in_a_folder_and_the_time_of_a_file(faulty: FaultyFolder, tmp_path: Path) -> None:
    for folder in (faulty.uri, str(tmp_path / "local")):
        started = time.time() - 2  # S3 tells whole seconds
        for path in ("runs/one/encoder/a", "runs/one/encoder/b", "runs/one.csv", "runs2/x"):
            storage.write_bytes(storage.join(folder, path), b"1")
        assert storage.entries(storage.join(folder, "runs")) == ["one", "one.csv"]
        assert storage.entries(storage.join(folder, "runs/one/encoder/")) == ["a", "b"]
        assert storage.entries(storage.join(folder, "nothing")) == []
        assert started < storage.modified(storage.join(folder, "runs2/x")) < time.time() + 2
        with pytest.raises(FileNotFoundError):
            storage.modified(storage.join(folder, "nothing"))
    faulty.server.inject(faults.SLOW_DOWN, method="GET", text="delimiter")
    assert storage.entries(faulty.file("runs")) == ["one", "one.csv"]

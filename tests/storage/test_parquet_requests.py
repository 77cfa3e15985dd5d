"""Which requests reading Parquet files sends to S3: one client per bucket, footers once, many small columns at once."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from arspm import storage
from arspm.corpus import parquet_files, schema, tables
from tests import faulty_server as faults
from tests.storage.conftest import FaultyFolder

ROWS, GROUP = 12, 4


def shard(number: int) -> pa.Table:
    """Return a shard whose clip ids and features depend on its number."""
    rng = np.random.default_rng(number)
    features = rng.standard_normal((ROWS, 4096)).astype(np.float16)
    columns = [pa.array([f"clip{number:04d}_{row:02d}" for row in range(ROWS)]), schema.tensor_column(features)]
    return pa.Table.from_arrays(columns, schema=schema.features_schema(4096, "float16"))


def test_a_footer_is_read_once_and_again_if_the_file_changes(faulty: FaultyFolder) -> None:
    uri = faulty.file("train/features/shard-00000.parquet")
    split = tables.Split(faulty.file("train"), ("shard-00000",), (ROWS,), GROUP)

    def ids_of(row: int) -> list[str]:
        faulty.server.requests.clear()
        return tables.read_rows(split, {"features": (schema.FACE_FEATURE,)}, np.array([row]))["clip_id"].to_pylist()

    tables.write_table(uri, shard(1), GROUP)
    assert ids_of(0) == ["clip0001_00"]
    assert faulty.server.requests == {"HEAD": 1, "GET": 2}
    assert ids_of(9) == ["clip0001_09"]
    assert faulty.server.requests == {"HEAD": 1, "GET": 1}
    tables.write_table(uri, shard(2), GROUP)
    assert ids_of(9) == ["clip0002_09"]
    assert faulty.server.requests == {"HEAD": 1, "GET": 2}
    tables.write_table(uri, shard(3), GROUP + 1)  # the row groups begin elsewhere
    with pytest.raises(ValueError, match="fewer rows than the manifest says"):
        ids_of(9)


def test_only_the_footers_used_last_are_kept(faulty: FaultyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_files, "_MAX_FOOTERS", 2)
    uris = [faulty.file(f"{number}.parquet") for number in range(3)]
    for number, uri in enumerate(uris):
        tables.write_table(uri, shard(number), GROUP)

    def gets(number: int) -> int:
        faulty.server.requests.clear()
        assert tables.take_rows(uris[number], [0])["clip_id"].to_pylist() == [f"clip{number:04d}_00"]
        return faulty.server.requests["GET"]

    assert [gets(number) for number in (0, 1, 0, 2, 0, 1)] == [2, 2, 1, 2, 1, 2]


def test_a_damaged_footer_is_not_kept(faulty: FaultyFolder) -> None:
    uri = faulty.file("shard.parquet")
    tables.write_table(uri, shard(1), GROUP)
    faulty.server.inject(faults.TRUNCATED, method="GET", text="shard.parquet")
    assert tables.take_rows(uri, [5])["clip_id"].to_pylist() == ["clip0001_05"]
    assert faulty.server.injected == {faults.TRUNCATED: 1}
    storage.write_bytes(uri, b"PAR1" + bytes(1000) + b"PAR1")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"shard\.parquet: not an intact Parquet file"):
            tables.take_rows(uri, [5])


def test_files_of_a_bucket_share_a_client(faulty: FaultyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also threads that start together; until the environment that it is made from changes."""

    def client(name: str) -> Any:
        return storage.arrow_filesystem(faulty.file(name))[0]

    with ThreadPoolExecutor(8) as pool:
        first, *others = pool.map(client, ["a/one.parquet", "b/two.parquet"] * 4)
    assert all(other is first for other in others)
    made = first
    monkeypatch.setenv("AWS_SESSION_TOKEN", "another")
    other = client("b/two.parquet")
    assert other is not made
    monkeypatch.delenv("AWS_SESSION_TOKEN")
    assert client("b/two.parquet") is made


def test_a_forked_process_has_a_client_of_its_own(faulty: FaultyFolder) -> None:
    made = storage.arrow_filesystem(faulty.uri)[0]
    child = os.fork()
    if not child:
        os._exit(int(storage.arrow_filesystem(faulty.uri)[0] is made))
    assert os.waitpid(child, 0)[1] == 0


def test_small_columns_of_many_shards_are_read_at_once(faulty: FaultyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    names = tuple(f"shard-{number:05d}" for number in range(40))
    split = tables.Split(faulty.file("train"), names, (ROWS,) * 40, GROUP)
    for number, name in enumerate(names):
        tables.write_table(faulty.file(f"train/features/{name}.parquet"), shard(number), GROUP)
    together, original = threading.Barrier(20), tables.read_table

    def read_table(*args: Any) -> pa.Table:
        together.wait(timeout=30)  # for 19 others
        return original(*args)

    monkeypatch.setattr(tables, "read_table", read_table)
    found = tables.read_columns(split, "features", (schema.CLIP_ID,))
    assert found[schema.CLIP_ID].to_pylist() == [
        f"clip{number:04d}_{row:02d}" for number in range(40) for row in range(ROWS)
    ]

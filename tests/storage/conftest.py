"""A folder of a bucket on S3 behind a proxy that injects faults."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from arspm import storage
from arspm.corpus import tables
from arspm.storage import retries
from tests import faulty_server as faults
from tests.faulty_server import FaultyServer, faulty_server
from tests.s3_servers import connected_to

FOREVER = 1_000_000
# For tests of the proxy or the client. moto accepts any secret, and its conditional PUT is not atomic.
ONE_SERVER = pytest.mark.parametrize("faulty", ["seaweedfs"], indirect=True)
# The reset before the reply is injected twice: aiohttp repeats such a request once by itself.
WITHOUT_BODY = (faults.SLOW_DOWN, faults.INTERNAL_ERROR, faults.RESET, faults.RESET, faults.STALL)
AMID_BODY = (faults.TRUNCATED, faults.RESET_BODY)


class FaultyFolder(NamedTuple):
    """A folder of a bucket behind a proxy that injects faults."""

    uri: str
    server: FaultyServer
    kind: str

    def file(self, name: str) -> str:
        return storage.join(self.uri, name)


@pytest.fixture(params=["seaweedfs", pytest.param("moto", marks=pytest.mark.slow)])
def faulty(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyFolder]:
    """A folder on each of two servers. Waits are short, and clients try once, so that every fault reaches `retried`."""
    bucket = request.getfixturevalue({"seaweedfs": "seaweed_bucket", "moto": "moto_bucket"}[request.param])
    monkeypatch.delenv("AWS_MAX_ATTEMPTS", raising=False)
    monkeypatch.setattr(retries, "REQUEST_TRIES", 1)
    monkeypatch.setattr(retries, "FIRST_WAIT_SECONDS", 0.002)
    monkeypatch.setattr(retries, "LONGEST_WAIT_SECONDS", 0.02)
    with faulty_server(bucket.env["AWS_ENDPOINT_URL"]) as server:
        with connected_to(bucket.env | {"AWS_ENDPOINT_URL": server.url}):
            yield FaultyFolder(f"{bucket.uri}/{request.node.name}", server, request.param)


def table() -> pa.Table:
    return pa.table({"clip_id": [f"c{n:05d}" for n in range(4000)], "x": np.arange(4000)})


def parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(table(), sink, row_group_size=1000, compression="none", use_dictionary=False)
    return sink.getvalue()


def read_group(uri: str) -> list[int]:
    (values,) = tables._read_groups(uri, ["x"], [2], 1000, lambda table, _: table["x"].to_pylist())
    return values


def local_copy(uri: str) -> bytes:
    with storage.local_copy(uri) as path:
        return path.read_bytes()

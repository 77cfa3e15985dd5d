"""A state directory and a token of the tests' own, one local Ray head for all tests that are marked `ray`, and
small corpora."""

import atexit
import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from arspm.corpus import schema
from cluster.access import ensure_token
from tests.cluster.nodes import Nodes, namespaces_unavailable
from tests.s3_servers import BUCKET, Moto, SeaweedFS, connected_to, s3_env

# Before anything imports ray, which reads most of these once.
_home = Path(tempfile.mkdtemp(prefix="arspm-test-"))
atexit.register(shutil.rmtree, _home, ignore_errors=True)
for _name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN"):
    os.environ.pop(_name, None)
os.environ.update(
    ARSPM_HOME=str(_home / "home"),
    ARSPM_CACHE=str(_home / "cache"),
    RAY_AUTH_MODE="token",
    RAY_AUTH_TOKEN_PATH=str(_home / "token"),
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    RAY_USAGE_STATS_ENABLED="0",
)
ensure_token()
# What runs in the background of a script has Ctrl-C ignored, and so would have the programs whose Ctrl-C is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "arspm", database=None, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("arspm")


@functools.cache
def needs_ray(path: Path) -> bool:
    """Return whether a file has a test that is marked `ray`."""
    return "pytest.mark.ray" in path.read_text()


class RayInOneProcess(LoadScopeScheduling):
    """Under `pytest -n 2`: all files with Ray in one process, the others file by file in the process that is free.

    xdist's own groups (`--dist loadgroup`) are without effect in pytest 9.2, which no longer lets it rename tests.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "ray" if needs_ray(self.config.rootpath / file) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return RayInOneProcess(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files with Ray, which take longest, and in them with the tests that need it."""
    items.sort(key=lambda item: ("ray" not in item.keywords, not needs_ray(item.path)))


@pytest.fixture(scope="session")
def head() -> Iterator[Any]:
    """A running `cluster.head.Head` with two CPUs: `head.address` for jobs, `head.gcs_address` for `ray.init`."""
    from cluster import head as heads
    from cluster.host import free_port, marked_processes

    # Not the default port: another test, or the other test process, may start a head of its own at the same moment.
    started = heads.up(num_cpus=2, object_store_memory=400_000_000, dashboard_port=free_port())
    yield started
    heads.down()
    assert marked_processes(started.pid, started.id) == []
    shutil.rmtree(started.temp_dir, ignore_errors=True)


@pytest.fixture(scope="session")
def jobs_client(head: Any) -> Any:
    """A Jobs API client of that head."""
    from cluster.client import connect

    return connect(head.address)


@pytest.fixture(scope="session")
def listening(head: Any) -> Callable[[], set[tuple[str, str, int]]]:
    """Where that head's processes listen: the process's name, the address, the port."""
    from psutil import NoSuchProcess

    from cluster.host import marked_processes

    def look() -> set[tuple[str, str, int]]:
        found = set()
        for process in marked_processes(head.pid, head.id):
            with contextlib.suppress(NoSuchProcess):  # ended meanwhile
                for each in process.net_connections(kind="inet"):
                    if each.status == "LISTEN":
                        found.add((process.name(), each.laddr.ip.removeprefix("::ffff:"), each.laddr.port))
        return found

    return look


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """A cluster without a node yet."""
    yield from make_nodes()


def make_nodes(**options: Any) -> Iterator[Nodes]:
    """A cluster without a node yet, or a failure that says what it takes; ARSPM_NO_NODES=1 skips instead."""
    if reason := namespaces_unavailable():
        if os.environ.get("ARSPM_NO_NODES") == "1":
            pytest.skip(f"SEVERAL NODES WERE NOT TESTED: ARSPM_NO_NODES=1, and {reason}")
        pytest.fail(f"several nodes need network namespaces: {reason}; or set ARSPM_NO_NODES=1 to leave them untested")
    with Nodes(**options) as made:
        yield made


class Bucket(NamedTuple):
    """An S3 bucket: its URI, and the environment in which it is reached."""

    uri: str
    env: dict[str, str]


@pytest.fixture(scope="session")
def seaweed_bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """A bucket of a real S3 server on loopback, with credentials of its own, which it checks."""
    folder = tmp_path_factory.mktemp("s3")
    names = ("s3", "s3.grpc", "master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc")
    names += ("admin", "admin.grpc", "s3.iceberg", "s3.lance")
    with contextlib.ExitStack() as held:  # all at once, or one might be given twice
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in names]
        ports = {name.partition("."): each.getsockname()[1] for name, each in zip(names, sockets, strict=True)}
    flags = [f"-{server}.port{dot}{kind}={port}" for (server, dot, kind), port in ports.items()]
    env = s3_env("127.0.0.1", ports["s3", "", ""])
    server = SeaweedFS(folder, env, ports=flags)
    try:
        server.start()
        yield Bucket(f"s3://{BUCKET}", env)
    finally:
        server.kill()


@pytest.fixture(scope="session")
def moto_bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """A bucket of moto's server on loopback: another S3, which looks at no secret."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Moto(tmp_path_factory.mktemp("moto"), port=port)
    try:
        server.start()
        yield Bucket(f"s3://{BUCKET}", s3_env("127.0.0.1", port))
    finally:
        server.kill()


@pytest.fixture(scope="session", params=["seaweed", pytest.param("moto", marks=[pytest.mark.slow, pytest.mark.long])])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    """A bucket on each of two independent servers in turn."""
    found: Bucket = request.getfixturevalue(f"{request.param}_bucket")
    return found


@pytest.fixture
def s3(bucket: Bucket) -> Iterator[str]:
    """The bucket's URI, reached from this process."""
    with connected_to(bucket.env):
        yield bucket.uri


@pytest.fixture
def write_corpus(tmp_path: Path) -> Callable[..., tuple[str, dict[str, dict[str, Any]]]]:
    """A function that writes a small corpus by the schema, with pyarrow alone: its path, and all rows as plain values.

    `shards`: split -> rows of each shard. `labelled`: whether four of five people have a label of their sex. The second
    value is split -> column -> array or list over the split's rows.
    """

    def write(
        shards: Mapping[str, Sequence[int]],
        *,
        rows_per_group: int = 4,
        speech: str = schema.WAVEFORM,
        feature_dim: int = 16,
        feature_dtype: str = "float32",
        seed: int = 0,
        labelled: bool = True,
    ) -> tuple[str, dict[str, dict[str, Any]]]:
        rng = np.random.default_rng(seed)
        folder, told, splits = tmp_path / "corpus", {}, {}
        speech_type = schema.tensor_type(schema.speech_schema(speech).field(speech))
        for split, sizes in shards.items():
            rows = sum(sizes)
            people = np.arange(rows) // 2  # two clips of each video
            values = rng.integers(-3000, 3000, (rows, *speech_type.shape)).astype(speech_type.dtype)
            pictures = rng.integers(0, 256, (rows, schema.FACE_SIZE, schema.FACE_SIZE, 3), dtype=np.uint8)
            told[split] = all_rows = {
                schema.CLIP_ID: [f"{split}{person:04d}_{row % 2}.0_6.5" for row, person in enumerate(people)],
                schema.VIDEO_ID: [f"{split}{person:04d}" for person in people],
                speech: values,
                schema.FACE_JPEG: [cv2.imencode(".jpg", picture)[1].tobytes() for picture in pictures],
                schema.GENDER: [schema.GENDERS[person % 2] if labelled and person % 5 else None for person in people],
                schema.AGE: [20.0 + person if person % 3 else None for person in people],
                schema.IDENTITY: [f"person {person}" for person in people],
                schema.FACE_FEATURE: rng.standard_normal((rows, feature_dim)).astype(feature_dtype),
            }
            families = {
                "speech": schema.speech_schema(speech),
                "faces": schema.faces_schema(),
                "features": schema.features_schema(feature_dim, feature_dtype),
            }
            splits[split] = {"rows": rows, "shards": []}
            for number, size in enumerate(sizes):
                begin = sum(sizes[:number])
                name = f"shard-{number:05d}"
                splits[split]["shards"].append({"name": name, "rows": size})
                for family, kind in families.items():
                    arrays = []
                    for field in kind:
                        own = all_rows[field.name][begin : begin + size]
                        cells = [cell.tobytes() for cell in own] if isinstance(own, np.ndarray) else own
                        arrays.append(pa.array(cells, field.type))
                    path = folder / split / family / f"{name}.parquet"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    pq.write_table(pa.Table.from_arrays(arrays, schema=kind), path, row_group_size=rows_per_group)
        (folder / "manifest.json").write_text(json.dumps({"rows_per_group": rows_per_group, "splits": splits}))
        return str(folder), told

    return write


@pytest.fixture
def wait_until() -> Any:
    """Wait until a condition holds, or fail: `wait_until(condition, seconds=60)`."""

    def wait(condition: Any, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not so after {seconds:g} s"
            time.sleep(0.5)

    return wait

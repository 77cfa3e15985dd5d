"""A state directory and a token of the tests' own, and one local Ray head for all tests that are marked `ray`."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.access import ensure_token

# Before anything imports ray, which reads most of these once.
_home = Path(tempfile.mkdtemp(prefix="arspm-test-"))
atexit.register(shutil.rmtree, _home, ignore_errors=True)
for _name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN"):
    os.environ.pop(_name, None)
os.environ.update(
    ARSPM_HOME=str(_home / "home"),
    RAY_AUTH_MODE="token",
    RAY_AUTH_TOKEN_PATH=str(_home / "token"),
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    RAY_USAGE_STATS_ENABLED="0",
)
ensure_token()


@pytest.fixture(scope="session")
def head() -> Iterator[Any]:
    """A running `cluster.head.Head` with two CPUs: `head.address` for jobs, `head.gcs_address` for `ray.init`."""
    from cluster import head as heads
    from cluster.host import marked_processes

    started = heads.up(num_cpus=2, object_store_memory=400_000_000)
    yield started
    heads.down()
    assert marked_processes(started.pid, started.id) == []
    shutil.rmtree(started.temp_dir, ignore_errors=True)


@pytest.fixture(scope="session")
def jobs_client(head: Any) -> Any:
    """A Jobs API client of that head."""
    from cluster.client import connect

    return connect(head.address)

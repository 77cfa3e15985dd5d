"""Ray's logs are rotated: the settings of a local head, and what a worker leaves on disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from cluster import client
from cluster import head as heads

pytestmark = pytest.mark.ray
LIMIT, BACKUPS = 50_000, 2

PROGRAM = """
import ray

@ray.remote
def talk():
    for line in range(20_000):
        print(f"line {line} of a worker that has much to say", flush=True)

ray.init(log_to_driver=False)
ray.get(talk.remote())
"""


def test_a_local_head_limits_its_logs(head: Any) -> None:
    import psutil  # Ray's copy

    env = psutil.Process(head.pid).environ()
    assert int(env["RAY_ROTATION_MAX_BYTES"]) == 64 << 20
    assert int(env["RAY_ROTATION_BACKUP_COUNT"]) == 2


@pytest.mark.slow
def test_a_workers_output_stays_below_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a megabyte of lines, the last ones remain, in at most three files."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    monkeypatch.setenv("ARSPM_HOME", str(tmp_path / "home"))
    limits = {"RAY_ROTATION_MAX_BYTES": str(LIMIT), "RAY_ROTATION_BACKUP_COUNT": str(BACKUPS)}
    head = heads.up(num_cpus=1, object_store_memory=100_000_000, env=limits)
    try:
        jobs = client.connect(head.address)
        client.submit(jobs, submission_id="talks", entrypoint=f"python {program}")
        assert client.wait(jobs, "talks").status == "SUCCEEDED"
        logs = list(Path(head.session_dir, "logs").glob("worker-*.out*"))
        [talker] = {path.name.partition(".out")[0] for path in logs if b"much to say" in path.read_bytes()}
        files = [path for path in logs if path.name.startswith(talker)]
        assert 2 <= len(files) <= 1 + BACKUPS
        assert sum(path.stat().st_size for path in files) <= 1.1 * LIMIT * (1 + BACKUPS)
        assert any(b"line 19999 of" in path.read_bytes() for path in files)
    finally:
        heads.down()
        shutil.rmtree(head.temp_dir, ignore_errors=True)

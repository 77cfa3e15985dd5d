"""Every driver of a run refuses a store that cannot hold one, before it asks a cluster for anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arspm.config import Config, override
from arspm.config.presets import preset
from jobs import ablation, chain, sweep_jobs
from tests import faulty_server as faults
from tests.conftest import Bucket
from tests.faulty_server import faulty_server
from tests.s3_servers import connected_to

NO_CLUSTER = "http://127.0.0.1:9"
SWEEP = {"name": "one", "created": "now", "num_trials": 1, "config": {}}


def silent(event: Any) -> None:
    """Show nothing."""


DRIVERS: dict[str, Callable[[Config, str], Any]] = {
    "submit": lambda config, run: chain.submit_run(config, run, NO_CLUSTER, on_event=silent),
    "submit --detach": lambda config, run: chain.detach(config, run, NO_CLUSTER, None),
    "ablation": lambda config, run: ablation.run_ablation(run, [], [], NO_CLUSTER, silent),
    "ablation --detach": lambda config, run: ablation.detach(run, [], 1, [], [], NO_CLUSTER),
    "sweep": lambda config, run: sweep_jobs.run_sweep(run, f"{run}/sweeps/one", SWEEP, NO_CLUSTER, silent),
    "sweep --detach": lambda config, run: sweep_jobs.detach(run, f"{run}/sweeps/one", SWEEP, NO_CLUSTER),
}
NO_CONDITIONS = r"has no conditional writes \(If-None-Match\).*: use one of the stores in docs/storage.md"
SAID = {
    faults.NO_CONDITIONS: NO_CONDITIONS,
    faults.IGNORED_CONDITIONS: NO_CONDITIONS,
    faults.NO_EMPTY_OBJECTS: r"refuses empty objects.*; allow objects of 0 bytes there, or keep the run elsewhere",
}


@pytest.mark.parametrize("lack", SAID)
def test_a_store_that_cannot_hold_a_run_is_refused_first(seaweed_bucket: Bucket, tmp_path: Path, lack: str) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a_0_2.mp4").write_bytes(b"film")
    (tmp_path / "rows.csv").write_text("a,0,2,0.5,0.5\n")
    config = override(preset("smoke"), {"data.csv": f"{tmp_path}/rows.csv", "data.clips": f"{tmp_path}/clips"})
    with faulty_server(seaweed_bucket.env["AWS_ENDPOINT_URL"]) as server:
        server.lacks.add(lack)
        with connected_to(seaweed_bucket.env | {"AWS_ENDPOINT_URL": server.url}):
            for driver in DRIVERS.values():
                with pytest.raises((ValueError, OSError), match=SAID[lack]) as caught:
                    driver(config, "s3://speech/refused")
                assert str(caught.value).startswith("s3://speech/refused")
                assert "\n" not in str(caught.value)

"""What stages used, in their manifests, and sums of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from arspm.config import Config
from arspm.runs import spent, stages
from arspm.runs.spent import Entry, total
from arspm.runs.usage import Nodes, Requested

SPOT = Nodes(
    node_type="gpu_spot", instance="g5.4xlarge", market="spot", number=4, usd_per_hour=2.6652, prices="ray_cluster.yaml"
)
TRAINING = Requested(workers=4, least_workers=2, cpus=48, gpus=4, nodes=SPOT)
LAPTOP = Requested(workers=2, least_workers=2, cpus=2, no_price="a laptop")


def test_hours_and_cost_are_amounts_times_time() -> None:
    """An hour and a half of 4 GPUs: 6 GPU-hours; 1.5 x 2.6652 USD."""
    used = TRAINING.used(5400.0, ["A10G"])
    assert (used.gpu_hours, used.usd) == (pytest.approx(6.0), pytest.approx(3.9978))
    assert (used.workers, used.least_workers, used.cpus, used.gpu_types, used.nodes) == (4, 2, 48, ["A10G"], SPOT)
    free = LAPTOP.used(5400.0)
    assert (free.gpu_hours, free.usd, free.no_price) == (0.0, None, "a laptop")


def test_sums_name_what_has_no_price() -> None:
    found = total(
        [
            Entry("encoder", 3600.0, TRAINING.used(3600.0)),
            Entry("decoder", 1800.0, TRAINING.used(1800.0)),
            Entry("prior", 2.0, Requested().used(2.0)),
            Entry("gender", 60.0, LAPTOP.used(60.0)),
            Entry("vggface", 90.0, None),
        ]
    )
    assert found.seconds == 5552.0
    assert (found.gpu_hours, found.usd) == (pytest.approx(6.0), pytest.approx(1.5 * 2.6652))
    assert found.prices == ["ray_cluster.yaml"]
    assert found.unpriced == {"gender": "a laptop", "vggface": "an earlier version did not record what it used"}
    assert total([Entry("prior", 2.0, Requested().used(2.0)), Entry("gender", 60.0, LAPTOP.used(60.0))]).usd is None
    assert total([]) == (0, None, None, [], {})


def commit(run: str, stage: str, requested: Requested | None, seconds: float = 3600.0, **figures: str) -> Path:
    usage = None if requested is None else requested.used(seconds)
    stages.commit(run, stage, fingerprint="f", config=Config(), files={}, seconds=seconds, figures=figures, usage=usage)
    return Path(stages.folder(run, stage), stages.SUCCESS)


def test_a_manifest_has_it_and_one_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    run = str(tmp_path)
    manifest = commit(run, "encoder", TRAINING)
    written = json.loads(manifest.read_text())
    assert (written["usage"]["gpu_hours"], written["usage"]["usd"]) == (4.0, 2.6652)
    assert (written["usage"]["workers"], written["usage"]["nodes"]["instance"]) == (4, "g5.4xlarge")
    done = stages.success(run, "encoder")
    assert done is not None
    assert done.usage == TRAINING.used(3600.0)
    del written["usage"]
    manifest.write_text(json.dumps(written))
    commit(run, "report", None)
    found = {stage: each for stage in ("encoder", "report") if (each := stages.success(run, stage))}
    assert found["encoder"].usage is None
    summed = total(spent.own_entries(run, found))
    assert (summed.seconds, summed.gpu_hours, summed.usd) == (7200.0, None, None)
    assert [*summed.unpriced] == ["encoder"], "the report has no workers"


def test_what_another_run_has_computed_is_not_its_own(tmp_path: Path) -> None:
    run = f"{tmp_path}/two"
    variant = stages.variant_run(run, "non-prior-0")
    commit(run, "preprocess", LAPTOP, adopted=f"{tmp_path}/one")
    commit(run, "decoder", TRAINING)
    commit(variant, "encoder", TRAINING, 1800.0)
    own, shared = ({s: d for s in stages.STAGES if (d := stages.success(uri, s))} for uri in (run, variant))
    assert [*shared] == ["preprocess", "decoder", "encoder"]
    assert [each.name for each in spent.own_entries(run, own)] == ["decoder"]
    assert [(each.name, each.seconds) for each in spent.own_entries(variant, shared)] == [("encoder", 1800.0)]
    assert spent.computed_by(run, "preprocess", own["preprocess"]) == f"{tmp_path}/one"
    assert spent.computed_by(run, "decoder", own["decoder"]) == ""
    assert spent.computed_by(variant, "decoder", shared["decoder"]) == run
    assert spent.computed_by(variant, "encoder", shared["encoder"]) == ""

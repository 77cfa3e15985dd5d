"""What a run has used so far, in its status and on the screen of `arspm watch`."""

from __future__ import annotations

import json
import re
import threading
import time
from typing import Any

import pytest

from arspm import storage
from arspm.config.presets import preset
from arspm.runs import stages, sweeps
from arspm.runs.usage import Nodes, Requested
from jobs import watch
from jobs.status import look, spending_of, status
from jobs.status_json import status_record
from tests.jobs.conftest import arspm_in_process as run_here
from tests.jobs.test_status import Cluster, cluster, line_of, run
from tests.jobs.test_watch import shown, steps

__all__ = ["cluster", "run"]
SPOT = Nodes(
    node_type="gpu_spot", instance="g5.4xlarge", market="spot", number=4, usd_per_hour=2.6652, prices="prices of today"
)
TRAINING = Requested(workers=4, least_workers=4, cpus=48, gpus=4, nodes=SPOT)
TRIAL = Requested(
    workers=1,
    least_workers=1,
    cpus=4,
    gpus=0.5,
    nodes=SPOT.model_copy(update={"number": 0.5, "usd_per_hour": 0.33315}),
)


def commit(run: str, stage: str, seconds: float, requested: Requested = TRAINING, **figures: str) -> None:
    stages.commit(
        run,
        stage,
        fingerprint=stage[0] * 64,
        config=preset("smoke"),
        files={},
        seconds=seconds,
        figures=figures,
        usage=requested.used(seconds, ["A10G"] if requested.gpus else []),
    )


def add_running(cluster: Cluster, run: str, stage: str, age: float, **fields: Any) -> str:
    metadata = {"requested": TRAINING.model_dump_json()}
    return cluster.dashboard.add_job(run, stage, "RUNNING", age=age, metadata=metadata, **fields)


def write_sweep(run: str, seconds: list[float], requested: Requested | None = TRIAL, running: int = 0) -> None:
    folder = sweeps.folder(run, "loss_weights")
    sweep: dict[str, Any] = {"name": "loss_weights", "metric": "val_l2"}
    sweep |= {} if requested is None else {"requested": requested.model_dump()}
    trials = [{"number": number, "best": None, "seconds": each} for number, each in enumerate(seconds)]
    counts = {"planned": len(trials), "finished": len(trials) - running, "running": running, "stopped": 0, "failed": 0}
    results = {
        "sweep": sweep,
        "state": "running" if running else "finished",
        "counts": counts,
        "trials": trials,
        "best": None,
    }
    storage.write_json(f"{folder}/{sweeps.SWEEP}", sweep)
    storage.write_json(f"{folder}/{sweeps.RESULTS}", results)


def test_stages_models_trials_and_what_runs_add_up(cluster: Cluster, run: str) -> None:
    """Each of the four gives GPU-hours and cost: 4 and 2.6652, half, a quarter, and 2 h of half a GPU."""
    commit(run, "vggface", 3600.0)
    commit(stages.variant_run(run, "non-prior-0"), "encoder", 1800.0)
    add_running(cluster, run, "decoder", 900.0)
    cluster.dashboard.add_job(run, "chain", "RUNNING", age=7200)  # a driver holds nothing
    cluster.dashboard.add_job(run, "gender", "PENDING", metadata={"requested": TRAINING.model_dump_json()}, age=900)
    write_sweep(run, [3600.0, 3600.0])
    found = look(run, cluster.address)
    spent = spending_of(found)
    assert spent.gpu_hours == pytest.approx(4 + 2 + 1 + 1, abs=0.02)
    assert spent.usd == pytest.approx(2.6652 + 1.3326 + 0.6663 + 2 * 0.33315, abs=0.02)
    assert spent.seconds == pytest.approx(12 + 3600 + 1800 + 900 + 7200, abs=10)
    assert spent.unpriced == {"preprocess": "an earlier version did not record what it used"}
    lines = status(run, cluster.address)
    assert re.fullmatch(
        r"3 h 45 min of stages and trials, 8\.0\d GPU-hours, 5\.3\d USD \(prices of today\); no cost of preprocess: an "
        "earlier version did not record what it used",
        line_of(lines, "so far"),
    )
    assert line_of(lines, "vggface") == "done in 1 h 00 min on 4 GPUs (A10G) for 2.67 USD"
    assert re.match(r"running for 15 min \d\d s on 4 GPUs", line_of(lines, "decoder"))
    record = json.loads(json.dumps(status_record(found)))
    assert record["spent"].keys() == spent._asdict().keys()
    assert record["stages"]["vggface"]["usage"]["usd"] == pytest.approx(2.6652)
    assert record["stages"]["decoder"]["usage"]["usd"] == pytest.approx(0.6663, abs=0.02)
    assert record["stages"]["gender"]["usage"] is None, "pending"
    assert record["sweeps"][0]["usage"]["gpu_hours"] == 1.0
    assert line_of(lines, "sweep loss_weights:") == "finished, 2 finished of 2 trials, 0.67 USD"
    cluster.dashboard.add_job(run, "sweep-loss_weights", "RUNNING", age=60, metadata={"sweep": "loss_weights"})
    write_sweep(run, [3600.0, 3600.0], running=2)
    running = line_of(status(run, cluster.address), "sweep loss_weights:")
    assert re.match(r"running for .*, 2 running of 2 trials, 1 GPU, 0\.67 USD", running)


def test_a_job_that_has_written_its_manifest_counts_once(cluster: Cluster, run: str) -> None:
    add_running(cluster, run, "vggface", 3600.0, submission_id="arspm-1-vggface-vvvvvvvv-1")
    commit(run, "vggface", 3590.0)
    assert spending_of(look(run, cluster.address)).gpu_hours == pytest.approx(4 * 3590 / 3600)


def test_without_prices_or_records_nothing_is_invented(run: str) -> None:
    assert not [line for line in status(run, None) if line.startswith("so far")], "of an earlier version"
    laptop = Requested(workers=1, least_workers=1, cpus=1, no_price="the nodes have no price")
    commit(run, "vggface", 90.0, laptop)
    commit(run, "gender", 30.0, laptop, adopted="elsewhere")
    write_sweep(run, [60.0], None)
    lines = status(run, None)
    text = line_of(lines, "so far")
    assert text.startswith("2 min 42 s of stages and trials, no GPUs; no cost of preprocess, sweep loss_weights: an ea")
    assert text.endswith("; no cost of vggface: the nodes have no price")
    assert "USD" not in text
    assert line_of(lines, "vggface") == "done in 1 min 30 s"
    assert line_of(lines, "gender") == "done in 30.0 s by elsewhere"


def test_the_screen_has_gpus_and_cost_of_what_runs(cluster: Cluster, run: str) -> None:
    add_running(cluster, run, "encoder", 1800.0, log=steps(1, 10))
    lines = shown(look(run, cluster.address), {})
    [encoder] = [line for line in lines if line.startswith("encoder")]
    assert "10 of 400 steps" in encoder
    assert "4 GPUs  1.33 USD" in encoder
    assert lines[-1].startswith("so far      30 min 12 s of stages and trials, 2.00 GPU-hours, 1.33 USD")


def test_lines_have_the_cost_when_a_stage_ends_and_at_last(
    cluster: Cluster, run: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LINE_SECONDS", 0.1)
    jobs = {stage: add_running(cluster, run, stage, 3600.0) for stage in ("vggface", "gender")}

    def finish() -> None:
        for stage, job in jobs.items():
            time.sleep(0.7)
            commit(run, stage, 3600.0)
            cluster.dashboard.jobs[job] |= {"status": "SUCCEEDED", "end_time": int(time.time() * 1000)}

    thread = threading.Thread(target=finish)
    thread.start()
    watch.watch(run, cluster.address)
    thread.join()
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("so far") for line in lines) == 2
    assert re.search(r"so far +2 h 00 min of stages and trials, 8\.00 GPU-hours, 5\.33 USD", lines[-1])
    assert run_here("status", run, "--json", "--ray-address", cluster.address) == 0
    assert json.loads(capsys.readouterr().out)["spent"]["usd"] == pytest.approx(5.3304)

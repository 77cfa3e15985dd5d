"""Training metrics: their values and names, from the training loop to what Prometheus scrapes."""

from __future__ import annotations

import contextlib
import json
import shutil
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import ray.util.metrics
from prometheus_client.parser import text_string_to_metric_families

from arspm.config import Recipe
from arspm.distributed.train import metrics
from arspm.distributed.train.metrics import Meter, gauges
from arspm.training.checkpoint import TrainingState
from arspm.training.fit import WorkerContext

RECIPE = Recipe(epochs=4, global_batch_size=12, learning_rate=0.1, decay=0.5, decay_epochs=1)
TAGS = {"stage": "decoder", "run": "one", "training": "train-abc", "rank": "2"}

Recorded = list[tuple[str, float, dict[str, str]]]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """The values passed to Ray's metrics, in order: (name, value, tags). Ray still receives them."""
    seen: Recorded = []
    record = ray.util.metrics.Metric._record

    def note(self: Any, value: float, tags: dict[str, str] | None = None) -> None:
        seen.append((self.info["name"], value, self.info["default_tags"]))
        record(self, value, tags)

    monkeypatch.setattr(ray.util.metrics.Metric, "_record", note)
    return seen


def meter(run: str = "s3://bucket/runs/one", loss_weight: float = 1.0) -> Meter:
    return Meter(
        "decoder",
        RECIPE,
        run,
        WorkerContext(rank=2, world_size=3, loss_weight=loss_weight),
        training="train-abc",
        num_steps=10,
    )


def test_the_gauges_after_a_step() -> None:
    """The third epoch of ten steps each: the rate was halved twice."""
    progress = TrainingState(epoch=2, step=23, losses=[[11, 0.5], [22, 0.25]])
    assert gauges(progress, RECIPE, 10) == {
        "arspm_train_epoch": 3,
        "arspm_train_step": 23,
        "arspm_learning_rate": 0.025,
        "arspm_train_loss": 0.25,
    }
    # The last step of an epoch has the epoch's rate. Before the history's first point there is no loss.
    last = gauges(TrainingState(epoch=0, step=10), RECIPE, 10)
    assert last == {"arspm_train_epoch": 1, "arspm_train_step": 10, "arspm_learning_rate": 0.1}
    assert set(gauges(progress, RECIPE, 10)) == set(metrics.GAUGES)


@pytest.mark.parametrize("run", ["s3://bucket/runs/one", "s3://bucket/runs/one/", "/runs/one", "one"])
def test_a_step_counts_this_workers_clips_of_the_batch(recorded: Recorded, run: str) -> None:
    meter(run).step(TrainingState(step=7, losses=[[7, 0.5]]))
    assert recorded[0] == ("arspm_train_clips", 4, TAGS), "12 clips over three workers"
    assert {name: value for name, value, _ in recorded[1:]} == gauges(
        TrainingState(step=7, losses=[[7, 0.5]]), RECIPE, 10
    )
    assert all(tags == TAGS for _, _, tags in recorded)
    recorded.clear()
    meter(run, loss_weight=1.5).step(TrainingState(step=7))
    assert recorded[0][1] == 6, "a worker with more lanes than the others has more clips"


def test_the_wait_for_batches_is_counted(recorded: Recorded) -> None:
    meter().wait(0.25)
    meter().wait(0.0)  # valid, although Ray rejects an increment of 0
    assert [name for name, _, _ in recorded] == ["arspm_data_wait_seconds"] * 2
    assert [value for _, value, _ in recorded] == pytest.approx([0.25, 0.0], abs=1e-6)


def test_rays_agent_exports_the_names_that_the_dashboard_uses() -> None:
    """Tests the part of Ray's agent that exports the workers' metrics to Prometheus."""
    from ray._private.telemetry.open_telemetry_metric_recorder import OpenTelemetryMetricRecorder

    recorder = OpenTelemetryMetricRecorder(gauge_metric_ttl_seconds=60)
    for name, text in metrics.COUNTERS.items():
        recorder.register_counter_metric(name, text)
    for name, text in metrics.GAUGES.items():
        recorder.register_gauge_metric(name, text)
    for name in [*metrics.COUNTERS, *metrics.GAUGES]:
        recorder.set_metric_value(name, TAGS, 1.5)
        recorder.set_metric_value(name, TAGS, 2.5)
    read = samples(prometheus_client.generate_latest().decode())
    for name in metrics.COUNTERS:
        assert read[f"ray_{name}_total"] == [(TAGS, 4.0)]
    for name in metrics.GAUGES:
        assert read[f"ray_{name}"] == [(TAGS, 2.5)]


def samples(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Return what Prometheus reads: name -> (labels, value), without the labels that name the exporter."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {name: value for name, value in sample.labels.items() if not name.startswith("otel_")}
            found.setdefault(sample.name, []).append((labels, sample.value))
    return found


TRAINING = """
import ray

@ray.remote(num_cpus=1)
def train():
    import time
    from arspm.config import Recipe
    from arspm.training.checkpoint import TrainingState
    from arspm.training.fit import WorkerContext
    from arspm.distributed.train.metrics import Meter

    meter = Meter("decoder", Recipe(), "/runs/one", WorkerContext(), training="train-abc", num_steps=10)
    for step in range(1200):
        meter.wait(0.01)
        meter.step(TrainingState(step=step + 1, losses=[[1, 0.5]]))
        time.sleep(0.1)

ray.init()
ray.get(train.remote())
"""


@pytest.mark.slow
@pytest.mark.ray
def test_prometheus_scrapes_every_metric_of_the_dashboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    """On a separate head with metrics enabled: every metric of the dashboard except those that only GPUs, the
    autoscaler or Ray Data export."""
    from cluster import client as jobs
    from cluster import head as heads
    from tests.cluster.test_grafana import queries

    board = {name for query in queries() for name, _ in query.selected}
    wanted = {name for name in board if not name.startswith(("autoscaler_", "ray_node_g", "ray_data_"))}
    assert len(wanted) >= 12
    program = tmp_path / "training.py"
    program.write_text(TRAINING)
    monkeypatch.setenv("ARSPM_HOME", str(tmp_path / "home"))
    on = {"RAY_enable_metrics_collection": "1", "RAY_metrics_report_interval_ms": "1000"}
    head = heads.up(num_cpus=1, object_store_memory=100_000_000, env=on)
    found: dict[str, list[tuple[dict[str, str], float]]] = {}

    def scrape() -> bool:
        with contextlib.suppress(OSError):  # the file, or an exporter, is not there yet
            [group] = json.loads(Path(head.session_dir, "prom_metrics_service_discovery.json").read_text())
            for target in group["targets"]:
                assert target.startswith("127.0.0.1:"), "of a local head nothing listens beyond loopback"
                with urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as reply:
                    found.update(samples(reply.read().decode()))
        return wanted <= found.keys()

    try:
        jobs.submit(jobs.connect(head.address), submission_id="trains", entrypoint=f"python {program}")
        with contextlib.suppress(AssertionError):
            wait_until(scrape, 60)
        assert wanted - found.keys() == set()
        [(labels, clips)] = found["ray_arspm_train_clips_total"]
        assert labels.items() >= {"stage": "decoder", "run": "one", "training": "train-abc", "rank": "0"}.items()
        assert clips >= 16
        assert found["ray_arspm_train_loss"][0][1] == 0.5
    finally:
        heads.down()
        shutil.rmtree(head.temp_dir, ignore_errors=True)

"""The cost table, compared with sums by hand, with trials placed one by one, and with the real cluster file."""

from __future__ import annotations

import heapq
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.cost import cost_table, hours, text
from cluster.errors import ClusterError
from cluster.node_types import BUILT_IN, PRICES, read_cluster
from tests.cluster.cluster_files import LAUNCHER
from tests.cluster.placement import placed


def simulated_hours(num_trials: int, trial_seconds: float, concurrent: int) -> float:
    """Hours until the last trial ends, if each starts in the first free slot."""
    free = [0.0] * concurrent
    for _ in range(num_trials):
        heapq.heappush(free, heapq.heappop(free) + trial_seconds)
    return max(free) / 3600


def write(path: Path, value: Any) -> Path:
    path.write_text(yaml.safe_dump(value))
    return path


def cluster_of(cpu: float, gpu: int, **changes: Any) -> dict[str, Any]:
    worker = {"max_workers": 3, "resources": {"CPU": cpu, "GPU": gpu}, "node_config": {"InstanceType": "big"}}
    head = {"resources": {"CPU": 0}, "node_config": {"InstanceType": "small"}}
    types = {"head": head, "worker": worker}
    return {"head_node_type": "head", "max_workers": 10, "available_node_types": types, **changes}


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    rates = {"small": {"on_demand": 0.5}, "big": {"on_demand": 2.0, "spot": 1.0}}
    return write(tmp_path / "prices.yaml", {"region": "here", "date": "2026-01-02", "usd_per_hour": rates})


def test_hours_equal_those_of_a_simulation() -> None:
    rng = random.Random(0)
    for _ in range(200):
        trials, seconds, concurrent = rng.randrange(60), rng.uniform(1, 5000), rng.randrange(1, 20)
        assert hours(trials, seconds, concurrent) == pytest.approx(simulated_hours(trials, seconds, concurrent))
    for invalid in ((-1, 1.0, 1), (1, -1.0, 1), (1, float("nan"), 1), (1, 1.0, 0)):
        with pytest.raises(ValueError, match="invalid numbers for a sweep"):
            hours(*invalid)


def test_a_node_holds_as_many_trials_as_ray_would_place(tmp_path: Path, prices: Path) -> None:
    for cpu, gpu in ((16, 0), (16, 1), (8, 4), (3, 2)):
        file = write(tmp_path / "cluster.yaml", cluster_of(cpu, gpu))
        for cpus in (0.5, 1, 2, 3, 16):
            for gpus in (0, 0.1, 0.2, 0.25, 0.3, 0.34, 0.5, 0.7, 1, 2):
                rows = cost_table(file, prices, trial_seconds=10, num_trials=1000, cpus=cpus, gpus=gpus)
                held = {row.trials_per_node for row in rows if row.node_type == "worker"}
                assert held == {placed(cpu, gpu, cpus, gpus)}, (cpu, gpu, cpus, gpus)


def test_the_cost_includes_the_nodes_and_the_head(tmp_path: Path, prices: Path) -> None:
    file = write(tmp_path / "cluster.yaml", cluster_of(8, 0))
    one, three, head = cost_table(file, prices, trial_seconds=1800, num_trials=20, cpus=2, gpus=0)
    assert (one.nodes, one.trials_per_node, one.hours) == (1, 4, 2.5)  # five times four trials, half an hour each
    assert one.usd == pytest.approx(2.5 * (2.0 + 0.5))
    assert (three.nodes, three.hours) == (3, 1.0)  # twelve trials, then eight
    assert three.usd == pytest.approx(1.0 * (3 * 2.0 + 0.5))
    assert (head.node_type, head.reason) == ("head", "0 CPUs, a trial takes 2")
    assert {row.prices for row in (one, three, head)} == {"here, 2026-01-02"}


def test_nodes_are_limited_by_the_cluster_and_by_the_number_of_trials(tmp_path: Path, prices: Path) -> None:
    def nodes(num_trials: int, **changes: Any) -> list[int]:
        file = write(tmp_path / "cluster.yaml", cluster_of(8, 0, **changes))
        rows = cost_table(file, prices, trial_seconds=60, num_trials=num_trials, cpus=2, gpus=0)
        return [row.nodes for row in rows if not row.reason]

    assert nodes(1000) == [1, 3]
    assert nodes(8) == [1, 2]
    assert nodes(3) == [1]
    assert nodes(1000, max_workers=2) == [1, 2]


def test_spot_nodes_have_their_price_and_a_head_that_runs_trials_is_counted_once(tmp_path: Path, prices: Path) -> None:
    cluster = cluster_of(8, 0)
    cluster["available_node_types"]["worker"]["node_config"]["InstanceMarketOptions"] = {"MarketType": "spot"}
    cluster["available_node_types"]["head"]["resources"] = {"CPU": 4}
    rows = cost_table(
        write(tmp_path / "cluster.yaml", cluster), prices, trial_seconds=3600, num_trials=4, cpus=2, gpus=0
    )
    figures = [(row.node_type, row.market, row.nodes, row.hours, row.usd) for row in rows]
    assert figures == [("head", "on demand", 1, 2.0, 2 * 0.5), ("worker", "spot", 1, 1.0, 1.0 + 0.5)]


def test_the_prices_are_those_of_the_clusters_instances() -> None:
    cluster, prices = yaml.safe_load(LAUNCHER.read_text()), yaml.safe_load(PRICES.read_text())
    used = set()
    for kind in cluster["available_node_types"].values():
        spot = kind["node_config"].get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        used.add((kind["node_config"]["InstanceType"], "spot" if spot else "on_demand"))
    assert {(name, market) for name, markets in prices["usd_per_hour"].items() for market in markets} == used
    assert prices["region"] == cluster["provider"]["region"]
    for markets in prices["usd_per_hour"].values():
        assert all(rate > 0 for rate in markets.values())
        assert markets.get("spot", 0) < markets.get("on_demand", float("inf"))


def test_the_built_in_cluster_is_that_of_the_launcher() -> None:
    built_in, launcher = read_cluster(BUILT_IN), read_cluster(LAUNCHER)
    assert built_in == launcher


def test_the_table_of_the_real_cluster() -> None:
    rows = cost_table(trial_seconds=3600, num_trials=60, cpus=4, gpus=0.5)
    rates = yaml.safe_load(PRICES.read_text())["usd_per_hour"]
    lines = text(rows).splitlines()
    assert lines[0] == "node type  instance     market     trials a node  nodes  hours    USD"
    assert len({len(line) for line in lines[:5]}) == 1, "the last column is aligned"
    spot, head = rates["g5.4xlarge"]["spot"], rates["m6i.2xlarge"]["on_demand"]
    assert lines[4].split() == ["gpu_spot", "g5.4xlarge", "spot", "2", "8", "4.00", f"{4 * (8 * spot + head):.2f}"]
    assert lines[5] == "head       m6i.2xlarge  on demand  cannot hold a trial: 0 GPUs, a trial takes 0.5"
    assert lines[6] == "cpu        c6i.4xlarge  spot       cannot hold a trial: 0 GPUs, a trial takes 0.5"
    assert lines[7].endswith("assumes the step time measured here; on GPU nodes a step takes less.")
    assert lines[7].startswith("Prices (us-west-2, 20")
    assert len(lines) == 8
    assert len(text([]).splitlines()) == 2


def test_if_no_type_fits_each_has_a_reason() -> None:
    rows = cost_table(trial_seconds=60, num_trials=1, cpus=32, gpus=0)
    assert len(rows) == 4
    assert all(row.reason.endswith("CPUs, a trial takes 32") for row in rows)
    assert text(rows).count("cannot hold a trial") == 4


def test_invalid_files_and_arguments_are_one_line_errors(tmp_path: Path, prices: Path) -> None:
    good = write(tmp_path / "cluster.yaml", cluster_of(8, 0))
    torn = tmp_path / "torn.yaml"
    torn.write_text("a: [")
    poor = write(tmp_path / "poor.yaml", {**yaml.safe_load(prices.read_text()), "usd_per_hour": {"small": {}}})
    needs = {"trial_seconds": 1.0, "num_trials": 1, "cpus": 1.0, "gpus": 0.0}
    for cluster, price_list, message in (
        (tmp_path / "none", prices, "none: cannot be read as YAML"),
        (torn, prices, "torn.yaml: cannot be read as YAML"),
        (good, poor, r"poor.yaml: no price of small, on_demand, for .*cluster.yaml; add it"),
        (prices, prices, "not a Ray cluster file"),
        (write(tmp_path / "list.yaml", [1]), prices, "not a Ray cluster file"),
    ):
        with pytest.raises(ClusterError, match=message) as caught:
            cost_table(cluster, price_list, **needs)
        assert "\n" not in str(caught.value)
    for invalid in ({"cpus": 0.0}, {"cpus": -1.0}, {"gpus": -1.0}):
        with pytest.raises(ValueError, match="a trial that reserves"):
            cost_table(good, prices, **{**needs, **invalid})

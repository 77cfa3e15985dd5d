"""What stages request and at what price, on a server that lists nodes as Ray's dashboard does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from arspm.config import Config, override
from arspm.config.presets import preset
from arspm.runs import stages
from arspm.runs.usage import Requested
from cluster import client
from cluster.chain_cost import Market
from cluster.node_types import PRICES
from jobs import chain, stage_cost, sweep_jobs
from jobs.submission import resources_of
from tests.jobs.test_status import Cluster, cluster

__all__ = ["cluster"]
RATES = yaml.safe_load(PRICES.read_text())["usd_per_hour"]
SPOT = RATES["g5.4xlarge"]["spot"]
ON_GPUS: dict[str, Any] = {
    "resources.encoder": {"num_workers": [2, 4], "cpus": 8, "gpus": 1},
    "resources.decoder": {"num_workers": 2, "cpus": 4, "gpus": 1, "pool": "on_demand"},
    "resources.preprocess": {"num_tasks": 64, "cpus": 1},
    "resources.read": {"num_tasks": 2, "cpus": 1},
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))  # without a ray_cluster.yaml


def config_of(**changes: Any) -> Config:
    fields = {f"{section}.{name}": value for section, group in ON_GPUS.items() for name, value in group.items()} | {
        key.replace("__", "."): value for key, value in changes.items()
    }
    return override(preset("smoke"), fields)


def node(node_type: str, *, cpus: float, gpus: float = 0, head: bool = False) -> dict[str, Any]:
    total = {"CPU": cpus, "memory": 8e9} | ({"GPU": gpus} if gpus else {})
    labels = {"ray.io/node-group": node_type} if node_type else {}
    return {"node_id": node_type, "state": "ALIVE", "is_head_node": head, "resources_total": total, "labels": labels}


HEAD = node("head", cpus=0, head=True)


def market_of(cluster: Cluster, *nodes: dict[str, Any]) -> Market | str:
    cluster.dashboard.nodes = [*nodes]
    return stage_cost.find_market(client.connect(cluster.address))


def test_only_nodes_of_the_cluster_file_have_a_price(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(market_of(cluster, HEAD), Market)
    assert isinstance(market_of(cluster, HEAD, node("gpu_spot", cpus=16, gpus=1)), Market)
    assert "like those of a local head" in str(market_of(cluster, node("", cpus=4, head=True)))
    assert market_of(cluster, HEAD, node("gpu-spot", cpus=16, gpus=1)) == (
        "the built-in cluster has no such node type as 'gpu-spot'"
    )
    assert "no such head type as 'cpu'" in str(market_of(cluster, node("cpu", cpus=16, head=True)))
    assert market_of(cluster, HEAD, node("gpu", cpus=16, gpus=8)) == (
        "a node of type 'gpu' has 8 GPUs, in the built-in cluster 1"
    )
    own = {"head_node_type": "head", "available_node_types": {"head": {"node_config": {"InstanceType": "x1.huge"}}}}
    (tmp_path / "ray_cluster.yaml").write_text(yaml.safe_dump(own))
    monkeypatch.chdir(tmp_path)
    assert "no price of x1.huge, on_demand, for ray_cluster.yaml; add it" in str(market_of(cluster, HEAD))


def test_a_stage_requests_its_workers_and_the_cheapest_nodes_that_hold_them() -> None:
    market, config = Market(), config_of()
    encoder = stage_cost.request_of(config, "encoder", market)
    assert (encoder.workers, encoder.least_workers, encoder.gpus) == (4, 2, 4)
    assert encoder.cpus == 4 * 8 + 4 * 2 * 1 == resources_of(config, "encoder").num_cpus, "with those that read"
    assert encoder.nodes is not None
    assert (encoder.nodes.node_type, encoder.nodes.number) == ("gpu_spot", 4)
    assert encoder.nodes.usd_per_hour == pytest.approx(4 * SPOT)
    assert encoder.nodes.prices == market.source
    decoder = stage_cost.request_of(config, "decoder", market)
    assert decoder.nodes is not None
    assert (decoder.nodes.market, decoder.nodes.usd_per_hour) == ("on demand", 2 * RATES["g5.4xlarge"]["on_demand"])
    preprocess = stage_cost.request_of(config, "preprocess", market)
    assert preprocess.nodes is not None
    assert preprocess.nodes.usd_per_hour == pytest.approx(4 * RATES["c6i.4xlarge"]["spot"])
    assert stage_cost.request_of(config, "prior", market) == Requested()
    assert stage_cost.request_of(config_of(vggface__weights="/w.pth"), "vggface", market) == Requested()
    too_large = stage_cost.request_of(config_of(resources__encoder__gpus=2), "encoder", market)
    assert (too_large.nodes, too_large.no_price) == (
        None,
        "no node type of the built-in cluster holds one of its workers",
    )
    assert stage_cost.request_of(config, "encoder", "a laptop").no_price == "a laptop"


def test_a_trial_takes_its_part_of_a_node() -> None:
    config = config_of(resources__trial__cpus=4, resources__trial__gpus=0.5)
    half = stage_cost.request_of_trial(config, Market())
    assert half.nodes is not None
    assert (half.nodes.node_type, half.nodes.number) == ("gpu_spot", 0.5)
    assert half.used(7200.0).usd == pytest.approx(SPOT)
    assert half.used(7200.0).gpu_hours == 1.0


def test_what_a_stage_used_depends_on_the_nodes_that_ray_lists() -> None:
    requested = stage_cost.request_of(config_of(), "encoder", Market())
    labels = {"ray.io/node-group": "gpu_spot", "ray.io/accelerator-type": "A10G"}
    others = [{"Labels": {"ray.io/node-group": "head"}}, {"Labels": {"ray.io/accelerator-type": "T4"}}, {}]
    used = stage_cost.used(requested, 1800.0, [*others, {"Alive": False, "Labels": labels}])
    assert (used.gpu_types, used.gpu_hours, used.usd) == (["A10G"], 2.0, pytest.approx(2 * SPOT))
    elsewhere = stage_cost.used(requested, 1800.0, others)
    assert (elsewhere.gpu_hours, elsewhere.usd) == (2.0, None)
    assert elsewhere.no_price == "the cluster has no node of type gpu_spot, the cheapest that holds its workers"
    assert stage_cost.used(requested, 1800.0, None) == Requested().used(1800.0), "it never connected to Ray"


def test_a_detached_chain_is_told_the_prices_of_the_machine_that_submits_it(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.dashboard.nodes = [HEAD]
    given: dict[str, Any] = {}
    monkeypatch.setattr(client, "submit", lambda _, **fields: given.update(fields) or fields["submission_id"])
    chain.detach(config_of(), str(tmp_path), cluster.address, None)
    words = given["entrypoint"].split(" --requests '")[1].partition("'")[0]
    told = stage_cost.parse_all(words)
    assert {*told} == {*stages.STAGES}
    assert told["encoder"] == stage_cost.request_of(config_of(), "encoder", Market())
    metadata = stage_cost.metadata(told)["encoder"]["requested"]
    assert [*stage_cost.words(told["encoder"])] == ["--requested", metadata]
    assert Requested.model_validate_json(metadata) == told["encoder"]


def test_a_sweep_records_what_a_trial_requests(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.dashboard.nodes = [HEAD]
    monkeypatch.setattr(client, "submit", lambda _, **fields: fields["submission_id"])
    config = config_of(resources__trial__gpus=1)
    sweep = {"name": "one", "created": 1.0, "num_trials": 2, "config": config.model_dump(mode="json")}
    sweep_jobs.detach(str(tmp_path), f"{tmp_path}/sweeps/one", sweep, cluster.address)
    saved = json.loads(Path(tmp_path, "sweeps", "one", "sweep.json").read_text())
    assert saved["requested"]["nodes"]["usd_per_hour"] == pytest.approx(SPOT)
    assert sweep.items() <= saved.items()

"""What a stage requests and at what price, said when it is submitted, and what it used, said when it has ended.

Only nodes that an autoscaler starts from the cluster file have a price: those of a local head, of Slurm or of another
file have none. A price is a stage's `cluster.chain_cost.Nodes`, as in `arspm submit --dry-run`.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from arspm.config import Config, Tasks, Workers
from arspm.runs.usage import Nodes, Requested, Usage
from cluster import client
from cluster.chain_cost import Group, Market
from cluster.errors import ClusterError
from jobs.submission import resources_of, sections_of, source

BY_HAND = "it was not submitted by a chain, so its nodes are not known"
_NO_NODE_TYPES = "the nodes are of no cluster file, like those of a local head, so they have no price"
_GPU_TYPE = "ray.io/accelerator-type"  # label that Ray gives nodes with GPUs

log = logging.getLogger(__name__)


def find_market(jobs_client: Any) -> Market | str:
    """Return the prices of a cluster's nodes, or in one line why they have none."""
    nodes = client.nodes(jobs_client)
    if not any(node.node_type for node in nodes):
        return _NO_NODE_TYPES
    try:
        market = Market()
    except ClusterError as error:
        return str(error)
    return market.difference(nodes) or market


def worker_groups(config: Config, stage: str) -> list[Group]:
    """Return the workers or tasks of a stage, without those that read for them; none if it runs in its driver only."""
    largest = _largest(config, stage)
    return [] if largest is None else [_group(largest)]


def _largest(config: Config, stage: str) -> Workers | Tasks | None:
    """Return the workers or tasks of a stage; if it has several one after the other, those that request the most."""
    found = [getattr(config.resources, section) for section in sections_of(config, stage)]
    groups = {_group(each): each for each in found}
    largest = max(groups, key=lambda group: (group.number * group.gpus, group.number * group.cpus), default=None)
    return None if largest is None else groups[largest]


def _group(each: Workers | Tasks) -> Group:
    return Group(each.most if isinstance(each, Workers) else each.num_tasks, each.cpus, each.gpus, each.pool)


def request_of(config: Config, stage: str, market: Market | str) -> Requested:
    """Return what a stage requests, with the price of the cheapest nodes that hold it. market: of `find_market`."""
    largest = _largest(config, stage)
    if largest is None:
        return Requested()
    group, amounts = _group(largest), resources_of(config, stage)
    least = largest.least if isinstance(largest, Workers) else group.number
    requested = Requested(workers=group.number, least_workers=least, cpus=amounts.num_cpus, gpus=amounts.num_gpus)
    return _priced(requested, group, market)


def request_of_trial(config: Config, market: Market | str) -> Requested:
    """Return what one trial of a sweep requests. Its nodes are a part of nodes: other trials use the rest."""
    group = _group(config.resources.trial)
    requested = Requested(
        workers=group.number,
        least_workers=group.number,
        cpus=group.number * group.cpus,
        gpus=group.number * group.gpus,
    )
    return _priced(requested, group, market, whole=False)


def _priced(requested: Requested, group: Group, market: Market | str, *, whole: bool = True) -> Requested:
    if isinstance(market, str):
        return requested.model_copy(update={"no_price": market})
    nodes = market.cheapest([group], whole=whole)
    if nodes is None:
        return requested.model_copy(update={"no_price": f"no node type of {market.file} holds one of its workers"})
    return requested.model_copy(update={"nodes": Nodes(**nodes._asdict(), prices=market.source)})


def words(requested: Requested) -> list[str]:
    """Return the words of a stage's command line that say what it requests."""
    return ["--requested", requested.model_dump_json()]


def words_of_all(requests: Mapping[str, Requested]) -> list[str]:
    """Return the words of a detached driver's command line with the requests of its stages."""
    return ["--requests", json.dumps({name: requested.model_dump() for name, requested in requests.items()})]


def parse_all(text: str) -> dict[str, Requested]:
    """Return what `words_of_all` said."""
    return TypeAdapter(dict[str, Requested]).validate_json(text)


def metadata(requests: Mapping[str, Requested]) -> dict[str, dict[str, str]]:
    """Return the metadata of each stage's job, from which `arspm status` and `watch` read what it holds."""
    return {name: {"requested": requested.model_dump_json()} for name, requested in requests.items()}


def runner(jobs_client: Any, run: str, requests: Mapping[str, Requested]) -> client.RayJobs:
    """Return what submits a run's stages as jobs."""
    return client.RayJobs(jobs_client, working_dir=source(), metadata={"run": run}, stage_metadata=metadata(requests))


def measured(requested: Requested, seconds: float) -> Usage | None:
    """Return what the stage used whose work has just ended in this process, None if Ray does not list its nodes."""
    ray = sys.modules.get("ray")  # a stage without workers may not have imported it
    try:
        return used(requested, seconds, ray.nodes() if ray is not None and ray.is_initialized() else None)
    except Exception as error:  # of Ray; the stage's result is worth more
        log.warning("what the stage used is not recorded: %s", error)
        return None


def used(requested: Requested, seconds: float, nodes: Sequence[Mapping[str, Any]] | None) -> Usage:
    """Return what a stage used. nodes: of `ray.nodes` in its process, dead ones included.

    None for a stage that never connected to Ray, so that it had no workers, as when every shard was there already. The
    price counts only if the cluster has such nodes.
    """
    if nodes is None:
        return Requested().used(seconds)
    labels = [node.get("Labels") or {} for node in nodes]
    if requested.nodes is not None:
        own = requested.nodes.node_type
        labels = [each for each in labels if each.get(client.NODE_GROUP) == own]
        if not labels:
            reason = f"the cluster has no node of type {own}, the cheapest that holds its workers"
            requested = requested.model_copy(update={"nodes": None, "no_price": reason})
    gpu_types = sorted({each[_GPU_TYPE] for each in labels if _GPU_TYPE in each})
    return requested.used(seconds, gpu_types if requested.gpus else ())

"""Estimates what a job costs on the cheapest nodes of a Ray cluster file, without starting anything."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cluster.cost import workers_per_node
from cluster.job import Node
from cluster.node_types import (
    BUILT_IN,
    PRICES,
    Cluster,
    Prices,
    Resources,
    cluster_file,
    rate,
    read_cluster,
    read_prices,
)


class Group(NamedTuple):
    """Workers or tasks of a job that run at the same time, and what each requests. pool: as in the configuration."""

    number: int
    cpus: float
    gpus: float = 0
    pool: str = ""


class Nodes(NamedTuple):
    """Nodes that a job occupies. usd_per_hour: of all of them together. number: a fraction for a part of a node."""

    node_type: str
    instance: str
    market: str
    number: float
    usd_per_hour: float


class Market:
    """The node types of a cluster file, with their prices. `source`: the file and the prices' date, for messages."""

    def __init__(self) -> None:
        """Read the files. Raises ClusterError for an invalid cluster file and for a node type without a price."""
        file = cluster_file()
        self._cluster: Cluster = read_cluster(file)
        self._prices: Prices = read_prices()
        self._rates = {
            name: rate(node_type, self._prices, prices_file=PRICES, cluster_file=file)
            for name, node_type in self._cluster.available_node_types.items()
        }
        self.head_usd_per_hour = self._rates[self._cluster.head_node_type]
        self.file = "the built-in cluster" if file == BUILT_IN else str(file)
        self.source = f"{self.file}, prices of {self._prices.as_of}"

    def difference(self, nodes: Iterable[Node]) -> str:
        """Return in what a cluster's live nodes differ from the cluster file, "" if they are as it describes them."""
        for node in nodes:
            described = self._cluster.available_node_types.get(node.node_type)
            if described is None or node.is_head != (node.node_type == self._cluster.head_node_type):
                return f"{self.file} has no such {'head' if node.is_head else 'node'} type as {node.node_type!r}"
            resources = described.resources or Resources()
            for name, found in (("CPU", node.num_cpus), ("GPU", node.num_gpus)):
                if name in resources.model_fields_set and (expected := getattr(resources, name)) != found:
                    return f"a node of type {node.node_type!r} has {found:g} {name}s, in {self.file} {expected:g}"
        return ""

    def cheapest(self, groups: Sequence[Group], *, whole: bool = True) -> Nodes | None:
        """Return the cheapest nodes of one type that hold all groups, or None if no type holds a worker of each.

        If a type's limit does not allow enough nodes, as many as it allows: the workers then wait for each other.
        whole: False for the part of the nodes that the groups fill, where other workers use the rest.
        """
        found = []
        for name, node_type in self._cluster.available_node_types.items():
            if name == self._cluster.head_node_type:
                continue
            resources = node_type.resources or Resources()
            own_limit = self._cluster.max_workers if node_type.max_workers is None else node_type.max_workers
            limit = min(own_limit, self._cluster.max_workers)
            needed = _num_nodes(resources, groups)
            if needed is None or not limit:
                continue
            number = min(max(1, math.ceil(round(needed, 6))) if whole else needed, limit)
            instance = node_type.node_config.InstanceType
            found.append(Nodes(name, instance, node_type.market, number, number * self._rates[name]))
        return min(found, key=lambda nodes: nodes.usd_per_hour, default=None)


def _num_nodes(resources: Resources, groups: Sequence[Group]) -> float | None:
    """Return how many nodes the groups fill, None if a node holds no worker of one of them."""
    needed = 0.0
    for group in groups:
        if group.pool and not (resources.model_extra or {}).get(group.pool):
            return None
        if not group.cpus and not group.gpus:
            continue
        on_a_node = workers_per_node(resources, group.cpus, group.gpus)
        if on_a_node == 0:
            return None
        needed += group.number / on_a_node
    return needed

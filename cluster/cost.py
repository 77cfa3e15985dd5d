"""Estimates the cost of a sweep on the nodes of a Ray cluster file, without starting anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from cluster.node_types import PRICES, Resources, cluster_file, rate, read_cluster, read_prices

_UNITS = 10_000  # per CPU or GPU: Ray counts resources in ten-thousandths


class Estimate(NamedTuple):
    """The estimate for a sweep on `nodes` nodes of one type.

    usd: cost of these nodes and of the head. prices: region and date of the prices used. reason: why a node of this
    type cannot run a trial; the numbers are then 0.
    """

    node_type: str
    instance: str
    market: str
    trials_per_node: int
    nodes: int
    hours: float
    usd: float
    prices: str
    reason: str = ""


def hours(num_trials: int, trial_seconds: float, concurrent: int) -> float:
    """Return how many hours trials of equal length take, `concurrent` of them at a time.

    Raises ValueError for negative or infinite numbers, and for less than one concurrent trial.
    """
    if num_trials < 0 or concurrent < 1 or not (math.isfinite(trial_seconds) and trial_seconds >= 0):
        raise ValueError(
            f"{num_trials} trials of {trial_seconds} s, {concurrent} at a time: invalid numbers for a sweep"
        )
    return math.ceil(num_trials / concurrent) * trial_seconds / 3600


def cost_table(
    cluster_yaml: str | Path | None = None,
    prices: str | Path = PRICES,
    *,
    trial_seconds: float,
    num_trials: int,
    cpus: float,
    gpus: float,
) -> list[Estimate]:
    """Return two estimates per node type of a Ray cluster file: for one node, and for as many as the sweep can use.

    cluster_yaml: by default that of the current directory, or the built-in one.
    prices: YAML in the format of prices.yaml.
    trial_seconds: how long a complete trial runs.
    cpus, gpus: what one trial reserves. A trial runs on one node, and a fraction of a GPU is a fraction of one device.

    Node types that cannot run a trial come last, with the reason. Raises ClusterError for an invalid cluster file and
    for a node type without a price, ValueError if a trial reserves nothing or a negative amount.
    """
    if min(cpus, gpus) < 0 or cpus == gpus == 0:
        raise ValueError(f"a trial that reserves {cpus:g} CPUs and {gpus:g} GPUs: one must be positive, none negative")
    cluster_yaml = cluster_yaml or cluster_file()
    cluster, price_list = read_cluster(cluster_yaml), read_prices(prices)
    rows, unfit = [], []
    types, as_of = cluster.available_node_types, price_list.as_of
    rates = {
        name: rate(node_type, price_list, prices_file=prices, cluster_file=cluster_yaml)
        for name, node_type in types.items()
    }
    head_rate = rates[cluster.head_node_type]
    for name, node_type in types.items():
        instance, node_rate = node_type.node_config.InstanceType, rates[name]
        resources = node_type.resources or Resources()
        per_node = workers_per_node(resources, cpus, gpus)
        if per_node == 0:
            reason = _reason(resources, cpus, gpus)
            unfit.append(Estimate(name, instance, node_type.market, 0, 0, 0.0, 0.0, as_of, reason))
            continue
        own_limit = cluster.max_workers if node_type.max_workers is None else node_type.max_workers
        limit = 1 if name == cluster.head_node_type else min(own_limit, cluster.max_workers)
        useful = min(limit, math.ceil(num_trials / per_node))
        for nodes in sorted({min(1, useful), useful}):
            duration = hours(num_trials, trial_seconds, max(1, nodes * per_node))
            usd = duration * (node_rate * nodes + (0 if name == cluster.head_node_type else head_rate))
            rows.append(Estimate(name, instance, node_type.market, per_node, nodes, duration, usd, as_of))
    return rows + unfit


def text(rows: Sequence[Estimate]) -> str:
    """Return the rows as a table for the terminal, and below it a line with the assumptions."""
    lines = [("node type", "instance", "market", "trials a node", "nodes", "hours", "USD")]
    for row in rows:
        if not row.reason:
            figures = (str(row.trials_per_node), str(row.nodes), f"{row.hours:.2f}", f"{row.usd:.2f}")
            lines.append((row.node_type, row.instance, row.market, *figures))
    reasons = {(row.node_type, row.instance, row.market): row.reason for row in rows if row.reason}
    widths = [max(map(len, column)) for column in zip_longest(*lines, *reasons, fillvalue="")]
    table = [_padded(line, widths) for line in lines]
    table += [f"{_padded(words, widths[:3])}  cannot hold a trial: {reason}" for words, reason in reasons.items()]
    prices = f" ({rows[0].prices})" if rows else ""
    table.append(
        f"Prices{prices} include the head node but no disks; spot prices vary. "
        "The estimate assumes the step time measured here; on GPU nodes a step takes less."
    )
    return "\n".join(table)


def _padded(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Return one line of the table: the first three columns are aligned left, the others right."""
    columns = enumerate(zip(cells, widths, strict=True))
    return "  ".join(f"{cell:<{width}}" if i < 3 else f"{cell:>{width}}" for i, (cell, width) in columns)


def workers_per_node(resources: Resources, cpus: float, gpus: float) -> int:
    """Return how many trials Ray places on a node at a time."""
    limits = []
    if cpus:
        limits.append(_units(resources.CPU) // _units(cpus))
    if gpus:
        devices = int(resources.GPU)
        limits.append(devices * (_UNITS // _units(gpus)) if gpus < 1 else _units(devices) // _units(gpus))
    return min(limits)


def _units(amount: float) -> int:
    return max(1, round(amount * _UNITS)) if amount else 0


def _reason(resources: Resources, cpus: float, gpus: float) -> str:
    """Return why a node cannot run a trial."""
    if gpus > resources.GPU:
        return f"{resources.GPU:g} GPUs, a trial takes {gpus:g}"
    return f"{resources.CPU:g} CPUs, a trial takes {cpus:g}"

"""What a sweep would cost on the cluster of ray_cluster.yaml, before anything is started."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from cluster.errors import ClusterError

CLUSTER = Path(__file__).parents[1] / "ray_cluster.yaml"
PRICES = Path(__file__).with_name("prices.yaml")

_SHARE = 10_000  # Ray counts resources in ten-thousandths


class Row(NamedTuple):
    """A sweep on `nodes` nodes of one type. `usd`: theirs and the head's. `prices`: region and date of the prices.

    `reason`: why the type cannot hold a trial; the figures are then 0.
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
    """How long trials of equal length take, `concurrent` at once. Raises ValueError for numbers of no sweep."""
    if num_trials < 0 or concurrent < 1 or not (math.isfinite(trial_seconds) and trial_seconds >= 0):
        raise ValueError(f"{num_trials} trials of {trial_seconds} s, {concurrent} at once: no numbers of a sweep")
    return math.ceil(num_trials / concurrent) * trial_seconds / 3600


def cost_table(
    cluster_yaml: str | Path = CLUSTER,
    prices: str | Path = PRICES,
    *,
    trial_seconds: float,
    num_trials: int,
    cpus: float,
    gpus: float,
) -> list[Row]:
    """A sweep on one node, and on as many as there may be and it has work for, of each type in Ray's cluster file.

    trial_seconds: how long a trial runs to its end. cpus, gpus: what a trial takes. A trial does not leave its node,
    and a part of a GPU is a part of one GPU. Types that cannot hold a trial come last, with the reason.

    Raises ClusterError for a file that cannot be read and a type without a price, ValueError for needs below zero.
    """
    if min(cpus, gpus) < 0 or cpus == gpus == 0:
        raise ValueError(f"a trial that takes {cpus:g} CPUs and {gpus:g} GPUs: it takes some of either")
    file, priced = _read(cluster_yaml), _read(prices)
    rows, out = [], []
    try:
        types, head = file["available_node_types"], file["head_node_type"]
        as_of, rates = f"{priced['region']}, {priced['date']}", priced["usd_per_hour"]
        head_rate = _rate(rates, types[head], prices)
        for name, kind in types.items():
            instance, market = _instance(kind), _market(kind)
            rate = _rate(rates, kind, prices)
            room = kind.get("resources") or {}
            held = _trials_held(room, cpus, gpus)
            if held == 0:
                reason = _reason(room, cpus, gpus)
                out.append(Row(name, instance, market, 0, 0, 0.0, 0.0, as_of, reason))
                continue
            most = 1 if name == head else min(kind.get("max_workers", math.inf), file.get("max_workers", 2))
            useful = min(most, math.ceil(num_trials / held))
            for nodes in sorted({min(1, useful), useful}):
                spent = hours(num_trials, trial_seconds, max(1, nodes * held))
                usd = spent * (rate * nodes + (0 if name == head else head_rate))
                rows.append(Row(name, instance, market, held, nodes, spent, usd, as_of))
    except (KeyError, TypeError, AttributeError) as error:
        raise ClusterError(
            f"{cluster_yaml}, {prices}: not a cluster of Ray's launcher and its prices ({error!r})"
        ) from None
    return rows + out


def text(rows: Sequence[Row]) -> str:
    """The rows as a table for people, and a line that says what it takes for granted."""
    lines = [("node type", "instance", "market", "trials a node", "nodes", "hours", "USD")]
    for row in rows:
        if not row.reason:
            figures = (str(row.trials_per_node), str(row.nodes), f"{row.hours:.2f}", f"{row.usd:.2f}")
            lines.append((row.node_type, row.instance, row.market, *figures))
    reasons = {(row.node_type, row.instance, row.market): row.reason for row in rows if row.reason}
    widths = [max(map(len, column)) for column in zip_longest(*lines, *reasons, fillvalue="")]
    told = [_padded(line, widths) for line in lines]
    told += [f"{_padded(words, widths[:3])}  cannot hold a trial: {reason}" for words, reason in reasons.items()]
    prices = f" ({rows[0].prices})" if rows else ""
    told.append(
        f"Prices{prices} with the head node, without disks; spot prices move. "
        "A step is taken to last as long there as measured here: on GPU nodes it will be less."
    )
    return "\n".join(told)


def _padded(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Words to the left, the numbers after them to the right."""
    columns = enumerate(zip(cells, widths, strict=True))
    return "  ".join(f"{cell:<{width}}" if i < 3 else f"{cell:>{width}}" for i, (cell, width) in columns)


def _trials_held(room: Mapping[str, float], cpus: float, gpus: float) -> int:
    """How many trials a node has room for, as Ray places them."""
    limits = []
    if cpus:
        limits.append(_parts(room.get("CPU", 0)) // _parts(cpus))
    if gpus:
        devices = int(room.get("GPU", 0))
        limits.append(devices * (_SHARE // _parts(gpus)) if gpus < 1 else _parts(devices) // _parts(gpus))
    return min(limits)


def _parts(amount: float) -> int:
    return max(1, round(amount * _SHARE)) if amount else 0


def _reason(room: Mapping[str, float], cpus: float, gpus: float) -> str:
    have_cpus, have_gpus = room.get("CPU", 0), room.get("GPU", 0)
    if gpus > have_gpus:
        return f"{have_gpus:g} GPUs, a trial takes {gpus:g}"
    return f"{have_cpus:g} CPUs, a trial takes {cpus:g}"


def _instance(kind: Mapping[str, Any]) -> str:
    return str(kind["node_config"]["InstanceType"])


def _market(kind: Mapping[str, Any]) -> str:
    options = kind["node_config"].get("InstanceMarketOptions") or {}
    return "spot" if options.get("MarketType") == "spot" else "on demand"


def _rate(rates: Mapping[str, Mapping[str, float]], kind: Mapping[str, Any], prices: str | Path) -> float:
    instance, market = _instance(kind), _market(kind).replace(" ", "_")
    try:
        return float(rates[instance][market])
    except KeyError:
        raise ClusterError(f"{prices}: no price of {instance}, {market}; add it") from None


def _read(path: str | Path) -> Any:
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ClusterError(f"{path}: cannot be read as YAML ({str(error).splitlines()[0]})") from None

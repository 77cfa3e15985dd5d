"""Estimates the cost of a sweep on the cluster of ray_cluster.yaml, without starting anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, Field, ValidationError

from cluster.errors import ClusterError

CLUSTER = Path(__file__).parents[1] / "ray_cluster.yaml"
PRICES = Path(__file__).with_name("prices.yaml")

_MAX_BYTES = 128 << 10  # of a cluster file; ray_cluster.yaml has 6 KiB
_UNITS = 10_000  # per CPU or GPU: Ray counts resources in ten-thousandths

_Name = Annotated[str, Field(pattern=r"^[\w.+/@ -]{1,100}$")]
_Amount = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0, le=1_000_000)]


class _Market(BaseModel):
    MarketType: _Name | None = None


class _NodeConfig(BaseModel):
    InstanceType: _Name
    InstanceMarketOptions: _Market | None = None


class _Resources(BaseModel):
    CPU: _Amount = 0
    GPU: _Amount = 0


class _NodeType(BaseModel):
    node_config: _NodeConfig
    resources: _Resources | None = None
    max_workers: _Count | None = None

    @property
    def market(self) -> Literal["spot", "on demand"]:
        options = self.node_config.InstanceMarketOptions
        return "spot" if options is not None and options.MarketType == "spot" else "on demand"


class _Cluster(BaseModel):
    """The parts of a cluster launcher's file that the estimate needs."""

    head_node_type: _Name
    available_node_types: dict[_Name, _NodeType]
    max_workers: _Count = 2


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

    cluster_yaml: by default the one of this source tree, or of the current directory if the product is installed.
    prices: YAML in the format of prices.yaml.
    trial_seconds: how long a complete trial runs.
    cpus, gpus: what one trial reserves. A trial runs on one node, and a fraction of a GPU is a fraction of one device.

    Node types that cannot run a trial come last, with the reason. Raises ClusterError for an invalid cluster file and
    for a node type without a price, ValueError if a trial reserves nothing or a negative amount.
    """
    if min(cpus, gpus) < 0 or cpus == gpus == 0:
        raise ValueError(f"a trial that reserves {cpus:g} CPUs and {gpus:g} GPUs: one must be positive, none negative")
    cluster_yaml = cluster_yaml or _default_cluster()
    cluster = _read_cluster(cluster_yaml)
    price_list = yaml.safe_load(Path(prices).read_text())
    rows, unfit = [], []
    types, as_of = cluster.available_node_types, f"{price_list['region']}, {price_list['date']}"
    if cluster.head_node_type not in types:
        raise ClusterError(f"{cluster_yaml}: head_node_type is not one of available_node_types")

    def rate(node_type: _NodeType) -> float:
        """Return a node's price in USD per hour."""
        instance = node_type.node_config.InstanceType
        market = "spot" if node_type.market == "spot" else "on_demand"
        usd: float | None = price_list["usd_per_hour"].get(instance, {}).get(market)
        if usd is None:
            raise ClusterError(f"{prices}: no price of {instance}, {market}, for {cluster_yaml}; add it")
        return usd

    head_rate = rate(types[cluster.head_node_type])
    for name, node_type in types.items():
        instance, node_rate = node_type.node_config.InstanceType, rate(node_type)
        resources = node_type.resources or _Resources()
        per_node = _trials_per_node(resources, cpus, gpus)
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


def _trials_per_node(resources: _Resources, cpus: float, gpus: float) -> int:
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


def _reason(resources: _Resources, cpus: float, gpus: float) -> str:
    """Return why a node cannot run a trial."""
    if gpus > resources.GPU:
        return f"{resources.GPU:g} GPUs, a trial takes {gpus:g}"
    return f"{resources.CPU:g} CPUs, a trial takes {cpus:g}"


def _default_cluster() -> Path:
    path = next((path for path in (CLUSTER, Path(CLUSTER.name)) if path.is_file()), None)
    if path is None:
        raise ClusterError(f"no {CLUSTER.name} here, which the estimate needs: run this in the folder that holds it")
    return path


class _StrictLoader(yaml.SafeLoader):
    """Loads YAML without aliases, which can make a small file grow without limit, and without duplicate keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases (*) are not allowed", problem_mark=self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            raise yaml.MarkedYAMLError(problem="a key occurs twice", problem_mark=node.start_mark)
        return mapping


def _read_cluster(path: str | Path) -> _Cluster:
    """Return the cluster file, which users edit. Raises ClusterError that names the first problem."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES >> 10} KiB")
        tree = _StrictLoader(data.decode()).get_single_data()
    except Exception as error:  # PyYAML's constructors raise anything
        raise ClusterError(f"{path}: cannot be read as YAML ({_summary(error)})") from None
    try:
        return _Cluster.model_validate(tree, strict=True)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = _printable(".".join(map(str, first["loc"])))
        problem = f"{where}: {first['msg']}" if where else first["msg"]
        raise ClusterError(f"{path}: not a Ray cluster file ({problem})") from None


def _summary(error: Exception) -> str:
    """Return an error as one short line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return _printable(f"line {error.problem_mark.line + 1}: {error.problem or error.context}")
    return _printable((str(error) or type(error).__name__).splitlines()[0])


def _printable(text: str) -> str:
    """Return at most 200 characters of the text, escaped if it holds control characters."""
    return text[:200] if text.isprintable() else repr(text[:200])

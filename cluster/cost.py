"""What a sweep would cost on the cluster of ray_cluster.yaml, before anything is started."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError

from cluster.errors import ClusterError

CLUSTER = Path(__file__).parents[1] / "ray_cluster.yaml"
PRICES = Path(__file__).with_name("prices.yaml")

_MAX_BYTES = 128 << 10  # of a file; ray_cluster.yaml has 6 KiB
_SHARE = 10_000  # Ray counts resources in ten-thousandths


_Name = Annotated[str, Field(pattern=r"^[\w.+/@ -]{1,100}$")]
_Amount = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0, le=1_000_000)]
_Usd = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]


class _Market(BaseModel):
    MarketType: _Name | None = None


class _Node(BaseModel):
    InstanceType: _Name
    InstanceMarketOptions: _Market | None = None


class _Room(BaseModel):
    CPU: _Amount = 0
    GPU: _Amount = 0


class _Kind(BaseModel):
    node_config: _Node
    resources: _Room | None = None
    max_workers: _Count | None = None

    @property
    def market(self) -> Literal["spot", "on demand"]:
        options = self.node_config.InstanceMarketOptions
        return "spot" if options is not None and options.MarketType == "spot" else "on demand"


class _Cluster(BaseModel):
    """What is read of a file of Ray's launcher."""

    head_node_type: _Name
    available_node_types: dict[_Name, _Kind]
    max_workers: _Count = 2


class _Prices(BaseModel):
    region: _Name
    date: datetime.date | _Name
    usd_per_hour: dict[_Name, dict[Literal["spot", "on_demand"], _Usd]]


_Model = TypeVar("_Model", bound=BaseModel)


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
    cluster_yaml: str | Path | None = None,
    prices: str | Path = PRICES,
    *,
    trial_seconds: float,
    num_trials: int,
    cpus: float,
    gpus: float,
) -> list[Row]:
    """A sweep on one node, and on as many as there may be and it has work for, of each type in Ray's cluster file.

    cluster_yaml: by default this source tree's, or that of the current folder where there is only the package.
    trial_seconds: how long a trial runs to its end. cpus, gpus: what a trial takes. A trial does not leave its node,
    and a part of a GPU is a part of one GPU. Types that cannot hold a trial come last, with the reason.

    Raises ClusterError for a file that cannot be read and a type without a price, ValueError for needs below zero.
    """
    if min(cpus, gpus) < 0 or cpus == gpus == 0:
        raise ValueError(f"a trial that takes {cpus:g} CPUs and {gpus:g} GPUs: it takes some of either")
    cluster_yaml = cluster_yaml or _own_cluster()
    file = _read(cluster_yaml, _Cluster, "a cluster of Ray's launcher")
    priced = _read(prices, _Prices, "a list of prices")
    rows, out = [], []
    types, as_of = file.available_node_types, f"{priced.region}, {priced.date}"
    if file.head_node_type not in types:
        raise ClusterError(f"{cluster_yaml}: head_node_type is none of its available_node_types")
    head_rate = _rate(priced, types[file.head_node_type], prices)
    for name, kind in types.items():
        instance, rate = kind.node_config.InstanceType, _rate(priced, kind, prices)
        room = kind.resources or _Room()
        held = _trials_held(room, cpus, gpus)
        if held == 0:
            out.append(Row(name, instance, kind.market, 0, 0, 0.0, 0.0, as_of, _reason(room, cpus, gpus)))
            continue
        own = file.max_workers if kind.max_workers is None else kind.max_workers
        most = 1 if name == file.head_node_type else min(own, file.max_workers)
        useful = min(most, math.ceil(num_trials / held))
        for nodes in sorted({min(1, useful), useful}):
            spent = hours(num_trials, trial_seconds, max(1, nodes * held))
            usd = spent * (rate * nodes + (0 if name == file.head_node_type else head_rate))
            rows.append(Row(name, instance, kind.market, held, nodes, spent, usd, as_of))
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


def _trials_held(room: _Room, cpus: float, gpus: float) -> int:
    """How many trials a node has room for, as Ray places them."""
    limits = []
    if cpus:
        limits.append(_parts(room.CPU) // _parts(cpus))
    if gpus:
        devices = int(room.GPU)
        limits.append(devices * (_SHARE // _parts(gpus)) if gpus < 1 else _parts(devices) // _parts(gpus))
    return min(limits)


def _parts(amount: float) -> int:
    return max(1, round(amount * _SHARE)) if amount else 0


def _reason(room: _Room, cpus: float, gpus: float) -> str:
    if gpus > room.GPU:
        return f"{room.GPU:g} GPUs, a trial takes {gpus:g}"
    return f"{room.CPU:g} CPUs, a trial takes {cpus:g}"


def _rate(priced: _Prices, kind: _Kind, prices: str | Path) -> float:
    instance = kind.node_config.InstanceType
    market: Literal["spot", "on_demand"] = "spot" if kind.market == "spot" else "on_demand"
    try:
        return priced.usd_per_hour[instance][market]
    except KeyError:
        raise ClusterError(f"{prices}: no price of {instance}, {market}; add it") from None


def _own_cluster() -> Path:
    found = next((path for path in (CLUSTER, Path(CLUSTER.name)) if path.is_file()), None)
    if found is None:
        raise ClusterError(
            f"no {CLUSTER.name} here, the cluster whose prices are asked for: run this in the folder that holds it"
        )
    return found


class _Plain(yaml.SafeLoader):
    """YAML without what grows as it is read (an alias stands for any number of values), and no key twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases (*) are not read", problem_mark=self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        found = super().construct_mapping(node, deep)
        if len(found) < len(node.value):
            raise yaml.MarkedYAMLError(problem="a key stands twice", problem_mark=node.start_mark)
        return found


def _read(path: str | Path, kind: type[_Model], what: str) -> _Model:
    """A file's YAML as a model. Raises ClusterError with the first thing that is wrong."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES >> 10} KiB")
        tree = _Plain(data.decode()).get_single_data()
    except Exception as error:  # PyYAML's constructors raise anything
        raise ClusterError(f"{path}: cannot be read as YAML ({_told(error)})") from None
    try:
        return kind.model_validate(tree, strict=True)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = _line(".".join(map(str, first["loc"])))
        raise ClusterError(f"{path}: not {what} ({f'{where}: ' if where else ''}{first['msg']})") from None


def _told(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return _line(f"line {error.problem_mark.line + 1}: {error.problem or error.context}")
    return _line((str(error) or type(error).__name__).splitlines()[0])


def _line(text: str) -> str:
    return text[:200] if text.isprintable() else repr(text[:200])

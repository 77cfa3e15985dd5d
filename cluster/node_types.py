"""The node types of a cluster and their prices, for estimates: from a Ray cluster file and prices.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.errors import ClusterError
from cluster.strict_yaml import load_yaml

CLUSTER_NAME = "ray_cluster.yaml"  # of the file that is used if the current folder has it
BUILT_IN = Path(__file__).with_name("default_cluster.yaml")  # otherwise
PRICES = Path(__file__).with_name("prices.yaml")

_MAX_BYTES = 128 << 10  # of a cluster file; ray_cluster.yaml has 6 KiB

_Name = Annotated[str, Field(pattern=r"^[\w.+/@ -]{1,100}$")]
_Amount = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0, le=1_000_000)]


class _Market(BaseModel):
    MarketType: _Name | None = None


class _NodeConfig(BaseModel):
    InstanceType: _Name
    InstanceMarketOptions: _Market | None = None


class Resources(BaseModel):
    """What a node offers. Further resources, such as `on_demand`, mark the nodes of a pool."""

    model_config = ConfigDict(extra="allow")
    CPU: _Amount = 0
    GPU: _Amount = 0


class NodeType(BaseModel):
    node_config: _NodeConfig
    resources: Resources | None = None
    max_workers: _Count | None = None

    @property
    def market(self) -> Literal["spot", "on demand"]:
        options = self.node_config.InstanceMarketOptions
        return "spot" if options is not None and options.MarketType == "spot" else "on demand"


class Cluster(BaseModel):
    """The parts of a cluster launcher's file that the estimate needs."""

    head_node_type: _Name
    available_node_types: dict[_Name, NodeType]
    max_workers: _Count = 2


class Prices(BaseModel):
    """The content of prices.yaml: USD per hour by instance type and market."""

    region: str
    date: Any  # YAML reads it as a date
    usd_per_hour: dict[str, dict[str, float]]

    @property
    def as_of(self) -> str:
        return f"{self.region}, {self.date}"


def cluster_file() -> Path:
    """Return the cluster file of estimates: ray_cluster.yaml of the current folder, otherwise the built-in one."""
    here = Path(CLUSTER_NAME)
    return here if here.is_file() else BUILT_IN


def read_prices(path: str | Path = PRICES) -> Prices:
    return Prices.model_validate(yaml.safe_load(Path(path).read_text()))


def rate(node_type: NodeType, prices: Prices, *, prices_file: str | Path, cluster_file: str | Path) -> float:
    """Return a node's price in USD per hour. Raises ClusterError, with the files' names, if there is none."""
    instance = node_type.node_config.InstanceType
    market = "spot" if node_type.market == "spot" else "on_demand"
    usd = prices.usd_per_hour.get(instance, {}).get(market)
    if usd is None:
        raise ClusterError(f"{prices_file}: no price of {instance}, {market}, for {cluster_file}; add it")
    return usd


def read_cluster(path: str | Path) -> Cluster:
    """Return the cluster file, which users edit. Raises ClusterError that names the first problem."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES >> 10} KiB")
        tree = load_yaml(data.decode())
    except Exception as error:  # PyYAML's constructors raise anything
        raise ClusterError(f"{path}: cannot be read as YAML ({_summary(error)})") from None
    try:
        cluster = Cluster.model_validate(tree, strict=True)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = _printable(".".join(map(str, first["loc"])))
        problem = f"{where}: {first['msg']}" if where else first["msg"]
        raise ClusterError(f"{path}: not a Ray cluster file ({problem})") from None
    if cluster.head_node_type not in cluster.available_node_types:
        raise ClusterError(f"{path}: head_node_type is not one of available_node_types")
    return cluster


def _summary(error: Exception) -> str:
    """Return an error as one short line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return _printable(f"line {error.problem_mark.line + 1}: {error.problem or error.context}")
    return _printable((str(error) or type(error).__name__).splitlines()[0])


def _printable(text: str) -> str:
    """Return at most 200 characters of the text, escaped if it holds control characters."""
    return text[:200] if text.isprintable() else repr(text[:200])

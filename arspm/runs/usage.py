"""What a stage requests from a cluster and what it used: workers, CPUs, GPUs, nodes, hours and cost.

Amounts are those that a stage requests, not what its workers made of them. They count for the seconds of the job that
finished the stage, the wait for nodes included: nothing records how long earlier, interrupted attempts took.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, Field

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Number = Annotated[int, Field(ge=0)]


class Nodes(BaseModel):
    """The cheapest nodes of one type that hold a stage's workers, or the part of nodes that holds a sweep's trial.

    usd_per_hour: of all of them. prices: where the prices are from, for messages.
    """

    node_type: str
    instance: str
    market: str
    number: Amount
    usd_per_hour: Amount
    prices: str


class Requested(BaseModel):
    """What a stage requests at a time.

    workers: training workers or tasks; 0 for a stage that runs in its driver only. least_workers: a smaller number if
    the number may change during the training; all amounts are then those of the most workers. cpus, gpus: of all
    workers and of the tasks that read for them. nodes: None without a price; no_price then says why.
    """

    workers: Number = 0
    least_workers: Number = 0
    cpus: Amount = 0
    gpus: Amount = 0
    nodes: Nodes | None = None
    no_price: str = ""

    def used(self, seconds: float, gpu_types: Sequence[str] = ()) -> Usage:
        """Return what this is for a time. gpu_types: as Ray names them."""
        fields = {name: getattr(self, name) for name in Requested.model_fields}
        return Usage(
            **fields,
            gpu_types=list(gpu_types),
            gpu_hours=self.gpus * seconds / 3600,
            usd=None if self.nodes is None else self.nodes.usd_per_hour * seconds / 3600,
        )


class Usage(Requested):
    """What a stage requested, for its whole time. usd: cost of the nodes, None without a price."""

    gpu_types: list[str] = []
    gpu_hours: Amount = 0
    usd: Amount | None = None

"""Settings of the resources that stages request from the cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field, ValidationError, WrapValidator, field_validator, model_validator
from pydantic_core import PydanticCustomError

from arspm.config.fields import Count, NonNegative, Section


def _one_worker_error(value: Any, validate: Callable[[Any], Any]) -> Any:
    """Return the validated value. Raises one error; pydantic raises one for each type of the union."""
    try:
        return validate(value)
    except ValidationError:
        raise PydanticCustomError("workers", "Input should be a number from 1, or a range such as [1, 4]") from None


WorkerCount = Annotated[Count | tuple[Count, Count], WrapValidator(_one_worker_error)]
_POOL_AMOUNT = 0.001  # of the pool's resource: a node only needs to have it
_RESERVED_RESOURCES = ("memory", "object_store_memory")  # Ray's own resources; not the names of pools


class ResourceRequest(Section):
    """CPUs, GPUs and memory that one worker or task requests."""

    cpus: NonNegative = 1  # CPUs; fractions are allowed
    gpus: NonNegative = 0  # GPUs; fractions are allowed
    memory_gib: NonNegative = 0  # memory that Ray reserves, but does not enforce; 0: no reservation
    pool: Annotated[str, Field(pattern=r"^([a-z][a-z0-9_]*)?$")] = ""  # only nodes with this resource, e.g. `on_demand`
    threads: Count | None = None  # torch's threads for CPU operations; null: torch's own choice

    @field_validator("pool")
    @classmethod
    def _not_reserved(cls, pool: str) -> str:
        if pool in _RESERVED_RESOURCES:
            raise ValueError(f"{pool} is one of Ray's built-in resources; choose another name for the pool")
        return pool

    @property
    def memory_bytes(self) -> float:
        return self.memory_gib * 2**30

    @property
    def remote_options(self) -> dict[str, Any]:
        """Keyword arguments of `ray.remote` and of Ray Data's operators."""
        options: dict[str, Any] = {"num_cpus": self.cpus}
        options |= {"num_gpus": self.gpus} if self.gpus else {}
        options |= {"memory": self.memory_bytes} if self.memory_gib else {}
        return options | ({"resources": {self.pool: _POOL_AMOUNT}} if self.pool else {})

    @property
    def bundle(self) -> dict[str, float]:
        """The bundle of a placement group."""
        amounts = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory_bytes}
        amounts |= {self.pool: _POOL_AMOUNT} if self.pool else {}
        return {name: amount for name, amount in amounts.items() if amount or name == "CPU"}


class Workers(ResourceRequest):
    """A group of training workers. The resources are those of one worker."""

    cuda_graph: bool = False  # one worker with a GPU replays a training step as a CUDA graph; not with `compile`
    num_workers: WorkerCount = 1  # a number, or [least, most]: as many as fit, which may change during training

    @property
    def least(self) -> int:
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def most(self) -> int:
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]


class Tasks(ResourceRequest):
    """Ray Data tasks of one kind. The resources are those of one task."""

    num_tasks: Count = 1  # tasks that run concurrently


class Trial(Workers):
    """A trial of a sweep. With one worker it runs inside Tune's actor."""

    num_workers: Count = 1  # workers of each trial

    @model_validator(mode="before")
    @classmethod
    def _without_former_field(cls, value: Any) -> Any:
        """Accept the manifests of earlier versions. No result depended on `share_gib`."""
        return {name: each for name, each in value.items() if name != "share_gib"} if isinstance(value, dict) else value


class Resources(Section):
    """Resources that the stages request. Not part of any fingerprint: they change the speed, not the result."""

    vggface: Workers = Workers()
    gender: Workers = Workers()
    decoder: Workers = Workers()
    encoder: Workers = Workers()
    trial: Trial = Trial()
    preprocess: Tasks = Tasks()
    read: Tasks = Tasks()  # tasks that read the corpus beside each training worker, and each `infer` task with a GPU
    infer: Tasks = Tasks()  # tasks that run trained networks
    max_failures: Annotated[int, Field(ge=0)] = 3  # lost workers or nodes after which a stage or trial fails

    @model_validator(mode="before")
    @classmethod
    def _without_former_field(cls, value: Any) -> Any:
        """Accept the manifests of earlier versions, which had one number of threads for all sections."""
        if not isinstance(value, dict) or "threads_per_worker" not in value:
            return value
        value = dict(value)
        threads = {"threads": value.pop("threads_per_worker")}
        return {name: threads | each if isinstance(each, dict) else each for name, each in value.items()}

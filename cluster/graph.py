"""The stages of a chain: their order, and whether the cluster has room for one more."""

from __future__ import annotations

import graphlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cluster.job import Resources


@dataclass(frozen=True)
class Stage:
    """One step of the chain. The resources are the stage's total; they decide which stages run in parallel."""

    name: str
    needs: tuple[str, ...]
    entrypoint: str
    num_cpus: float = 0
    num_gpus: float = 0
    memory_bytes: float = 0


def stage_order(stages: Sequence[Stage]) -> list[str]:
    """Return the stages' names, each after the stages it needs. Raises ValueError that lists every mistake."""
    problems = []
    names = [stage.name for stage in stages]
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.append(f"two stages are called {name!r}: rename one")
    for stage in stages:
        if not re.fullmatch(r"[a-z0-9_-]+", stage.name):
            problems.append(f"stage name {stage.name!r}: use only a-z, 0-9, _ and - (it becomes part of a job id)")
        for need in stage.needs:
            if need not in names:
                problems.append(f"stage {stage.name!r} needs {need!r}, which is not a stage")
    if problems:
        raise ValueError("; ".join(problems))
    try:
        return list(graphlib.TopologicalSorter({stage.name: stage.needs for stage in stages}).static_order())
    except graphlib.CycleError as error:
        raise ValueError(f"the stages form a cycle: {' -> '.join(error.args[1][::-1])}") from None


def select_stages(stages: Sequence[Stage], until: str | None) -> list[Stage]:
    """Return the stages in order; with `until`, only that stage and those it depends on.

    Raises ValueError like `stage_order`, and for an unknown `until`.
    """
    order, by_name = stage_order(stages), {stage.name: stage for stage in stages}
    if until is None:
        return [by_name[name] for name in order]
    if until not in by_name:
        raise ValueError(f"there is no stage {until!r}; the stages are {', '.join(order)}")
    selected: set[str] = set()
    todo = [until]
    while todo:
        selected.add(name := todo.pop())
        todo.extend(by_name[name].needs)
    return [by_name[name] for name in order if name in selected]


def missing_resources(stage: Stage, running: Iterable[Stage], total: Resources) -> str:
    """Return what the cluster lacks to run the stage beside the running ones, as text; empty if the stage fits."""
    running, missing = list(running), []
    for key, unit in (("num_cpus", "CPUs"), ("num_gpus", "GPUs"), ("memory_bytes", "bytes of memory")):
        requested, available = getattr(stage, key), getattr(total, key)
        if requested > 0 and requested + sum(getattr(other, key) for other in running) > available + 1e-9:
            missing.append(f"{requested:g} {unit} of a cluster with {available:g}")
    return " and ".join(missing)

"""Sums over finished stages: time, GPU-hours and cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from arspm import storage
from arspm.runs import stages
from arspm.runs.adopted import FIGURE
from arspm.runs.usage import Usage

_DRIVER_ONLY = Usage()  # stands for the missing record of a stage that uses no workers
_NOT_RECORDED = "an earlier version did not record what it used"


class Entry(NamedTuple):
    """What one stage, model or sweep took. usage: None if it was not recorded."""

    name: str
    seconds: float
    usage: Usage | None


class Spent(NamedTuple):
    """A sum. gpu_hours: None if nothing was recorded. usd: of all that has a price, None if nothing has.

    prices: where the prices are from. unpriced: what is not in `usd`, by name, with the reason.
    """

    seconds: float
    gpu_hours: float | None
    usd: float | None
    prices: list[str]
    unpriced: dict[str, str]


def entry(stage: str, done: stages.Success, name: str = "") -> Entry:
    """Return what a finished stage took. name: what to call it (default: the stage)."""
    driver_only = not stages.STAGES[stage].resources
    return Entry(name or stage, done.seconds, done.usage or (_DRIVER_ONLY if driver_only else None))


def own_entries(run: str, manifests: Mapping[str, stages.Success | None]) -> list[Entry]:
    """Return what each finished stage took that the run has computed itself."""
    return [
        entry(stage, done)
        for stage, done in manifests.items()
        if done is not None and not computed_by(run, stage, done)
    ]


def total(entries: Iterable[Entry]) -> Spent:
    """Return the sum of entries."""
    entries = list(entries)
    recorded = [each.usage for each in entries if each.usage is not None and each.usage is not _DRIVER_ONLY]
    priced = [usage for usage in recorded if usage.nodes is not None and usage.usd is not None]
    unpriced = {
        each.name: _NOT_RECORDED if each.usage is None else each.usage.no_price
        for each in entries
        if each.usage is None or (each.usage.workers and each.usage.usd is None)
    }
    return Spent(
        sum(each.seconds for each in entries),
        sum(usage.gpu_hours for usage in recorded) if recorded else None,
        sum(usage.usd or 0.0 for usage in priced) if priced else None,
        list(dict.fromkeys(usage.nodes.prices for usage in priced if usage.nodes is not None)),
        unpriced,
    )


def computed_by(run: str, stage: str, done: stages.Success) -> str:
    """Return the other run that computed a finished stage, "" if the run did itself.

    That is the run whose corpus it adopted or, for a variant, its parent run.
    """
    shared = stages.folder(run, stage) != storage.join(run, stage)
    return str(done.figures.get(FIGURE) or (stages.parent_run(run) if shared else ""))

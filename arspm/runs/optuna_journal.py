"""A sweep's records as an Optuna study, in a journal file that `optuna-dashboard` and Optuna itself open.

The journal is a copy for other tools: no sweep reads it. Optuna's own states are used where they mean the same; every
trial also has its state, reason and figures here as user attributes.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState

from arspm.runs.sweeps import Record, is_finite

STATES = {
    "finished": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "running": TrialState.RUNNING,
    "interrupted": TrialState.WAITING,  # it will be resumed
    "waiting": TrialState.WAITING,
}
MAX_TRIALS = 1_000_000  # Optuna needs a trial for every number below the last one
_ATTRIBUTES = ("state", "reason", "best_epoch", "seconds", "cpus", "gpus", "attempts", "is_paper")


def distribution(domain: Mapping[str, Any]) -> BaseDistribution:
    """Return Optuna's distribution of a dimension's values."""
    if domain["kind"] == "choice":
        return CategoricalDistribution(domain["values"])
    return FloatDistribution(domain["low"], domain["high"], log=domain["kind"] == "loguniform")


def journal(sweep: Mapping[str, Any], records: Mapping[int, Record]) -> bytes:
    """Return the content of a journal file with a sweep as its only study. Trials keep their numbers.

    sweep: the content of its sweep.json. records: its trials' by number. Raises ValueError for a number that no sweep
    reaches.
    """
    last = max(records, default=-1)
    if last >= MAX_TRIALS:
        raise ValueError(f"trial {last}: no sweep has as many trials; remove the record")
    collected = _Collected()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=JournalStorage(collected),
        study_name=f"{sweep.get('run', 'run')}/{sweep.get('name', 'sweep')}",
        direction="minimize" if sweep["mode"] == "min" else "maximize",
    )
    for name in ("run", "preset", "metric", "search", "scheduler", "seed"):
        study.set_user_attr(name, sweep.get(name))
    for number in range(last + 1):
        study.add_trial(_trial(records[number], sweep) if number in records else FrozenTrial(**_WAITING))
    return "".join(f"{json.dumps(log, separators=(',', ':'))}\n" for log in collected.logs).encode()


class _Collected(BaseJournalBackend):
    """A journal in memory. Optuna's own file is flushed to the disk for every trial."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.logs += logs


# A trial whose number Optuna needs because a later one has a record.
_WAITING: dict[str, Any] = {
    "number": -1,
    "trial_id": -1,
    "state": TrialState.WAITING,
    "value": None,
    "datetime_start": None,
    "datetime_complete": None,
    "params": {},
    "distributions": {},
    "user_attrs": {"state": "waiting"},
    "system_attrs": {},
    "intermediate_values": {},
}


def _trial(record: Record, sweep: Mapping[str, Any]) -> FrozenTrial:
    """Return a record as Optuna's trial. A value outside the sweep's space is left out."""
    metric, space = sweep["metric"], sweep["space"]
    state = STATES[record["state"]]
    if state == TrialState.COMPLETE and not is_finite(record["best"]):
        state = TrialState.FAIL  # Optuna knows no complete trial without a value
    started = record["started"] or 0.0
    params = {name: value for name, value in record["sample"].items() if name in space and _is_in(value, space[name])}
    epochs = {int(each["epoch"]): each for each in record["epochs"] if is_finite(each.get("epoch"))}
    at_best = epochs.get(record["best_epoch"], {})
    ended = record["ended"] or started + (record["seconds"] or 0.0)
    return FrozenTrial(
        **_WAITING
        | {
            "state": state,
            "value": record["best"] if state in (TrialState.COMPLETE, TrialState.PRUNED) else None,
            "datetime_start": None if state == TrialState.WAITING else _date(started),
            "datetime_complete": _date(ended) if state.is_finished() else None,
            "params": params,
            "distributions": {name: distribution(space[name]) for name in params},
            "user_attrs": {name: record[name] for name in _ATTRIBUTES}
            | {f"{name} at the best epoch": value for name, value in at_best.items() if name != "epoch"},
            "intermediate_values": {
                number: float(epoch[metric]) for number, epoch in epochs.items() if is_finite(epoch.get(metric))
            },
        }
    )


def _is_in(value: Any, domain: Mapping[str, Any]) -> bool:
    if domain["kind"] == "choice":
        return value in domain["values"]
    return is_finite(value) and domain["low"] <= value <= domain["high"]


def _date(seconds: float) -> datetime.datetime:
    """Return a time stamp's date; 1970 for a time stamp that has none."""
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    except (ValueError, OverflowError, OSError):
        return datetime.datetime.fromtimestamp(0, datetime.timezone.utc)

"""The files in a sweep's folder: the sweep's definition, a record for each trial, and the results for its page.

sweep.json          the sweep's definition
trials/00003.json   a trial's record, written when the trial starts and when it ends
trials/00003.jpg    the trial's portraits of the sweep's clips, side by side
trials/00003.log    what the trial's process logged (see `distributed.tune.trial_log`)
stop/00003.json     a request to stop the trial (see `stop_requests`)
clips.jpg           the real faces of those clips, side by side
results.json        the sweep's state and a summary of each trial, which the page shows
curves.json.gz      the trials' learning curves (see `sweep_curves`)
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from arspm import storage
from arspm.runs.kept_epoch import TRAIN_LOSS

FOLDER = "sweeps"
SWEEP, RESULTS, PAGE, CLIPS = "sweep.json", "results.json", "index.html", "clips.jpg"
TRIALS = "trials"
ENDED = ("finished", "stopped", "failed")  # states of trials that do not run again
STATES = ("waiting", "running", "interrupted", *ENDED)
MAX_PICTURES = 24  # number of trials whose portraits the page shows
MAX_REASON = 300  # characters of a trial's reason in results.json; its record has all of them

Record = dict[str, Any]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _SweepFile(BaseModel):
    """The required fields of one of a sweep's files, which may have more."""

    model_config = ConfigDict(extra="allow")


class _Sweep(_SweepFile):
    space: dict[str, Any]
    metric: str
    mode: Literal["min", "max"]
    config: dict[str, Any]


class _Record(_SweepFile):
    number: Annotated[int, Field(ge=0)]
    sample: dict[str, Any]
    changes: dict[str, Any]
    state: Literal[STATES]  # type: ignore[valid-type]
    reason: str = ""
    epochs: list[dict[str, Any]] = []
    best: Finite | None = None
    best_epoch: int | None = None
    started: Finite | None = None
    ended: Finite | None = None
    seconds: Finite | None = 0.0
    cpus: Finite | None = 0.0
    gpus: Finite | None = 0.0
    attempts: int = 0
    is_paper: bool = False


class _Metric(_SweepFile):
    metric: str


class _Trial(_SweepFile):
    number: int
    best: Finite | None


class _Results(_SweepFile):
    sweep: _Metric
    state: str
    reason: str = ""
    counts: dict[str, int]
    trials: list[_Trial]
    best: int | None

    @model_validator(mode="after")
    def _check_counts_and_best(self) -> _Results:
        best_trials = [trial for trial in self.trials if trial.number == self.best]
        if not {"planned", *ENDED} <= self.counts.keys() or any(trial.best is None for trial in best_trials):
            raise ValueError("counts or the best trial")
        return self


def _read(uri: str, data: bytes, kind: type[_SweepFile], message: str) -> dict[str, Any]:
    """Return the JSON object of a file, with None for NaN and infinity. Raises ValueError if it is not a `kind`."""
    try:
        value: dict[str, Any] = json.loads(data, parse_constant=lambda _: None)
        kind.model_validate(value, strict=True)
    except (ValueError, RecursionError):  # pydantic's error is a ValueError
        raise ValueError(f"{uri}: {message}") from None
    return value


def folder(run: str, name: str) -> str:
    """Return the URI of a sweep's folder. Raises ValueError for an invalid name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
        raise ValueError(
            f"sweep name {name!r}: use up to 100 letters, digits and _ . -, starting with a letter or digit; set --name"
        )
    return storage.join(run, FOLDER, name)


def names(run: str) -> list[str]:
    """Return the names of a run's sweeps, sorted."""
    paths = storage.files_below(storage.join(run, FOLDER))
    return sorted({path.split("/")[0] for path in paths if path.endswith(f"/{SWEEP}") and path.count("/") == 1})


def load(sweep_folder: str) -> dict[str, Any]:
    """Return a sweep's definition, sweep.json. Raises FileNotFoundError, or ValueError for an invalid file."""
    uri = storage.join(sweep_folder, SWEEP)
    return _read(uri, storage.read_bytes(uri), _Sweep, "not a sweep")


def read_results(sweep_folder: str) -> dict[str, Any] | None:
    """Return the content of results.json, None before the first trial. Raises ValueError for an invalid file."""
    uri = storage.join(sweep_folder, RESULTS)
    if not storage.exists(uri):
        return None
    return _read(uri, storage.read_bytes(uri), _Results, "not a sweep's results; run the sweep to write it again")


def summary(content: Mapping[str, Any], *, running: bool) -> str:
    """Return the numbers of trials by state and the best trial, in one line, from the content of results.json.

    running: whether the sweep's job is alive; if it died, no trial that the file says runs does.
    """
    counts = {state: int(content["counts"].get(state, 0)) for state in (*ENDED, "running", "interrupted")}
    if not running:
        counts["interrupted"] += counts.pop("running")
    words = {"stopped": "stopped early"}
    parts = [f"{number} {words.get(state, state)}" for state, number in counts.items() if number]
    text = f"{', '.join(parts) or '0 started'} of {int(content['counts']['planned'])} trials"
    _, best_trial = ended_and_best(content)
    if best_trial is None:
        return text
    return f"{text}; best {content['sweep']['metric']} {best_trial['best']:.4g} in trial {best_trial['number']}"


def ended_and_best(content: Mapping[str, Any]) -> tuple[str, Record | None]:
    """Return, from the content of results.json, the text "<ended> of <planned>" and the best trial, if any."""
    ended = sum(int(content["counts"][state]) for state in ENDED)
    best_trial = next((trial for trial in content["trials"] if trial["number"] == content["best"]), None)
    return f"{ended} of {int(content['counts']['planned'])}", best_trial


def is_done(content: Mapping[str, Any], sweep: Mapping[str, Any]) -> bool:
    """Return whether a sweep needs no further trial: all have ended, or the best one reaches the target, if any.

    content: of its results.json. sweep: of its sweep.json, as planned now.
    """
    if content["state"] == "finished" and content["counts"]["planned"] >= sweep["num_trials"]:
        return True
    return bool(target_reached(ended_and_best(content)[1], sweep))


def target_reached(record: Record | None, sweep: Mapping[str, Any]) -> str:
    """Return a line that says that a trial is as good as the sweep's target; empty if it is not, or without a target.

    record: of the trial, or its summary, or None.
    """
    target = sweep.get("target")
    if record is None or record["best"] is None or target is None:
        return ""
    reached = record["best"] <= target if sweep["mode"] == "min" else record["best"] >= target
    return f"reached the target {target} with trial {record['number']}" if reached else ""


def new_record(number: int, sample: Mapping[str, Any], changes: Mapping[str, Any], paper: bool) -> Record:
    """Return the record of a trial that has not started."""
    return {
        "number": number,
        "sample": dict(sample),
        "changes": dict(changes),
        "state": "waiting",
        "reason": "",
        "epochs": [],
        "best": None,
        "best_epoch": None,
        "started": None,
        "ended": None,
        "seconds": 0.0,
        "cpus": 0.0,
        "gpus": 0.0,
        "attempts": 0,
        "is_paper": paper,
    }


def add_epoch(record: Record, figures: Mapping[str, Any], metric: str, mode: str) -> None:
    """Add an epoch's figures to a record, with None for NaN and infinity, which JSON does not have.

    After a retry, the epoch replaces itself and all later epochs of the record. Updates `best` and `best_epoch`: of
    epochs with the same value, the one with the smallest training loss is the best.
    """
    kept = [epoch for epoch in record["epochs"] if epoch["epoch"] < figures["epoch"]]
    record["epochs"] = [*kept, {name: value if is_finite(value) else None for name, value in figures.items()}]
    known = [epoch for epoch in record["epochs"] if is_finite(epoch.get(metric))]
    record["best"] = record["best_epoch"] = None
    if known:
        sign = 1 if mode == "min" else -1
        best = min(known, key=lambda epoch: (sign * epoch[metric], _loss(epoch)))
        record["best"], record["best_epoch"] = best[metric], best["epoch"]


def stem(number: int) -> str:
    """Return the path of a trial's files in the sweep's folder, without the suffix."""
    return f"{TRIALS}/{number:05d}"


def write_record(sweep_folder: str, record: Record) -> None:
    text = json.dumps(record, allow_nan=False)
    storage.write_bytes(storage.join(sweep_folder, f"{stem(record['number'])}.json"), text.encode())


def read_records(sweep_folder: str) -> dict[int, Record]:
    """Return every trial's record by number, sorted. Raises ValueError, with the file's URI, for an invalid file."""
    records = {}
    for path, data in storage.read_folder(storage.join(sweep_folder, TRIALS), ".json").items():
        record = _checked_record(sweep_folder, f"{TRIALS}/{path}", data)
        records[record["number"]] = record
    return dict(sorted(records.items()))


def read_record(sweep_folder: str, number: int) -> Record | None:
    """Return a trial's record, None if the trial has not started. Raises as `read_records` does."""
    path = f"{stem(number)}.json"
    uri = storage.join(sweep_folder, path)
    return _checked_record(sweep_folder, path, storage.read_bytes(uri)) if storage.exists(uri) else None


def _checked_record(sweep_folder: str, path: str, data: bytes) -> Record:
    uri = storage.join(sweep_folder, path)
    record = _read(uri, data, _Record, "not a trial's record; remove it")
    if path != f"{stem(record['number'])}.json":
        raise ValueError(f"{uri}: not a trial's record; remove it")
    # Records of earlier versions lack some fields.
    return new_record(record["number"], record["sample"], record["changes"], False) | record


def best(records: Iterable[Record], mode: str) -> Record | None:
    """Return the record with the best value, or None. Failed trials are excluded."""
    return next(iter(_best_first(records, mode)), None)


def _best_first(records: Iterable[Record], mode: str) -> list[Record]:
    usable = [record for record in records if is_finite(record["best"]) and record["state"] != "failed"]
    return sorted(usable, key=lambda record: record["best"], reverse=mode == "max")


def results(
    sweep: Mapping[str, Any],
    records: Sequence[Record],
    *,
    state: str,
    reason: str = "",
    updated: float,
    spent_seconds: float,
    importance: Mapping[str, Any] | None,
    pictures: Mapping[str, Any],
    config_of_best: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the content of results.json, with a summary of each trial. Trials that have not started are only counted.

    reason: why the sweep stopped before its last trial, in one line.
    """
    records = [record for record in records if record["state"] != "waiting"]
    counts = {"planned": sweep["num_trials"], "waiting": max(0, sweep["num_trials"] - len(records))}
    counts |= dict.fromkeys(("running", "finished", "stopped", "failed", "interrupted"), 0)
    for record in records:
        counts[record["state"]] += 1
    best_trial = best(records, sweep["mode"])
    paper_trials = [record for record in records if record["is_paper"] and record["state"] == "finished"]
    values = [record["best"] for record in paper_trials if is_finite(record["best"])]
    return {
        "sweep": {key: value for key, value in sweep.items() if key != "config"},
        "state": state,
        "reason": reason,
        "updated": updated,
        "spent_seconds": spent_seconds,
        "eta_seconds": _eta(sweep, records) if state == "running" else None,
        "cpu_hours": sum((record["seconds"] or 0) * (record["cpus"] or 0) for record in records) / 3600,
        "gpu_hours": sum((record["seconds"] or 0) * (record["gpus"] or 0) for record in records) / 3600,
        "counts": counts,
        "trials": [trial_summary(record) for record in records],
        "best": None if best_trial is None else best_trial["number"],
        "paper": {
            "numbers": [record["number"] for record in paper_trials],
            "mean": statistics.fmean(values) if values else None,
            "sd": statistics.stdev(values) if len(values) > 1 else None,
        },
        "importance": importance,
        "pictures": pictures,
        "config_of_best": config_of_best,
    }


def trial_summary(record: Record) -> dict[str, Any]:
    """Return what results.json says about a trial. Its epochs are in its record and, thinned, in the curves."""
    names = ("number", "sample", "state", "best", "best_epoch", "seconds", "cpus", "gpus", "attempts", "is_paper")
    summary = {name: record[name] for name in names}
    if record["changes"] != record["sample"]:  # a label stands for several fields
        summary["changes"] = record["changes"]
    num_epochs = record["epochs"][-1].get("epoch", 0) if record["epochs"] else 0
    summary |= {name: record[name] and round(record[name], 1) for name in ("started", "ended")}
    return summary | {"reason": record["reason"][:MAX_REASON], "num_epochs": num_epochs}


def pictures(sweep_folder: str, records: Sequence[Record], mode: str, known: set[int]) -> dict[str, Any]:
    """Return the paths of the real faces and of the best trials' portraits in the sweep's folder, as references.

    known: numbers of trials whose portraits exist. It gains those that are found, so each is looked up once. The query
    `?epoch=` of a reference changes when the trial's portraits do, so that no browser shows old ones.
    """
    portraits = {}
    for record in _best_first(records, mode)[:MAX_PICTURES]:
        path, number = f"{stem(record['number'])}.jpg", record["number"]
        if number in known or storage.exists(storage.join(sweep_folder, path)):
            known.add(number)
            portraits[str(number)] = f"{path}?epoch={record['best_epoch']}"
    real = storage.exists(storage.join(sweep_folder, CLIPS))
    return {"real": CLIPS if real else None, "trials": portraits}


def _eta(sweep: Mapping[str, Any], records: Sequence[Record]) -> float | None:
    """Return the estimated seconds until the last trial ends, from the mean time of ended trials; None without one."""
    trial_seconds = [record["seconds"] or 0.0 for record in records if record["state"] in ("finished", "stopped")]
    num_left = sweep["num_trials"] - sum(record["state"] in ENDED for record in records)
    if not trial_seconds:
        return None
    spent = sum(record["seconds"] or 0 for record in records if record["state"] == "running")
    seconds_left = max(0.0, num_left * statistics.fmean(trial_seconds) - spent)
    return seconds_left / max(1, min(sweep["max_concurrent"], num_left))


def _loss(epoch: Mapping[str, Any]) -> float:
    """Return an epoch's training loss, infinity if it has none."""
    loss = epoch.get(TRAIN_LOSS)
    return float(loss) if loss is not None and is_finite(loss) else math.inf


def is_finite(value: Any) -> bool:
    """Return whether a value is a number, and neither NaN nor infinite."""
    return isinstance(value, int | float) and math.isfinite(value)

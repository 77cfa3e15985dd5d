"""A sweep's folder in a run: each trial's record, and the results that its page shows. JSON; it knows no Ray.

sweep.json          what the sweep is
trials/00003.json   a trial's record, written when it begins and at once when it ends
trials/00003.jpg    its portraits of the sweep's clips, side by side
clips.jpg           those speakers' real faces, likewise
results.json        all of it in one, as the page has it
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

FOLDER = "sweeps"
SWEEP, RESULTS, PAGE, CLIPS = "sweep.json", "results.json", "index.html", "clips.jpg"
TRIALS = "trials"
ENDED = ("finished", "stopped", "failed")  # states that a sweep does not repeat
STATES = ("waiting", "running", "interrupted", *ENDED)
MAX_PICTURES = 24  # trials whose portraits the page has

Record = dict[str, Any]


Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Read(BaseModel):
    """What others rely on in a file of a sweep; it may hold more."""

    model_config = ConfigDict(extra="allow")


class _Sweep(_Read):
    space: dict[str, Any]
    metric: str
    mode: Literal["min", "max"]
    config: dict[str, Any]


class _Record(_Read):
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


class _Metric(_Read):
    metric: str


class _Trial(_Read):
    number: int
    best: Finite | None


class _Results(_Read):
    sweep: _Metric
    state: str
    counts: dict[str, int]
    trials: list[_Trial]
    best: int | None

    @model_validator(mode="after")
    def _agree(self) -> _Results:
        leading = [trial for trial in self.trials if trial.number == self.best]
        if not {"planned", *ENDED} <= self.counts.keys() or any(trial.best is None for trial in leading):
            raise ValueError("counts or the best trial")
        return self


def _read(uri: str, data: bytes, kind: type[_Read], otherwise: str) -> dict[str, Any]:
    """The JSON object of a file, None for each of its numbers that is not finite. ValueError where it is no `kind`."""
    try:
        value = json.loads(data, parse_constant=lambda _: None)
        kind.model_validate(value, strict=True)
    except (ValueError, RecursionError):  # pydantic's error is a ValueError
        raise ValueError(f"{uri}: {otherwise}") from None
    found: dict[str, Any] = value
    return found


def folder(run: str, name: str) -> str:
    """The folder of a run's sweep. Raises ValueError for a name that makes none."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
        raise ValueError(
            f"sweep name {name!r}: letters, digits and _ . - only, 100 at most, the first no sign; give one by --name"
        )
    return storage.join(run, FOLDER, name)


def names(run: str) -> list[str]:
    """The sweeps of a run."""
    found = storage.files_below(storage.join(run, FOLDER))
    return sorted({path.split("/")[0] for path in found if path.endswith(f"/{SWEEP}") and path.count("/") == 1})


def load(place: str) -> dict[str, Any]:
    """What the sweep in a folder is. Raises FileNotFoundError, or ValueError for another thing of that name."""
    uri = storage.join(place, SWEEP)
    return _read(uri, storage.read_bytes(uri), _Sweep, "not a sweep")


def summary(run: str, name: str) -> str:
    """How a sweep stands, in a line."""
    uri = storage.join(folder(run, name), RESULTS)
    if not storage.exists(uri):
        return "no trial yet"
    found = _read(uri, storage.read_bytes(uri), _Results, "not a sweep's results; the sweep writes them anew")
    ended, leading = standing(found)
    metric = found["sweep"]["metric"]
    told = "" if leading is None else f", best {metric} {leading['best']:.4g} in trial {leading['number']}"
    return f"{found['state']}, {ended} trials ended{told}"


def standing(found: Mapping[str, Any]) -> tuple[str, Record | None]:
    """Of a results.json: how many trials of how many have ended, in words, and the best one."""
    ended = sum(int(found["counts"][state]) for state in ENDED)
    leading = next((trial for trial in found["trials"] if trial["number"] == found["best"]), None)
    return f"{ended} of {int(found['counts']['planned'])}", leading


def new_record(number: int, sample: Mapping[str, Any], changes: Mapping[str, Any], paper: bool) -> Record:
    """The record of a trial that has not begun."""
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
    """Put an epoch's figures into a record, None for each that is no finite number: JSON has no other.

    An epoch that a retry went through again replaces what it was.
    """
    kept = [epoch for epoch in record["epochs"] if epoch["epoch"] < figures["epoch"]]
    record["epochs"] = [*kept, {name: value if _finite(value) else None for name, value in figures.items()}]
    known = [epoch for epoch in record["epochs"] if _finite(epoch.get(metric))]
    record["best"] = record["best_epoch"] = None
    if known:
        best = (min if mode == "min" else max)(known, key=lambda epoch: epoch[metric])
        record["best"], record["best_epoch"] = best[metric], best["epoch"]


def stem(number: int) -> str:
    return f"{TRIALS}/{number:05d}"


def write_record(place: str, record: Record) -> None:
    text = json.dumps(record, allow_nan=False)
    storage.write_bytes(storage.join(place, f"{stem(record['number'])}.json"), text.encode())


def read_records(place: str) -> dict[int, Record]:
    """Every trial's record by its number. Raises ValueError, naming the file, for one that is none."""
    found = {}
    for path, data in storage.read_folder(storage.join(place, TRIALS), ".json").items():
        uri = storage.join(place, TRIALS, path)
        read = _read(uri, data, _Record, "not a trial's record; remove it")
        if f"{TRIALS}/{path}" != f"{stem(read['number'])}.json":
            raise ValueError(f"{uri}: not a trial's record; remove it")
        found[read["number"]] = new_record(read["number"], read["sample"], read["changes"], False) | read
    return dict(sorted(found.items()))


def best(records: Iterable[Record], mode: str) -> Record | None:
    """The record with the best value; a failed trial's does not count."""
    return next(iter(_best_first(records, mode)), None)


def _best_first(records: Iterable[Record], mode: str) -> list[Record]:
    usable = [record for record in records if _finite(record["best"]) and record["state"] != "failed"]
    return sorted(usable, key=lambda record: record["best"], reverse=mode == "max")


def results(
    sweep: Mapping[str, Any],
    records: Sequence[Record],
    *,
    state: str,
    updated: float,
    spent_seconds: float,
    importance: Mapping[str, Any] | None,
    pictures: Mapping[str, Any],
    config_of_best: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What the page shows of a sweep: of trials that have not begun their number alone."""
    records = [record for record in records if record["state"] != "waiting"]
    counts = {"planned": sweep["num_trials"], "waiting": max(0, sweep["num_trials"] - len(records))}
    counts |= dict.fromkeys(("running", "finished", "stopped", "failed", "interrupted"), 0)
    for record in records:
        counts[record["state"]] += 1
    leading = best(records, sweep["mode"])
    usual = [record for record in records if record["is_paper"] and record["state"] == "finished"]
    values = [record["best"] for record in usual if _finite(record["best"])]
    return {
        "sweep": {key: value for key, value in sweep.items() if key != "config"},
        "state": state,
        "updated": updated,
        "spent_seconds": spent_seconds,
        "eta_seconds": _eta(sweep, records) if state == "running" else None,
        "cpu_hours": sum((record["seconds"] or 0) * (record["cpus"] or 0) for record in records) / 3600,
        "gpu_hours": sum((record["seconds"] or 0) * (record["gpus"] or 0) for record in records) / 3600,
        "counts": counts,
        "trials": records,
        "best": None if leading is None else leading["number"],
        "paper": {
            "numbers": [record["number"] for record in usual],
            "mean": statistics.fmean(values) if values else None,
            "sd": statistics.stdev(values) if len(values) > 1 else None,
        },
        "importance": importance,
        "pictures": pictures,
        "config_of_best": config_of_best,
    }


def read_pictures(place: str, records: Sequence[Record], mode: str) -> dict[str, Any]:
    """The portraits of the best trials, and the real faces, as data URIs."""
    found = {}
    for record in _best_first(records, mode)[:MAX_PICTURES]:
        uri = storage.join(place, f"{stem(record['number'])}.jpg")
        if storage.exists(uri):
            found[str(record["number"])] = storage.read_jpeg(uri)
    real = storage.join(place, CLIPS)
    return {"real": storage.read_jpeg(real) if storage.exists(real) else None, "trials": found}


def _eta(sweep: Mapping[str, Any], records: Sequence[Record]) -> float | None:
    """Seconds until the last trial's end, by the mean length of those that ended; None before the first has."""
    lengths = [record["seconds"] or 0.0 for record in records if record["state"] in ("finished", "stopped")]
    left = sweep["num_trials"] - sum(record["state"] in ENDED for record in records)
    if not lengths:
        return None
    spent = sum(record["seconds"] or 0 for record in records if record["state"] == "running")
    return max(0.0, left * statistics.fmean(lengths) - spent) / max(1, min(sweep["max_concurrent"], left))


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)

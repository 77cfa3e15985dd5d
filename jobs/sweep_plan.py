"""Plan a sweep: the content of its sweep.json, from the command's options and a finished run.

The same command resumes the sweep that is already in the folder. A command that would mix two sweeps is refused.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from arspm import config as configuration
from arspm import storage
from arspm.config import Config, ConfigError, override, presets, require_workers
from arspm.corpus import tables
from arspm.runs import stages, sweeps
from arspm.storage import uris
from jobs.sweep_options import NUM_TRIALS, Options, require_valid
from tune_spaces import space as spaces
from tune_spaces.space import Choice, Space

# Only the encoder stage reads these; another feature_dim or order of rows needs another run.
VARIES = ("speech_encoder", "prior.kind", "ingest.sex", "loss", "training.encoder")
# Two commands mean the same sweep only if these are equal.
_SAME = ("search", "scheduler", "metric", "mode", "seed", "warm_start")


def plan(run: str, space_name: str, options: Options, changes: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the folder of a sweep over a finished run, and the content of its sweep.json.

    Raises ConfigError for invalid options, FileNotFoundError if a stage that the trials need is not done.
    """
    default_name, space = spaces.load(space_name)
    base = override(stages.shared_config(run), changes)
    require_workers(base, ["trial"])
    _require_encoder_fields(changes)
    for need in stages.STAGES["encoder"].needs:
        stages.finished_config(run, need)  # its error says what to do
    with _naming(space_name):
        spaces.check(space, base, varies=VARIES)
    ranges = [each.name for each in spaces.dimensions(space) if not isinstance(each.domain, Choice)]
    search = options.search or ("optuna" if ranges else "grid")
    scheduler = options.scheduler or ("none" if search == "grid" else "asha")
    require_valid(search, scheduler, options, space)
    _require_measured(run, options.metric)
    with _naming(space_name):
        grid_size = len(spaces.grid(space)) if search == "grid" else None
    num_trials = options.num_trials or grid_size or NUM_TRIALS
    if grid_size is not None and num_trials > grid_size:
        raise ConfigError(f"num-trials: the grid of {space_name} has only {grid_size} trials, not {num_trials}")
    folder = sweeps.folder(run, options.name or default_name)
    split = tables.open_split(stages.corpus(run), "train", base.ingest.subset)
    sweep = {
        "name": options.name or default_name,
        "run": run.rstrip("/").rsplit("/", 1)[-1],
        "preset": base.preset,
        "space": spaces.describe(space),
        "dimensions": spaces.pack(space),
        "search": search,
        "scheduler": scheduler,
        "num_trials": num_trials,
        "metric": options.metric,
        "mode": options.mode,
        "seed": options.seed,
        "epochs": _epochs(space, base),
        "steps_per_epoch": -(-split.num_rows // base.training.encoder.global_batch_size),
        "created": time.time(),
        "paper": spaces.sample_of(space, presets.PAPER),
        "target": options.target,
        "max_consecutive_failures": options.max_consecutive_failures,
        "warm_start": _earlier_sweep(run, folder, options) if options.warm_start else None,
        "upstream": stages.upstream(run, "encoder"),
        "config": base.model_dump(mode="json"),
    }
    if storage.exists(storage.join(folder, sweeps.SWEEP)):
        sweep |= _kept(folder, sweeps.load(folder), sweep, options.num_trials)
    return folder, sweep


def save(folder: str, sweep: Mapping[str, Any]) -> None:
    """Write sweep.json."""
    storage.write_json(storage.join(folder, sweeps.SWEEP), sweep)


def best(folder: str) -> tuple[sweeps.Record, Config]:
    """Return a sweep's best trial so far and its complete configuration. Raises ValueError if there is none."""
    sweep = sweeps.load(folder)
    record = sweeps.best(sweeps.read_records(folder).values(), sweep["mode"])
    if record is None:
        raise ValueError(f"{folder}: no trial has a {sweep['metric']} yet")
    return record, override(configuration.from_dict(sweep["config"]), record["changes"])


@contextlib.contextmanager
def _naming(space_name: str) -> Iterator[None]:
    """Prefix errors with the name of the space."""
    try:
        yield
    except ConfigError as error:
        raise error.with_source(uris.display_uri(space_name)) from None


def _require_encoder_fields(changes: Mapping[str, Any]) -> None:
    """Raise ConfigError if a change belongs to a stage that the sweep reuses."""
    allowed = ("seed", "ingest", "resources", *VARIES)
    problems = [
        f"{name}: belongs to another stage, which a sweep reuses from the run, so another value needs another run; "
        f"a sweep may set {', '.join(allowed)}"
        for name in changes
        if not any(f"{name}.".startswith(f"{each}.") for each in allowed)
    ]
    if problems:
        raise ConfigError("\n".join(problems))


def _require_measured(run: str, metric: str) -> None:
    """Raise ConfigError if the run's own encoder, where trained, has no such metric in its history."""
    history = stages.history(run, "encoder")
    epochs = history["epochs"] if history else []
    known = sorted({name for epoch in epochs for name in epoch if name.startswith(("val_", "train_"))})
    if known and metric not in known:
        raise ConfigError(f"metric: {metric} is not measured; the metrics are {', '.join(known)}")


def _epochs(space: Space, base: Config) -> int:
    """Return the largest number of epochs that a trial may have."""
    field = "training.encoder.epochs"
    for key, domain in space.items():
        if field in ((key,) if isinstance(key, str) else key):
            one: Space = {key: domain}
            values = [spaces.changes(one, sample)[field] for sample in spaces.grid(one)]
            return max(override(base, {field: value}).training.encoder.epochs for value in values)
    return base.training.encoder.epochs


def _earlier_sweep(run: str, folder: str, options: Options) -> str:
    """Return the folder of the sweep to learn from, given by its name in this run or by its URI."""
    name_or_uri = options.warm_start or ""
    earlier = storage.absolute(name_or_uri) if "/" in name_or_uri else sweeps.folder(run, name_or_uri)
    if earlier == folder:
        raise ConfigError("warm-start: a sweep always resumes from its own trials; name another sweep")
    sweep = sweeps.load(earlier)
    if (sweep["metric"], sweep["mode"]) != (options.metric, options.mode):
        optimised = f"{sweep['metric']} ({sweep['mode']})"
        raise ConfigError(f"warm-start: {earlier} optimised {optimised}, not {options.metric} ({options.mode})")
    return earlier


def _kept(folder: str, before: Mapping[str, Any], now: Mapping[str, Any], num_trials: int | None) -> dict[str, Any]:
    """Return what the sweep in the folder keeps. `num_trials`: as the command says.

    Raises ConfigError if the command means another sweep.
    """
    differ = [f"{name} {before.get(name)}, not {now[name]}" for name in _SAME if now[name] != before.get(name)]
    if now["dimensions"] != before.get("dimensions"):
        differ.append("another space")
    if now["upstream"] != before.get("upstream"):
        differ.append("another decoder, prior or gender network of the run")
    old, new = (_flat({**each["config"], "resources": None}) for each in (before, now))
    differ += [f"{name} {old[name]}, not {new.get(name)}" for name in old if new.get(name) != old[name]]
    if num_trials is not None and num_trials < before["num_trials"] and now["search"] != "grid":
        differ.append(f"{before['num_trials']} trials, not {num_trials}")
    if differ:
        raise ConfigError(f"{folder} holds a sweep with {'; '.join(differ)}: repeat its options, or pass --name")
    return {"created": before["created"], "num_trials": max(now["num_trials"], before["num_trials"])}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in tree.items():
        fields |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return fields

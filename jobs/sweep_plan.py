"""What a sweep is: its sweep.json, planned from a command's words over a finished run, or refused with the reason.

The same command goes on with a sweep that stands there; one that would mix two sweeps is refused.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from arspm import storage
from arspm.config import Config, ConfigError, override, presets
from arspm.corpus import tables
from arspm.runs import stages, sweeps
from arspm.storage import uris
from tune_spaces import space as spaces
from tune_spaces.space import Choice, LogUniform, Space, Uniform

SEARCHES = ("grid", "random", "optuna")
SCHEDULERS = ("asha", "none")
NUM_TRIALS = 16  # of a search that is not a grid
METRIC = "val_cos_degrees"
# What the encoder's stage alone reads; another feature_dim or order of rows would want another run.
VARIES = ("speech_encoder", "prior.kind", "loss", "training.encoder")
_COPIES = "it copies one trial's weights into another by Tune's checkpoints, which these trials do not make"
_PAUSES = "it pauses trials and resumes them from Tune's checkpoints, which these trials do not make"
_REFUSED = {
    "pbt": _COPIES,
    "pb2": _COPIES,
    "hyperband": _PAUSES,
    "bohb": _PAUSES,
    "median": "it compares trials of different ages by their running means; asha does it by epoch",
}
# What must be the same for two commands to mean the same sweep.
_SAME = ("search", "scheduler", "metric", "mode", "seed", "warm_start")


class Options(NamedTuple):
    """What a command line may say of a sweep; None where it leaves the choice."""

    name: str | None = None
    num_trials: int | None = None
    search: str | None = None
    scheduler: str | None = None
    metric: str = METRIC
    mode: str = "min"
    seed: int = 0
    warm_start: str | None = None


def plan(run: str, space_name: str, options: Options, changes: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The folder of a sweep over a finished run, and what its sweep.json is to hold.

    Raises ConfigError for what cannot be, FileNotFoundError where a stage that the trials rest on is not done.
    """
    default_name, space = spaces.load(space_name)
    base = override(stages.finished_config(run, "decoder"), changes)
    _require_own(changes)
    for need in stages.STAGES["encoder"].needs:
        stages.finished_config(run, need)  # says what to do where it is not done
    with _naming(space_name):
        spaces.check(space, base, varies=VARIES)
    ranges = [each.name for each in spaces.dimensions(space) if not isinstance(each.domain, Choice)]
    search = options.search or ("optuna" if ranges else "grid")
    scheduler = options.scheduler or ("none" if search == "grid" else "asha")
    _require_known(search, scheduler, options, space)
    _require_measured(run, options.metric)
    with _naming(space_name):
        grid_size = len(spaces.grid(space)) if search == "grid" else None
    num_trials = options.num_trials or grid_size or NUM_TRIALS
    if grid_size is not None and num_trials > grid_size:
        raise ConfigError(f"num-trials: the grid of {space_name} has {grid_size}, not {num_trials}")
    place = sweeps.folder(run, options.name or default_name)
    split = tables.open_split(stages.corpus(run), "train", base.ingest.subset)
    sweep = {
        "name": options.name or default_name,
        "run": run.rstrip("/").rsplit("/", 1)[-1],
        "preset": base.preset,
        "space": spaces.describe(space),
        "dimensions": pack(space),
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
        "warm_start": _resolve(run, place, options) if options.warm_start else None,
        "upstream": stages.upstream(run, "encoder"),
        "config": base.model_dump(mode="json"),
    }
    if storage.exists(storage.join(place, sweeps.SWEEP)):
        sweep |= _agreed(place, sweeps.load(place), sweep, options.num_trials)
    return place, sweep


@contextlib.contextmanager
def _naming(space_name: str) -> Iterator[None]:
    """Say of which space it is that something is wrong."""
    try:
        yield
    except ConfigError as error:
        raise error.with_source(uris.display_uri(space_name)) from None


def _require_known(search: str, scheduler: str, options: Options, space: Space) -> None:
    problems = []
    if search not in SEARCHES:
        problems.append(f"search: {' or '.join(SEARCHES)}, not {search}")
    if scheduler not in SCHEDULERS:
        why = f": {_REFUSED[scheduler]}" if scheduler in _REFUSED else ""
        problems.append(f"scheduler: {' or '.join(SCHEDULERS)}, not {scheduler}{why}")
    if options.mode not in ("min", "max"):
        problems.append(f"mode: min or max, not {options.mode}")
    if options.num_trials is not None and options.num_trials < 1:
        problems.append(f"num-trials: 1 or more, not {options.num_trials}")
    if not options.metric.startswith(("val_", "train_")):
        problems.append(f"metric: a figure of an epoch, as {METRIC}, val_l2 or train_identity; not {options.metric}")
    weights = [field for each in spaces.dimensions(space) for field in each.fields if field.startswith("loss.")]
    if options.metric == "train_loss" and weights:
        problems.append(f"metric: train_loss contains {', '.join(weights)}, so it cannot say which is better")
    if options.metric == "train_identity" and "loss.identity" in weights:
        problems.append("metric: train_identity is another figure for each loss.identity; take another metric")
    if options.warm_start and search != "optuna":
        problems.append(f"warm-start: a {search} search learns nothing from other trials; use --search optuna")
    if problems:
        raise ConfigError("\n".join(problems))


def _require_own(changes: Mapping[str, Any]) -> None:
    own = ("seed", "ingest", "resources", *VARIES)
    problems = [
        f"{name}: belongs to another stage, whose work a sweep takes from the run as it is; another value needs "
        f"another run. A sweep may set {', '.join(own)}"
        for name in changes
        if not any(f"{name}.".startswith(f"{each}.") for each in own)
    ]
    if problems:
        raise ConfigError("\n".join(problems))


def _require_measured(run: str, metric: str) -> None:
    """Where the run has trained its own encoder, its epochs tell which figures there are."""
    history = stages.history(run, "encoder")
    epochs = history["epochs"] if history else []
    known = sorted({name for epoch in epochs for name in epoch if name.startswith(("val_", "train_"))})
    if known and metric not in known:
        raise ConfigError(f"metric: {metric} is not measured; there are {', '.join(known)}")


def _epochs(space: Space, base: Config) -> int:
    """The most epochs that a trial may have."""
    field = "training.encoder.epochs"
    for key, domain in space.items():
        if field in ((key,) if isinstance(key, str) else key):
            one: Space = {key: domain}
            values = [spaces.changes(one, sample)[field] for sample in spaces.grid(one)]
            return max(override(base, {field: value}).training.encoder.epochs for value in values)
    return base.training.encoder.epochs


def _resolve(run: str, place: str, options: Options) -> str:
    """The folder of an earlier sweep: of this run by its name, or anywhere by its URI."""
    asked = options.warm_start or ""
    found = storage.absolute(asked) if "/" in asked else sweeps.folder(run, asked)
    if found == place:
        raise ConfigError("warm-start: a sweep goes on from its own trials anyway; name another one")
    earlier = sweeps.load(found)
    if (earlier["metric"], earlier["mode"]) != (options.metric, options.mode):
        judged = f"{earlier['metric']} ({earlier['mode']})"
        raise ConfigError(f"warm-start: {found} was judged by {judged}, not by {options.metric} ({options.mode})")
    return found


def _agreed(place: str, before: Mapping[str, Any], now: Mapping[str, Any], asked: int | None) -> dict[str, Any]:
    """What a sweep that stands there keeps. `asked`: the trials that the command names. Raises ConfigError where it
    means another."""
    differ = [f"{name} {before.get(name)}, not {now[name]}" for name in _SAME if now[name] != before.get(name)]
    if now["dimensions"] != before.get("dimensions"):
        differ.append("another space")
    if now["upstream"] != before.get("upstream"):
        differ.append("another decoder, prior or gender network of the run")
    old, new = (_flat({**each["config"], "resources": None}) for each in (before, now))
    differ += [f"{name} {old[name]}, not {new.get(name)}" for name in old if new.get(name) != old[name]]
    if asked is not None and asked < before["num_trials"] and now["search"] != "grid":
        differ.append(f"{before['num_trials']} trials, not {asked}")
    if differ:
        raise ConfigError(f"{place} holds a sweep with {'; '.join(differ)}: go on with it as it was, or give --name")
    return {"created": before["created"], "num_trials": max(now["num_trials"], before["num_trials"])}


def _flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= _flat(value, f"{above}{name}.") if isinstance(value, Mapping) else {f"{above}{name}": value}
    return found


def pack(space: Space) -> list[dict[str, Any]]:
    """A space in JSON, whole: the job that draws from it need not have the user's file."""
    found = []
    for _, fields, domain in spaces.dimensions(space):
        ends: dict[str, Any] = {}
        if not isinstance(domain, Choice):
            ends = {"low": domain.low, "high": domain.high}
        elif isinstance(domain.values, Mapping):
            ends = {"values": dict(domain.values)}
        else:
            ends = {"values": list(domain.values)}
        found.append({"fields": list(fields), "domain": type(domain).__name__, **ends})
    return json.loads(json.dumps(found))


def unpack(packed: Sequence[Mapping[str, Any]]) -> Space:
    kinds = {"Choice": Choice, "LogUniform": LogUniform, "Uniform": Uniform}
    space: Space = {}
    for each in packed:
        fields = tuple(each["fields"])
        ends = {name: each[name] for name in ("values", "low", "high") if name in each}
        space[fields if len(fields) > 1 else fields[0]] = kinds[each["domain"]](**ends)
    return space

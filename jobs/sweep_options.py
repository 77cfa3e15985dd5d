"""The options of a sweep, and which of them are refused."""

from __future__ import annotations

import math
from typing import NamedTuple

from arspm.config import ConfigError
from tune_spaces.domains import Space, dimensions

TRACKERS = ("mlflow", "wandb")
SEARCHES = ("grid", "random", "optuna")
SCHEDULERS = ("asha", "none")
NUM_TRIALS = 16  # default of a search that is not a grid
METRIC = "val_cos_degrees"

_COPIES = "it copies weights between trials through Tune checkpoints, which these trials do not write"
_PAUSES = "it pauses and resumes trials through Tune checkpoints, which these trials do not write"
_REFUSED = {
    "pbt": _COPIES,
    "pb2": _COPIES,
    "hyperband": _PAUSES,
    "bohb": _PAUSES,
    "median": "it compares running means of trials at different epochs; asha compares trials at the same epoch",
}


class Options(NamedTuple):
    """Options of `arspm sweep`; None where the default depends on the space."""

    name: str | None = None
    num_trials: int | None = None
    search: str | None = None
    scheduler: str | None = None
    metric: str = METRIC
    mode: str = "min"
    seed: int = 0
    warm_start: str | None = None
    target: float | None = None
    max_consecutive_failures: int | None = None


def require_valid(search: str, scheduler: str, options: Options, space: Space) -> None:
    """Raise ConfigError with every problem of the options, one per line."""
    problems = []
    if search not in SEARCHES:
        problems.append(f"search: {' or '.join(SEARCHES)}, not {search}")
    if scheduler not in SCHEDULERS:
        why = f": {_REFUSED[scheduler]}" if scheduler in _REFUSED else ""
        problems.append(f"scheduler: {' or '.join(SCHEDULERS)}, not {scheduler}{why}")
    if options.mode not in ("min", "max"):
        problems.append(f"mode: min or max, not {options.mode}")
    if options.num_trials is not None and options.num_trials < 1:
        problems.append(f"num-trials: must be at least 1, got {options.num_trials}")
    if options.target is not None and not math.isfinite(options.target):
        problems.append(f"target: must be a finite number, not {options.target}")
    if options.max_consecutive_failures is not None and options.max_consecutive_failures < 1:
        problems.append(f"max-consecutive-failures: must be at least 1, got {options.max_consecutive_failures}")
    if not options.metric.startswith(("val_", "train_")):
        problems.append(f"metric: a per-epoch metric, e.g. {METRIC}, val_l2 or train_identity; not {options.metric}")
    loss_fields = [field for each in dimensions(space) for field in each.fields if field.startswith("loss.")]
    if options.metric == "train_loss" and loss_fields:
        problems.append(
            f"metric: train_loss depends on {', '.join(loss_fields)}, so it cannot compare these trials; "
            "use another metric"
        )
    if options.metric == "train_identity" and "loss.identity" in loss_fields:
        problems.append("metric: train_identity is a different quantity for each loss.identity; use another metric")
    if options.warm_start and search != "optuna":
        problems.append(f"warm-start: a {search} search cannot learn from other trials; use --search optuna")
    if problems:
        raise ConfigError("\n".join(problems))

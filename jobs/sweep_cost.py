"""The time and cost of a sweep, estimated before it starts."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from arspm import config as configuration
from arspm.runs import stages
from cluster import cost


def estimate(run: str, sweep: Mapping[str, Any], max_concurrent: int | None) -> str:
    """Return a text with the sweep's trials, hours at the throughput of the run's own encoder, and cost by node type.

    Raises FileNotFoundError if the run has not trained its encoder, so that no throughput was measured.
    """
    config = configuration.from_dict(sweep["config"])
    workers = stages.finished_config(run, "encoder").resources.encoder.most
    history = stages.history(run, "encoder")
    if history is None:
        raise FileNotFoundError(f"{run}: the encoder has no {stages.HISTORY}, so no throughput was measured")
    clips_per_second = statistics.median(epoch["clips_per_second"] for epoch in history["epochs"]) / workers
    trial, recipe = config.resources.trial, config.training.encoder
    clips = sweep["epochs"] * sweep["steps_per_epoch"] * recipe.global_batch_size
    trial_seconds = clips / (clips_per_second * trial.num_workers)
    concurrent = max_concurrent or 1
    hours = cost.hours(sweep["num_trials"], trial_seconds, concurrent)
    table = cost.cost_table(
        trial_seconds=trial_seconds,
        num_trials=sweep["num_trials"],
        cpus=trial.num_workers * trial.cpus,
        gpus=trial.num_workers * trial.gpus,
    )
    speed = f"{clips_per_second:.1f} clips/s per worker, so {trial_seconds:.0f} s per trial"
    early = ", fewer where ASHA stops a trial" if sweep["scheduler"] == "asha" else ""
    return "\n".join(
        [
            f"{sweep['num_trials']} trials of {sweep['epochs']} epochs, {sweep['steps_per_epoch']} steps each{early}",
            f"throughput of the run's encoder: {speed}",
            f"{hours:.2f} hours with {concurrent} concurrent trial{'s' if concurrent > 1 else ''}",
            "",
            cost.text(table),
        ]
    )

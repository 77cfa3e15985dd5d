"""The presets, with size and time, for `arspm presets`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from arspm.config import TRAINED_STAGES, Config
from arspm.report.words import format_duration
from jobs import speeds, workload
from jobs.view import table

_ABOUT = {
    "paper": "every size and number of the paper, for GPUs",
    "many-gpus": "the paper's networks with batches of 512, on 32 GPUs",
    "demo": "narrower networks and 64-pixel faces, on two cores",
    "smoke": "the smallest networks and two epochs, for tests",
}


def describe(config: Config) -> dict[str, Any]:
    """Return a preset's name, sizes and time. seconds: of the stages one by one, None if one was not measured."""
    trained = {stage: getattr(config.resources, stage) for stage in TRAINED_STAGES}
    measured = speeds.PRESETS.get(config.preset)
    clips = workload.Clips(*measured.clips) if measured and measured.clips else None
    seconds = None
    if measured is not None and clips is not None:
        seconds = sum(
            speed.fixed_seconds + speed.seconds * workload.units(config, stage, clips)
            for stage, speed in measured.speeds.items()
        )
    return {
        "name": config.preset,
        "about": _ABOUT[config.preset],
        "image_size": config.image_size,
        "feature_dim": config.feature_dim,
        "encoder_epochs": config.training.encoder.epochs,
        "encoder_batch": config.training.encoder.global_batch_size,
        "max_gpus": max(group.most * group.gpus for group in trained.values()),
        "memory_gib": speeds.MEMORY_GIB.get(config.preset),
        "num_clips": clips.all if clips else None,
        "seconds": seconds,
        "measured_on": measured.where if measured else None,
    }


def as_lines(found: Sequence[dict[str, Any]]) -> list[str]:
    """Return the presets as a table, and below it what its columns mean."""
    heading = ("preset", "image", "feature", "epochs", "batch", "GPUs", "time", "")
    rows = [heading]
    for each in found:
        time = each["seconds"]
        rows.append(
            (
                each["name"],
                f"{each['image_size']}",
                f"{each['feature_dim']:,}",
                f"{each['encoder_epochs']}",
                f"{each['encoder_batch']}",
                f"{each['max_gpus']:g}",
                "not measured" if time is None else f"{format_duration(time)}, {each['num_clips']} clips",
                each["about"],
            )
        )
    return [
        *table(rows),
        "",
        "image: side of faces and portraits in pixels. feature: numbers in a face feature. epochs, batch: of the",
        "encoder. GPUs: of the largest training stage. time: all stages one by one, on two cores.",
        "`arspm submit --dry-run` estimates a run on your clips.",
    ]

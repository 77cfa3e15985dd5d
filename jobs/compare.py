"""Compare finished runs: the settings that differ, their figures, and paired differences over the same clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from arspm import config as configuration
from arspm.config import Config, settings
from arspm.corpus import schema
from arspm.distributed.ablation import Finished, read_trained
from arspm.evaluation import comparisons
from arspm.evaluation.ablation import against
from arspm.evaluation.trained import FIGURES, LEARNT_FRACTION, TrainedModel
from arspm.report.words import (
    difference_verdict,
    format_difference,
    format_difference_interval,
    format_hundredths,
    format_interval,
    format_value,
)
from arspm.runs import spent, stages
from jobs.view import table

_SHOWN = (*FIGURES, LEARNT_FRACTION, "n")
_SPEAKERS_SAID = "intervals and p-values are for other test speakers, not for other seeds"


def compare(runs: Sequence[str]) -> dict[str, Any]:
    """Return the comparison of two or more runs with the first of them.

    "settings": field -> its value in each run, where they differ. "figures": figure -> value and interval in each run.
    "seconds": stage -> its time in each run. "spent": what each run's own stages used, a `spent.Spent`.
    "differences": for each further run, figure -> its difference from the first, over the same clips, or "reason", why
    they cannot be compared. Holm's correction is over all differences of a figure. Raises FileNotFoundError for a run
    that was not evaluated.
    """
    configs = [stages.finished_config(run, "evaluate") for run in runs]
    models = [read_trained(Finished(run, 0, run)) for run in runs]
    resampling = {"num_resamples": configs[0].evaluate.num_resamples, "seed": configs[0].seed}
    names = _names(runs)
    manifests = [{stage: done for stage in stages.STAGES if (done := stages.success(run, stage))} for run in runs]
    differences: list[dict[str, Any]] = []
    for run, model in zip(runs[1:], models[1:], strict=True):
        reason = _reason(runs[0], models[0], run, model)
        found = {} if reason else against([model], [models[0]], resampling)
        differences.append(
            {
                "run": run,
                "name": names[len(differences) + 1],
                "reason": reason,
                "figures": {name: found.get(name) for name in FIGURES},
            }
        )
    for name in FIGURES:
        comparisons.add_holm([each["figures"][name] for each in differences])
    return {
        "runs": list(runs),
        "names": names,
        "settings": _settings(configs),
        "models": [model.row["model"] for model in models],
        "figures": {
            name: [{"value": model.row.get(name), "interval": model.row.get(f"{name}_interval")} for model in models]
            for name in _SHOWN
        },
        "seconds": {
            stage: [each[stage].seconds if stage in each else None for each in manifests] for stage in stages.STAGES
        },
        "spent": [
            spent.total(spent.own_entries(run, each))._asdict() for run, each in zip(runs, manifests, strict=True)
        ],
        "differences": differences,
        "curves": [_curve(name, model.curve) for name, model in zip(names, models, strict=True)],
        "loss_curves": [_curve(name, model.history["losses"]) for name, model in zip(names, models, strict=True)],
    }


def _names(runs: Sequence[str]) -> list[str]:
    """Return the runs' short names, or their URIs if two short names are the same."""
    names = [run.rpartition("/")[2] for run in runs]
    return names if len(set(names)) == len(names) else list(runs)


def _curve(name: str, points: Sequence[Any]) -> dict[str, Any]:
    """Return a curve as `report.curves.curve_chart` draws it."""
    return {"variant": name, "seed": 0, "points": [list(point) for point in points]}


def _reason(first: str, reference: TrainedModel, run: str, model: TrainedModel) -> str:
    """Return why the distances of two runs cannot be subtracted from each other; "" if they can."""
    if _vggface(first) != _vggface(run):
        return "their face features come from different VGGFace networks, so distances cannot be compared"
    own, other = (set(each.clips[schema.CLIP_ID].tolist()) for each in (model, reference))
    if not own <= other:
        return f"measured on other test clips: {len(own - other):,} of {len(own):,} are not among those of {first}"
    return ""


def _vggface(run: str) -> tuple[Any, ...]:
    """Return what identifies the network of a run's face features."""
    done = stages.success(run, "vggface")
    if done is None:
        return ()
    config = configuration.from_dict(done.config)
    hashes = sorted(each.get("sha256", "") for path, each in done.files.items() if path.endswith(".safetensors"))
    return (*hashes, config.vggface.feature, config.vggface.feature_norm)


def _settings(configs: Sequence[Config]) -> dict[str, list[Any]]:
    """Return the fields in which configurations differ, with the value of each."""
    first, *others = map(settings, configs)
    return {
        name: [value, *(other[name] for other in others)]
        for name, value in first.items()
        if any(other[name] != value for other in others)
    }


def as_lines(found: Mapping[str, Any]) -> list[str]:
    """Return a comparison as tables for a terminal."""
    names = found["names"]
    settings: list[tuple[str, ...]] = [(field, *map(str, values)) for field, values in found["settings"].items()]
    lines = ["settings that differ", *table([("", *names), *settings] if settings else [("none",)])]
    figures: list[tuple[str, ...]] = [
        (figure, *(_cell(figure, each) for each in entries))
        for figure, entries in found["figures"].items()
        if any(each["value"] is not None for each in entries)
    ]
    lines += ["", "figures of the test split, with 95 % intervals; smaller distances are better"]
    lines += table([("", *names), ("model", *found["models"]), *figures])
    lines += ["", "time and cost of the stages that each run has computed itself"]
    lines += table([("", *names), *_spent_rows(found["spent"])])
    lines += ["", f"differences from {names[0]} over the same clips"]
    for name, each in zip(names[1:], found["differences"], strict=True):
        if each["reason"]:
            lines.append(f"{name}: {each['reason']}")
            continue
        heading: tuple[str, ...] = (name, "difference", "95 % interval", "p (Holm)", "")
        lines += table([heading, *_differences(each["figures"])])
    if any(not each["reason"] for each in found["differences"]):
        lines.append(_SPEAKERS_SAID)
    return lines


def _spent_rows(found: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return rows with what each run has used; those that no run has recorded are left out."""
    rows = [("hours", *(f"{each['seconds'] / 3600:.2f}" for each in found))]
    for label, name in (("GPU-hours", "gpu_hours"), ("USD", "usd")):
        if any(each[name] is not None for each in found):
            rows.append((label, *(format_hundredths(each[name]) for each in found)))
    return rows


def _cell(figure: str, each: Mapping[str, Any]) -> str:
    interval = format_interval(figure, each["value"], each["interval"])
    return format_value(figure, each["value"]) + (f" ({interval})" if interval else "")


def _differences(figures: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, entry in figures.items():
        if entry is not None:
            p = "–" if entry["p_holm"] is None else f"{entry['p_holm']:.2g}"
            bounds = format_difference_interval(name, entry)
            rows.append((name, format_difference(name, entry), bounds, p, difference_verdict(entry) or ""))
    return rows

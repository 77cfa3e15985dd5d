"""Synthetic results of sweeps, with metrics that depend on the samples and trials in all states.

Their trials are records, with all epochs. `write` writes the files of a sweep's page from them.
"""

import math
from typing import Any

import cv2
import numpy as np

from arspm import storage
from arspm.report import gather, sweep_page
from arspm.runs import sweep_curves, sweeps

BEGUN = 1_760_000_000.0
METRIC = "val_cos_degrees"
PAPER = {"loss.lambda1": 1.0, "loss.lambda2": 0.04, "loss.lambda3": 1.2}
PRIORS = ("none", "neutral", "neutral+fc", "gender", "gender+fc")
CBAM = ("channel_first", "spatial_first", "parallel", "channel_only", "none")
PRIOR = "prior.kind+speech_encoder.fusion"
ORDER = "speech_encoder.cbam"
RUNG = 4  # epochs after which ASHA decides


def loss_weights(num_trials: int = 16, num_epochs: int = 12, *, seed: int = 0, running: bool = False) -> dict[str, Any]:
    """A random search of the three loss weights with ASHA; trial 0 has the paper's values, trial 5 fails.

    running: whether the last trial is still running.
    """
    rng = np.random.default_rng(seed)
    space = {
        name: {"kind": "loguniform", "low": value / 30, "high": value * 30, "fields": [name]}
        for name, value in PAPER.items()
    }
    trials: list[dict[str, Any]] = []
    for number in range(num_trials):
        sample = {name: value * (math.exp(rng.uniform(-3.4, 3.4)) if number else 1.0) for name, value in PAPER.items()}
        logs = [math.log10(sample[name] / value) for name, value in PAPER.items()]
        floor = 31 + 1.6 * (logs[0] - 0.7) ** 2 + 0.3 * logs[1] ** 2 + 3.2 * (logs[2] + 0.2) ** 2 + rng.normal(0, 0.25)
        stopped = number > 0 and floor > 33 + rng.normal(0, 0.5)
        state = "failed" if number == 5 else "stopped" if stopped else "finished"
        if running and number == num_trials - 1:
            state = "running"
        num_done = {"failed": 2, "stopped": RUNG, "running": 3}.get(state, num_epochs)
        trials.append(_trial(number, sample, dict(sample), state, floor, num_done, rng))
    if num_trials > 5:
        trials[5]["reason"] = "the loss is not finite at step 71"
    sweep = _sweep("loss_weights", space, num_trials, num_epochs) | {"paper": dict(PAPER)}
    return _results(sweep | {"search": "random", "scheduler": "asha", "seed": seed}, trials)


def variants(num_seeds: int = 2, num_epochs: int = 10) -> dict[str, Any]:
    """A grid of prior x CBAM ordering x seed; every trial finishes."""
    rng = np.random.default_rng(3)
    space = {
        PRIOR: {"kind": "choice", "values": list(PRIORS), "fields": ["prior.kind", "speech_encoder.fusion"]},
        ORDER: {"kind": "choice", "values": list(CBAM), "fields": [ORDER]},
        "seed": {"kind": "choice", "values": list(range(num_seeds)), "fields": ["seed"]},
    }
    trials = []
    for j, prior in enumerate(PRIORS):
        for k, order in enumerate(CBAM):
            for seed in range(num_seeds):
                sample = {PRIOR: prior, ORDER: order, "seed": seed}
                kind, _, fc = prior.partition("+")
                fusion = "fc" if fc or kind == "none" else "sum"
                changes = {"prior.kind": kind, "speech_encoder.fusion": fusion, ORDER: order, "seed": seed}
                floor = 34 - 0.6 * j + 0.25 * k + rng.normal(0, 0.15)
                trials.append(_trial(len(trials), sample, changes, "finished", floor, num_epochs, rng))
    sweep = _sweep("prior_type_x_cbam", space, len(trials), num_epochs)
    paper = {PRIOR: "gender+fc", ORDER: "channel_first"}
    for trial in trials:
        trial["is_paper"] = all(trial["sample"][name] == value for name, value in paper.items())
    return _results(sweep | {"search": "grid", "scheduler": "none", "paper": paper}, trials)


def empty() -> dict[str, Any]:
    """A sweep that has just started."""
    results = loss_weights(16)
    results |= {"trials": [], "state": "running", "eta_seconds": None, "best": None, "importance": None}
    results |= {"config_of_best": None, "cpu_hours": 0.0, "spent_seconds": 1.5}
    results["paper"] = {"numbers": [], "mean": None, "sd": None}
    results["pictures"] = {"real": None, "trials": {}}
    results["counts"] = dict.fromkeys(results["counts"], 0) | {"planned": 16, "waiting": 16}
    return results


def written(results: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the content of results.json and of curves.json.gz."""
    curves = sweep_curves.curves(results["trials"], results["sweep"]["metric"], results["updated"])
    return results | {"trials": [sweeps.trial_summary(trial) for trial in results["trials"]]}, curves


def write(folder: str, results: dict[str, Any], *, page: bool = True) -> None:
    """Write a sweep's records, portraits, results, curves and, if `page`, its page."""
    for trial in results["trials"]:
        sweeps.write_record(folder, gather.finite(trial))
    for reference in filter(None, (results["pictures"]["real"], *results["pictures"]["trials"].values())):
        path = reference.partition("?")[0]
        number = int("0" + "".join(filter(str.isdigit, path)))
        storage.write_bytes(storage.join(folder, path), strip([7 * face + number for face in range(6)]))
    sweep_page.write_sweep(folder, *written(results), page=page)


def strip(shades: list[int]) -> bytes:
    """Return a JPEG of simple faces in a row."""
    faces = []
    for shade in shades:
        face = np.full((64, 64, 3), 235, np.uint8)
        cv2.ellipse(face, (32, 34), (19, 26), 0, 0, 360, (90 + shade % 60, 130 + shade % 50, 190), -1, cv2.LINE_AA)
        for x in (25, 39):
            cv2.circle(face, (x, 28), 2, (40, 40, 40), -1, cv2.LINE_AA)
        cv2.ellipse(face, (32, 45), (7, 2 + shade % 4), 0, 0, 180, (60, 60, 120), 1, cv2.LINE_AA)
        faces.append(face)
    return bytes(cv2.imencode(".jpg", np.concatenate(faces, axis=1))[1].tobytes())


def _sweep(name: str, space: dict[str, Any], num_trials: int, num_epochs: int) -> dict[str, Any]:
    return {
        "name": name,
        "run": "demo",
        "preset": "demo",
        "space": space,
        "num_trials": num_trials,
        "metric": METRIC,
        "mode": "min",
        "seed": 0,
        "epochs": num_epochs,
        "steps_per_epoch": 32,
        "max_concurrent": 2,
        "created": BEGUN,
        "clips": [f"person{number:03d}_0.0_{number}.5" for number in range(6)],
        "warm_start": None,
    }


def _trial(
    number: int, sample: dict[str, Any], changes: dict[str, Any], state: str, floor: float, num_done: int, rng: Any
) -> dict[str, Any]:
    epochs = []
    for epoch in range(1, num_done + 1):
        angle = floor + 26 * math.exp(-0.55 * epoch) + rng.normal(0, 0.12)
        epochs.append(
            {
                "epoch": epoch,
                "step": 32 * epoch,
                "seconds": 4.1 * epoch,
                METRIC: angle,
                "val_l1": 3.1 * angle,
                "val_l2": angle / 16,
                "train_loss": 400 / epoch + rng.normal(0, 2),
                "clips_per_second": 120 + rng.normal(0, 4),
                "data_wait": 0.02,
                "learning_rate": 1e-3 * 0.9 ** (epoch // 2),
            }
        )
    best = min(epochs, key=lambda each: each[METRIC])
    ended = None if state == "running" else BEGUN + 30 * number + 4.1 * num_done
    return {
        "number": number,
        "sample": sample,
        "changes": changes,
        "state": state,
        "reason": "",
        "epochs": epochs,
        "best": best[METRIC],
        "best_epoch": best["epoch"],
        "started": BEGUN + 30 * number,
        "ended": ended,
        "seconds": 4.1 * num_done,
        "cpus": 1.0,
        "gpus": 0.0,
        "attempts": 1,
        "is_paper": number == 0,
    }


def _results(sweep: dict[str, Any], trials: list[dict[str, Any]]) -> dict[str, Any]:
    states = [trial["state"] for trial in trials]
    counts = {state: states.count(state) for state in ("running", "finished", "stopped", "failed", "interrupted")}
    by_value = sorted(trials, key=lambda trial: trial["best"])
    papers = [trial for trial in trials if trial["is_paper"]]
    values = [trial["best"] for trial in papers]
    seconds = sum(trial["seconds"] for trial in trials)
    weights = {name: 1 / 3**place for place, name in enumerate(sweep["space"])}
    running = counts["running"] > 0
    return {
        "sweep": sweep,
        "state": "running" if running else "finished",
        "reason": "",
        "updated": BEGUN + 31 * len(trials),
        "spent_seconds": seconds / 2,
        "eta_seconds": 95.0 if running else None,
        "cpu_hours": seconds / 3600,
        "gpu_hours": 0.0,
        "counts": {"planned": len(trials), "waiting": 0, **counts},
        "trials": trials,
        "best": by_value[0]["number"],
        "paper": {
            "numbers": [trial["number"] for trial in papers],
            "mean": float(np.mean(values)),
            "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        },
        "importance": {
            "shares": {name: weight / sum(weights.values()) for name, weight in weights.items()},
            "num_trials": len(trials),
            "warning": None if len(trials) > 40 else f"{len(trials)} trials are few: the shares may change with more.",
        },
        "pictures": {
            "real": sweeps.CLIPS,
            "trials": {
                str(trial["number"]): f"{sweeps.stem(trial['number'])}.jpg?epoch={trial['best_epoch']}"
                for trial in by_value[:24]
            },
        },
        "config_of_best": {"preset": "demo", "seed": 0, "loss": {"lambda1": 1.0, "note": "=1+1"}},
    }

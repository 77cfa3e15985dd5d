"""The records of a large sweep, with as many figures per epoch as the training loop measures."""

from __future__ import annotations

from typing import Any

import numpy as np

from arspm.runs import sweeps
from tests.report import swept

DIMENSIONS = {
    name: {"kind": "loguniform", "low": 1e-4, "high": 1e4, "fields": [name]}
    for name in ("loss.lambda1", "loss.lambda2", "loss.lambda3", "training.encoder.learning_rate")
} | {"speech_encoder.cbam": {"kind": "choice", "values": list(swept.CBAM), "fields": ["speech_encoder.cbam"]}}
FIGURES = ("val_l1", "val_l2", "val_cosine", "train_loss", "train_l1", "train_unit_l2", "train_identity")
TIMINGS = ("learning_rate", "clips_per_second", "data_wait", "epoch_seconds")


def records(num_trials: int = 1000, num_epochs: int = 50) -> dict[int, sweeps.Record]:
    """Return finished trials by number, whose figures are random in all their digits, so that nothing compresses."""
    rng = np.random.default_rng(0)
    found = {}
    for number in range(num_trials):
        sample: dict[str, Any] = {name: float(10 ** rng.uniform(-4, 4)) for name in list(DIMENSIONS)[:4]}
        sample["speech_encoder.cbam"] = str(rng.choice(swept.CBAM))
        record = sweeps.new_record(number, sample, sample, number == 0)
        values = rng.uniform(20, 60, (num_epochs, 1 + len(FIGURES) + len(TIMINGS))).tolist()
        names = (swept.METRIC, *FIGURES, *TIMINGS)
        record["epochs"] = [
            {"epoch": epoch, "step": 100 * epoch, "seconds": 9.1 * epoch, **dict(zip(names, row, strict=True))}
            for epoch, row in enumerate(values, 1)
        ]
        best = min(record["epochs"], key=lambda epoch: epoch[swept.METRIC])
        record |= {"best": best[swept.METRIC], "best_epoch": best["epoch"], "state": "finished", "attempts": 1}
        record |= {"started": swept.BEGUN, "ended": swept.BEGUN + 455.0, "seconds": 455.0 + number / 7, "cpus": 1.0}
        found[number] = record
    return found


def sweep(num_trials: int = 1000, num_epochs: int = 50) -> dict[str, Any]:
    """Return the definition of the sweep of these records."""
    made: dict[str, Any] = swept.loss_weights(2, num_epochs)["sweep"]
    return made | {"space": DIMENSIONS, "num_trials": num_trials, "paper": dict(swept.PAPER)}

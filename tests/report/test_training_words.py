from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from arspm import storage
from arspm.report import run_page
from arspm.report.training_words import kept_epoch
from arspm.runs import stages


@pytest.mark.parametrize(
    ("stage", "figures", "expected"),
    [
        (
            "vggface",
            {"chosen_by": "train_loss", "num_held_out": 1, "val_accuracy": 1.0},
            "epoch 7 of 40 by the training loss: accuracy 100.0 %, 1 of 1 held-out faces, too few to choose by",
        ),
        (
            "vggface",
            {"chosen_by": "val_accuracy", "num_held_out": 31, "val_accuracy": 30 / 31},
            "epoch 7 of 40: accuracy 96.8 %, 30 of 31 held-out faces",
        ),
        (
            "vggface",
            {"chosen_by": "train_loss", "num_held_out": 0, "train_loss": 1.0},
            "epoch 7 of 40 by the training loss: no held-out faces",
        ),
        (
            "gender",
            {"chosen_by": "val_accuracy", "num_held_out": 1200, "val_accuracy": 0.9},
            "epoch 7 of 40: accuracy 90.0 %, 1,080 of 1,200 validation clips",
        ),
        (
            "encoder",
            {"chosen_by": "train_loss", "num_held_out": 4, "val_cos_degrees": 30.11},
            "epoch 7 of 40 by the training loss: 30.1° on 4 validation clips, too few to choose by",
        ),
        (
            "decoder",
            {"chosen_by": "val_loss", "num_held_out": 72, "val_loss": 0.31234},
            "epoch 7 of 40: loss 0.312 on 72 validation clips",
        ),
        ("gender", {"val_accuracy": 0.875}, "epoch 7 of 40: accuracy 87.5 % on validation clips"),
        ("encoder", {"val_cos_degrees": 30.11}, "epoch 7 of 40: 30.1° on validation clips"),
    ],
)
def test_what_is_said_of_the_kept_epoch(stage: str, figures: dict[str, Any], expected: str) -> None:
    assert kept_epoch(stage, {"best_epoch": 7, **figures}, 40) == expected


def test_the_page_says_how_many_held_out_faces_there_were(make_run: Callable[..., Any]) -> None:
    run = make_run()
    uri = storage.join(run.uri, "vggface", stages.SUCCESS)
    manifest = storage.read_json(uri)
    manifest["figures"] |= {"chosen_by": "train_loss", "num_held_out": 1, "val_accuracy": 1.0}
    storage.write_json(uri, manifest)
    run_page.write_report(run.config, run.uri, None)
    text = " ".join(storage.read_bytes(storage.join(run.uri, run_page.PAGE)).decode().split())
    assert "by the training loss: accuracy 100.0 %, 1 of 1 held-out faces, too few to choose by" in text
    assert "with fewer than 10 held-out faces or clips, it decides alone" in text

"""The files that a run's live page shows while stages run. No manifest lists them, and each has one writer.

live.json                the state of the chain, written by its driver (`jobs.live`)
STAGE/live.json          a training's history so far, written by its first worker (`distributed.train.live`)
STAGE/epochs/00012.jpg   portraits of validation speakers after an epoch, side by side
STAGE/epochs/real.jpg    the real faces of the same clips
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from arspm import storage
from arspm.runs import stages

FILE, PICTURES = stages.LIVE
REAL = f"{PICTURES}/real.jpg"
DRAWN_STAGES = ("decoder", "encoder")  # those with portraits by epoch

_Count = Annotated[int, Field(ge=0, le=2**53)]


class Training(BaseModel):
    """A training's history so far.

    `losses`: pairs (step, mean loss since the previous pair). `step`: training steps taken. `num_steps`: per epoch.
    `pictures`: the epochs whose portraits are stored, ascending. `clips`: ids of the clips that they are drawn of.
    `updated`: Unix time.
    """

    epochs: list[stages.Epoch]
    losses: list[tuple[_Count, Annotated[float, Field(allow_inf_nan=False)]]]
    best_epoch: _Count | None
    step: _Count
    num_epochs: _Count
    num_steps: _Count
    pictures: list[_Count] = []
    clips: list[str] = []
    updated: Annotated[float, Field(allow_inf_nan=False)]


def picture(epoch: int) -> str:
    """Return the path of an epoch's portraits in the stage's folder."""
    return f"{PICTURES}/{epoch:05d}.jpg"


def pictured_epochs(run: str, stage: str) -> list[int]:
    """Return the epochs whose portraits are stored, ascending."""
    names = storage.files_below(storage.join(stages.folder(run, stage), PICTURES))
    return sorted(int(name[:5]) for name in names if name[:5].isdecimal() and picture(int(name[:5])).endswith(name))


def read_training(run: str, stage: str) -> Training | None:
    """Return a training's history so far, or None if it has not begun. Raises ValueError for an invalid file."""
    uri = storage.join(stages.folder(run, stage), FILE)
    return storage.read_model(uri, Training, "a training's live.json") if storage.exists(uri) else None

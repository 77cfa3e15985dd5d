"""How long the presets' stages took where they were measured, for estimates before a run has its own figures."""

from __future__ import annotations

from typing import NamedTuple

FIXED_SECONDS = 5.0  # to start a job and its workers


class Speed(NamedTuple):
    """A stage's time: `fixed_seconds`, and `seconds` per unit of its work (see `jobs.workload`)."""

    seconds: float
    fixed_seconds: float = FIXED_SECONDS


class Measured(NamedTuple):
    """The speeds of a preset's stages. A stage without one was not measured. where: the machine.

    clips: training, validation and test clips, and test speakers, of the run that was measured; None for single steps.
    """

    where: str
    speeds: dict[str, Speed]
    clips: tuple[int, int, int, int] | None = None


_DEMO = {  # 720 clips, 498 of them to train on: docs/figures.md, "The demo"
    "preprocess": Speed(35 / 720),
    "vggface": Speed(93 / (40 * 498)),
    "gender": Speed(32 / (3 * 498)),
    "features": Speed(6 / 720),
    "prior": Speed(0.0),
    "decoder": Speed(223 / (24 * 498)),
    "encoder": Speed(154 / (30 * 498)),
    "oracle": Speed(74 / (55 * 24)),
    "evaluate": Speed(9 / 165),
    "report": Speed(0.0, 2.0),
}
# Steps of 16 clips in bf16 and what the training loop adds to each: docs/figures.md, "On a GPU" (9.7, 3.7, 27.8 and 8.6
# ms; 1,353 clips per second in the encoder's loop, 1,980 without it). Several GPUs were not measured.
_LOOP_SECONDS = 16 / 1353 - 16 / 1980
_PAPER = {
    "preprocess": Speed(0.36 / 64, 30.0),  # core seconds of a clip, 1280 x 720, VP9; 64 tasks
    "vggface": Speed((9.7e-3 + _LOOP_SECONDS) / 16, 30.0),
    "gender": Speed((3.7e-3 + _LOOP_SECONDS) / 16, 30.0),
    "prior": Speed(0.0),
    "decoder": Speed((27.8e-3 + _LOOP_SECONDS) / 16, 30.0),
    "encoder": Speed((8.6e-3 + _LOOP_SECONDS) / 16, 30.0),
    "report": Speed(0.0),
}

PRESETS = {
    "demo": Measured("two x86-64 cores", _DEMO, (498, 57, 165, 55)),
    "smoke": Measured(
        "two x86-64 cores, for 28 clips", dict.fromkeys(_DEMO, Speed(0.0, 6.0)), (14, 8, 6, 3)
    ),  # CONTRIBUTING.md
    "paper": Measured("one NVIDIA H100, and 64 cores for preprocess", _PAPER),
}

# GiB of this machine's memory that a preset takes with a local head: Ray's processes and idle workers, and the largest
# stage. paper: without GPUs, one worker (docs/figures.md).
MEMORY_GIB = {"demo": 6.0, "smoke": 4.0, "paper": 8.0}

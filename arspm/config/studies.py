"""Studies: ablations whose question, settings and comparisons are fixed before they are run."""

from __future__ import annotations

from typing import Any, NamedTuple


class Study(NamedTuple):
    """A study's protocol.

    `variants`: its arms. `pairs`: the comparisons, (variant, what it is compared with). `fixed`: fields that every arm
    has and that a command cannot change. `num_seeds`, `num_clips`: the fewest seeds and training clips.
    """

    question: str
    variants: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    fixed: dict[str, Any]
    num_seeds: int
    num_clips: int


# The paper's recipe (section 4.1, reading M). Its 50 epochs are not fixed: `training.encoder.epochs`.
_RECIPE = {
    "global_batch_size": 16,
    "learning_rate": 1e-3,
    "decay": 0.9,
    "decay_epochs": 2,
    "beta1": 0.5,
    "beta2": 0.999,
    "eps": 1e-4,
    "augment": False,
}

STUDIES = {
    "prior": Study(
        "Does a mean face, added to what the encoder estimates, help more than its effect on the initial weights?",
        ("non-prior", "neutral", "neutral+fc", "neutral-residual", "constant", "adaptive"),
        (
            *((arm, "non-prior") for arm in ("neutral", "neutral+fc", "neutral-residual", "constant", "adaptive")),
            ("neutral", "constant"),  # is it the mean face that matters, or any constant of this norm?
            ("adaptive", "neutral"),  # does a weight for each clip help?
        ),
        {f"training.encoder.{name}": value for name, value in _RECIPE.items()},
        num_seeds=5,
        num_clips=2000,
    ),
}

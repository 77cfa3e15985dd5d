"""The outcomes of a study, which were fixed before it was run (`docs/prior.md`), and their paired comparisons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from arspm.config.studies import Study
from arspm.evaluation import comparisons, findings
from arspm.evaluation.ablation import differences_by_clip
from arspm.evaluation.trained import VALIDATION, TrainedModel, group_by_variant, mean_and_sd, paired

LOSS_STEPS = (10, 100, 300, 1000)  # at which training losses are compared; steps that were not run are left out
SPIKE_FACTOR = 1.2  # a spike: a recorded loss above this factor times the one before
TEST = "cos_degrees"


class Outcome(NamedTuple):
    """An outcome of each model. Smaller is better in all of them. `value(model)`: None if it was not measured."""

    name: str
    label: str
    value: Callable[[TrainedModel], float | None]


def loss_at(model: TrainedModel, step: int) -> float | None:
    """Return the recorded training loss that contains a step, None if so many steps were not run.

    A recorded loss is the mean over one twentieth of an epoch, or over one step if an epoch has fewer than 40.
    """
    return next((loss for last, loss in model.history["losses"] if last >= step), None)


def final_loss(model: TrainedModel) -> float | None:
    """Return the mean training loss of the last epoch."""
    return model.history["epochs"][-1].get("train_loss")


def num_spikes(model: TrainedModel) -> int:
    """Return how many recorded losses exceed the one before by more than SPIKE_FACTOR."""
    losses = [loss for _, loss in model.history["losses"]]
    return sum(after > SPIKE_FACTOR * before for before, after in pairwise(losses))


def _at(step: int) -> Callable[[TrainedModel], float | None]:
    return lambda model: loss_at(model, step)


OUTCOMES = (
    *(Outcome(f"loss_{step}", f"training loss at step {step:,}", _at(step)) for step in LOSS_STEPS),
    Outcome("loss_final", "training loss of the last epoch", final_loss),
    Outcome("spikes", "loss spikes", num_spikes),
    Outcome(VALIDATION, "validation angle, degrees", lambda model: model.best_angle),
    Outcome(TEST, "test angle, degrees", lambda model: model.row[TEST]),
)


def study_results(
    study: Study, models: Sequence[TrainedModel], *, num_clips: int, num_resamples: int, seed: int
) -> dict[str, Any]:
    """Return each arm's outcomes over its seeds, the study's comparisons, and sentences on them.

    num_clips: number of training clips. Comparisons are paired by seed, and intervals are over seeds; the test angle's
    are over seeds and speakers together. Holm's correction is over the comparisons, within each outcome. Below the
    protocol's numbers of seeds and clips, the result says so in "shortfalls".
    """
    by_name = group_by_variant(models)
    rows: list[dict[str, Any]] = [
        {"variant": name, "num_seeds": len(own), "values": _values(own)} for name, own in by_name.items()
    ]
    measured = [outcome for outcome in OUTCOMES if any(row["values"][outcome.name] for row in rows)]
    pairs: list[dict[str, Any]] = [
        {
            "variant": name,
            "reference": reference,
            "differences": {
                outcome.name: _difference(outcome, by_name[name], by_name[reference], num_resamples, seed)
                for outcome in measured
            },
        }
        for name, reference in study.pairs
        if name in by_name and reference in by_name
    ]
    for outcome in measured:
        comparisons.add_holm([pair["differences"][outcome.name] for pair in pairs])
    return {
        "question": study.question,
        "outcomes": [{"name": outcome.name, "label": outcome.label} for outcome in measured],
        "rows": rows,
        "pairs": pairs,
        "fixed": dict(study.fixed),
        "num_clips": num_clips,
        "shortfalls": _shortfalls(study, by_name, num_clips),
        "findings": [_finding(outcome, pairs) for outcome in measured] if pairs else [],
    }


def _values(models: Sequence[TrainedModel]) -> dict[str, dict[str, float | None] | None]:
    """Return each outcome's mean and standard deviation over seeds, None if a model does not have it."""
    found: dict[str, dict[str, float | None] | None] = {}
    for outcome in OUTCOMES:
        values = [float(value) for model in models if (value := outcome.value(model)) is not None]
        found[outcome.name] = mean_and_sd(values) if len(values) == len(models) else None
    return found


def _difference(
    outcome: Outcome, models: list[TrainedModel], reference: list[TrainedModel], num_resamples: int, seed: int
) -> dict[str, Any] | None:
    pairs = paired(models, reference)
    values = [(outcome.value(own), outcome.value(other)) for own, other in pairs]
    known = [own - other for own, other in values if own is not None and other is not None]
    if not known or len(known) < len(values):
        return None
    if outcome.name == TEST:
        difference, speakers = differences_by_clip(pairs, TEST)
        estimate = comparisons.over_seeds_and_speakers(difference, speakers, num_resamples=num_resamples, seed=seed)
        return comparisons.difference_entry(estimate, len(pairs), over_speakers=True)
    return comparisons.difference_entry(comparisons.over_seeds(known), len(pairs), over_speakers=False)


def _shortfalls(study: Study, by_name: Mapping[str, Sequence[TrainedModel]], num_clips: int) -> list[str]:
    """Return what is less than the protocol asks for, as sentences."""
    found = []
    if missing := [name for name in study.variants if name not in by_name]:
        found.append(f"Not trained: {findings.listed(missing)}.")
    fewest = min(len(models) for models in by_name.values())
    if fewest < study.num_seeds:
        found.append(f"An arm has {fewest} seeds; the protocol asks for at least {study.num_seeds}.")
    if num_clips < study.num_clips:
        found.append(f"Trained on {num_clips:,} clips; the protocol asks for at least {study.num_clips:,}.")
    return found


def _finding(outcome: Outcome, pairs: Sequence[Mapping[str, Any]]) -> str:
    """Say which comparisons of an outcome are significant after Holm's correction."""
    smaller: list[str] = []
    larger: list[str] = []
    others = 0
    for pair in pairs:
        entry = pair["differences"][outcome.name]
        if entry is None or not findings.significant(entry):
            others += 1
            continue
        (smaller if entry["difference"] < 0 else larger).append(f"{pair['variant']} than {pair['reference']}")
    return (
        f"{outcome.label[0].upper()}{outcome.label[1:]}: smaller for {findings.listed(smaller)}; larger for "
        f"{findings.listed(larger)}; not shown to differ in {others} of {len(pairs)} comparisons."
    )

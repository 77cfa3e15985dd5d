"""Which models an ablation trains over a run, and which ones the run's corpus does not allow."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from arspm.config import Config, ConfigError, override, require_workers
from arspm.config.studies import STUDIES
from arspm.config.variants import TABLE4, VARIANTS
from arspm.runs import stages

STAGES = ("encoder", "evaluate")  # that each model runs itself; all others are the run's


class Model(NamedTuple):
    """One variant with one seed. `run`: the run that holds its encoder and evaluate stages. `study`: "" for none."""

    variant: str
    description: str
    seed: int
    config: Config
    run: str
    fingerprints: Mapping[str, str]  # of its own stages
    study: str = ""

    @property
    def slug(self) -> str:
        """The name of its run. A study has its own, so that it does not replace the ablation's models."""
        prefix = f"study-{self.study}-" if self.study else ""
        return f"{prefix}{re.sub('[^a-z0-9]+', '-', self.variant)}-{self.seed}"


def plan(
    run: str,
    variants: Sequence[str] = TABLE4,
    num_seeds: int = 3,
    changes: Mapping[str, Any] | None = None,
    study: str = "",
) -> tuple[list[Model], list[dict[str, Any]]]:
    """Return the models to train over a run, and those that its corpus does not allow, each with the reason.

    `changes`: fields of every model, or of one variant where prefixed by its name:
    "speech2face:speech_encoder.width". A model that the run's own stages already hold uses them. `study`: the study
    whose fixed settings every model has; "" for none.

    Raises ConfigError for an unknown variant or an invalid change, FileNotFoundError if a shared stage is not done.
    """
    fixed = STUDIES[study].fixed if study else {}
    if changed := [key for key in changes or {} if key.rpartition(":")[2] in fixed]:
        raise ConfigError(f"{changed[0]}: the study {study} fixes this field; leave it out")
    if unknown := [name for name in variants if name not in VARIANTS]:
        raise ConfigError(f"{unknown[0]}: no such variant; the variants are {', '.join(VARIANTS)}")
    if num_seeds < 1:
        raise ConfigError(f"seeds: must be at least 1, got {num_seeds}")
    common, by_variant = _split_changes(changes or {}, variants)
    shared_config = stages.shared_config(run)
    shared = _shared_stages(run)
    models, missing = [], []
    for name in dict.fromkeys(variants):
        own = by_variant[name]
        description = ", ".join([VARIANTS[name].description, *(f"{field} = {value}" for field, value in own.items())])
        for seed in range(shared_config.seed, shared_config.seed + num_seeds):
            config = override(shared_config, {**VARIANTS[name].changes, **fixed, **common, **own, "seed": seed})
            require_workers(config, ["encoder"])
            if reason := _not_allowed(config, shared):
                missing.append({"variant": name, "seed": config.seed, "reason": reason})
                continue
            fingerprints = {need: manifest.fingerprint for need, manifest in shared.items()}
            for stage in STAGES:
                needs = {need: fingerprints[need] for need in stages.STAGES[stage].needs}
                fingerprints[stage] = stages.fingerprint(config, stage, needs)
            own_fingerprints = {stage: fingerprints[stage] for stage in STAGES}
            model = Model(name, description, config.seed, config, run, own_fingerprints, study)
            if not all(stages.done(run, stage, own_fingerprints[stage]) for stage in STAGES):
                model = model._replace(run=stages.variant_run(run, model.slug))
            models.append(model)
    return models, missing


def _shared_stages(run: str) -> dict[str, stages.Success]:
    """Return the manifests of the stages that all models share. Raises FileNotFoundError if one is not done."""
    shared = {}
    for need in sorted({need for stage in STAGES for need in stages.STAGES[stage].needs} - set(STAGES)):
        stages.finished_config(run, need)  # its error says what to do
        manifest = stages.success(run, need)
        assert manifest is not None
        shared[need] = manifest
    return shared


def _split_changes(
    changes: Mapping[str, Any], variants: Sequence[str]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the changes of every model, and the changes by variant. Raises ConfigError for another variant."""
    common: dict[str, Any] = {}
    by_variant: dict[str, dict[str, Any]] = {name: {} for name in variants}
    for key, value in changes.items():
        variant, scoped, field = key.rpartition(":")
        if scoped and variant not in by_variant:
            raise ConfigError(f"{key}: {variant} is not among the variants to train: {', '.join(by_variant)}")
        (by_variant[variant] if scoped else common)[field] = value
    return common, by_variant


def _not_allowed(config: Config, shared: Mapping[str, stages.Success]) -> str:
    """Return why the corpus has too few labels for a variant, or an empty string."""
    kind = config.prior.kind
    means = {"gender": ("female", "male"), "none": (), "constant": ("neutral",)}.get(kind, (kind,))
    if config.ingest.sex != "any":
        means = (*means, config.ingest.sex)  # a sex has a mean face if training clips are labelled with it
    if missing := [name for name in means if name not in shared["prior"].figures.get("priors", {})]:
        if config.gender.label_confidence is None:
            problem = "labels.csv names no such speaker; gender.weights lets a network predict the sex"
        else:
            problem = "no training clip is labelled or predicted so"
        return f"no mean face of {' and '.join(missing)}: {problem}"
    gender = shared["gender"].figures
    if kind == "gender" and gender.get("trained") is False:
        return f"no gender classifier: {gender.get('reason')}"
    return ""

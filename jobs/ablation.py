"""Table 4 in one command: every variant as jobs of its own over one run's corpus, priors and decoder, then one page.

`python -m jobs.ablation` is its detached driver.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from arspm.config import Config, ConfigError, override
from arspm.runs import stages
from cluster import chain, client, events
from jobs.chain import PYTHON, asks, cluster_address, prefix, save_config, source
from jobs.console import watch
from tune_spaces.paper_ablation import TABLE4, VARIANTS

DRIVER = "ablation"
_STAGES = ("encoder", "evaluate")


class Model(NamedTuple):
    """A variant with a seed. `run`: where its encoder and evaluate stages are; `fingerprints`: theirs."""

    variant: str
    description: str
    seed: int
    config: Config
    run: str
    fingerprints: Mapping[str, str]

    @property
    def slug(self) -> str:
        return f"{re.sub('[^a-z0-9]+', '-', self.variant)}-{self.seed}"


def plan(
    run: str, variants: Sequence[str] = TABLE4, num_seeds: int = 3, changes: Mapping[str, Any] | None = None
) -> tuple[list[Model], list[dict[str, Any]]]:
    """The models to train over a run, and those that its corpus does not allow, each with its reason.

    `changes`: fields of every model, or of one variant's where the name begins with it, as
    "speech2face:speech_encoder.width".

    Raises ConfigError for a variant that does not exist or a change that cannot be, FileNotFoundError where a stage
    that all share is not done.
    """
    unknown = [name for name in variants if name not in VARIANTS]
    if unknown:
        raise ConfigError(f"{unknown[0]}: there is no such variant; there are {', '.join(VARIANTS)}")
    if num_seeds < 1:
        raise ConfigError(f"seeds: 1 or more, got {num_seeds}")
    common, own = _by_variant(changes or {}, variants)
    before = {need for stage in _STAGES for need in stages.STAGES[stage].needs} - set(_STAGES)
    shared = stages.finished_config(run, "decoder")
    done = {}
    for need in sorted(before):
        stages.finished_config(run, need)  # says what to do where it is not done
        done[need] = stages.success(run, need)
    models, missing = [], []
    for name in dict.fromkeys(variants):
        description = ", ".join([VARIANTS[name].description, *(f"{field} = {own[name][field]}" for field in own[name])])
        for seed in range(num_seeds):
            config = override(shared, {**VARIANTS[name].changes, **common, **own[name], "seed": shared.seed + seed})
            if reason := _impossible(config, done):
                missing.append({"variant": name, "seed": config.seed, "reason": reason})
                continue
            known = {need: success.fingerprint for need, success in done.items() if success is not None}
            found: dict[str, str] = {}
            for stage in _STAGES:
                found[stage] = stages.fingerprint(
                    config, stage, {need: (known | found)[need] for need in stages.STAGES[stage].needs}
                )
            model = Model(name, description, config.seed, config, run, found)
            if not all(stages.done(run, stage, found[stage]) for stage in _STAGES):  # the run's own model is as good
                model = model._replace(run=stages.variant(run, model.slug))
            models.append(model)
    return models, missing


def _by_variant(
    changes: Mapping[str, Any], variants: Sequence[str]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The changes of every model, and those of each variant alone. Raises ConfigError for one that is not asked for."""
    common: dict[str, Any] = {}
    own: dict[str, dict[str, Any]] = {name: {} for name in variants}
    for key, value in changes.items():
        variant, scoped, field = key.rpartition(":")
        if scoped and variant not in own:
            raise ConfigError(f"{key}: {variant} is not among the variants to train: {', '.join(own)}")
        (own[variant] if scoped else common)[field] = value
    return common, own


def _impossible(config: Config, done: Mapping[str, stages.Success | None]) -> str:
    """Why a corpus without labels cannot serve a variant; empty text if it can."""
    prior, gender = done["prior"], done["gender"]
    assert prior is not None
    assert gender is not None
    kind = config.prior.kind
    wanted = {"gender": ("female", "male"), "none": ()}.get(kind, (kind,))
    lacking = [name for name in wanted if name not in prior.figures.get("priors", {})]
    if lacking:
        return f"no mean face of {' and '.join(lacking)}: labels.csv names no such speaker"
    if kind == "gender" and gender.figures.get("trained") is False:
        return f"no gender classifier: {gender.figures.get('reason')}"
    return ""


def run_ablation(
    run: str,
    models: Sequence[Model],
    missing: Sequence[Mapping[str, Any]],
    address: str,
    on_event: Callable[[events.Event], None],
) -> bool | None:
    """Train and measure what is not done, side by side as the cluster has room, then make the page.

    Whether every model is there; None after a Ctrl-C, which leaves what is done for the next time and the page as it
    was.
    """
    begun = time.monotonic()
    jobs_client = client.connect(address)
    todo: dict[str, tuple[Model, str]] = {}
    order = []
    for model in models:
        config_uri = save_config(model.config, run)
        for stage in _STAGES:
            name = f"{stage}-{model.slug}"
            todo[name] = model, stage
            where = ["--run", model.run, "--config", config_uri, "--fingerprint", model.fingerprints[stage]]
            entrypoint = shlex.join([*PYTHON, f"jobs.{stage}", *where])
            needs = () if stage == "encoder" else (f"encoder-{model.slug}",)
            order.append(chain.Stage(name, needs, entrypoint, *asks(model.config, stage)))

    def is_done(stage: chain.Stage) -> stages.Success | None:
        model, kind = todo[stage.name]
        return stages.done(model.run, kind, model.fingerprints[kind])

    outcomes = chain.run_chain(
        order,
        runner=client.RayJobs(jobs_client, working_dir=source(), metadata={"run": run}),
        is_done=is_done,
        fingerprint=lambda stage: todo[stage.name][0].fingerprints[todo[stage.name][1]],
        prefix=prefix(run),
        capacity=lambda: client.capacity(jobs_client),
        on_event=on_event,
    )
    if any(outcome.status == "cancelled" for outcome in outcomes.values()):
        return None
    whole, absent = [], [*missing]
    for model in models:
        ended = [outcomes[f"{stage}-{model.slug}"] for stage in _STAGES]
        bad = next((outcome for outcome in ended if not outcome.ok), None)
        if bad is None:
            whole.append(model)
        else:
            absent.append({"variant": model.variant, "seed": model.seed, "reason": bad.reason})
    if not whole:
        raise ValueError(f"no model of the ablation could be trained; the first: {absent[0]['reason']}")
    from arspm.distributed.ablation import Finished, write_page

    write_page(
        run,
        whole[0].config,
        [Finished(model.variant, model.seed, model.run) for model in whole],
        {model.variant: (model.description, VARIANTS[model.variant].published) for model in whole},
        absent,
        time.monotonic() - begun,
    )
    return len(whole) == len(models)


def detach(run: str, variants: Sequence[str], num_seeds: int, changes: Sequence[str], address: str) -> str:
    """Submit the driver itself as a job, so that this machine may go; the job's id."""
    command = [*PYTHON, "jobs.ablation", "--run", run, "--seeds", str(num_seeds), "--variants", ",".join(variants)]
    return client.submit(
        client.connect(address),
        submission_id=f"{prefix(run)}-{DRIVER}-{int(time.time())}",
        entrypoint=shlex.join(command + [word for change in changes for word in ("--set", change)]),
        working_dir=source(),
        metadata={"run": run, "stage": DRIVER},
    )


def main() -> None:
    """The detached driver: a job on the cluster that submits the variants to the head it runs beside."""
    parser = argparse.ArgumentParser(prog="python -m jobs.ablation", description=main.__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--variants", default=",".join(TABLE4))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="a field's value, as training.encoder.epochs=9")
    arguments = parser.parse_args()
    models, missing = plan(
        arguments.run,
        arguments.variants.split(","),
        arguments.seeds,
        dict(change.split("=", 1) for change in arguments.set),  # the command line has seen to the "="
    )
    with watch() as on_event:
        whole = run_ablation(arguments.run, models, missing, cluster_address(), on_event)
    sys.exit(0 if whole else 1)


if __name__ == "__main__":
    main()

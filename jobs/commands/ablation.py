"""`arspm ablation`: the paper's variants, compared."""

from __future__ import annotations

from typing import Annotated

import typer

from arspm import storage
from arspm.config import ConfigError
from arspm.config.studies import STUDIES
from arspm.config.variants import TABLE4, VARIANTS
from cluster.exit_codes import ExitCode
from jobs.commands.options import (
    Address,
    Detach,
    MaxConcurrent,
    Run,
    completing,
    examples,
    existing_run,
    find_address,
    parse_changes,
)

app = typer.Typer()


@app.command(
    epilog=examples(
        "arspm ablation --run runs/one",
        "arspm ablation --run runs/one --variants neutral,speech2face --seeds 1 --set speech2face:loss.lambda1=0.05",
        "arspm ablation --run runs/one --study prior --set training.encoder.epochs=8",
    )
)
def ablation(
    run: Run,
    variants: Annotated[
        str | None,
        typer.Option(
            help="Variants, separated by commas (default: the models of Table 4).", autocompletion=completing(VARIANTS)
        ),
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(
            help=f"Train a study's arms with its fixed recipe instead of variants: {', '.join(STUDIES)}.",
            autocompletion=completing(STUDIES),
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Number of models trained per variant (default: 3, of a study 5).")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change one field of every model, e.g. training.encoder.epochs=9, or of one variant, "
            "VARIANT:name=value. Repeatable.",
        ),
    ] = None,
    max_concurrent: MaxConcurrent = None,
    detach: Detach = False,
    ray_address: Address = None,
) -> None:
    """Train the paper's variants on a finished run and compare them (Table 4), or run a study (docs/prior.md).

    All models share the run's corpus, priors and decoder. Run the same command again to resume.
    """
    from arspm.report.ablation_page import folder as ablation_folder
    from jobs import ablation as driver
    from jobs.ablation_plan import plan
    from jobs.console import watch

    run = existing_run(run)
    if study is not None and study not in STUDIES:
        raise ConfigError(f"study: there is no study {study}; there are {', '.join(STUDIES)}")
    if study is not None and variants:
        raise ConfigError("study: its arms are fixed; leave out --variants")
    names = STUDIES[study].variants if study else variants.split(",") if variants else TABLE4
    num_seeds = seeds or (STUDIES[study].num_seeds if study else 3)
    models, missing = plan(run, names, num_seeds, parse_changes(set_), study or "")
    for gap in missing:
        print(f"{gap['variant']}, seed {gap['seed']}: left out, {gap['reason']}")
    if not models:
        raise ConfigError(f"{run}: its corpus allows none of these models")
    address = find_address(ray_address)
    if detach:
        job = driver.detach(run, names, num_seeds, set_ or [], models, address, study or "", max_concurrent)
        print(f"submitted {job}, which drives the ablation")
        return
    with watch() as on_event:
        complete = driver.run_ablation(run, models, missing, address, on_event, study or "", max_concurrent)
    if complete is None:
        raise typer.Exit(ExitCode.INTERRUPTED)
    print(f"ablation: {storage.join(run, ablation_folder(study or ''), 'index.html')}")
    if not complete:
        raise typer.Exit(ExitCode.FAILED)

"""`arspm ablation`: the paper's variants, compared."""

from __future__ import annotations

from typing import Annotated

import typer

from arspm import storage
from arspm.config.variants import TABLE4
from jobs.commands.options import Address, Detach, Run, examples, find_address, parse_changes

app = typer.Typer()


@app.command(
    epilog=examples(
        "arspm ablation --run runs/one",
        "arspm ablation --run runs/one --variants neutral,speech2face --seeds 1 --set speech2face:loss.lambda1=0.05",
    )
)
def ablation(
    run: Run,
    variants: Annotated[
        str | None, typer.Option(help="Variants, separated by commas (default: the models of Table 4).")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of models trained per variant.")] = 3,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change one field of every model, e.g. training.encoder.epochs=9, or of one variant, "
            "VARIANT:name=value. Repeatable.",
        ),
    ] = None,
    detach: Detach = False,
    ray_address: Address = None,
) -> None:
    """Train the paper's variants on a finished run and compare them (Table 4).

    All models share the run's corpus, priors and decoder. Run the same command again to resume.
    """
    from jobs import ablation as driver
    from jobs.ablation_plan import plan
    from jobs.console import watch

    run = storage.run_uri(run)
    names = variants.split(",") if variants else TABLE4
    models, missing = plan(run, names, seeds, parse_changes(set_))
    for gap in missing:
        print(f"{gap['variant']}, seed {gap['seed']}: left out, {gap['reason']}")
    address = find_address(ray_address)
    if detach:
        print(f"submitted {driver.detach(run, names, seeds, set_ or [], models, address)}, which drives the ablation")
        return
    with watch() as on_event:
        complete = driver.run_ablation(run, models, missing, address, on_event)
    if complete is None:
        raise typer.Exit(130)
    print(f"ablation: {storage.join(run, 'ablation', 'index.html')}")
    if not complete:
        raise typer.Exit(1)

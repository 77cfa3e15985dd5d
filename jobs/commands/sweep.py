"""`arspm sweep` and `arspm dashboard`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from arspm import storage
from arspm.config import ConfigError
from arspm.runs import sweeps
from cluster.exit_codes import ExitCode
from jobs.commands.options import Address, Detach, Run, completing, examples, existing_run, find_address, parse_changes
from jobs.sweep_options import METRIC, TRACKERS, Options

app = typer.Typer()


def _complete_space(incomplete: str) -> list[str]:
    from tune_spaces import files

    return completing(files.shipped())(incomplete)


@app.command(
    epilog=examples(
        "arspm sweep loss_weights --run runs/one --num-trials 40 --dry-run",
        "arspm sweep loss_weights --run runs/one --target 21.5 --max-consecutive-failures 5",
        "arspm sweep my_space.py --run runs/one --export-best best.json",
        "arspm sweep --run runs/one --name loss_weights --export-best best.json",
        "arspm sweep --run runs/one --name loss_weights --export-optuna trials.log",
    )
)
def sweep(
    run: Run,
    space: Annotated[
        str | None,
        typer.Argument(
            help="Name of a space in tune_spaces, or the path of your own .py file. See docs/sweeps.md.",
            autocompletion=_complete_space,
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the sweep (default: the name of the space).")] = None,
    num_trials: Annotated[
        int | None, typer.Option(help="Number of trials (default: the whole grid, otherwise 16).")
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(
            help="Search: grid, random or optuna (default: optuna if a dimension is a range, otherwise grid)."
        ),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Early stopping: asha or none (default: none for a grid, otherwise asha).")
    ] = None,
    metric: Annotated[str, typer.Option(help="Per-epoch metric to optimise.")] = METRIC,
    mode: Annotated[str, typer.Option(help="Direction of the metric: min or max.")] = "min",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the search.")] = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change one field of all trials, e.g. training.encoder.epochs=9. Repeatable."),
    ] = None,
    warm_start: Annotated[
        str | None, typer.Option(help="Earlier sweep whose trials the search learns from: its name or URI.")
    ] = None,
    max_concurrent: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of concurrent trials (default: as many as fit).")
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(help="Stop the sweep when a trial's metric is at least as good as this (default: never)."),
    ] = None,
    max_consecutive_failures: Annotated[
        int | None, typer.Option(min=1, help="Stop the sweep when this many trials in a row fail (default: never).")
    ] = None,
    log: Annotated[
        list[str] | None, typer.Option(help=f"Also log to a tracker: {' or '.join(TRACKERS)}. Repeatable.")
    ] = None,
    export_best: Annotated[str | None, typer.Option(help="File to write the best configuration so far to.")] = None,
    export_optuna: Annotated[
        str | None,
        typer.Option(help="File to write the trials so far to, as an Optuna journal for optuna-dashboard."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Estimate time and cost, then exit.")] = False,
    detach: Detach = False,
    ray_address: Address = None,
) -> None:
    """Search for the best encoder settings: train one encoder per trial on a finished run.

    All trials share the run's corpus, priors and decoder. Run the same command again to resume.
    """
    from jobs import sweep_cost, sweep_jobs, sweep_plan
    from jobs.console import watch

    run = existing_run(run)
    if space is None:
        if export_best is None and export_optuna is None:
            raise ConfigError("no space given; name one, or export a sweep with --export-best or --export-optuna FILE")
        _export(run, name, export_best, export_optuna)
        return
    if unknown := set(log or []) - set(TRACKERS):
        raise ConfigError(f"log: {' or '.join(TRACKERS)}, not {', '.join(sorted(unknown))}")
    options = Options(
        name, num_trials, search, scheduler, metric, mode, seed, warm_start, target, max_consecutive_failures
    )
    folder, planned = sweep_plan.plan(run, space, options, parse_changes(set_))
    if dry_run:
        print(sweep_cost.estimate(run, planned, max_concurrent))
        return
    address = find_address(ray_address)
    extra = ["--max-concurrent", str(max_concurrent)] if max_concurrent else []
    extra += [word for each in log or [] for word in ("--log", each)]
    page = storage.join(folder, sweeps.PAGE)
    if detach and sweep_jobs.finished_results(folder, planned) is None:
        print(
            f"submitted {sweep_jobs.detach(run, folder, planned, address, extra)}, which runs the sweep; page: {page}"
        )
        return
    with watch() as on_event:
        outcome = sweep_jobs.run_sweep(run, folder, planned, address, on_event, extra)
    if outcome.status == "cancelled":
        raise typer.Exit(ExitCode.INTERRUPTED)
    if not outcome.ok:
        print(f"show the log: arspm logs {run} {outcome.stage}", file=sys.stderr)
        raise typer.Exit(ExitCode.FAILED)
    if reached := sweeps.target_reached(sweeps.ended_and_best(outcome.done)[1], planned):
        print(f"sweep: {reached}")
    print(f"sweep: {page}")
    if export_best is not None or export_optuna is not None:
        _export(run, planned["name"], export_best, export_optuna)


def _export(run: str, name: str | None, best_file: str | None, optuna_file: str | None) -> None:
    """Write the files that the user asked for. name: of the sweep; None if the run has only one."""
    names = sweeps.names(run)
    if name is None and len(names) != 1:
        raise ConfigError(
            f"{run} has several sweeps: {', '.join(names)}; choose one with --name" if names else f"{run} has no sweep"
        )
    folder = sweeps.folder(run, name or names[0])
    if best_file is not None:
        _export_best(folder, best_file)
    if optuna_file is not None:
        _export_optuna(folder, optuna_file)


def _export_best(folder: str, file: str) -> None:
    from arspm import config as configuration
    from jobs.sweep_plan import best

    record, config = best(folder)
    storage.write_bytes(storage.absolute(file), configuration.dump(config).encode() + b"\n")
    print(f"wrote the configuration of trial {record['number']} ({record['best']:.4g}) to {file}")
    print(f"train it: arspm submit --config {file} --run RUN")


def _export_optuna(folder: str, file: str) -> None:
    from arspm.runs.optuna_journal import journal

    records = sweeps.read_records(folder)
    storage.write_bytes(storage.absolute(file), journal(sweeps.load(folder), records))
    print(f"wrote {len(records)} trials to {file}")
    print(f"look at them: optuna-dashboard {file}")


@app.command(
    epilog=examples(
        "arspm dashboard runs/one",
        "arspm dashboard runs",
        "arspm dashboard runs/one/sweeps/loss_weights --port 9000",
    )
)
def dashboard(
    uri: Annotated[
        str,
        typer.Argument(
            metavar="URI", help="Run, folder with runs up to three folders down, ablation, or one sweep's folder."
        ),
    ],
    port: Annotated[int | None, typer.Option(help="Port (default: 8266, or the next free one).")] = None,
) -> None:
    """Serve the pages of runs, ablations and sweeps on 127.0.0.1; the URL contains an access token. Needs no cluster.

    A run's page and a sweep's update themselves while they run.
    """
    from arspm.report import server

    server.serve(storage.absolute(uri), server.PORT if port is None else port)

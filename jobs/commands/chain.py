"""`arspm submit` and `arspm report`: a run's chain of stages, and its page."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from arspm import storage
from arspm.config import DATA_FORMATS, presets
from arspm.corpus.drops import describe_drops
from arspm.runs import stages
from arspm.runs.adopted import read_adopted
from cluster import events
from cluster.exit_codes import ExitCode
from jobs.commands.options import (
    Address,
    Detach,
    MaxConcurrent,
    Run,
    RunArgument,
    completing,
    examples,
    existing_run,
    find_address,
    parse_changes,
)

app = typer.Typer()


@app.command(
    epilog=examples(
        "arspm submit --run runs/one --csv data/avspeech.csv --clips data/clips --preset demo",
        "arspm submit --run runs/one --csv data/avspeech.csv --clips data/clips --preset demo --dry-run",
        "arspm submit --run s3://bucket/one --config mine.yaml --set loss.lambda1=0.5 --until encoder --detach",
    )
)
def submit(
    run: Run,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            help=f"Format of the clips: {', '.join(DATA_FORMATS)} (default: avspeech). See docs/data.md.",
            autocompletion=completing(DATA_FORMATS),
        ),
    ] = None,
    csv: Annotated[
        str | None, typer.Option(help="AVSpeech rows (video id, start, end, x, y[, file]), or VoxCeleb's metadata.")
    ] = None,
    clips: Annotated[str | None, typer.Option(help="Folder of the clip files, or of one folder per speaker.")] = None,
    faces: Annotated[str | None, typer.Option(help="VoxCeleb's folder of face images.")] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="Labels of the speakers (default: labels.csv beside the CSV or in the clips folder, if any)."
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help=f"Named configuration: {', '.join(presets.PRESETS)} (default: the one that --config names, otherwise "
            "paper). `arspm presets` describes them.",
            autocompletion=completing(presets.PRESETS),
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            help="File with fields that differ from the preset: .yaml, .toml or .json. --set takes precedence."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change one field, e.g. loss.lambda1=0.5. Repeatable.")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            help=f"Last stage to run (default: report): {', '.join(stages.STAGES)}.",
            autocompletion=completing(stages.STAGES),
        ),
    ] = None,
    max_concurrent: MaxConcurrent = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would be reused and run, for how long and for how much, then exit."),
    ] = False,
    detach: Detach = False,
    ray_address: Address = None,
) -> None:
    """Run all stages, from clips to trained model to report. Run the same command again to resume.

    The run's page exists from the start; `arspm dashboard` serves it live.
    """
    from jobs import chain
    from jobs.commands.settings import resolve_config
    from jobs.console import watch

    run = storage.run_uri(run)
    data = {"format": format_, "csv": csv, "clips": clips, "faces": faces, "labels": labels}
    resolved = resolve_config(preset, config, data, parse_changes(set_), read_adopted(run))
    if dry_run:
        from jobs import dry_run as planning

        print(planning.describe(resolved, run, until))
        return
    address = find_address(ray_address)
    if detach:
        job = chain.detach(resolved, run, address, until, max_concurrent)
        print(f"submitted {job}, which drives the chain; `arspm status {run}` shows its state")
        return
    with watch() as show:

        def on_event(event: events.Event) -> None:
            show(event)
            if isinstance(event, events.Finished) and event.stage == "preprocess":
                for line in _drop_lines(run):
                    show(events.Warned(stage=event.stage, text=line))

        outcomes = chain.submit_run(
            resolved, run, address, until=until, max_concurrent=max_concurrent, on_event=on_event
        )
    if any(outcome.status == "cancelled" for outcome in outcomes.values()):
        raise typer.Exit(ExitCode.INTERRUPTED)
    failed = [name for name, outcome in outcomes.items() if outcome.status == "failed"]
    if failed:
        print(f"show the log: arspm logs {run} {failed[0]}", file=sys.stderr)
        raise typer.Exit(ExitCode.FAILED)
    if "report" in outcomes:
        print(f"report: {storage.join(run, 'report', 'index.html')}")


@app.command(epilog=examples("arspm report runs/one"))
def report(run: RunArgument) -> None:
    """Write a run's report page if it is missing, and print its path. Needs no cluster."""
    from jobs.report import report as write_report
    from jobs.stage import run_stage

    run = existing_run(run)
    run_stage("report", write_report, run, stages.finished_config(run, "evaluate"))
    print(storage.join(run, "report", "index.html"))


def _drop_lines(run: str) -> list[str]:
    """Return what was dropped by a run's finished preprocess stage, one line for each reason."""
    done = stages.success(run, "preprocess")
    counts = done.figures["dropped"] if done else {}
    return [f"dropped {line}" for line in describe_drops(stages.corpus(run), counts)]
